//! A survivor of a lost majority: permission to go on, and the initial state of its group.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    Cause, Command, Duty, Facts, GoOnAloneFacts, MemberKind, MoveObject, MoveReason, NewGroup, Order, OrderId,
    Refusal, Setting, SoloReport, State, Status,
};

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn names(texts: &[&str]) -> BTreeSet<NodeName> {
    texts.iter().map(|text| name(text)).collect()
}

/// `a`, `b` and the witness in service; `b` publishes, and holds the duty.
fn cluster() -> State {
    let mut state = State::default();
    for (raft_id, text) in [(1, "a"), (2, "b"), (3, "w")] {
        let kind = if text == "w" { MemberKind::Witness } else { MemberKind::Node };
        state.apply(Command::Admit { name: name(text), kind, address: format!("{text}:1"), raft_id });
        let revision = state.members[&name(text)].revision;
        let (status, incarnation) = (Status::InService, Some(Incarnation(1)));
        let (reason, cause) = (String::new(), Cause::Start);
        state.apply(Command::SetStatus { name: name(text), revision, status, incarnation, reason, cause });
    }
    state.apply(Command::SetPublisher { from: None, to: name("b"), reason: MoveReason::default() });
    let (to, incarnation) = (name("b"), Incarnation(1));
    state.apply(Command::Assign {
        duty: Duty::Notifier,
        from: None,
        to,
        incarnation,
        reason: MoveReason::default(),
    });
    state
}

fn facts(lost: &[&str]) -> GoOnAloneFacts {
    let peers = [(1, "a"), (2, "b"), (3, "w")].map(|(id, text)| {
        let kind = if text == "w" { MemberKind::Witness } else { MemberKind::Node };
        (id, name(text), kind, format!("{text}:1"))
    });
    GoOnAloneFacts {
        node: name("a"),
        kind: MemberKind::Node,
        lost: names(lost),
        peers: peers.to_vec(),
        quorum: false,
        in_contact: BTreeSet::new(),
    }
}

fn new_group() -> NewGroup {
    NewGroup { group: 77, raft_id: 9, persisted_generation: 0, solo: None, at_ms: 5 }
}

#[test]
fn a_node_may_go_on_alone_only_without_majority_and_with_all_others_given_up() {
    let state = cluster();
    assert_eq!(state.may_go_on_alone(&facts(&["b", "w"])), Ok(()));
    let table = [
        (GoOnAloneFacts { quorum: true, ..facts(&["b", "w"]) }, Refusal::Majority),
        (GoOnAloneFacts { kind: MemberKind::Witness, ..facts(&["b", "w"]) }, Refusal::WitnessAlone),
        (GoOnAloneFacts { node: name("c"), ..facts(&["b", "w"]) }, Refusal::NoMemberYet),
        (facts(&["b"]), Refusal::NotNamed { names: "w".to_owned() }),
        (facts(&[]), Refusal::NotNamed { names: "b, w".to_owned() }),
        (facts(&["b", "w", "x"]), Refusal::NotAnother { name: name("x"), members: "b, w".to_owned() }),
        (facts(&["a", "b", "w"]), Refusal::NotAnother { name: name("a"), members: "b, w".to_owned() }),
        (GoOnAloneFacts { in_contact: names(&["w"]), ..facts(&["b", "w"]) }, Refusal::Heard { name: name("w") }),
    ];
    for (facts, refusal) in table {
        assert_eq!(state.may_go_on_alone(&facts), Err(refusal), "{facts:?}");
    }
    // A member known to Raft but not to the state: it has just joined.
    let mut joining_member = facts(&["b", "w"]);
    joining_member.peers.push((4, name("c"), MemberKind::Node, "c:1".to_owned()));
    assert_eq!(state.may_go_on_alone(&joining_member), Err(Refusal::NotNamed { names: "c".to_owned() }));
}

#[test]
fn the_new_group_has_the_agreed_state_without_the_lost_members() {
    let mut state = cluster();
    let settings = ["missed=6", "preferred=b"].map(|text| {
        let (name, value) = text.split_once('=').expect("a pair");
        Setting::parse(name, value).expect("a setting")
    });
    state.apply(Command::Retime {
        from: None,
        to: twinbox_roles_core::Leasing {
            profile: twinbox_roles_core::Timing::lan().lease_timing(),
            lease_ms: 700,
            bound_ms: 700,
        },
    });
    state.apply(Command::Operate { id: OrderId(7), order: Order::Set(settings.to_vec()) });
    let invite = Order::Invite {
        token: [1; 32],
        kind: MemberKind::Node,
        valid_ms: 60_000,
        replaces: None,
        facts: Facts::default(),
    };
    state.apply(Command::Operate { id: OrderId(8), order: invite });
    let next = state.as_new_group(&facts(&["b", "w"]), &new_group());
    assert_eq!(next.members.keys().collect::<Vec<_>>(), [&name("a")]);
    assert_eq!(next.members[&name("a")].raft_id, 9);
    assert_eq!(next.publisher(), Some(&name("a")));
    assert!(
        [1, 2, 3].iter().all(|id| next.was_removed(*id)),
        "no store of the former group is let in: {:?}",
        next.removed
    );
    assert!(!next.was_removed(9));
    assert!(next.tokens.is_empty() && next.settings.preferred.is_none() && next.settings.missed == Some(6));
    assert_eq!(next.leasing, state.leasing);
    assert_eq!(next.orders, state.orders, "what became of orders can be asked still");
    assert!(next.generation > state.generation + 1, "a lost one may have acted alone in the next");
    let moved = next.moves.last().expect("a move");
    assert_eq!((moved.object, &moved.to, &moved.cause), (MoveObject::Publisher, &name("a"), &Cause::Operator));
    assert!(moved.epoch > state.duties[&Duty::Notifier].epoch);
    // The former group assigned the duty to the lost node: its leases are waited out, as by a new leader.
    assert_eq!(next.duties, state.duties);
    assert!(next.left_group(77) && !next.left_group(78));
    assert_eq!(next.lost_members(), BTreeMap::from([(&name("b"), "b:1"), (&name("w"), "w:1")]));
}

#[test]
fn epochs_rise_above_the_solo_epochs_and_the_split_is_recorded() {
    let state = cluster();
    let epoch = Epoch { generation: 4, number: 50, node: name("a") };
    let solo = SoloReport { epoch, duties: [Duty::Notifier].into(), from_ms: 1, to_ms: Some(2) };
    let begin = NewGroup { persisted_generation: 3, solo: Some(solo.clone()), ..new_group() };
    let next = state.as_new_group(&facts(&["b", "w"]), &begin);
    assert!(next.generation > 4 && next.publisher.as_ref().is_some_and(|epoch| *epoch > solo.epoch));
    let split = next.splits.last().expect("a split");
    assert_eq!((split.ran.get(&name("a")), &split.winner), (Some(&solo), &name("a")));
}

#[test]
fn the_only_member_of_a_new_group_may_serve_again() {
    let mut state = cluster();
    state.apply(Command::Operate { id: OrderId(7), order: Order::deactivate(name("a")) });
    let next = state.as_new_group(&facts(&["b", "w"]), &new_group());
    let own = &next.members[&name("a")];
    assert!(own.activated && own.status == Status::Starting, "{own:?}");
}
