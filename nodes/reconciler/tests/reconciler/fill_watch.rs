//! The first fill of a node without another one as its source (rule D13).

use twinbox_reconciler::{FillFacts, FillSteps, FillWatch};

const NONE: FillSteps = FillSteps { report: false, end: false };
const END: FillSteps = FillSteps { report: false, end: true };
const REPORT: FillSteps = FillSteps { report: true, end: false };

/// Facts of a store that lacks records.
fn lacking(is_member: bool, has_others: bool) -> FillFacts {
    FillFacts { is_member, has_others, has_records: false, had_no_source: false }
}

#[test]
fn fill_is_ended_once_when_no_other_node_is_left_and_for_a_rebuilt_store_only_if_there_was_one() {
    let (unknown, alone, paired) = (lacking(false, false), lacking(true, false), lacking(true, true));
    let filled = FillFacts { has_records: true, ..alone };
    for (store_rebuilt, looks, what) in [
        (false, vec![(unknown, NONE), (alone, END), (alone, NONE), (filled, NONE)], "a new node"),
        (false, vec![(paired, NONE), (paired, NONE)], "another node is the source"),
        (false, vec![(lacking(false, true), NONE)], "it is no member yet"),
        (false, vec![(filled, NONE), (filled, NONE)], "nothing to end"),
        (true, vec![(unknown, NONE), (alone, NONE), (alone, NONE)], "it cannot know which data it lacks"),
        (true, vec![(paired, NONE), (alone, END), (alone, NONE)], "an administrator removed the other node"),
        (true, vec![(lacking(false, true), NONE), (alone, NONE)], "it was in no group with the other node"),
    ] {
        let mut watch = FillWatch::new(store_rebuilt);
        for (facts, expected) in looks {
            assert_eq!(watch.look(facts), expected, "{what}: {facts:?}");
        }
    }
}

#[test]
fn fill_without_a_source_is_reported_once() {
    let mut watch = FillWatch::new(false);
    let paired = FillFacts { has_records: true, ..lacking(true, true) };
    let without = FillFacts { had_no_source: true, ..paired };
    let looks = [paired, without, without].map(|facts| watch.look(facts));
    assert_eq!(looks, [NONE, REPORT, NONE]);
}
