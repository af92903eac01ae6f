//! The node's side of its leases: when it asks, what it opens, and what it inherits.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation};
use twinbox_roles_core::{CallCounts, Command, Duty, Exits, Grant, Report, State, Timing, Voters};
use twinbox_roles_member::{HolderAction, HolderEvent, HolderStep, LeaseDenied, ReportedFacts};

use crate::common::{DUTY, START, ms, name, pair};

fn epoch(state: &State) -> Epoch {
    state.holder(DUTY).expect("assigned").epoch.clone()
}

/// Node `a`, in its first incarnation.
fn holder() -> HolderStep {
    HolderStep::new(name("a"), Incarnation(1), Timing::lan(), START)
}

/// A grant of the leader `b`.
fn grant(state: &State) -> Box<Grant> {
    Box::new(Grant {
        term: 1,
        lease: Timing::lan().lease,
        duties: [(DUTY, epoch(state))].into(),
        running: BTreeSet::new(),
        failed: BTreeMap::new(),
        cuts: BTreeSet::new(),
        call_counts: CallCounts::default(),
        at: START,
    })
}

/// Node `a` with the state and the leader `b`, and with a grant for a request sent at the start.
fn granted(state: &State) -> HolderStep {
    let mut holder = holder();
    holder.step(START, HolderEvent::Applied { state, leader: Some(name("b")) });
    assert_eq!(turn(&mut holder, START, state), [HolderAction::Ask(name("b"))]);
    answer(&mut holder, START, Ok(grant(state)));
    holder
}

fn turn(holder: &mut HolderStep, now: Duration, state: &State) -> Vec<HolderAction> {
    holder.step(now, HolderEvent::Turn { state, unanswered: 0, may_take_part: true })
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
    let ask = |to: &str| vec![HolderAction::Ask(name(to))];
    assert_eq!(turn(&mut holder, START, &nothing), ask("b"));
    assert_eq!(holder.next(), START + interval);
    holder.step(START + ms(1), HolderEvent::Applied { state: &nothing, leader: leader() });
    assert_eq!(turn(&mut holder, START + ms(1), &nothing), [], "nothing has changed");
    holder.step(START + ms(2), HolderEvent::Applied { state: &state, leader: leader() });
    assert_eq!(turn(&mut holder, START + ms(2), &state), ask("b"), "the duty is assigned to it");
    holder.step(START + ms(3), HolderEvent::Applied { state: &state, leader: Some(name("a")) });
    assert_eq!(turn(&mut holder, START + ms(3), &state), ask("a"), "another member leads");
    assert_eq!(turn(&mut holder, START + ms(2) + interval, &state), []);
    holder.step(START + ms(4), HolderEvent::FactsChanged);
    assert_eq!(turn(&mut holder, START + ms(4), &state), ask("a"), "its services have changed");
    assert_eq!(turn(&mut holder, START + ms(4) + interval, &state), ask("a"), "the interval is over");
}

#[test]
fn a_node_asks_no_more_while_three_answers_are_missing_or_its_store_may_be_old() {
    let state = pair();
    for (unanswered, may_take_part, asks) in [(2, true, 1), (3, true, 0), (0, false, 0)] {
        let mut holder = holder();
        holder.step(START, HolderEvent::Applied { state: &state, leader: Some(name("b")) });
        let actions = holder.step(START, HolderEvent::Turn { state: &state, unanswered, may_take_part });
        assert_eq!(actions.len(), asks, "{unanswered} unanswered, may take part: {may_take_part}");
        assert_eq!(holder.next(), START + Timing::lan().keep_alive, "no retry before the interval");
    }
}

#[test]
fn stopping_solo_work_is_looked_at_again_soon() {
    let state = pair();
    let mut holder = granted(&state);
    holder.step(START + ms(5), HolderEvent::StopsSolo);
    assert_eq!(holder.next(), START + ms(15));
    assert_eq!(turn(&mut holder, START + ms(14), &state), []);
    assert_eq!(turn(&mut holder, START + ms(15), &state), [HolderAction::Ask(name("b"))]);
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
    assert_eq!(turn(&mut holder, START + ms(7), &state), [HolderAction::Ask(name("b"))], "reported immediately");
    assert_eq!(holder.request(facts()).released, [(DUTY, held.clone())].into());
    assert!(!holder.request(facts()).leaving);
    // A late grant for a released epoch opens nothing.
    answer(&mut holder, START + ms(8), Ok(grant(&state)));
    assert_eq!(open(&mut holder, START + ms(9)), BTreeMap::new());
}

#[test]
fn a_leaving_node_releases_all_and_notifies_the_leader() {
    let state = pair();
    let mut holder = granted(&state);
    let held = epoch(&state);
    let release = HolderAction::Release { duty: DUTY, epoch: held.clone() };
    assert_eq!(holder.step(START + ms(5), HolderEvent::Leave), [release]);
    holder.step(START + ms(6), HolderEvent::Released { duty: DUTY, epoch: held.clone() });
    let notify = HolderEvent::Notify { leader: Some(name("b")), may_take_part: true };
    assert_eq!(holder.step(START + ms(6), notify), [HolderAction::Ask(name("b"))]);
    assert!(holder.grant().is_none(), "the next grant shows that the leader knows");
    let request = holder.request(facts());
    assert!(request.leaving);
    assert_eq!(request.released, [(DUTY, held)].into());
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
