//! Leases: the arithmetic of rules R2 to R4, and the permissions on each side.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use twinbox_ids::Incarnation;
use twinbox_roles_core::{
    Command, CommandOutcome, Duty, Exits, Grant, Holder, KeepAlive, Leasing, Ledger, MoveReason, NoGrant, Order,
    OrderId, Presence, Report, State, Timing,
};

use crate::common::{START, cluster, name};

const DUTY: Duty = Duty::Notifier;

fn timing() -> Timing {
    Timing::lan()
}

/// `a`, `b` and the witness `w` in service, the notifier assigned to the first incarnation of `a`.
fn state() -> State {
    let mut state = cluster(&["a", "b", "w"]);
    assign(&mut state, "a", 1);
    state
}

fn assign(state: &mut State, to: &str, incarnation: u128) {
    let from = state.holder(DUTY).map(|a| a.epoch.clone());
    let command = Command::Assign {
        duty: DUTY,
        from,
        to: name(to),
        incarnation: Incarnation(incarnation),
        reason: MoveReason::default(),
    };
    assert_eq!(state.apply(command), CommandOutcome::Done);
}

fn request(text: &str) -> KeepAlive {
    KeepAlive {
        node: name(text),
        raft_id: if text == "a" { 1 } else { 2 },
        run: 1,
        incarnation: Incarnation(1),
        failing: Some(Vec::new()),
        released: BTreeMap::new(),
        leaving: false,
        echo: None,
        report: Report::default(),
    }
}

fn holder(state: &State) -> Holder {
    let mut holder = Holder::new(DUTY, name("a"), Incarnation(1), timing());
    holder.applied(state);
    holder
}

fn ask(ledger: &mut Ledger, now: Duration, state: &State, request: &KeepAlive) -> Result<Grant, NoGrant> {
    ledger.keep_alive(now, now, state, request)
}

fn held(ledger: &mut Ledger, now: Duration, state: &State) -> bool {
    ledger.view(now, 0, state).leases[&DUTY].held
}

#[test]
fn the_formulas_of_the_rules() {
    let timing = timing();
    let ms = Duration::from_millis;
    assert_eq!(timing.lease_at_leader().as_micros(), 714_141, "700 (1+ρ)/(1−ρ)");
    assert_eq!(timing.new_leader_wait().as_micros(), 1_020_202, "(300 + 700) (1+ρ)/(1−ρ)");
    assert_eq!(timing.silence_after_start(), ms(303));
    let bound = |event: &str| timing.bounds().into_iter().find(|row| row.event.starts_with(event)).expect("a row");
    assert!(bound("host lost (process and supervisor)").value < ms(1_000));
    assert!(bound("host lost together with Raft's leader").value < ms(1_900));
    for timing in [Timing::lan(), Timing::wan()] {
        assert!(timing.lease > timing.keep_alive * 3, "a lost keep-alive or two end no lease");
        assert!(timing.election_min > timing.heartbeat);
        timing.bounds().iter().for_each(|row| println!("{row}"));
    }
}

#[test]
fn a_holder_acts_with_applied_state_and_a_lease_for_exactly_that_epoch() {
    let state = state();
    let mut holder = holder(&state);
    let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
    assert!(holder.may_act(START).is_none(), "no lease");
    let grant = ask(&mut ledger, START, &state, &request("a")).expect("granted");
    holder.granted(START, &grant);
    let (epoch, until) = holder.may_act(START).expect("may act");
    assert_eq!(Some(epoch), state.holder(DUTY).map(|a| &a.epoch));
    assert_eq!(until, START + timing().lease - timing().margin);
    assert!(holder.may_act(until).is_none(), "the lease is out");

    // A lease alone, without the applied state, permits nothing; nor does one of another epoch.
    let mut behind = Holder::new(DUTY, name("a"), Incarnation(1), timing());
    behind.granted(START, &grant);
    assert!(behind.may_act(START).is_none());
    let mut later = state.clone();
    assign(&mut later, "a", 1);
    holder.applied(&later);
    assert!(holder.may_act(START).is_none());
    // Nor does one of another incarnation.
    let mut other = Holder::new(DUTY, name("a"), Incarnation(2), timing());
    other.applied(&state);
    other.granted(START, &grant);
    assert!(other.may_act(START).is_none());
}

