//! CA rotation and operators: awaited members, and refusals.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::NodeName;
use twinbox_roles_core::{
    CertificateOrder, CertificateRefusal, Command, CommandOutcome, Facts, MemberKind, Operator, Order, OrderId,
    Refusal, Rotation, RotationStep, SUPPORTED_LEVELS, State, step_after,
};

const FORMER: [u8; 32] = [1; 32];
const NEXT: [u8; 32] = [2; 32];

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn rotation(former: [u8; 32], next: [u8; 32], expected: &[&str]) -> Rotation {
    Rotation {
        former,
        next,
        certificate: "certificate".to_owned(),
        cross: "cross".to_owned(),
        by: name("a"),
        begun_ms: 1,
        step: RotationStep::Over,
        done: BTreeMap::from([(name("a"), RotationStep::Drop)]),
        expected: expected.iter().map(|n| name(n)).collect(),
        without: BTreeSet::from([name("b")]),
    }
}

#[derive(Default)]
struct World {
    state: State,
    orders: u128,
}

impl World {
    fn of(names: &[&str]) -> Self {
        let mut world = Self::default();
        names.iter().for_each(|n| world.come(n));
        world
    }

    fn come(&mut self, who: &str) {
        let kind = if who == "w" { MemberKind::Witness } else { MemberKind::Node };
        let raft_id = u64::from(who.as_bytes()[0]);
        self.state.apply(Command::Admit { name: name(who), kind, address: format!("{who}:1"), raft_id });
    }

    fn order(&mut self, order: Order) -> CommandOutcome {
        self.orders += 1;
        self.state.apply(Command::Operate { id: OrderId(self.orders), order })
    }

    fn give(&mut self, order: CertificateOrder) -> CommandOutcome {
        self.order(Order::Certificates(order))
    }

    fn begin(&mut self, former: [u8; 32], next: [u8; 32], expected: &[&str]) -> CommandOutcome {
        self.give(CertificateOrder::Begin(Box::new(rotation(former, next, expected))))
    }

    fn did(&mut self, who: &str, step: RotationStep) -> CommandOutcome {
        self.give(CertificateOrder::Did { name: name(who), next: NEXT, step })
    }

    fn step(&self) -> RotationStep {
        self.state.certificates.rotation.as_ref().unwrap().step
    }

    fn awaited(&self) -> Vec<String> {
        self.state.awaited().iter().map(ToString::to_string).collect()
    }
}

fn refused(refusal: CertificateRefusal) -> CommandOutcome {
    CommandOutcome::Refused(Refusal::Certificates(refusal))
}

#[test]
fn the_step_is_the_first_that_not_all_members_have_done_and_never_goes_back() {
    use RotationStep::{Drop, Over, Show, Trust};
    let (t, s, d) = (Some(Trust), Some(Show), Some(Drop));
    let cases: [(RotationStep, &[Option<RotationStep>], RotationStep); 14] = [
        (Trust, &[None], Trust),
        (Trust, &[t, None], Trust),
        (Trust, &[t, t], Show),
        (Trust, &[s, t], Show),
        (Trust, &[s, s], Drop),
        (Show, &[t, t], Show),
        (Show, &[s, None], Show),
        (Show, &[s, s, s], Drop),
        (Drop, &[None, t], Drop),
        (Drop, &[d, s], Drop),
        (Drop, &[d, d], Over),
        (Trust, &[d, d], Over),
        (Over, &[None], Over),
        (RotationStep::CalledOff, &[d], RotationStep::CalledOff),
    ];
    for (step, done, expected) in cases {
        assert_eq!(step_after(step, done), expected, "{step:?} {done:?}");
    }
}

#[test]
fn rotation_does_not_wait_for_a_member_that_never_joined_and_was_removed() {
    let mut world = World::of(&["a", "b"]);
    assert_eq!(world.begin(FORMER, NEXT, &["a", "b", "c"]), CommandOutcome::Done);
    let done = ["a", "b"].map(|who| world.did(who, RotationStep::Trust));
    assert_eq!((done, world.awaited()), ([CommandOutcome::Done, CommandOutcome::Done], vec!["c".to_owned()]));
    let facts = Facts { never_joined: true, ..Facts::default() };
    let removal = Order::Remove { name: name("c"), lost: true, within_ms: None, facts };
    assert_eq!(world.order(removal), CommandOutcome::Done);
    assert_eq!(world.step(), RotationStep::Show);
}

