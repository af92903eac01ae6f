//! The node's side of its leases: when it asks, what it opens, and what it inherits.

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::{Epoch, Incarnation};
use twinbox_roles_core::{CallCounts, Command, Duty, Exits, Grant, Report, State, Timing, Voters};
use twinbox_roles_member::{HolderAction, HolderEvent, HolderStep, LeaseDenied, ReportedFacts};

use crate::common::{DUTY, START, epoch, grant, ms, name, pair};

/// Node `a`, in its first incarnation.
fn holder() -> HolderStep {
    HolderStep::new(name("a"), Incarnation(1), Timing::lan(), START)
}

/// Node `a` with the state and the leader `b`, and with a grant for a request sent at the start.
fn granted(state: &State) -> HolderStep {
    let mut holder = holder();
    holder.step(START, HolderEvent::Applied { state, leader: Some(name("b")) });
    assert_eq!(turn(&mut holder, START, state), ask("b", START));
    answer(&mut holder, START, Ok(grant(state)));
    holder
}

fn turn(holder: &mut HolderStep, now: Duration, state: &State) -> Vec<HolderAction> {
    holder.step(now, HolderEvent::Turn { state, may_take_part: true })
}

fn ask(leader: &str, sent: Duration) -> Vec<HolderAction> {
    vec![HolderAction::Ask { leader: name(leader), sent }]
}

fn answer(holder: &mut HolderStep, sent: Duration, result: Result<Box<Grant>, LeaseDenied>) -> Vec<HolderAction> {
    holder.step(sent + ms(1), HolderEvent::Answered { sent, leader: name("b"), result })
}

/// The gates that are open at this time, with the ends of their leases.
fn open(holder: &mut HolderStep, now: Duration) -> BTreeMap<Duty, (Epoch, Duration)> {
    gates(holder, now, false, BTreeMap::new())
}

fn gates(
    holder: &mut HolderStep,
    now: Duration,
    is_held: bool,
    solo: BTreeMap<Duty, (Epoch, Duration)>,
) -> BTreeMap<Duty, (Epoch, Duration)> {
    let actions = holder.step(now, HolderEvent::Gates { is_held, solo });
    assert_eq!(actions.len(), Duty::ALL.len(), "each gate is set");
    let opened = actions.into_iter().filter_map(|action| match action {
        HolderAction::Open { duty, epoch, until } => Some((duty, (epoch, until))),
        _ => None,
    });
    opened.collect()
}

fn facts() -> ReportedFacts {
    ReportedFacts { raft_id: 1, run: 1, failing: None, report: Report::default() }
}

#[test]
fn a_gate_opens_with_state_and_lease_and_closes_a_margin_before_its_end() {
    let state = pair();
    let timing = Timing::lan();
    let mut holder = holder();
    answer(&mut holder, START, Ok(grant(&state)));
    assert_eq!(open(&mut holder, START + ms(1)), BTreeMap::new(), "a lease without the state");
    holder.step(START + ms(1), HolderEvent::Applied { state: &state, leader: None });
    let end = START + timing.lease - timing.margin;
    // From the sending on, not from the receipt (rule R2).
    assert_eq!(open(&mut holder, START + ms(2)), [(DUTY, (epoch(&state), end))].into());
    assert_eq!(open(&mut holder, end - ms(1)).len(), 1);
    assert_eq!(open(&mut holder, end), BTreeMap::new());
}

#[test]
fn a_node_that_leaves_its_group_opens_no_gate() {
    let state = pair();
    let mut holder = granted(&state);
    let solo: BTreeMap<_, _> = [(DUTY, (epoch(&state), START + ms(500)))].into();
    assert_eq!(gates(&mut holder, START + ms(2), true, solo), BTreeMap::new());
    assert_eq!(open(&mut holder, START + ms(2)).len(), 1);
}

#[test]
fn solo_work_opens_its_duties_until_its_end() {
    let mut holder = holder();
    let solo_epoch = Epoch { generation: 7, number: 1, node: name("a") };
    let until = START + ms(500);
    let solo: BTreeMap<_, _> = [(DUTY, (solo_epoch.clone(), until))].into();
    assert_eq!(gates(&mut holder, until - ms(1), false, solo.clone()), solo);
    assert_eq!(gates(&mut holder, until, false, solo), BTreeMap::new());
}

