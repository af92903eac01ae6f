//! Solo work of a node of a pair: what is stored, when gates close, and when the node acts.

use std::{collections::BTreeMap, time::Duration};

use twinbox_roles_core::{SoloInputs, State, Timing, Voters};
use twinbox_roles_member::{SoloAction, SoloEvent, SoloStep};

use crate::common::{DUTY, START, assuming, ms, name, pair, voters};

/// Facts of node `b`, which last heard the other at the start.
fn after<'a>(state: &'a State, voters: &'a Voters, silence: Duration) -> SoloInputs<'a> {
    SoloInputs {
        now: START + silence,
        wall_ms: 1_000,
        state,
        raft_id: 2,
        voters,
        quorum: false,
        last_contact: START,
        arbiter: None,
        in_flight: false,
    }
}

fn solo() -> SoloStep {
    SoloStep::new(name("b"), Timing::lan(), None, 900)
}

/// Looks until there is nothing more to do. Returns the kinds of actions, with all records stored.
fn settle(solo: &mut SoloStep, facts: SoloInputs<'_>) -> Vec<&'static str> {
    let mut done = Vec::new();
    while let Some(action) = solo.step(SoloEvent::Look(facts)) {
        assert!(done.len() < 8, "it comes to an end: {done:?}");
        done.push(match action {
            SoloAction::Close => "close",
            SoloAction::Wait(_) => "wait",
            SoloAction::Store(record) => {
                solo.step(SoloEvent::Stored(record));
                "store"
            }
        });
    }
    done
}

#[test]
fn a_node_acts_solo_only_with_its_epoch_on_disk() {
    let (state, voters) = (assuming(), voters());
    let needed = Timing::lan().silence_limit(&state);
    let mut solo = solo();
    assert_eq!(settle(&mut solo, after(&state, &voters, needed)), ["store", "wait"], "the agreed facts, no epoch");
    let late = after(&state, &voters, needed + ms(1));
    let Some(SoloAction::Store(record)) = solo.step(SoloEvent::Look(late)) else { panic!("an epoch to store") };
    assert_eq!(solo.leases(late.now), BTreeMap::new());
    // The disk did not take it: the next turn asks for the same.
    assert_eq!(solo.step(SoloEvent::Look(late)), Some(SoloAction::Store(record.clone())));
    solo.step(SoloEvent::Stored(record));
    assert_eq!(solo.leases(late.now), BTreeMap::new(), "not before it has looked again");
    assert_eq!(settle(&mut solo, late), [""; 0]);
    let (epoch, until) = solo.leases(late.now)[&DUTY].clone();
    assert_eq!((epoch.generation, epoch.node), (state.generation + 1, name("b")));
    assert_eq!(solo.leases(until), BTreeMap::new(), "it ends");
}

#[test]
fn gates_close_before_the_end_of_solo_work_is_stored() {
    let (state, voters) = (assuming(), voters());
    let mut solo = solo();
    let late = after(&state, &voters, Timing::lan().silence_limit(&state) + ms(1));
    assert_eq!(settle(&mut solo, late), ["store", "store"]);
    assert!(!solo.leases(late.now).is_empty());
    let heard = SoloInputs { last_contact: late.now, ..late };
    // With open gates a write may begin at any moment, even if none is in flight.
    assert_eq!(solo.step(SoloEvent::Look(heard)), Some(SoloAction::Close));
    assert_eq!(solo.leases(late.now), BTreeMap::new());
    let busy = SoloInputs { in_flight: true, ..heard };
    assert_eq!((settle(&mut solo, busy), solo.is_stopping()), (Vec::new(), true));
    assert!(solo.report().is_some_and(|report| report.is_acting()));
    assert_eq!((settle(&mut solo, heard), solo.is_stopping()), (vec!["store", "wait"], false));
    assert!(solo.report().is_some_and(|report| report.to_ms == Some(1_000)));
}

#[test]
fn each_new_reason_for_waiting_is_given_once() {
    let (held, assuming, voters) = (pair(), assuming(), voters());
    let mut solo = solo();
    let early = after(&held, &voters, ms(1));
    assert_eq!(settle(&mut solo, early), ["store", "wait"]);
    assert_eq!(settle(&mut solo, early), [""; 0]);
    assert_eq!(settle(&mut solo, after(&assuming, &voters, ms(1))), ["wait"], "another reason");
    let majority = SoloInputs { quorum: true, ..early };
    assert_eq!(settle(&mut solo, majority), [""; 0]);
    assert_eq!(settle(&mut solo, early), ["wait"], "without a majority again");
}