#[test]
fn all_members_do_a_step_before_any_does_the_next() {
    let mut world = World::of(&["a", "b", "w"]);
    assert_eq!(world.begin(FORMER, NEXT, &["a", "b", "w"]), CommandOutcome::Done);
    // Progress claimed by the initiator does not count.
    assert_eq!((world.step(), world.awaited()), (RotationStep::Trust, vec!["a".into(), "b".into(), "w".into()]));
    for (step, next) in [
        (RotationStep::Trust, RotationStep::Show),
        (RotationStep::Show, RotationStep::Drop),
        (RotationStep::Drop, RotationStep::Over),
    ] {
        for (who, after) in [("a", step), ("w", step), ("b", next)] {
            assert_eq!(world.did(who, step), CommandOutcome::Done);
            assert_eq!(world.did(who, step), CommandOutcome::Unchanged);
            assert_eq!(world.step(), after, "{who} {step:?}");
        }
    }
    assert!(world.awaited().is_empty());
    // Reports of another rotation, of a stranger or of an end do not count.
    assert_eq!(world.begin(NEXT, [3; 32], &[]), CommandOutcome::Done);
    assert_eq!(world.did("a", RotationStep::Trust), CommandOutcome::Unchanged);
    let next = [3; 32];
    for (who, step) in [("x", RotationStep::Trust), ("a", RotationStep::Over), ("a", RotationStep::CalledOff)] {
        let did = world.give(CertificateOrder::Did { name: name(who), next, step });
        assert_eq!(did, CommandOutcome::Unchanged, "{who} {step:?}");
    }
    assert_eq!(world.step(), RotationStep::Trust);
}

#[test]
fn a_rotation_waits_for_configured_and_joined_members_and_not_for_excluded_ones() {
    let mut world = World::of(&["a"]);
    world.begin(FORMER, NEXT, &["a", "b"]);
    world.did("a", RotationStep::Trust);
    assert_eq!((world.step(), world.awaited()), (RotationStep::Trust, vec!["b".to_owned()]));
    world.come("b");
    world.did("b", RotationStep::Trust);
    assert_eq!(world.step(), RotationStep::Show);
    // A joining member that was admitted and has not started yet.
    let token = [9; 32];
    world.order(Order::Invite {
        token,
        kind: MemberKind::Node,
        valid_ms: 60_000,
        replaces: None,
        facts: Facts { at_ms: 5, ..Facts::default() },
    });
    let (c, address) = (name("c"), "c:1".to_owned());
    world.order(Order::Redeem {
        token,
        name: c,
        kind: MemberKind::Node,
        address,
        key: [0; 32],
        feature_levels: SUPPORTED_LEVELS,
        facts: Facts { at_ms: 6, ..Facts::default() },
    });
    world.did("a", RotationStep::Show);
    world.did("b", RotationStep::Show);
    assert_eq!((world.step(), world.awaited()), (RotationStep::Show, vec!["c".to_owned()]));
    let waited = "c".to_owned();
    let not_awaited = CertificateRefusal::NotAwaited { name: name("b"), waited };
    assert_eq!(world.give(CertificateOrder::Without(name("b"))), refused(not_awaited));
    assert_eq!(world.give(CertificateOrder::Without(name("c"))), CommandOutcome::Done);
    assert_eq!(world.give(CertificateOrder::Without(name("c"))), CommandOutcome::Unchanged);
    assert_eq!(world.step(), RotationStep::Drop);
    // It joins after all, and does its steps.
    world.come("c");
    assert_eq!(world.did("c", RotationStep::Drop), CommandOutcome::Done);
}

#[test]
fn the_called_off_authorities_that_are_remembered_have_a_bound() {
    let mut world = World::of(&["a"]);
    for next in 10..90 {
        assert_eq!(world.begin(FORMER, [next; 32], &[]), CommandOutcome::Done);
        assert_eq!(world.give(CertificateOrder::CallOff), CommandOutcome::Done);
    }
    let called_off = &world.state.certificates.called_off;
    assert_eq!((called_off.len(), called_off.last()), (32, Some(&[89; 32])));
}

