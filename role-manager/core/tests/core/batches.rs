//! Several planned commands in one log entry.

use twinbox_ids::{Epoch, Incarnation};
use twinbox_roles_core::{
    BATCH_LEVEL, Command, CommandOutcome, Duty, Exits, FeatureLevels, Ledger, MemberObservation, Presence,
    SUPPORTED_LEVELS, State, Status, Timing, View, plan, proposal,
};

use crate::common::{START, cluster, name};
use crate::planned::then_all_to;

const DUTY: Duty = Duty::Notifier;

/// A cluster of two nodes and a witness; the first incarnation of `a` is publisher and has the duty.
fn acting() -> State {
    let mut state = cluster(&["a", "b", "w"]);
    let (to, incarnation) = (name("a"), Incarnation(1));
    state.apply(Command::Assign { duty: DUTY, from: None, to, incarnation, reason: Default::default() });
    state
}

fn epoch(state: &State) -> Epoch {
    state.holder(DUTY).expect("assigned").epoch.clone()
}

fn publisher(state: &State, to: &str) -> Command {
    Command::SetPublisher { from: state.publisher.clone(), to: name(to), reason: Default::default() }
}

fn assign(state: &State, to: &str) -> Command {
    let (to, incarnation) = (name(to), Incarnation(1));
    Command::Assign { duty: DUTY, from: Some(epoch(state)), to, incarnation, reason: Default::default() }
}

#[test]
fn a_batch_has_the_effect_of_its_parts_in_sequence() {
    let state = acting();
    let parts = [publisher(&state, "b"), assign(&state, "b")];
    let (mut together, mut singly) = (state.clone(), state);
    assert_eq!(together.apply(Command::Batch(parts.to_vec())), CommandOutcome::Done);
    parts.into_iter().for_each(|part| assert_eq!(singly.apply(part), CommandOutcome::Done));
    assert_eq!(together, singly);
}

#[test]
fn a_batch_with_a_stale_part_does_nothing() {
    let state = acting();
    let stale = Command::Drain { duty: DUTY, epoch: Epoch { number: 99, ..epoch(&state) } };
    for parts in [vec![publisher(&state, "b"), stale.clone()], vec![stale, publisher(&state, "b")]] {
        let mut after = state.clone();
        assert_eq!(after.apply(Command::Batch(parts)), CommandOutcome::Stale);
        assert_eq!(after, state);
    }
}

#[test]
fn a_batch_below_its_feature_level_or_nested_or_too_long_does_nothing() {
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
    assert_eq!(state.clone().apply(Command::Batch(statuses(16).collect())), CommandOutcome::Done);
    let refused = [
        (young, Command::Batch(vec![part.clone()])),
        (state.clone(), Command::Batch(vec![Command::Batch(vec![part])])),
        (state.clone(), Command::Batch(statuses(17).collect())),
    ];
    for (before, batch) in refused {
        let mut after = before.clone();
        assert_eq!(after.apply(batch), CommandOutcome::Stale);
        assert_eq!(after, before);
    }
}

