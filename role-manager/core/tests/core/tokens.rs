//! Join tokens: one use each, within their time, for a free name and address.

use twinbox_ids::NodeName;
use twinbox_roles_core::{
    Command, CommandOutcome, Facts, MemberKind, Order, OrderId, Refusal, SUPPORTED_LEVELS, State, Status,
};

const T0: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;
const SECRET: [u8; 32] = [7; 32];

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn at(at_ms: u64) -> Facts {
    Facts { at_ms, ..Facts::default() }
}

struct World {
    state: State,
    orders: u128,
}

impl World {
    /// Node `a` at `10.0.0.1:7070`.
    fn new() -> Self {
        let mut world = Self { state: State::default(), orders: 0 };
        world.admit("a", MemberKind::Node, "10.0.0.1:7070");
        world
    }

    fn admit(&mut self, who: &str, kind: MemberKind, address: &str) {
        let raft_id = u64::from(who.as_bytes()[0]);
        let admit = Command::Admit { name: name(who), kind, address: address.to_owned(), raft_id };
        assert_eq!(self.state.apply(admit), CommandOutcome::Done);
    }

    fn order(&mut self, order: Order) -> CommandOutcome {
        self.orders += 1;
        self.state.apply(Command::Operate { id: OrderId(self.orders), order })
    }

    fn invite(&mut self, token: [u8; 32], kind: MemberKind, at_ms: u64) -> CommandOutcome {
        self.order(Order::Invite { token, kind, valid_ms: HOUR, replaces: None, facts: at(at_ms) })
    }

    fn redeem(
        &mut self,
        token: [u8; 32],
        who: &str,
        kind: MemberKind,
        address: &str,
        key: u8,
        when: u64,
    ) -> CommandOutcome {
        let (name, address, key) = (name(who), address.to_owned(), [key; 32]);
        self.order(Order::Redeem {
            token,
            name,
            kind,
            address,
            key,
            feature_levels: SUPPORTED_LEVELS,
            facts: at(when),
        })
    }
}

#[test]
fn a_token_admits_one_member_and_the_refusal_of_a_second_names_it() {
    let mut world = World::new();
    assert_eq!(world.invite(SECRET, MemberKind::Node, T0), CommandOutcome::Done);
    assert_eq!(world.redeem(SECRET, "b", MemberKind::Node, "10.0.0.2:7070", 1, T0 + 1), CommandOutcome::Done);
    let second = world.redeem(SECRET, "c", MemberKind::Node, "10.0.0.3:7070", 2, T0 + 2);
    assert_eq!(second, CommandOutcome::Refused(Refusal::UsedToken { by: name("b") }));
    // The same name with another key is another joining member.
    let other_key = world.redeem(SECRET, "b", MemberKind::Node, "10.0.0.2:7070", 2, T0 + 2);
    assert_eq!(other_key, CommandOutcome::Refused(Refusal::UsedToken { by: name("b") }));
    // The same joining member, whose answer was lost, also after the expiry.
    let again = world.redeem(SECRET, "b", MemberKind::Node, "10.0.0.2:7070", 1, T0 + 2 * HOUR);
    assert_eq!(again, CommandOutcome::Unchanged);
    let known: Vec<_> = world.state.known().map(|(name, ..)| name.as_str().to_owned()).collect();
    assert_eq!(known, ["a", "b"]);
    world.admit("b", MemberKind::Node, "10.0.0.2:7070");
    assert!(world.state.invited.is_empty() && world.state.known().count() == 2);
}