#[test]
fn keep_alives_follow_the_agreed_interval_and_a_new_assignment_or_leader_makes_one_due() {
    let state = pair();
    let interval = Timing::lan().keep_alive;
    let mut holder = holder();
    let leader = || Some(name("b"));
    let nothing = State::default();
    holder.step(START, HolderEvent::Applied { state: &nothing, leader: leader() });
    assert_eq!(turn(&mut holder, START, &nothing), ask("b", START));
    assert_eq!(holder.next(), START + interval);
    holder.step(START + ms(1), HolderEvent::Applied { state: &nothing, leader: leader() });
    assert_eq!(turn(&mut holder, START + ms(1), &nothing), [], "nothing has changed");
    let due = |holder: &mut HolderStep, at: Duration, leader: &str, reason: &str| {
        let asks = ask(leader, at);
        assert_eq!(turn(holder, at, &state), asks, "{reason}");
        answer(holder, at, Err(LeaseDenied::NoLeader));
    };
    holder.step(START + ms(2), HolderEvent::Applied { state: &state, leader: leader() });
    due(&mut holder, START + ms(2), "b", "the duty is assigned to it");
    holder.step(START + ms(3), HolderEvent::Applied { state: &state, leader: Some(name("a")) });
    due(&mut holder, START + ms(3), "a", "another member leads");
    assert_eq!(turn(&mut holder, START + ms(2) + interval, &state), []);
    holder.step(START + ms(4), HolderEvent::FactsChanged);
    due(&mut holder, START + ms(4), "a", "its services have changed");
    due(&mut holder, START + ms(4) + interval, "a", "the interval is over");
}

#[test]
fn a_node_asks_no_more_while_three_answers_are_missing_until_a_lease_has_passed() {
    let state = pair();
    let Timing { lease, keep_alive, .. } = Timing::lan();
    let mut holder = holder();
    holder.step(START, HolderEvent::Applied { state: &state, leader: Some(name("b")) });
    let at = |turns: u32| START + keep_alive * turns;
    for turns in 0..3 {
        assert_eq!(turn(&mut holder, at(turns), &state), ask("b", at(turns)), "{turns} without an answer");
    }
    assert_eq!(turn(&mut holder, at(3), &state), [], "three are without an answer");
    assert_eq!(holder.next(), at(4), "no retry before the interval");
    // The answer to the second one comes: another may be asked, and no more than that.
    answer(&mut holder, at(1), Err(LeaseDenied::NoLeader));
    assert_eq!(turn(&mut holder, at(4), &state), ask("b", at(4)));
    holder.step(at(4), HolderEvent::FactsChanged);
    assert_eq!(turn(&mut holder, START + lease - ms(1), &state), []);
    holder.step(at(4), HolderEvent::FactsChanged);
    let later = START + lease;
    assert_eq!(turn(&mut holder, later, &state), ask("b", later), "the first one is too old to matter");
}

#[test]
fn a_node_whose_store_may_be_old_does_not_ask() {
    let state = pair();
    let mut holder = holder();
    holder.step(START, HolderEvent::Applied { state: &state, leader: Some(name("b")) });
    assert_eq!(holder.step(START, HolderEvent::Turn { state: &state, may_take_part: false }), []);
    assert_eq!(holder.next(), START + Timing::lan().keep_alive, "no retry before the interval");
}

#[test]
fn stopping_solo_work_is_looked_at_again_soon() {
    let state = pair();
    let mut holder = granted(&state);
    holder.step(START + ms(5), HolderEvent::StopsSolo);
    assert_eq!(holder.next(), START + ms(15));
    assert_eq!(turn(&mut holder, START + ms(14), &state), []);
    assert_eq!(turn(&mut holder, START + ms(15), &state), ask("b", START + ms(15)));
}

