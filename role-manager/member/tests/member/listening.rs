//! A survivor listens for the members that are given up, before it goes on alone.

use std::{collections::BTreeSet, time::Duration};

use twinbox_ids::{Epoch, NodeName};
use twinbox_roles_core::{Command, CommandOutcome, Leasing, PersistedBounds, SoloRecord, SoloReport, Timing};
use twinbox_roles_member::{ListeningStep, ListeningVerdict, in_contact};

use crate::common::{DUTY, START, ms, name, pair};

fn lost() -> BTreeSet<NodeName> {
    [name("b"), name("c")].into()
}

fn record(longest_lease: Duration, report: Option<SoloReport>) -> SoloRecord {
    let longest_lease_ms = u64::try_from(longest_lease.as_millis()).expect("small");
    SoloRecord { persisted: PersistedBounds { longest_lease_ms, ..PersistedBounds::default() }, report }
}

fn nothing(_: &NodeName) -> Option<Duration> {
    None
}

#[test]
fn a_survivor_listens_as_long_as_the_longest_lease_by_state_or_disk_may_run() {
    let timing = Timing::lan();
    let state = pair();
    for longest in [ms(0), timing.lease, timing.lease * 3] {
        let step = ListeningStep::new(lost(), &timing, &state, &record(longest, None), START);
        let end = START + timing.wait_for(longest.max(timing.lease)) + timing.margin;
        assert_eq!(step.check(end - ms(1), None, nothing), ListeningVerdict::Listen, "{longest:?}");
        assert_eq!(step.check(end, None, nothing), ListeningVerdict::Silent, "{longest:?}");
    }
}

#[test]
fn a_message_since_the_beginning_or_an_answering_supervisor_counts_even_after_the_silence() {
    use ListeningVerdict::{Heard, Listen, Silent};
    let (timing, state) = (Timing::lan(), pair());
    let step = ListeningStep::new(lost(), &timing, &state, &SoloRecord::default(), START);
    let end = START + timing.silence_limit(&state);
    // The task may check late: the last check before the new group is written may come after the end of the silence.
    for (now, otherwise) in [(START, Listen), (end - ms(1), Listen), (end, Silent), (end + ms(50), Silent)] {
        let from =
            |text: &'static str, at: Duration| move |asked: &NodeName| (asked.as_str() == text).then_some(at);
        for at in [START, now] {
            assert_eq!(step.check(now, None, from("c", at)), Heard(name("c")), "{now:?}: a message at {at:?}");
        }
        assert_eq!(step.check(now, Some(&name("b")), nothing), Heard(name("b")), "{now:?}: its supervisor answers");
        assert_eq!(step.check(now, None, from("c", START - ms(1))), otherwise, "{now:?}: an earlier message");
        assert_eq!(step.check(now, None, from("d", now)), otherwise, "{now:?}: a member that is not given up");
    }
}

#[test]
fn a_new_group_is_written_only_with_no_write_in_flight_and_no_solo_work() {
    let ended = SoloReport { to_ms: Some(2_000), ..acting() };
    for (report, in_flight, may) in
        [(None, false, true), (Some(ended), false, true), (None, true, false), (Some(acting()), false, false)]
    {
        let record = record(ms(700), report);
        assert_eq!(ListeningStep::may_write(&record, in_flight), may, "{record:?}, {in_flight}");
    }
}

/// Solo work that goes on.
fn acting() -> SoloReport {
    let epoch = Epoch { generation: 1, number: 1, node: name("a") };
    SoloReport { epoch, duties: [DUTY].into(), from_ms: 1_000, to_ms: None }
}

#[test]
fn a_member_that_was_heard_within_the_required_silence_may_hold_a_lease() {
    let (timing, mut state) = (Timing::lan(), pair());
    let limit = timing.silence_limit(&state);
    let since = |ago: Duration| move |asked: &NodeName| (asked.as_str() == "c").then_some(ago);
    assert_eq!(in_contact(&lost(), &timing, &state, since(limit)), BTreeSet::new());
    assert_eq!(in_contact(&lost(), &timing, &state, since(limit - ms(1))), [name("c")].into());
    // The bound of leases has risen.
    let to = Leasing { profile: timing.lease_timing(), lease_ms: 700, bound_ms: 2_000 };
    assert_eq!(state.apply(Command::Retime { from: None, to }), CommandOutcome::Done);
    assert_eq!(in_contact(&lost(), &timing, &state, since(limit)), [name("c")].into());
}