#[test]
fn grants_of_a_replaced_leader_are_ignored() {
    let state = state();
    let mut holder = holder(&state);
    let old = ask(&mut Ledger::new(1, START, &state, timing(), &Exits::default()), START, &state, &request("a"))
        .expect("granted");
    let new = ask(&mut Ledger::new(2, START, &state, timing(), &Exits::default()), START, &state, &request("a"))
        .expect("granted");
    holder.granted(START, &new);
    let (_, until) = holder.may_act(START).expect("may act");
    holder.granted(START + Duration::from_millis(300), &old);
    assert_eq!(holder.may_act(START).map(|(_, until)| until), Some(until));
}

#[test]
fn a_leader_grants_only_while_in_contact_with_a_majority() {
    let state = state();
    let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
    let late = START + timing().election_max + Duration::from_millis(1);
    assert!(ledger.keep_alive(late, START, &state, &request("a")).is_err());
    assert!(ledger.keep_alive(START + timing().election_max, START, &state, &request("a")).is_ok());
}

#[test]
fn a_new_leader_moves_nothing_during_its_wait_and_renews_immediately() {
    let state = state();
    let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
    let over = START + timing().new_leader_wait();
    assert!(held(&mut ledger, over - Duration::from_micros(1), &state));
    assert!(!held(&mut ledger, over, &state));
    assert!(ask(&mut ledger, START, &state, &request("a")).expect("granted").duties.contains_key(&DUTY));
    // Until then it does not report any member as silent.
    let view = ledger.view(over - Duration::from_micros(1), 0, &state);
    assert_eq!(view.observed[&name("b")].presence, Presence::Unknown);
    assert_eq!(ledger.view(over, 0, &state).observed[&name("b")].presence, Presence::Silent);
}

#[test]
fn the_lease_of_a_moving_duty_is_never_extended() {
    let state = state();
    let epoch = state.holder(DUTY).expect("assigned").epoch.clone();
    let move_it = Command::Assign {
        duty: DUTY,
        from: Some(epoch.clone()),
        to: name("b"),
        incarnation: Incarnation(1),
        reason: MoveReason::default(),
    };
    for proposal in [Command::Drain { duty: DUTY, epoch }, move_it] {
        let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
        ask(&mut ledger, START, &state, &request("a")).expect("granted");
        ledger.proposing(&proposal);
        let grant = ask(&mut ledger, START + timing().keep_alive, &state, &request("a")).expect("a node lease");
        assert!(grant.duties.is_empty(), "extended after {proposal}");
        let out = START + timing().new_leader_wait().max(timing().lease_at_leader());
        assert!(!held(&mut ledger, out, &state));
    }
}

