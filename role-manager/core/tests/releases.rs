//! Additions by a later release to messages and stored data that this release skips, and unsupported ones.

use serde_json::{Value, json};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{Command, Duty, MemberKind, Order, OrderId, Outcome, Setting, State, Status};

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// One command of every kind that changes stored data.
fn commands() -> Vec<Command> {
    let order = |id, order| Command::Operate { id: OrderId(id), order };
    let set = Setting::parse("alarm-rule", "space 2 60").expect("a setting");
    let (why, incarnation) = (Default::default(), Incarnation(1));
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
        Command::SetPublisher { from: None, to: name("a"), why },
        Command::Assign { duty: Duty::Notifier, from: None, to: name("a"), incarnation, why: Default::default() },
        order(7, Order::Set(vec![set])),
        Command::RaiseLevel { from: 1, to: 2 },
    ]
}

fn state() -> State {
    let mut state = State::default();
    for command in commands() {
        assert_eq!(state.apply(command.clone()), Outcome::Done, "{command}");
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
fn fields_that_this_release_does_not_know_are_passed_over() {
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
fn a_command_that_this_release_does_not_know_is_none() {
    let later: Result<Command, _> = serde_json::from_value(json!({"of-a-later-release": {"x": 1}}));
    assert!(later.is_err());
}