#[test]
fn a_batch_survives_its_encoding() {
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
fn a_rise_of_the_feature_level_is_proposed_singly() {
    let state = acting();
    let raise = Command::RaiseLevel { from: SUPPORTED_LEVELS.max, to: SUPPORTED_LEVELS.max + 1 };
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
fn leases_of_duties_moved_by_a_batch_are_not_extended() {
    let state = acting();
    let mut ledger = Ledger::new(1, START, &state, Timing::lan(), &Exits::default());
    let frozen = |ledger: &mut Ledger| ledger.view(START, 0, &state).leases[&DUTY].frozen;
    assert!(!frozen(&mut ledger));
    ledger.proposing(&Command::Batch(vec![publisher(&state, "b"), assign(&state, "b")]));
    assert!(frozen(&mut ledger));
}

/// The time of a plan does not count when commands are set aside.
#[test]
fn the_same_change_planned_later_is_equal_without_its_time() {
    let state = acting();
    let at = |at_ms| {
        let reason = twinbox_roles_core::MoveReason { at_ms, ..Default::default() };
        let single = Command::SetPublisher { from: state.publisher.clone(), to: name("b"), reason };
        Command::Batch(vec![single])
    };
    assert_ne!(at(1), at(2));
    assert_eq!(at(1).timeless(), at(2).timeless());
}

fn live() -> MemberObservation {
    let incarnation = Some(Incarnation(1));
    MemberObservation {
        presence: Presence::Live,
        incarnation,
        failing: Some(Vec::new()),
        ..MemberObservation::default()
    }
}

/// Plan of the duties in a cluster at this level, whose nodes know these levels. The notifier needs level 1.
fn duties(level: u32, known: [FeatureLevels; 2]) -> Vec<String> {
    let state = State { feature_level: level, ..cluster(&["a", "b"]) };
    let mut view = View { state, ..View::default() };
    for (text, feature_levels) in ["a", "b"].into_iter().zip(known) {
        let mut observed = live();
        observed.report.feature_levels = feature_levels;
        view.observed.insert(name(text), observed);
    }
    let plan = plan(&view, &Timing::lan().into());
    plan.iter().map(ToString::to_string).filter(|words| !words.starts_with("leases")).collect()
}

#[test]
fn a_duty_is_assigned_from_its_level_on_and_only_to_nodes_that_know_it() {
    let (old, new) = (FeatureLevels { min: 0, max: 0 }, SUPPORTED_LEVELS);
    let risen = format!("feature level is {}", SUPPORTED_LEVELS.max);
    assert_eq!(duties(0, [old, new]), [""; 0], "not all members know it");
    assert_eq!(duties(0, [new, new]), then_all_to(&[&risen], "a"), "the rise brings all");
    assert_eq!(duties(1, [new, old]), ["notifier to a"]);
    // The publisher does not know the duty, though no keep-alive of such a node is granted.
    assert_eq!(duties(1, [old, new]), [""; 0]);
    // The second duty comes with its own level, and only the rise brings it.
    let level = Duty::Mta.level();
    let [before, mta] = [level - 1, level].map(|max| FeatureLevels { min: 1, max });
    assert_eq!(duties(level - 1, [before, before]), ["notifier to a"]);
    assert_eq!(duties(level - 1, [mta, before]), ["notifier to a"], "not all members know it");
    assert_eq!(duties(level - 1, [mta, mta]), ["notifier to a", &format!("feature level is {level}"), "mta to a"]);
    assert_eq!(duties(level, [mta, before]), ["notifier to a", "mta to a"]);
    assert_eq!(duties(level, [before, mta]), ["notifier to a"]);
}

#[test]
fn an_order_about_a_duty_that_not_all_know_is_refused_before_it_is_written() {
    use twinbox_roles_core::{Order, Refusal};
    let order = Order::MoveDuty { duty: DUTY, to: name("b") };
    assert_eq!(order.refused_at(1), None);
    let refusal = order.refused_at(0).expect("refused");
    assert_eq!(refusal, Refusal::DutyLevel { duty: DUTY, needed: 1, level: 0 });
    assert!(refusal.to_string().contains("upgrade all members"), "{refusal}");
    let (needed, level) = (Duty::Mta.level(), Duty::Mta.level() - 1);
    let to = || name("b");
    for order in [
        Order::MoveDuty { duty: Duty::Mta, to: to() },
        Order::Pin { duty: Duty::Mta, to: to() },
        Order::Unpin(Duty::Mta),
    ] {
        assert_eq!(order.refused_at(needed), None);
        assert_eq!(order.refused_at(level), Some(Refusal::DutyLevel { duty: Duty::Mta, needed, level }));
    }
    assert_eq!(Order::Activate(name("b")).refused_at(0), None);
}
