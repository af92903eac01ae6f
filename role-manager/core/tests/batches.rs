//! Several planned commands in one log entry.

mod common;

use common::{START, cluster, name};
use twinbox_ids::{Epoch, Incarnation};
use twinbox_roles_core::{
    BATCH_LEVEL, Command, Duty, Exits, Ledger, Outcome, Presence, SPEAKS, Seen, Speaks, State, Status, Timing,
    View, plan, proposal,
};

const DUTY: Duty = Duty::Notifier;

/// A cluster of two nodes and a witness; the first incarnation of `a` is publisher and has the duty.
fn acting() -> State {
    let mut state = cluster(&["a", "b", "w"]);
    let (to, incarnation) = (name("a"), Incarnation(1));
    state.apply(Command::Assign { duty: DUTY, from: None, to, incarnation, why: Default::default() });
    state
}

fn epoch(state: &State) -> Epoch {
    state.holder(DUTY).expect("assigned").epoch.clone()
}

fn publisher(state: &State, to: &str) -> Command {
    Command::SetPublisher { from: state.publisher.clone(), to: name(to), why: Default::default() }
}

fn assign(state: &State, to: &str) -> Command {
    let (to, incarnation) = (name(to), Incarnation(1));
    Command::Assign { duty: DUTY, from: Some(epoch(state)), to, incarnation, why: Default::default() }
}

#[test]
fn a_batch_does_what_its_parts_do_one_after_the_other() {
    let state = acting();
    let parts = [publisher(&state, "b"), assign(&state, "b")];
    let (mut together, mut singly) = (state.clone(), state);
    assert_eq!(together.apply(Command::Batch(parts.to_vec())), Outcome::Done);
    parts.into_iter().for_each(|part| assert_eq!(singly.apply(part), Outcome::Done));
    assert_eq!(together, singly);
}

#[test]
fn where_one_part_is_a_no_op_nothing_is_done() {
    let state = acting();
    let stale = Command::Drain { duty: DUTY, epoch: Epoch { number: 99, ..epoch(&state) } };
    for parts in [vec![publisher(&state, "b"), stale.clone()], vec![stale, publisher(&state, "b")]] {
        let mut after = state.clone();
        assert_eq!(after.apply(Command::Batch(parts)), Outcome::Stale);
        assert_eq!(after, state);
    }
}

#[test]
fn a_batch_below_its_level_or_in_another_or_too_long_does_nothing() {
    let state = acting();
    let part = publisher(&state, "b");
    let young = State { feature_level: BATCH_LEVEL - 1, ..state.clone() };
    let statuses = |count: u64| {
        let first = state.members[&name("b")].revision;
        (0..count).map(move |n| Command::SetStatus {
            name: name("b"),
            revision: first + n,
            status: Status::InService,
            incarnation: None,
            reason: String::new(),
            cause: Default::default(),
        })
    };
    assert_eq!(state.clone().apply(Command::Batch(statuses(16).collect())), Outcome::Done);
    let refused = [
        (young, Command::Batch(vec![part.clone()])),
        (state.clone(), Command::Batch(vec![Command::Batch(vec![part])])),
        (state.clone(), Command::Batch(statuses(17).collect())),
    ];
    for (before, batch) in refused {
        let mut after = before.clone();
        assert_eq!(after.apply(batch), Outcome::Stale);
        assert_eq!(after, before);
    }
}

