//! Orders: their effects and their refusals.

use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{
    CALL_CAUSE_LEVEL, Cause, Command, CommandOutcome, Duty, FAR_BEHIND, Facts, Failback, FeatureLevels, MemberKind,
    MoveObject, MoveReason, Order, OrderId, Refusal, SUPPORTED_LEVELS, Setting, State, Status, Trigger,
};

const DUTY: Duty = Duty::Notifier;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn admit(state: &mut State, text: &str, raft_id: u64) -> CommandOutcome {
    let kind = if text.starts_with('w') { MemberKind::Witness } else { MemberKind::Node };
    state.apply(Command::Admit { name: name(text), kind, address: format!("{text}:1"), raft_id })
}

/// `a`, `b` and the witness in service, `a` publisher and notifier.
fn cluster() -> State {
    let mut state = State::default();
    for (raft_id, text) in [(1, "a"), (2, "b"), (3, "w")] {
        admit(&mut state, text, raft_id);
        serve(&mut state, text);
    }
    state.apply(Command::SetPublisher { from: None, to: name("a"), reason: MoveReason::default() });
    let (to, incarnation) = (name("a"), Incarnation(1));
    state.apply(Command::Assign { duty: DUTY, from: None, to, incarnation, reason: MoveReason::default() });
    state
}

fn serve(state: &mut State, text: &str) {
    let revision = state.members[&name(text)].revision;
    let (status, incarnation) = (Status::InService, Some(Incarnation(1)));
    let (reason, cause) = (String::new(), Cause::Start);
    state.apply(Command::SetStatus { name: name(text), revision, status, incarnation, reason, cause });
}

fn give(state: &mut State, order: Order) -> CommandOutcome {
    let id = OrderId(state.number as u128 * 1_000 + state.orders.len() as u128);
    state.apply(Command::Operate { id, order })
}

fn refused(state: &mut State, order: Order) -> Refusal {
    let before = State { orders: Vec::new(), ..state.clone() };
    let outcome = give(state, order.clone());
    assert_eq!(State { orders: Vec::new(), ..state.clone() }, before, "{order:?} changed something");
    match outcome {
        CommandOutcome::Refused(refusal) => refusal,
        other => panic!("{order:?} gave {other:?}"),
    }
}

fn remove(text: &str, lost: bool, live: bool) -> Order {
    Order::Remove { name: name(text), lost, within_ms: None, facts: Facts { live, ..Facts::default() } }
}

#[test]
fn a_node_far_behind_is_made_publisher_only_by_force() {
    let mut state = cluster();
    let order = |force, behind| Order::MakePublisher {
        name: name("b"),
        force,
        on_call: false,
        facts: Facts { at_ms: 5, behind, ..Facts::default() },
    };
    let words = refused(&mut state, order(false, FAR_BEHIND + 1)).to_string();
    assert!(
        words.contains("lacks 1001 changes") && words.contains("--force") && words.contains("no acknowledged data"),
        "{words}"
    );
    assert_eq!(give(&mut state.clone(), order(false, FAR_BEHIND)), CommandOutcome::Done);
    assert_eq!(give(&mut state, order(true, 99_999)), CommandOutcome::Done);
    let last = state.moves.last().expect("a move");
    assert_eq!(
        (last.object, &last.to, &last.cause, last.at_ms),
        (MoveObject::Publisher, &name("b"), &Cause::Operator, 5)
    );
    assert_eq!(last.from, Some(name("a")));
    // Force does not help a deactivated node.
    assert_eq!(give(&mut state, Order::deactivate(name("a"))), CommandOutcome::Done);
    let forced = Order::MakePublisher { name: name("a"), force: true, on_call: false, facts: Facts::default() };
    assert_eq!(refused(&mut state, forced), Refusal::Deactivated { name: name("a") });
}