/// A member that was broken into and removed would otherwise get a certificate of the next CA, and its key.
#[test]
fn a_used_token_is_no_longer_answered_once_its_member_has_come_or_was_removed() {
    let mut world = World::new();
    let (former, next, address) = (SECRET, [8; 32], "10.0.0.2:7070");
    let again = |world: &mut World| world.redeem(former, "b", MemberKind::Node, address, 1, T0 + 2);
    let remove = |world: &mut World| {
        let (name, facts) = (name("b"), Facts::default());
        world.order(Order::Remove { name, lost: true, within_ms: None, facts })
    };
    let used = CommandOutcome::Refused(Refusal::UsedToken { by: name("b") });
    for comes in [true, false] {
        world.state.tokens.clear();
        assert_eq!(world.invite(former, MemberKind::Node, T0), CommandOutcome::Done);
        assert_eq!(world.redeem(former, "b", MemberKind::Node, address, 1, T0), CommandOutcome::Done);
        if comes {
            world.admit("b", MemberKind::Node, address);
            assert_eq!(again(&mut world), used, "it has its certificate");
        }
        assert_eq!(remove(&mut world), CommandOutcome::Done);
        assert_eq!(again(&mut world), used, "it was removed, comes: {comes}");
    }
    // Another machine joins under the same name: the former one is not it, neither before it has come nor afterwards.
    assert_eq!(world.invite(next, MemberKind::Node, T0), CommandOutcome::Done);
    assert_eq!(world.redeem(next, "b", MemberKind::Node, address, 2, T0), CommandOutcome::Done);
    assert_eq!(again(&mut world), CommandOutcome::Refused(Refusal::ForeignToken));
    let retried = world.redeem(next, "b", MemberKind::Node, address, 2, T0 + 1);
    assert_eq!(retried, CommandOutcome::Unchanged, "its answer was lost");
    let command =
        Command::Admit { name: name("b"), kind: MemberKind::Node, address: address.to_owned(), raft_id: 1_000 };
    assert_eq!(world.state.apply(command), CommandOutcome::Done);
    assert_eq!(again(&mut world), CommandOutcome::Refused(Refusal::ForeignToken));
}

#[test]
fn a_member_that_came_back_is_not_replaced_by_a_token_of_before() {
    let mut world = World::new();
    world.admit("b", MemberKind::Node, "10.0.0.2:7070");
    let replaces = Some(name("b"));
    let invite = Order::Invite { token: SECRET, kind: MemberKind::Node, valid_ms: HOUR, replaces, facts: at(T0) };
    assert_eq!(world.order(invite), CommandOutcome::Done);
    let redeem = |live| Order::Redeem {
        token: SECRET,
        name: name("c"),
        kind: MemberKind::Node,
        address: "10.0.0.3:7070".to_owned(),
        key: [1; 32],
        feature_levels: SUPPORTED_LEVELS,
        facts: Facts { live, ..at(T0 + 1) },
    };
    assert_eq!(redeem(false).about(&world.state), Some(&name("b")), "the leader says whether it lives");
    assert_eq!(world.order(redeem(true)), CommandOutcome::Refused(Refusal::StillThere { name: name("b") }));
    assert!(world.state.members.contains_key(&name("b")));
    assert_eq!(world.order(redeem(false)), CommandOutcome::Done, "the token was not used up");
}

#[test]
fn a_new_machine_under_the_name_of_a_leaving_member_stays() {
    let mut world = World::new();
    world.admit("b", MemberKind::Node, "10.0.0.2:7070");
    let leave = Order::Remove { name: name("b"), lost: false, within_ms: None, facts: at(T0) };
    assert_eq!(world.order(leave), CommandOutcome::Done);
    assert_eq!(world.state.members[&name("b")].status, Status::Leaving);
    let replaces = Some(name("b"));
    let invite = Order::Invite { token: SECRET, kind: MemberKind::Node, valid_ms: HOUR, replaces, facts: at(T0) };
    assert_eq!(world.order(invite), CommandOutcome::Done);
    let redeemed = world.redeem(SECRET, "b", MemberKind::Node, "10.0.0.4:7070", 1, T0 + 1);
    assert_eq!(redeemed, CommandOutcome::Done);
    let (kind, address) = (MemberKind::Node, "10.0.0.4:7070".to_owned());
    let admit = Command::Admit { name: name("b"), kind, address, raft_id: 77 };
    assert_eq!(world.state.apply(admit), CommandOutcome::Done);
    let member = &world.state.members[&name("b")];
    assert_eq!((member.raft_id, member.activated, member.status), (77, true, Status::Starting));
    assert!(world.state.was_removed(u64::from(b'b')));
}