#[test]
fn no_lease_is_longer_than_any_bound_that_may_be_in_force() {
    let mut state = state();
    let leasing = |lease_ms, bound_ms| Leasing { profile: timing().lease_timing(), lease_ms, bound_ms };
    let retime = |from, to| Command::Retime { from, to: leasing(to, to) };
    assert_eq!(state.apply(Command::Retime { from: None, to: leasing(1_600, 1_600) }), CommandOutcome::Done);
    let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
    let lease = |ledger: &mut Ledger, state: &State| {
        ask(ledger, START, state, &request("a")).expect("granted").lease.as_millis()
    };
    // No long lease runs when the lower bound is planned, and none is granted while it is agreed on.
    let (lower, lowest) = (retime(state.leasing, 700), retime(state.leasing, 500));
    ledger.proposing(&lower);
    ledger.proposing(&lowest);
    assert_eq!(lease(&mut ledger, &state), 500);
    let mut now = state.clone();
    assert_eq!(
        (now.apply(lower.clone()), now.apply(lowest.clone())),
        (CommandOutcome::Done, CommandOutcome::Stale)
    );
    ledger.applied(&lower);
    assert_eq!(lease(&mut ledger, &now), 500, "what came of the other is not known yet");
    ledger.applied(&lowest);
    assert_eq!(lease(&mut ledger, &now), 700);
    // The outcome of a later proposal implies the outcome of all before it.
    let higher = Command::Retime { from: now.leasing, to: leasing(900, 900) };
    ledger.proposing(&lower);
    ledger.proposing(&higher);
    assert_eq!(now.apply(higher.clone()), CommandOutcome::Done);
    ledger.applied(&higher);
    assert_eq!(lease(&mut ledger, &now), 900);
    // Repeated proposals without an answer are stored only once.
    (0..3).for_each(|_| ledger.proposing(&lowest));
    assert_eq!(lease(&mut ledger, &now), 500);
    ledger.applied(&lowest);
    assert_eq!(lease(&mut ledger, &now), 900);
    // Its planner started again and has not heard the outcome: that of a later proposal of any kind tells.
    ledger.proposing(&lowest);
    let later = Command::Drain { duty: DUTY, epoch: now.holder(DUTY).expect("assigned").epoch.clone() };
    ledger.proposing(&later);
    assert_eq!(lease(&mut ledger, &now), 500);
    ledger.applied(&later);
    assert_eq!(lease(&mut ledger, &now), 900);
}

#[test]
fn a_release_frees_the_duty_immediately_and_permanently() {
    let mut state = state();
    let epoch = state.holder(DUTY).expect("assigned").epoch.clone();
    let mut holder = holder(&state);
    let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
    holder.granted(START, &ask(&mut ledger, START, &state, &request("a")).expect("granted"));
    assert_eq!(state.apply(Command::Drain { duty: DUTY, epoch: epoch.clone() }), CommandOutcome::Done);
    holder.applied(&state);
    assert!(holder.may_act(START).is_none(), "draining");
    assert_eq!(holder.must_release(), Some(&epoch));
    holder.release(epoch.clone());
    assert_eq!(holder.must_release(), None);
    assert_eq!(holder.released(), Some(&epoch));

    let mut released = request("a");
    released.released.insert(DUTY, epoch.clone());
    assert!(held(&mut ledger, START, &state));
    assert!(ask(&mut ledger, START, &state, &released).expect("a node lease").duties.is_empty());
    assert!(!held(&mut ledger, START, &state));
    // A late keep-alive from before the release changes nothing.
    assert!(ask(&mut ledger, START, &state, &request("a")).expect("a node lease").duties.is_empty());
    assert!(!held(&mut ledger, START, &state));
}

#[test]
fn a_release_is_accepted_only_from_the_holder() {
    let state = state();
    let epoch = state.holder(DUTY).expect("assigned").epoch.clone();
    let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
    let mut forged = request("b");
    forged.released.insert(DUTY, epoch.clone());
    ask(&mut ledger, START, &state, &forged).expect("a node lease");
    assert!(held(&mut ledger, START, &state));
    let later = KeepAlive { run: 2, incarnation: Incarnation(2), ..request("a") };
    let later = KeepAlive { released: [(DUTY, epoch)].into(), ..later };
    ask(&mut ledger, START, &state, &later).expect("a node lease");
    assert!(held(&mut ledger, START, &state), "another life of the process cannot speak for the first");
}