/// Members below the level cannot read the cause: until all know it, the move counts as an administrator's.
#[test]
fn a_move_forced_by_a_call_has_the_cause_call_from_its_feature_level_on() {
    let order = || Order::take_role_on_call(name("b"));
    for (level, cause) in [(CALL_CAUSE_LEVEL - 1, Cause::Operator), (CALL_CAUSE_LEVEL, Cause::Call)] {
        let mut state = State { feature_level: level, ..cluster() };
        assert_eq!(give(&mut state, order()), CommandOutcome::Done);
        assert_eq!(state.moves.last().map(|m| &m.cause), Some(&cause), "level {level}");
    }
    // The switch for administrators' moves does not affect calls.
    let mut state = State { feature_level: CALL_CAUSE_LEVEL, ..cluster() };
    assert_eq!(
        give(&mut state, Order::Set(vec![Setting::Trigger(Trigger::Operator, false)])),
        CommandOutcome::Done
    );
    assert_eq!(give(&mut state, order()), CommandOutcome::Done);
    // An administrator's order has the same wire format as before.
    let plain = serde_json::to_string(&Order::make_publisher(name("b"))).expect("JSON");
    assert!(!plain.contains("on_call"), "{plain}");
}

#[test]
fn manual_failback_needs_a_preferred_node_and_permission() {
    let mut state = cluster();
    let back = || Order::Failback { facts: Facts::default() };
    assert_eq!(refused(&mut state, back()), Refusal::NoFailback);
    assert_eq!(give(&mut state, Order::Set(vec![Setting::Failback(Failback::Manual)])), CommandOutcome::Done);
    assert_eq!(refused(&mut state, back()), Refusal::NoPreferred);
    assert_eq!(give(&mut state, Order::Set(vec![Setting::Preferred(Some(name("b")))])), CommandOutcome::Done);
    assert_eq!(give(&mut state, back()), CommandOutcome::Done);
    assert_eq!(state.moves.last().map(|m| &m.cause), Some(&Cause::Failback));
    assert_eq!(give(&mut state, back()), CommandOutcome::Unchanged);
    assert_eq!(
        give(&mut state, Order::Set(vec![Setting::Trigger(Trigger::Operator, false)])),
        CommandOutcome::Done
    );
    assert_eq!(refused(&mut state, Order::make_publisher(name("a"))), Refusal::OperatorOff);
}

#[test]
fn duties_are_moved_and_pinned_to_nodes() {
    let mut state = cluster();
    let to = |text: &str| name(text);
    assert_eq!(refused(&mut state, Order::Unpin(DUTY)), Refusal::NotPinned { duty: DUTY });
    assert_eq!(refused(&mut state, Order::Pin { duty: DUTY, to: to("w") }), Refusal::Witness { name: to("w") });
    assert!(matches!(refused(&mut state, Order::MoveDuty { duty: DUTY, to: to("z") }), Refusal::Unknown { .. }));
    assert_eq!(give(&mut state, Order::MoveDuty { duty: DUTY, to: to("b") }), CommandOutcome::Done);
    assert_eq!(give(&mut state, Order::Pin { duty: DUTY, to: to("a") }), CommandOutcome::Done);
    assert_eq!(give(&mut state, Order::Pin { duty: DUTY, to: to("a") }), CommandOutcome::Unchanged);
    let pinned = refused(&mut state, Order::MoveDuty { duty: DUTY, to: to("b") });
    assert!(pinned.to_string().contains("duty unpin notifier"), "{pinned}");
    assert_eq!(give(&mut state, Order::Unpin(DUTY)), CommandOutcome::Done);
    // The other duty is moved and pinned for itself.
    assert_eq!(refused(&mut state, Order::Unpin(Duty::Mta)), Refusal::NotPinned { duty: Duty::Mta });
    assert_eq!(give(&mut state, Order::Pin { duty: Duty::Mta, to: to("b") }), CommandOutcome::Done);
    assert_eq!(give(&mut state, Order::MoveDuty { duty: DUTY, to: to("a") }), CommandOutcome::Unchanged);
    assert_eq!((state.placed.get(&DUTY), state.settings.pins.get(&Duty::Mta)), (Some(&to("a")), Some(&to("b"))));
    // A new publisher takes moved duties along.
    assert_eq!(give(&mut state, Order::make_publisher(to("b"))), CommandOutcome::Done);
    assert!(state.placed.is_empty());
}