#[test]
fn an_invalid_join_is_refused_and_changes_nothing() {
    let mut world = World::new();
    world.admit("b", MemberKind::Node, "10.0.0.2:7070");
    assert_eq!(world.invite(SECRET, MemberKind::Node, T0), CommandOutcome::Done);
    let witness = [8; 32];
    assert_eq!(world.invite(witness, MemberKind::Witness, T0), CommandOutcome::Done);
    let (node, w) = (MemberKind::Node, MemberKind::Witness);
    let address = "10.0.0.3:7070";
    let cases = [
        ([9; 32], "c", node, address, T0, Refusal::ForeignToken),
        (SECRET, "c", node, address, T0 + HOUR, Refusal::ExpiredToken { seconds: 0 }),
        (SECRET, "c", node, address, T0 + HOUR + 5_000, Refusal::ExpiredToken { seconds: 5 }),
        (SECRET, "c", w, address, T0, Refusal::TokenKind { kind: node, wanted: w }),
        (witness, "c", node, address, T0, Refusal::TokenKind { kind: w, wanted: node }),
        (SECRET, "b", node, address, T0, Refusal::NameTaken { name: name("b") }),
        (
            SECRET,
            "c",
            node,
            "10.0.0.2:7070",
            T0,
            Refusal::AddressTaken { by: name("b"), address: "10.0.0.2:7070".to_owned() },
        ),
        (SECRET, "c", node, "nowhere", T0, Refusal::BadAddress { address: "nowhere".to_owned() }),
    ];
    for (token, who, kind, address, at, refusal) in cases {
        let (tokens, invited) = (world.state.tokens.clone(), world.state.invited.clone());
        assert_eq!(world.redeem(token, who, kind, address, 1, at), CommandOutcome::Refused(refusal));
        assert_eq!((&tokens, &invited), (&world.state.tokens, &world.state.invited), "{who} {address}");
    }
    // After all these refusals it is still valid.
    assert_eq!(world.redeem(SECRET, "c", node, address, 1, T0 + HOUR - 1), CommandOutcome::Done);
    // Now there are three nodes.
    let odd = world.redeem(witness, "w", w, "10.0.0.4:7070", 1, T0);
    assert_eq!(odd, CommandOutcome::Refused(Refusal::OddNodes { nodes: 3 }));
}

#[test]
fn there_is_one_witness() {
    let mut world = World::new();
    world.admit("b", MemberKind::Node, "10.0.0.2:7070");
    for token in [[1; 32], [2; 32]] {
        assert_eq!(world.invite(token, MemberKind::Witness, T0), CommandOutcome::Done);
    }
    assert_eq!(world.redeem([1; 32], "w", MemberKind::Witness, "10.0.0.3:7070", 1, T0), CommandOutcome::Done);
    let second = world.redeem([2; 32], "x", MemberKind::Witness, "10.0.0.4:7070", 1, T0);
    assert_eq!(second, CommandOutcome::Refused(Refusal::SecondWitness { by: name("w") }));
}

#[test]
fn the_number_and_validity_of_tokens_are_limited() {
    let mut world = World::new();
    for valid_ms in [0, 999, 8 * 24 * HOUR, u64::MAX] {
        let order =
            Order::Invite { token: SECRET, kind: MemberKind::Node, valid_ms, replaces: None, facts: at(T0) };
        assert_eq!(world.order(order), CommandOutcome::Refused(Refusal::TokenValidity { days: 7 }));
    }
    for i in 0..100 {
        assert_eq!(world.invite([i; 32], MemberKind::Node, T0 + u64::from(i)), CommandOutcome::Done);
    }
    let one_more = world.invite([100; 32], MemberKind::Node, T0 + 100);
    assert_eq!(one_more, CommandOutcome::Refused(Refusal::TooManyTokens { count: 100 }));
    // An expired token makes room.
    assert_eq!(world.invite([100; 32], MemberKind::Node, T0 + HOUR), CommandOutcome::Done);
    assert!(!world.state.tokens.contains_key(&[0; 32]) && world.state.tokens.len() == 100);
    // A week after the expiry all are forgotten.
    assert_eq!(world.invite([101; 32], MemberKind::Node, T0 + 9 * 24 * HOUR), CommandOutcome::Done);
    assert_eq!(world.state.tokens.len(), 1);
}

#[test]
fn a_state_with_or_without_tokens_is_read_from_a_snapshot() {
    let mut world = World::new();
    world.invite(SECRET, MemberKind::Node, T0);
    world.redeem(SECRET, "b", MemberKind::Node, "10.0.0.2:7070", 1, T0);
    let json = serde_json::to_string(&world.state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&json).unwrap(), world.state);
    let before = r#"{"members":{},"publisher":null,"duties":{},"generation":0,"number":0}"#;
    assert_eq!(serde_json::from_str::<State>(before).unwrap(), State::default());
}