#[test]
fn members_read_a_batch_as_it_was_written() {
    let state = acting();
    let batch = Command::Batch(vec![publisher(&state, "b"), assign(&state, "b")]);
    let json = serde_json::to_string(&batch).expect("JSON");
    assert!(json.starts_with(r#"{"batch":[{"set-publisher":"#), "{json}");
    assert_eq!(serde_json::from_str::<Command>(&json).expect("read"), batch);
    assert_eq!(batch.to_string(), "publisher is b; notifier to b");
}

#[test]
fn a_plan_is_one_proposal_from_the_level_of_batches_on() {
    let state = acting();
    let parts = vec![publisher(&state, "b"), assign(&state, "b")];
    let first = Some(parts[0].clone());
    let batch = Some(Command::Batch(parts.clone()));
    let of = |state: &State, singly, aside: Option<&Command>| {
        proposal(parts.clone(), state, singly, |command| Some(command) == aside)
    };
    assert_eq!(of(&state, false, None), batch);
    assert_eq!(of(&State { feature_level: BATCH_LEVEL - 1, ..state.clone() }, false, None), first);
    assert_eq!(of(&state, true, None), first, "one by one");
    assert_eq!(of(&state, false, batch.as_ref()), first, "the batch was set aside");
    assert_eq!(of(&state, false, first.as_ref()), Some(parts[1].clone()), "a part was set aside");
    assert_eq!(proposal(vec![parts[0].clone()], &state, false, |_| false), first, "a batch of one is none");
    assert_eq!(proposal(Vec::new(), &state, false, |_| false), None);
    // Never longer than the limit for applying.
    let long = vec![parts[0].clone(); 40];
    let most = proposal(long, &state, false, |_| false).expect("something");
    assert_eq!(most.parts().len(), 16);
}

#[test]
fn a_rise_of_the_level_is_no_part_of_a_batch() {
    let state = acting();
    let raise = Command::RaiseLevel { from: SPEAKS.max, to: SPEAKS.max + 1 };
    let [first, second] = [publisher(&state, "b"), assign(&state, "b")];
    let plan = [first.clone(), second.clone(), raise.clone(), first.clone(), second.clone()];
    let of = |from: usize| proposal(plan[from..].to_vec(), &state, false, |_| false);
    assert_eq!(of(0), Some(Command::Batch(vec![first.clone(), second.clone()])));
    assert_eq!(of(2), Some(raise));
    assert_eq!(of(1), Some(second.clone()));
    assert_eq!(of(3), Some(Command::Batch(vec![first, second])));
}

/// Rule R3, for every part: after the proposal no lease of a moved duty is extended.
#[test]
fn what_a_batch_moves_is_never_extended_again() {
    let state = acting();
    let mut ledger = Ledger::new(1, START, &state, Timing::lan(), &Exits::default());
    let frozen = |ledger: &mut Ledger| ledger.view(START, 0, &state).leases[&DUTY].frozen;
    assert!(!frozen(&mut ledger));
    ledger.proposing(&Command::Batch(vec![publisher(&state, "b"), assign(&state, "b")]));
    assert!(frozen(&mut ledger));
}

/// The time of a plan does not count when commands are set aside.
#[test]
fn the_same_change_planned_later_is_the_same() {
    let state = acting();
    let at = |at_ms| {
        let why = twinbox_roles_core::Why { at_ms, ..Default::default() };
        let single = Command::SetPublisher { from: state.publisher.clone(), to: name("b"), why };
        Command::Batch(vec![single])
    };
    assert_ne!(at(1), at(2));
    assert_eq!(at(1).timeless(), at(2).timeless());
}

fn live() -> Seen {
    let incarnation = Some(Incarnation(1));
    Seen { presence: Presence::Live, incarnation, failing: Some(Vec::new()), ..Seen::default() }
}

/// Plan of the duties in a cluster at this level, whose nodes know these levels. The duty itself needs level 1.
fn duties(level: u32, known: [Speaks; 2]) -> Vec<String> {
    let state = State { feature_level: level, ..cluster(&["a", "b"]) };
    let mut view = View { state, ..View::default() };
    for (text, speaks) in ["a", "b"].into_iter().zip(known) {
        let mut seen = live();
        seen.report.speaks = speaks;
        view.seen.insert(name(text), seen);
    }
    let plan = plan(&view, &Timing::lan().into());
    plan.iter().map(ToString::to_string).filter(|words| !words.starts_with("leases")).collect()
}

#[test]
fn a_duty_is_assigned_from_its_level_on_and_only_to_nodes_that_know_it() {
    let (old, new) = (Speaks { min: 0, max: 0 }, SPEAKS);
    let risen = format!("feature level is {}", SPEAKS.max);
    assert_eq!(duties(0, [old, new]), [""; 0], "not all members know it");
    assert_eq!(duties(0, [new, new]), [&risen, "notifier to a"], "the rise brings it");
    assert_eq!(duties(1, [new, old]), ["notifier to a"]);
    // The publisher does not know the duty, though no keep-alive of such a node is granted.
    assert_eq!(duties(1, [old, new]), [""; 0]);
}

#[test]
fn an_order_about_a_duty_that_not_all_know_is_refused_before_it_is_written() {
    use twinbox_roles_core::{Order, Refusal};
    let order = Order::MoveDuty { duty: DUTY, to: name("b") };
    assert_eq!(order.refused_at(1), None);
    let refusal = order.refused_at(0).expect("refused");
    assert_eq!(refusal, Refusal::DutyLevel { duty: DUTY, needed: 1, level: 0 });
    assert!(refusal.to_string().contains("upgrade all members"), "{refusal}");
    assert_eq!(Order::Activate(name("b")).refused_at(0), None);
}