#[test]
fn members_leave_in_order_and_their_stores_are_not_admitted_again() {
    let mut state = cluster();
    assert!(matches!(refused(&mut state, remove("z", false, false)), Refusal::Unknown { .. }));
    assert_eq!(give(&mut state, Order::Pin { duty: DUTY, to: name("b") }), CommandOutcome::Done);
    let window = Setting::Failback(Failback::Scheduled { from: 0, to: 60 });
    assert_eq!(
        give(&mut state, Order::Set(vec![Setting::Preferred(Some(name("b"))), window])),
        CommandOutcome::Done
    );
    assert_eq!(give(&mut state, remove("b", false, true)), CommandOutcome::Done);
    assert_eq!(give(&mut state, remove("b", false, true)), CommandOutcome::Unchanged);
    let b = &state.members[&name("b")];
    assert!(b.status == Status::Leaving && !b.activated && b.reason.contains("removes"));
    assert_eq!(refused(&mut state, Order::Activate(name("b"))), Refusal::Leaving { name: name("b") });
    assert_eq!(refused(&mut state, Order::make_publisher(name("b"))), Refusal::Leaving { name: name("b") });
    assert_eq!(refused(&mut state, remove("a", false, true)), Refusal::LastInService { name: name("a") });
    assert_eq!(refused(&mut state, remove("b", true, true)), Refusal::NotLost { name: name("b") });
    assert_eq!(state.apply(Command::Removed { name: name("b"), raft_id: 9 }), CommandOutcome::Stale);
    assert_eq!(state.apply(Command::Removed { name: name("b"), raft_id: 2 }), CommandOutcome::Done);
    assert!(!state.members.contains_key(&name("b")) && state.was_removed(2) && state.settings.pins.is_empty());
    assert_eq!((&state.settings.preferred, state.settings.failback), (&None, Failback::Manual));
    assert_eq!(admit(&mut state, "b", 2), CommandOutcome::Stale);
    assert_eq!(admit(&mut state, "b", 22), CommandOutcome::Done);
    // A lost member is removed immediately.
    assert_eq!(give(&mut state, remove("b", true, false)), CommandOutcome::Done);
    assert!(state.was_removed(22) && !state.was_removed(1));
    assert_eq!(give(&mut state, remove("w", true, false)), CommandOutcome::Done);
}

#[test]
fn a_member_that_never_joined_is_removed_by_its_name_unless_it_has_joined_meanwhile() {
    let never_joined = Facts { never_joined: true, ..Facts::default() };
    let remove_expected = |text: &str| {
        let (name, facts) = (name(text), never_joined);
        Order::Remove { name, lost: true, within_ms: None, facts }
    };
    let mut state = cluster();
    let members = state.members.clone();
    assert!(matches!(refused(&mut state, remove("c", true, false)), Refusal::Unknown { .. }));
    assert_eq!(give(&mut state, remove_expected("c")), CommandOutcome::Done);
    assert_eq!(state.members, members);
    assert_eq!(state.removed, [(0, name("c"))]);

    // One that was invited by a token.
    let (token, kind) = ([7; 32], MemberKind::Node);
    let (replaces, facts) = (None, Facts::default());
    let invite = Order::Invite { token, kind, valid_ms: 60_000, replaces, facts };
    assert_eq!(give(&mut state, invite), CommandOutcome::Done);
    let (address, key, feature_levels) = ("c:1".to_owned(), [1; 32], SUPPORTED_LEVELS);
    let redeem = Order::Redeem { token, name: name("c"), kind, address, key, feature_levels, facts };
    assert_eq!(give(&mut state, redeem), CommandOutcome::Done);
    assert_eq!(give(&mut state, remove_expected("c")), CommandOutcome::Done);
    assert_eq!((state.invited.len(), state.removed.len()), (0, 2));

    assert_eq!(admit(&mut state, "c", 5), CommandOutcome::Done);
    assert_eq!(refused(&mut state, remove_expected("c")), Refusal::NotLost { name: name("c") });
}

