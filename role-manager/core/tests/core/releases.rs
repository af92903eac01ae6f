//! Additions by a later release to messages and stored data that this release skips, and unsupported ones.

use serde_json::{Value, json};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{
    CallHeir, Command, CommandOutcome, Duty, MemberKind, Order, OrderId, Refusal, SUPPORTED_LEVELS, Setting,
    SoloRecord, State, Status,
};

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// One command of every kind that changes stored data.
fn commands() -> Vec<Command> {
    let order = |id, order| Command::Operate { id: OrderId(id), order };
    let set = Setting::parse("alarm-rule", "space 2 60").expect("a setting");
    let (reason, incarnation) = (Default::default(), Incarnation(1));
    vec![
        Command::Admit { name: name("a"), kind: MemberKind::Node, address: "h:1".to_owned(), raft_id: 1 },
        Command::SetStatus {
            name: name("a"),
            revision: 1,
            status: Status::InService,
            incarnation: Some(incarnation),
            reason: String::new(),
            cause: Default::default(),
        },
        Command::SetPublisher { from: None, to: name("a"), reason },
        Command::Assign {
            duty: Duty::Notifier,
            from: None,
            to: name("a"),
            incarnation,
            reason: Default::default(),
        },
        order(7, Order::Set(vec![set])),
        Command::RaiseLevel { from: 1, to: 2 },
    ]
}

fn state() -> State {
    let mut state = State::default();
    for command in commands() {
        assert_eq!(state.apply(command.clone()), CommandOutcome::Done, "{command}");
    }
    state
}

/// Adds a field to the object at this path.
fn with_more(whole: &impl serde::Serialize, place: &str) -> Value {
    let mut json = serde_json::to_value(whole).expect("JSON");
    let object = json.pointer_mut(place).and_then(Value::as_object_mut);
    object
        .unwrap_or_else(|| panic!("no object at {place}"))
        .insert("of-a-later-release".to_owned(), json!({"x": [1]}));
    json
}

#[test]
fn unknown_fields_of_a_later_release_are_ignored() {
    let state = state();
    for place in [
        "",
        "/members/a",
        "/duties/notifier",
        "/duties/notifier/epoch",
        "/settings",
        "/settings/alarm_rule",
        "/moves/0",
    ] {
        let read: State = serde_json::from_value(with_more(&state, place)).expect(place);
        assert_eq!(read, state, "{place}");
    }
    for command in commands() {
        let json = serde_json::to_value(&command).expect("JSON");
        let (kind, _) = json.as_object().and_then(|object| object.iter().next()).expect("one kind");
        let read: Command = serde_json::from_value(with_more(&command, &format!("/{kind}"))).expect(kind);
        assert_eq!(read, command);
    }
}

/// An unknown command cannot be applied: a release may propose it only at a feature level that all members have
/// reported.
#[test]
fn an_unknown_command_of_a_later_release_is_an_error() {
    let later: Result<Command, _> = serde_json::from_value(json!({"of-a-later-release": {"x": 1}}));
    assert!(later.is_err());
}

/// Names that are written to logs, snapshots and disks by other releases.
#[test]
fn renamed_fields_keep_their_serialized_spelling() {
    let incarnation = Incarnation(7);
    let inherit = Command::Inherit {
        of: name("a"),
        ended: incarnation,
        to: name("b"),
        incarnation,
        calls: 1,
        cause: Default::default(),
        at_ms: 1,
    };
    let json = serde_json::to_value(&inherit).expect("JSON");
    assert_eq!(json["inherit"]["life"], json!(incarnation));
    let heir = CallHeir {
        node: name("a"),
        incarnation,
        heir: name("b"),
        heir_incarnation: incarnation,
        epoch: None,
        calls: 1,
        cause: Default::default(),
        at_ms: 1,
    };
    let json = serde_json::to_value(&heir).expect("JSON");
    assert_eq!((&json["life"], &json["heir_life"]), (&json!(incarnation), &json!(incarnation)));
    let removed = Command::Removed { name: name("a"), raft_id: 1 };
    assert_eq!(serde_json::to_value(&removed).expect("JSON"), json!({"gone": {"name": "a", "raft_id": 1}}));
    let moved = Command::SetPublisher { from: None, to: name("a"), reason: Default::default() };
    assert!(serde_json::to_value(&moved).expect("JSON")["set-publisher"]["why"].is_object());
    let moves = serde_json::to_value(state().moves).expect("JSON");
    assert_eq!(moves[0]["what"], json!("publisher"));
    let redeem = Order::Redeem {
        token: [1; 32],
        name: name("c"),
        kind: MemberKind::Node,
        address: "h:1".to_owned(),
        key: [2; 32],
        feature_levels: SUPPORTED_LEVELS,
        facts: Default::default(),
    };
    assert!(serde_json::to_value(&redeem).expect("JSON")["redeem"]["speaks"].is_object());
    assert!(serde_json::to_value(SoloRecord::default()).expect("JSON")["learned"].is_object());
    let refusal = serde_json::to_value(Refusal::TokenValidity { days: 7 }).expect("JSON");
    assert_eq!(refusal, json!({"token-life": {"days": 7}}));
}
