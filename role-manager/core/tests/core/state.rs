//! The replicated state machine: the effect of each command, and the texts of refusals.

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    Cause, Command, CommandOutcome, Duty, MemberKind, MoveReason, Order, OrderId, Refusal, State, Status,
};

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn incarnation(n: u128) -> Incarnation {
    Incarnation(n)
}

fn admit(text: &str, raft_id: u64) -> Command {
    let kind = if text.starts_with('w') { MemberKind::Witness } else { MemberKind::Node };
    Command::Admit { name: name(text), kind, address: format!("{text}:1"), raft_id }
}

fn serve(state: &mut State, text: &str) {
    let revision = state.members[&name(text)].revision;
    let command = Command::SetStatus {
        name: name(text),
        revision,
        status: Status::InService,
        incarnation: Some(incarnation(1)),
        reason: String::new(),
        cause: Cause::Start,
    };
    assert_eq!(state.apply(command), CommandOutcome::Done);
}

/// Two nodes in service and a witness; `a` is publisher and notifier.
fn pair() -> State {
    let mut state = State::default();
    for (id, text) in [(1, "a"), (2, "b"), (3, "w")] {
        assert_eq!(state.apply(admit(text, id)), CommandOutcome::Done);
        serve(&mut state, text);
    }
    assert_eq!(
        state.apply(Command::SetPublisher { from: None, to: name("a"), reason: MoveReason::default() }),
        CommandOutcome::Done
    );
    let assign = Command::Assign {
        duty: Duty::Notifier,
        from: None,
        to: name("a"),
        incarnation: incarnation(1),
        reason: MoveReason::default(),
    };
    assert_eq!(state.apply(assign), CommandOutcome::Done);
    state
}

fn operate(state: &mut State, order: Order) -> CommandOutcome {
    let id = OrderId(state.orders.len() as u128 + 100);
    state.apply(Command::Operate { id, order })
}

#[test]
fn commands_planned_from_an_outdated_state_do_nothing() {
    let state = pair();
    let present = state.duties[&Duty::Notifier].epoch.clone();
    let other = Epoch { number: present.number + 1, ..present.clone() };
    let assign = |from: Option<Epoch>, to: &str| Command::Assign {
        duty: Duty::Notifier,
        from,
        to: name(to),
        incarnation: incarnation(2),
        reason: MoveReason::default(),
    };
    let status = |revision| Command::SetStatus {
        name: name("b"),
        revision,
        status: Status::NotFunctioning,
        incarnation: None,
        reason: "it is gone".to_owned(),
        cause: Cause::MissedKeepAlives,
    };
    let revision = state.members[&name("b")].revision;
    let publisher = state.publisher.clone();
    let cases = [
        (assign(Some(present.clone()), "b"), CommandOutcome::Done),
        (assign(Some(other.clone()), "b"), CommandOutcome::Stale),
        (assign(None, "b"), CommandOutcome::Stale),
        (assign(Some(present.clone()), "w"), CommandOutcome::Stale),
        (assign(Some(present.clone()), "nobody"), CommandOutcome::Stale),
        (Command::Drain { duty: Duty::Notifier, epoch: present.clone() }, CommandOutcome::Done),
        (Command::Drain { duty: Duty::Notifier, epoch: other.clone() }, CommandOutcome::Stale),
        (
            Command::SetPublisher { from: publisher, to: name("b"), reason: MoveReason::default() },
            CommandOutcome::Done,
        ),
        (
            Command::SetPublisher { from: Some(other), to: name("b"), reason: MoveReason::default() },
            CommandOutcome::Stale,
        ),
        (Command::SetPublisher { from: None, to: name("b"), reason: MoveReason::default() }, CommandOutcome::Stale),
        (status(revision), CommandOutcome::Done),
        (status(revision + 1), CommandOutcome::Stale),
        (admit("a", 1), CommandOutcome::Unchanged),
        (admit("a", 9), CommandOutcome::Done),
    ];
    for (command, expected) in cases {
        let mut after = state.clone();
        assert_eq!(after.apply(command.clone()), expected, "{command}");
        assert_eq!(after == state, expected != CommandOutcome::Done, "{command}");
    }
}