#[test]
fn only_one_rotation_from_the_current_ca_runs_and_it_is_called_off_only_while_safe() {
    let mut world = World::of(&["a", "b"]);
    assert_eq!(world.give(CertificateOrder::CallOff), refused(CertificateRefusal::Idle));
    assert_eq!(world.give(CertificateOrder::Without(name("b"))), refused(CertificateRefusal::Idle));
    world.begin(FORMER, NEXT, &[]);
    assert_eq!(world.begin(FORMER, NEXT, &[]), CommandOutcome::Unchanged);
    assert_eq!(world.begin(FORMER, [3; 32], &[]), refused(CertificateRefusal::Busy));
    assert_eq!(world.give(CertificateOrder::CallOff), CommandOutcome::Done);
    assert_eq!(world.give(CertificateOrder::CallOff), CommandOutcome::Unchanged);
    assert_eq!(world.step(), RotationStep::CalledOff);
    assert_eq!(world.state.certificates.called_off, [NEXT]);
    assert_eq!(world.begin(NEXT, [3; 32], &[]), refused(CertificateRefusal::Former));
    assert_eq!(world.begin(FORMER, [3; 32], &[]), CommandOutcome::Done);
    let did = |who: &str, step| CertificateOrder::Did { name: name(who), next: [3; 32], step };
    for who in ["a", "b"] {
        world.give(did(who, RotationStep::Trust));
    }
    assert_eq!(world.give(CertificateOrder::CallOff), refused(CertificateRefusal::TooLate));
    for who in ["a", "b"] {
        world.give(did(who, RotationStep::Drop));
    }
    assert_eq!(world.step(), RotationStep::Over);
    assert_eq!(world.begin(FORMER, [4; 32], &[]), refused(CertificateRefusal::Former));
    let mut long = rotation([3; 32], [4; 32], &[]);
    long.cross = "x".repeat(10_000);
    let too_long = refused(CertificateRefusal::TooLong { bytes: 10_000 });
    assert_eq!(world.give(CertificateOrder::Begin(Box::new(long))), too_long);
    assert_eq!(world.begin([3; 32], [4; 32], &[]), CommandOutcome::Done);
}

#[test]
fn operators_are_admitted_until_expiry_revocation_or_removal_of_their_ca() {
    let mut world = World::of(&["a"]);
    let operator = |certificate: u8, ends_ms| Operator {
        certificate: [certificate; 32],
        authority: FORMER,
        made_ms: 1,
        ends_ms,
        by: "a".to_owned(),
    };
    let admit = |who: &str, operator, now_ms| CertificateOrder::Admit { name: name(who), operator, now_ms };
    assert_eq!(world.give(admit("anna", operator(7, 100), 1)), CommandOutcome::Done);
    assert_eq!(world.give(admit("anna", operator(7, 100), 1)), CommandOutcome::Unchanged);
    let exists = CertificateRefusal::OperatorExists { name: name("anna") };
    assert_eq!(world.give(admit("anna", operator(8, 100), 99)), refused(exists));
    for (who, certificate, now, expected) in
        [("anna", 7, 99, true), ("anna", 7, 100, false), ("anna", 8, 99, false), ("bert", 7, 99, false)]
    {
        assert_eq!(
            world.state.admits_operator(&name(who), &[certificate; 32], now),
            expected,
            "{who} {certificate} {now}"
        );
    }
    // The name is free after the certificate has expired.
    assert_eq!(world.give(admit("anna", operator(8, 200), 100)), CommandOutcome::Done);
    assert_eq!(world.give(CertificateOrder::Dismiss(name("anna"))), CommandOutcome::Done);
    assert!(!world.state.admits_operator(&name("anna"), &[8; 32], 150));
    let nobody = CertificateRefusal::NoOperator { name: name("anna"), known: "nobody".to_owned() };
    assert_eq!(world.give(CertificateOrder::Dismiss(name("anna"))), refused(nobody));
    // Certificates signed by the former CA go with it.
    world.give(admit("anna", operator(9, 1_000), 100));
    world.give(admit("bert", Operator { authority: NEXT, ..operator(10, 1_000) }, 100));
    world.begin(FORMER, NEXT, &[]);
    world.did("a", RotationStep::Show);
    assert_eq!(world.step(), RotationStep::Drop);
    assert!(
        !world.state.admits_operator(&name("anna"), &[9; 32], 150)
            && world.state.admits_operator(&name("bert"), &[10; 32], 150)
    );
    let many = (0..300).map(|n| world.give(admit(&format!("o{n}"), operator(1, 1_000), 100))).collect::<Vec<_>>();
    assert_eq!(many.last(), Some(&refused(CertificateRefusal::TooManyOperators)));
}

#[test]
fn certificates_survive_encoding_and_older_states_have_none() {
    let mut world = World::of(&["a", "b"]);
    world.begin(FORMER, NEXT, &["c"]);
    world.did("a", RotationStep::Trust);
    let json = serde_json::to_value(&world.state).unwrap();
    assert_eq!(serde_json::from_value::<State>(json.clone()).unwrap(), world.state);
    let mut older = json;
    older.as_object_mut().unwrap().remove("certificates");
    assert!(serde_json::from_value::<State>(older).unwrap().certificates.rotation.is_none());
}
