//! Common setup of several tests.

use std::time::Duration;

use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{Command, Duty, MemberKind, SUPPORTED_LEVELS, State, Status};

/// Start of each test, by the local clock.
pub const START: Duration = Duration::from_secs(50);
pub const DUTY: Duty = Duty::Notifier;

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Nodes `a` and `b` in service in their first incarnations; `a` has the duty.
pub fn pair() -> State {
    let mut state = State { feature_level: SUPPORTED_LEVELS.max, ..State::default() };
    for (text, raft_id) in [("a", 1), ("b", 2)] {
        state.apply(Command::Admit { name: name(text), kind: MemberKind::Node, address: String::new(), raft_id });
        state.apply(Command::SetStatus {
            name: name(text),
            revision: 1,
            status: Status::InService,
            incarnation: Some(Incarnation(1)),
            reason: String::new(),
            cause: Default::default(),
        });
    }
    state.apply(Command::SetPublisher { from: None, to: name("a"), reason: Default::default() });
    state.apply(Command::Assign {
        duty: DUTY,
        from: None,
        to: name("a"),
        incarnation: Incarnation(1),
        reason: Default::default(),
    });
    state
}