#[test]
fn every_move_gets_a_higher_epoch_that_names_its_holder() {
    let mut state = pair();
    let mut last = state.duties[&Duty::Notifier].epoch.clone();
    for to in ["b", "a", "a", "b"] {
        let from = Some(last.clone());
        let assign = Command::Assign {
            duty: Duty::Notifier,
            from,
            to: name(to),
            incarnation: incarnation(3),
            reason: MoveReason::default(),
        };
        assert_eq!(state.apply(assign), CommandOutcome::Done);
        let next = state.duties[&Duty::Notifier].epoch.clone();
        assert!(next > last && next.node == name(to));
        last = next;
    }
}

#[test]
fn refused_orders_state_the_reason_and_the_remedy() {
    let refused = |state: &mut State, order: Order| match operate(state, order.clone()) {
        CommandOutcome::Refused(refusal) => refusal.to_string(),
        other => panic!("{order:?} gave {other:?}"),
    };
    let mut state = pair();
    let words = refused(&mut state, Order::make_publisher(name("c")));
    assert_eq!(words, "there is no node 'c' in this cluster; its members are: a, b, w");
    assert!(refused(&mut state, Order::make_publisher(name("w"))).contains("is a witness"));
    assert!(refused(&mut state, Order::deactivate(name("w"))).contains("is a witness"));

    assert_eq!(operate(&mut state, Order::deactivate(name("b"))), CommandOutcome::Done);
    assert_eq!(operate(&mut state, Order::deactivate(name("b"))), CommandOutcome::Unchanged);
    assert!(refused(&mut state, Order::make_publisher(name("b"))).contains("activate it first"));
    assert!(refused(&mut state, Order::deactivate(name("a"))).contains("last node in service"));

    assert_eq!(operate(&mut state, Order::Activate(name("b"))), CommandOutcome::Done);
    assert_eq!(state.members[&name("b")].status, Status::Starting);
    let words = refused(&mut state, Order::make_publisher(name("b")));
    assert!(words.contains("'b' is starting: it has just been activated"), "{words}");
    serve(&mut state, "b");
    assert_eq!(operate(&mut state, Order::make_publisher(name("b"))), CommandOutcome::Done);
    assert_eq!(operate(&mut state, Order::make_publisher(name("b"))), CommandOutcome::Unchanged);
}

#[test]
fn the_last_node_that_may_serve_is_not_taken_out_even_if_it_does_not_serve_now() {
    let mut state = pair();
    assert_eq!(operate(&mut state, Order::deactivate(name("b"))), CommandOutcome::Done);
    let revision = state.members[&name("a")].revision;
    let gone = Command::SetStatus {
        name: name("a"),
        revision,
        status: Status::NotFunctioning,
        incarnation: None,
        reason: String::new(),
        cause: Cause::Start,
    };
    assert_eq!(state.apply(gone), CommandOutcome::Done);
    let outcome = operate(&mut state, Order::deactivate(name("a")));
    assert_eq!(outcome, CommandOutcome::Refused(Refusal::LastInService { name: name("a") }));
}

#[test]
fn an_order_is_done_at_most_once_and_its_outcome_is_remembered() {
    let mut state = pair();
    let id = OrderId(1);
    let order = Command::Operate { id, order: Order::make_publisher(name("b")) };
    assert_eq!(state.apply(order.clone()), CommandOutcome::Done);
    let after = state.clone();
    assert_eq!(state.apply(order), CommandOutcome::Done);
    assert_eq!(state.apply(Command::Settle { id }), CommandOutcome::Done);
    assert_eq!(state, after);

    // An order queried before it arrives is never done.
    let late = OrderId(2);
    assert_eq!(state.apply(Command::Settle { id: late }), CommandOutcome::Refused(Refusal::Settled));
    let order = Command::Operate { id: late, order: Order::make_publisher(name("a")) };
    assert_eq!(state.apply(order), CommandOutcome::Refused(Refusal::Settled));
    assert_eq!(state.publisher.as_ref().map(|epoch| &epoch.node), Some(&name("b")));

    for n in 10..1_000 {
        state.apply(Command::Settle { id: OrderId(n) });
    }
    assert!(state.orders.len() <= 64, "memory is bounded");
}

#[test]
fn the_state_survives_its_own_encoding() {
    let mut state = pair();
    operate(&mut state, Order::deactivate(name("b")));
    let json = serde_json::to_vec(&state).expect("encoded");
    assert_eq!(serde_json::from_slice::<State>(&json).expect("decoded"), state);
    // Fields added by a later version are skipped.
    let command = r#"{"drain":{"duty":"notifier","epoch":{"generation":0,"number":1,"node":"a"},"later":7}}"#;
    serde_json::from_str::<Command>(command).expect("decoded");
}
