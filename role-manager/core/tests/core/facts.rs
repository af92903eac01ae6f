//! Facts that a leader adds to an order: a leader too new to know gives no member up as lost. A node of a pair that is
//! given up may have acted alone.

use std::time::Duration;

use twinbox_ids::NodeName;
use twinbox_roles_core::{
    Command, CommandOutcome, Exits, Facts, Ledger, MemberKind, Order, OrderId, Refusal, SUPPORTED_LEVELS, State,
    Timing,
};

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn lost(who: &str) -> Order {
    Order::Remove { name: name(who), lost: true, within_ms: None, facts: Facts::default() }
}

#[test]
fn a_new_leader_accepts_no_member_as_lost_before_its_wait_ends() {
    let (timing, begun) = (Timing::lan(), Duration::from_secs(100));
    let mut state = State::default();
    for (raft_id, who) in [(1, "a"), (2, "b")] {
        let (kind, address) = (MemberKind::Node, format!("{who}:1"));
        assert_eq!(state.apply(Command::Admit { name: name(who), kind, address, raft_id }), CommandOutcome::Done);
    }
    let ledger = Ledger::new(7, begun, &state, timing, &Exits::default());
    let early = ledger.with_facts(begun, 0, &state, lost("b"));
    let refused = state.clone().apply(Command::Operate { id: OrderId(1), order: early });
    assert_eq!(refused, CommandOutcome::Refused(Refusal::NotLost { name: name("b") }));
    // Nothing was heard of it for as long as any lease can have run: then it may be given up.
    let late = ledger.with_facts(begun + timing.new_leader_wait() * 2, 0, &state, lost("b"));
    assert_eq!(state.apply(Command::Operate { id: OrderId(2), order: late }), CommandOutcome::Done);
    assert!(!state.members.contains_key(&name("b")));
}

/// Rule R7: its solo epochs are one generation above the agreed ones, and it reports them no more.
#[test]
fn epochs_after_the_loss_of_one_of_a_pair_are_above_those_in_which_it_may_have_acted_alone() {
    let generation = |members: &[(&str, MemberKind)], feature_level| {
        let mut state = State { feature_level, generation: 4, ..State::default() };
        for (raft_id, (who, kind)) in members.iter().enumerate() {
            let (name, kind, address) = (name(who), *kind, format!("{who}:1"));
            let admit = Command::Admit { name, kind, address, raft_id: raft_id as u64 };
            assert_eq!(state.apply(admit), CommandOutcome::Done);
        }
        let removed = state.apply(Command::Operate { id: OrderId(1), order: lost("b") });
        assert_eq!(removed, CommandOutcome::Done);
        state.generation
    };
    let (a, b, c) = (("a", MemberKind::Node), ("b", MemberKind::Node), ("c", MemberKind::Node));
    let newest = SUPPORTED_LEVELS.max;
    for (members, level, expected) in [
        (&[a, b][..], newest, 6),
        (&[a, b], 7, 4),
        (&[a, b, c], newest, 4),
        (&[a, b, ("w", MemberKind::Witness)], newest, 4),
    ] {
        assert_eq!(generation(members, level), expected, "{members:?}, level {level}");
    }
}
