//! Common setup of several tests.

use std::time::Duration;

use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{Command, MemberKind, SUPPORTED_LEVELS, State, Status};

/// Start of each test, by the local clock.
pub const START: Duration = Duration::from_secs(50);

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// These members in service in their first incarnations, at the highest feature level; `a` is publisher, `w` a witness.
pub fn cluster(names: &[&str]) -> State {
    let mut state = State { feature_level: SUPPORTED_LEVELS.max, ..State::default() };
    for (i, text) in names.iter().enumerate() {
        let kind = if *text == "w" { MemberKind::Witness } else { MemberKind::Node };
        let raft_id = i as u64 + 1;
        state.apply(Command::Admit { name: name(text), kind, address: String::new(), raft_id });
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
    state
}