#[test]
fn a_joining_member_replaces_a_lost_one() {
    let mut state = cluster();
    let invite = |replaces: &str, kind, live| Order::Invite {
        token: [7; 32],
        kind,
        valid_ms: 60_000,
        replaces: Some(name(replaces)),
        facts: Facts { live, ..Facts::default() },
    };
    let redeem = |text: &str, address: &str, feature_levels| Order::Redeem {
        token: [7; 32],
        name: name(text),
        kind: MemberKind::Node,
        address: address.to_owned(),
        key: [1; 32],
        feature_levels,
        facts: Facts::default(),
    };
    let node = MemberKind::Node;
    assert!(matches!(refused(&mut state, invite("z", node, false)), Refusal::Unknown { .. }));
    assert_eq!(refused(&mut state, invite("b", node, true)), Refusal::StillThere { name: name("b") });
    assert!(matches!(refused(&mut state, invite("b", MemberKind::Witness, false)), Refusal::TokenKind { .. }));
    assert_eq!(give(&mut state, Order::Pin { duty: DUTY, to: name("b") }), CommandOutcome::Done);
    assert_eq!(give(&mut state, invite("b", node, false)), CommandOutcome::Done);
    let old = FeatureLevels { min: 2, max: 3 };
    assert_eq!(refused(&mut state, redeem("c", "b:1", old)), Refusal::FeatureLevel { min: 2, max: 3, level: 1 });
    assert!(matches!(refused(&mut state, redeem("c", "a:1", SUPPORTED_LEVELS)), Refusal::AddressTaken { .. }));
    // It may take the address, and the name too, of the member that it replaces.
    assert_eq!(give(&mut state.clone(), redeem("b", "b:1", SUPPORTED_LEVELS)), CommandOutcome::Done);
    assert_eq!(give(&mut state, redeem("c", "b:1", SUPPORTED_LEVELS)), CommandOutcome::Done);
    assert!(state.members.contains_key(&name("b")), "until the newcomer is there");
    assert_eq!(admit(&mut state, "c", 5), CommandOutcome::Done);
    assert!(!state.members.contains_key(&name("b")) && state.was_removed(2));
    assert_eq!(state.settings.pins[&DUTY], name("c"));
}

#[test]
fn an_order_sets_the_time_limit_for_calls_and_a_later_order_changes_it() {
    let mut state = cluster();
    let out = |within_ms| Order::Deactivate { name: name("b"), within_ms };
    let drains = |state: &State| state.members[&name("b")].drain_ms;
    assert_eq!(give(&mut state, out(Some(600_000))), CommandOutcome::Done);
    assert_eq!(drains(&state), Some(600_000));
    let revision = state.members[&name("b")].revision;
    assert_eq!(give(&mut state, out(Some(600_000))), CommandOutcome::Unchanged, "the same again counts on");
    assert_eq!(state.members[&name("b")].revision, revision);
    assert_eq!(give(&mut state, out(Some(5_000))), CommandOutcome::Done);
    assert!(drains(&state) == Some(5_000) && state.members[&name("b")].revision > revision);
    assert_eq!(give(&mut state, out(None)), CommandOutcome::Done, "to their own end after all");
    assert_eq!(drains(&state), None);
    give(&mut state, out(Some(5_000)));
    let removal = Order::Remove { name: name("b"), lost: false, within_ms: Some(7_000), facts: Facts::default() };
    assert_eq!(give(&mut state, removal.clone()), CommandOutcome::Done);
    assert_eq!((drains(&state), state.members[&name("b")].status), (Some(7_000), Status::Leaving));
    assert_eq!(give(&mut state, removal), CommandOutcome::Unchanged);
    let mut state = cluster();
    give(&mut state, out(Some(5_000)));
    assert_eq!(give(&mut state, Order::Activate(name("b"))), CommandOutcome::Done);
    assert_eq!(drains(&state), None, "back in service");
}
