//! The leader's changes of its group over time; the steps themselves are tested with them.

use std::time::Duration;

use twinbox_roles_core::{Command, CommandOutcome, MemberKind, State, Status};
use twinbox_roles_member::{MembershipFacts, MembershipStep, RaftGroup, RaftPeer, VoterStep};

use crate::common::{START, ms, name, pair};

/// Node `a` leads and votes; `b` follows, with the whole log.
fn group() -> RaftGroup {
    let peer = |text| RaftPeer { name: name(text), kind: MemberKind::Node };
    RaftGroup {
        voters: [1].into(),
        learners: [2].into(),
        joint: false,
        peers: [(1, peer("a")), (2, peer("b"))].into(),
        matched: [(1, 9), (2, 9)].into(),
        last_index: 9,
    }
}

fn next(
    step: &mut MembershipStep,
    now: Duration,
    group: &RaftGroup,
    state: &State,
    may_change_voters: bool,
) -> Option<VoterStep> {
    step.next(now, MembershipFacts { group, state, own: 1, may_change_voters }, |_| true)
}

#[test]
fn voters_change_only_when_no_node_may_be_acting_solo() {
    let (state, group) = (pair(), group());
    let mut step = MembershipStep::default();
    assert_eq!(next(&mut step, START, &group, &state, false), None);
    let promoted = next(&mut step, START, &group, &state, true);
    assert_eq!(promoted, Some(VoterStep::Promote { id: 2, instead_of: [].into() }));
}

#[test]
fn a_removed_member_gets_the_log_until_it_knows_or_ten_seconds_long() {
    let mut state = pair();
    let removal = Command::Removed { name: name("b"), raft_id: 2 };
    state.members.get_mut(&name("b")).expect("a member").status = Status::Leaving;
    assert_eq!(state.apply(removal), CommandOutcome::Done);
    let forget = Some(VoterStep::Forget { ids: [2].into() });
    let complete = group();
    let mut silent = group();
    silent.matched.insert(2, 8);

    let mut step = MembershipStep::default();
    assert_eq!(next(&mut step, START, &silent, &state, true), None);
    assert_eq!(next(&mut step, START + ms(10_000), &silent, &state, true), None);
    assert_eq!(next(&mut step, START + ms(10_001), &silent, &state, true), forget);

    let mut step = MembershipStep::default();
    for (at, group, expected) in [
        (0, &complete, &None),
        (900, &silent, &None),
        // A new entry that it did not have yet: the time begins again.
        (1_100, &complete, &None),
        (2_100, &complete, &None),
        (2_101, &complete, &forget),
    ] {
        assert_eq!(next(&mut step, START + ms(at), group, &state, true), *expected, "{at}");
    }
}