#[test]
fn a_drained_duty_is_released_once_and_reported_when_nothing_is_in_flight() {
    let mut state = pair();
    let mut holder = granted(&state);
    let held = epoch(&state);
    state.apply(Command::Drain { duty: DUTY, epoch: held.clone() });
    let apply = |holder: &mut HolderStep, at| {
        holder.step(at, HolderEvent::Applied { state: &state, leader: Some(name("b")) })
    };
    let release = HolderAction::Release { duty: DUTY, epoch: held.clone() };
    assert_eq!(apply(&mut holder, START + ms(5)), [release]);
    assert_eq!(apply(&mut holder, START + ms(6)), [], "it is asked for once");
    assert_eq!(open(&mut holder, START + ms(6)), BTreeMap::new());
    assert_eq!(holder.request(facts()).released, BTreeMap::new(), "writes are in flight");
    holder.step(START + ms(7), HolderEvent::Released { duty: DUTY, epoch: held.clone() });
    assert_eq!(turn(&mut holder, START + ms(7), &state), ask("b", START + ms(7)), "reported immediately");
    assert_eq!(holder.request(facts()).released, [(DUTY, held.clone())].into());
    assert!(!holder.request(facts()).leaving);
    // A late grant for a released epoch opens nothing.
    answer(&mut holder, START + ms(8), Ok(grant(&state)));
    assert_eq!(open(&mut holder, START + ms(9)), BTreeMap::new());
}

/// The next step of an orderly end, at this time.
fn leaving(holder: &mut HolderStep, now: Duration) -> Vec<HolderAction> {
    holder.step(now, HolderEvent::Leaving { leader: Some(name("b")), may_take_part: true })
}

/// A node that has begun to leave 5 ms after the start.
fn left(state: &State) -> HolderStep {
    let mut holder = granted(state);
    let release = HolderAction::Release { duty: DUTY, epoch: epoch(state) };
    assert_eq!(holder.step(START + ms(5), HolderEvent::Leave), [release]);
    assert_eq!(holder.step(START + ms(5), HolderEvent::Leave), [], "it is asked for once");
    holder
}

#[test]
fn a_leaving_node_releases_all_before_it_notifies_the_leader() {
    let state = pair();
    let held = epoch(&state);
    let mut holder = left(&state);
    assert_eq!(open(&mut holder, START + ms(6)), BTreeMap::new(), "its lease still runs");
    assert_eq!(leaving(&mut holder, START + ms(6)), [], "a write is in flight");
    holder.step(START + ms(7), HolderEvent::Released { duty: DUTY, epoch: held.clone() });
    assert_eq!(leaving(&mut holder, START + ms(8)), ask("b", START + ms(8)));
    let request = holder.request(facts());
    assert!(request.leaving);
    assert_eq!(request.released, [(DUTY, held)].into());
    // An answer to a keep-alive from before is not from a leader that knows.
    assert_eq!(answer(&mut holder, START + ms(1), Ok(grant(&state))), []);
    assert!(!holder.has_left());
    let done = answer(&mut holder, START + ms(8), Ok(grant(&state)));
    assert_eq!(done.last(), Some(&HolderAction::Left { notified: true }));
    assert!(holder.has_left());
    assert_eq!(leaving(&mut holder, START + ms(9)), []);
}

#[test]
fn a_leaving_node_waits_two_seconds_for_writes_in_flight_and_keeps_their_duty() {
    let state = pair();
    let mut holder = left(&state);
    let end = START + ms(2_005);
    assert_eq!((leaving(&mut holder, end - ms(1)), holder.next()), (Vec::new(), end));
    let mut expected = vec![HolderAction::AbandonWrites];
    expected.extend(ask("b", end));
    assert_eq!(leaving(&mut holder, end), expected);
    let request = holder.request(facts());
    assert!(request.leaving);
    assert_eq!(request.released, BTreeMap::new(), "the write may still arrive");
}

