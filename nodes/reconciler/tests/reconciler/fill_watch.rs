//! The first fill of a node without another one as its source (rule D13).

use twinbox_ids::Incarnation;
use twinbox_reconciler::{FillFacts, FillSteps, FillWatch};

/// Incarnation of this process, and one before it.
const OWN: Incarnation = Incarnation(2);
const EARLIER: Incarnation = Incarnation(1);

const NONE: FillSteps = FillSteps { report: false, end: false };
const END: FillSteps = FillSteps { report: false, end: true };
const REPORT: FillSteps = FillSteps { report: true, end: false };

/// Facts of a store that lacks records.
fn lacking(is_member: bool, has_others: bool) -> FillFacts {
    FillFacts { agreed: is_member.then_some(OWN), has_others, has_records: false, had_no_source: false }
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
        let mut watch = FillWatch::new(OWN, store_rebuilt);
        for (facts, expected) in looks {
            assert_eq!(watch.look(facts), expected, "{what}: {facts:?}");
        }
    }
}

#[test]
fn fill_without_a_source_is_reported_once() {
    let mut watch = FillWatch::new(OWN, false);
    let paired = FillFacts { has_records: true, ..lacking(true, true) };
    let without = FillFacts { had_no_source: true, ..paired };
    let looks = [paired, without, without].map(|facts| watch.look(facts));
    assert_eq!(looks, [NONE, REPORT, NONE]);
}

#[test]
fn agreed_state_of_the_past_does_not_end_the_fill() {
    // The founder whose disk was lost replays the log: at first it is the only member, with its earlier incarnations.
    let replayed = |agreed, has_others| FillFacts { agreed, ..lacking(true, has_others) };
    let replay = [replayed(None, false), replayed(Some(EARLIER), false), replayed(Some(EARLIER), true)];
    let mut watch = FillWatch::new(OWN, false);
    for facts in replay.into_iter().chain([lacking(true, true)]) {
        assert_eq!(watch.look(facts), NONE, "{facts:?}");
    }
    assert_eq!(watch.look(lacking(true, false)), END);
    // A store that was built again: the other node was removed before this start.
    let mut watch = FillWatch::new(OWN, true);
    for facts in replay.into_iter().chain([lacking(true, false)]) {
        assert_eq!(watch.look(facts), NONE, "{facts:?}");
    }
}
