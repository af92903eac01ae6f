//! Choice of the voter that should lead Raft.

use std::time::Duration;

use twinbox_roles_core::{Command, CommandOutcome, FeatureLevels, MemberKind, SUPPORTED_LEVELS};
use twinbox_roles_member::{Voter, better_leader};

use crate::common::{name, pair};

#[test]
fn leadership_moves_from_the_publisher_to_the_voter_with_the_shortest_round_trip() {
    let mut state = pair();
    let (kind, address) = (MemberKind::Witness, String::new());
    assert_eq!(state.apply(Command::Admit { name: name("w"), kind, address, raft_id: 3 }), CommandOutcome::Done);
    let voter = |text: &str, ms: u64| Voter {
        name: name(text),
        fit: true,
        round_trip: Some(Duration::from_millis(ms)),
        feature_levels: SUPPORTED_LEVELS,
    };
    let all = [voter("a", 1), voter("b", 30), voter("w", 10)];
    assert_eq!(better_leader(&state, &name("a"), &all), Some(name("w")));
    assert_eq!(better_leader(&state, &name("b"), &all), None, "a member that is not publisher goes on leading");
    assert_eq!(better_leader(&state, &name("a"), &[voter("b", 1), voter("w", 60)]), Some(name("b")));
    let unfit = [Voter { fit: false, ..voter("w", 1) }, voter("b", 90)];
    assert_eq!(better_leader(&state, &name("a"), &unfit), Some(name("b")));
    state.feature_level = SUPPORTED_LEVELS.max + 1;
    let newer = Voter { feature_levels: FeatureLevels { min: 1, max: SUPPORTED_LEVELS.max + 1 }, ..voter("b", 90) };
    assert_eq!(better_leader(&state, &name("a"), &[voter("w", 1), newer]), Some(name("b")));
    assert_eq!(better_leader(&state, &name("a"), &[voter("w", 1)]), None);
}