#[test]
fn a_leaving_node_asks_again_after_each_answer_without_a_grant_for_one_second() {
    let state = pair();
    let Timing { lease, heartbeat, .. } = Timing::lan();
    let mut holder = granted(&state);
    holder.step(START + ms(5), HolderEvent::Released { duty: DUTY, epoch: epoch(&state) });
    holder.step(START + ms(5), HolderEvent::Applied { state: &State::default(), leader: None });
    assert_eq!(holder.step(START + ms(5), HolderEvent::Leave), [], "it holds nothing");
    let (begun, end) = (START + ms(5), START + ms(1_005));
    assert_eq!(leaving(&mut holder, begun), ask("b", begun));
    assert_eq!((leaving(&mut holder, begun + lease - ms(1)), holder.next()), (Vec::new(), begun + lease));
    // An answer that takes a lease is not waited for.
    let second = begun + lease;
    assert_eq!(leaving(&mut holder, second), ask("b", second));
    answer(&mut holder, second, Err(LeaseDenied::NoLeader));
    let third = second + ms(1) + heartbeat / 2;
    assert_eq!((leaving(&mut holder, third - ms(1)), holder.next()), (Vec::new(), third));
    assert_eq!(leaving(&mut holder, third), ask("b", third));
    assert_eq!(holder.next(), end);
    assert_eq!(leaving(&mut holder, end), [HolderAction::Left { notified: false }]);
}

#[test]
fn a_majority_is_there_for_a_while_after_the_request_of_the_last_grant() {
    let state = pair();
    let mut holder = granted(&state);
    let limit = Timing::lan().quorum_lost();
    assert!(holder.has_quorum(START + limit, &state));
    assert!(!holder.has_quorum(START + limit + ms(1), &state));
    // A grant for an earlier request that comes later changes nothing.
    answer(&mut holder, START - ms(100), Ok(grant(&state)));
    assert!(holder.has_quorum(START + limit, &state));
}

#[test]
fn a_refusal_is_kept_as_text_until_another_answer() {
    let state = pair();
    let mut holder = holder();
    answer(&mut holder, START, Err(LeaseDenied::Refused("it was replaced".to_owned())));
    assert_eq!(holder.refused(), "b grants no lease: it was replaced");
    answer(&mut holder, START, Err(LeaseDenied::NoLeader));
    assert_eq!(holder.refused(), "");
    answer(&mut holder, START, Err(LeaseDenied::Refused("it was replaced".to_owned())));
    answer(&mut holder, START, Ok(grant(&state)));
    assert_eq!(holder.refused(), "");
}

/// Rule C4: a grant that was sent before the leader knew of an inheritance by proof must not bring the calls back. If
/// this node led then, it would give them to another one.
#[test]
fn a_late_grant_does_not_bring_back_inherited_calls() {
    let state = pair();
    let mut holder = granted(&state);
    let mut counts = CallCounts::default();
    counts.note(&name("b"), Incarnation(1), 4);
    counts.note(&name("b"), Incarnation(2), 3);
    let with_calls =
        |at: u64| Box::new(Grant { call_counts: counts.clone(), at: START + ms(at), ..*grant(&state) });
    let kept = |actions: Vec<HolderAction>| match actions.as_slice() {
        [HolderAction::KeepCallCounts(kept)] => kept.clone(),
        other => panic!("{other:?}"),
    };
    let before = kept(answer(&mut holder, START + ms(20), Ok(with_calls(20))));
    assert_eq!(before.calls(&name("b"), Incarnation(1)), Some(4));

    let mut exits = Exits::default();
    exits.note(&name("b"), Incarnation(1), true);
    let voters = Voters { raft_ids: [1, 2].into(), applied: true };
    let look = |holder: &mut HolderStep| {
        holder.step(
            START + ms(30),
            HolderEvent::Exits { state: &state, voters: &voters, exits: &exits, wall_ms: 1_000 },
        )
    };
    let inherited = look(&mut holder);
    assert!(
        matches!(inherited.as_slice(), [HolderAction::Inherit(item)]
            if (&item.node, item.incarnation, item.calls) == (&name("b"), Incarnation(1), 4)),
        "{inherited:?}"
    );
    assert_eq!(holder.inherited().len(), 1);
    assert_eq!(look(&mut holder), [], "it inherits once");

    // A grant for an earlier request tells nothing new.
    assert_eq!(answer(&mut holder, START + ms(10), Ok(with_calls(10))), []);
    // One for a later request, by a leader that does not know.
    let after = kept(answer(&mut holder, START + ms(40), Ok(with_calls(40))));
    assert_eq!(after.calls(&name("b"), Incarnation(1)), None, "inherited calls are not for another node");
    assert_eq!(after.calls(&name("b"), Incarnation(2)), Some(3));
    assert_eq!(look(&mut holder), [], "it inherits once");
}