#[test]
fn a_late_message_of_an_earlier_incarnation_is_ignored() {
    let state = state();
    let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
    let second = KeepAlive { run: 2, incarnation: Incarnation(2), ..request("a") };
    ask(&mut ledger, START, &state, &second).expect("granted");
    let first = ask(&mut ledger, START, &state, &request("a"));
    assert_eq!(first, Err(NoGrant::Superseded(name("a"))));
    // Nor is a copy of the store with the same count.
    let copy = KeepAlive { incarnation: Incarnation(3), ..second.clone() };
    assert_eq!(ask(&mut ledger, START, &state, &copy), Err(NoGrant::Superseded(name("a"))));
    assert!(ask(&mut ledger, START, &state, &second).is_ok());
    let stranger = KeepAlive { node: name("c"), ..request("a") };
    assert_eq!(ask(&mut ledger, START, &state, &stranger), Err(NoGrant::NotMember(name("c"))));
    let wiped = KeepAlive { raft_id: 77, ..request("a") };
    assert_eq!(ask(&mut ledger, START, &state, &wiped), Err(NoGrant::OtherStore(name("a"))));
}

#[test]
fn a_leaving_node_counts_as_left_immediately_and_a_deactivated_one_gets_no_duty() {
    let mut state = state();
    let mut ledger = Ledger::new(1, START, &state, timing(), &Exits::default());
    let leaving = KeepAlive { leaving: true, ..request("a") };
    assert!(ask(&mut ledger, START, &state, &leaving).expect("heard").duties.is_empty());
    ask(&mut ledger, START, &state, &request("a")).expect("a late word");
    assert_eq!(ledger.view(START, 0, &state).observed[&name("a")].presence, Presence::Left);

    // One that has held a grant names none with its leave: it has given it up.
    let mut ledger = Ledger::new(2, START, &state, timing(), &Exits::default());
    let first = ask(&mut ledger, START, &state, &request("a")).expect("granted");
    let echoing = KeepAlive { echo: Some(first.echo()), ..request("a") };
    ask(&mut ledger, START, &state, &echoing).expect("granted");
    ask(&mut ledger, START, &state, &leaving).expect("heard");
    assert_eq!(ledger.view(START, 0, &state).observed[&name("a")].presence, Presence::Left);

    let mut ledger = Ledger::new(2, START, &state, timing(), &Exits::default());
    let order = Command::Operate { id: OrderId(1), order: Order::deactivate(name("a")) };
    assert_eq!(state.apply(order), CommandOutcome::Done);
    assert!(ask(&mut ledger, START, &state, &request("a")).expect("a node lease").duties.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    /// With any drift of both clocks within ρ and any message delay, the holder stops before the leader takes the lease
    /// as expired: on global time.
    #[test]
    fn the_holder_always_stops_first(
        holder_ppm in -10_000_i64..=10_000,
        leader_ppm in -10_000_i64..=10_000,
        sent in 0_u64..1_000_000,
        there in 0_u64..2_000_000,
        back in 0_u64..2_000_000,
    ) {
        let state = state();
        let local = |global: u64, ppm: i64| {
            Duration::from_micros((u128::from(global) * (1_000_000 + ppm) as u128 / 1_000_000) as u64)
        };
        let global = |local: Duration, ppm: i64| {
            (local.as_micros() * 1_000_000 / (1_000_000 + ppm) as u128) as u64
        };
        // The leader has led for long: only this lease counts.
        let mut ledger = Ledger::new(1, Duration::ZERO, &State::default(), timing(), &Exits::default());
        let answered = sent + there;
        let grant = ask(&mut ledger, local(answered, leader_ppm), &state, &request("a")).expect("granted");
        let mut holder = holder(&state);
        holder.granted(local(sent, holder_ppm), &grant);
        let arrived = local(answered + back, holder_ppm);
        if let Some((_, until)) = holder.may_act(arrived) {
            let stops = global(until, holder_ppm);
            let margin = timing().margin.as_micros() as u64 * 9 / 10;
            prop_assert!(held(&mut ledger, local(stops + margin, leader_ppm), &state));
        }
    }
}
