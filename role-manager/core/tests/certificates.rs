//! CA rotation and operators: awaited members, and refusals.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::NodeName;
use twinbox_roles_core::{
    CertificateOrder, CertificateRefusal, Command, Facts, MemberKind, Operator, Order, OrderId, Outcome, Refusal,
    Rotation, SPEAKS, State, Step, step_after,
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
        step: Step::Over,
        done: BTreeMap::from([(name("a"), Step::Drop)]),
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

    fn order(&mut self, order: Order) -> Outcome {
        self.orders += 1;
        self.state.apply(Command::Operate { id: OrderId(self.orders), order })
    }

    fn give(&mut self, order: CertificateOrder) -> Outcome {
        self.order(Order::Certificates(order))
    }

    fn begin(&mut self, former: [u8; 32], next: [u8; 32], expected: &[&str]) -> Outcome {
        self.give(CertificateOrder::Begin(Box::new(rotation(former, next, expected))))
    }

    fn did(&mut self, who: &str, step: Step) -> Outcome {
        self.give(CertificateOrder::Did { name: name(who), next: NEXT, step })
    }

    fn step(&self) -> Step {
        self.state.certificates.rotation.as_ref().unwrap().step
    }

    fn awaited(&self) -> Vec<String> {
        self.state.awaited().iter().map(ToString::to_string).collect()
    }
}

fn refused(refusal: CertificateRefusal) -> Outcome {
    Outcome::Refused(Refusal::Certificates(refusal))
}

#[test]
fn the_step_is_the_first_that_not_everybody_has_done_and_never_goes_back() {
    use Step::{Drop, Over, Show, Trust};
    let (t, s, d) = (Some(Trust), Some(Show), Some(Drop));
    let cases: [(Step, &[Option<Step>], Step); 14] = [
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
        (Step::CalledOff, &[d], Step::CalledOff),
    ];
    for (step, done, expected) in cases {
        assert_eq!(step_after(step, done), expected, "{step:?} {done:?}");
    }
}

#[test]
fn everybody_does_a_step_before_anybody_does_the_next() {
    let mut world = World::of(&["a", "b", "w"]);
    assert_eq!(world.begin(FORMER, NEXT, &["a", "b", "w"]), Outcome::Done);
    // Progress claimed by the initiator does not count.
    assert_eq!((world.step(), world.awaited()), (Step::Trust, vec!["a".into(), "b".into(), "w".into()]));
    for (step, next) in [(Step::Trust, Step::Show), (Step::Show, Step::Drop), (Step::Drop, Step::Over)] {
        for (who, after) in [("a", step), ("w", step), ("b", next)] {
            assert_eq!(world.did(who, step), Outcome::Done);
            assert_eq!(world.did(who, step), Outcome::Unchanged);
            assert_eq!(world.step(), after, "{who} {step:?}");
        }
    }
    assert!(world.awaited().is_empty());
    // Reports of another rotation, of a stranger or of an end do not count.
    assert_eq!(world.begin(NEXT, [3; 32], &[]), Outcome::Done);
    assert_eq!(world.did("a", Step::Trust), Outcome::Unchanged);
    let next = [3; 32];
    for (who, step) in [("x", Step::Trust), ("a", Step::Over), ("a", Step::CalledOff)] {
        let did = world.give(CertificateOrder::Did { name: name(who), next, step });
        assert_eq!(did, Outcome::Unchanged, "{who} {step:?}");
    }
    assert_eq!(world.step(), Step::Trust);
}

#[test]
fn who_is_configured_or_comes_meanwhile_is_waited_for_and_who_is_given_up_is_not() {
    let mut world = World::of(&["a"]);
    world.begin(FORMER, NEXT, &["a", "b"]);
    world.did("a", Step::Trust);
    assert_eq!((world.step(), world.awaited()), (Step::Trust, vec!["b".to_owned()]));
    world.come("b");
    world.did("b", Step::Trust);
    assert_eq!(world.step(), Step::Show);
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
        speaks: SPEAKS,
        facts: Facts { at_ms: 6, ..Facts::default() },
    });
    world.did("a", Step::Show);
    world.did("b", Step::Show);
    assert_eq!((world.step(), world.awaited()), (Step::Show, vec!["c".to_owned()]));
    let waited = "c".to_owned();
    let not_awaited = CertificateRefusal::NotAwaited { name: name("b"), waited };
    assert_eq!(world.give(CertificateOrder::Without(name("b"))), refused(not_awaited));
    assert_eq!(world.give(CertificateOrder::Without(name("c"))), Outcome::Done);
    assert_eq!(world.give(CertificateOrder::Without(name("c"))), Outcome::Unchanged);
    assert_eq!(world.step(), Step::Drop);
    // It joins after all, and does its steps.
    world.come("c");
    assert_eq!(world.did("c", Step::Drop), Outcome::Done);
}

#[test]
fn one_rotation_at_a_time_from_the_authority_of_now_and_called_off_only_while_that_is_safe() {
    let mut world = World::of(&["a", "b"]);
    assert_eq!(world.give(CertificateOrder::CallOff), refused(CertificateRefusal::Idle));
    assert_eq!(world.give(CertificateOrder::Without(name("b"))), refused(CertificateRefusal::Idle));
    world.begin(FORMER, NEXT, &[]);
    assert_eq!(world.begin(FORMER, NEXT, &[]), Outcome::Unchanged);
    assert_eq!(world.begin(FORMER, [3; 32], &[]), refused(CertificateRefusal::Busy));
    assert_eq!(world.give(CertificateOrder::CallOff), Outcome::Done);
    assert_eq!(world.give(CertificateOrder::CallOff), Outcome::Unchanged);
    assert_eq!(world.step(), Step::CalledOff);
    assert_eq!(world.begin(NEXT, [3; 32], &[]), refused(CertificateRefusal::Former));
    assert_eq!(world.begin(FORMER, [3; 32], &[]), Outcome::Done);
    let did = |who: &str, step| CertificateOrder::Did { name: name(who), next: [3; 32], step };
    for who in ["a", "b"] {
        world.give(did(who, Step::Trust));
    }
    assert_eq!(world.give(CertificateOrder::CallOff), refused(CertificateRefusal::TooLate));
    for who in ["a", "b"] {
        world.give(did(who, Step::Drop));
    }
    assert_eq!(world.step(), Step::Over);
    assert_eq!(world.begin(FORMER, [4; 32], &[]), refused(CertificateRefusal::Former));
    let mut long = rotation([3; 32], [4; 32], &[]);
    long.cross = "x".repeat(10_000);
    let too_long = refused(CertificateRefusal::TooLong { bytes: 10_000 });
    assert_eq!(world.give(CertificateOrder::Begin(Box::new(long))), too_long);
    assert_eq!(world.begin([3; 32], [4; 32], &[]), Outcome::Done);
}

#[test]
fn operators_are_let_in_until_they_end_or_are_dismissed_or_their_authority_goes() {
    let mut world = World::of(&["a"]);
    let operator = |certificate: u8, ends_ms| Operator {
        certificate: [certificate; 32],
        authority: FORMER,
        made_ms: 1,
        ends_ms,
        by: "a".to_owned(),
    };
    let admit = |who: &str, operator, now_ms| CertificateOrder::Admit { name: name(who), operator, now_ms };
    assert_eq!(world.give(admit("anna", operator(7, 100), 1)), Outcome::Done);
    assert_eq!(world.give(admit("anna", operator(7, 100), 1)), Outcome::Unchanged);
    let exists = CertificateRefusal::OperatorExists { name: name("anna") };
    assert_eq!(world.give(admit("anna", operator(8, 100), 99)), refused(exists));
    for (who, certificate, now, expected) in
        [("anna", 7, 99, true), ("anna", 7, 100, false), ("anna", 8, 99, false), ("bert", 7, 99, false)]
    {
        assert_eq!(world.state.lets_in(&name(who), &[certificate; 32], now), expected, "{who} {certificate} {now}");
    }
    // The name is free after the certificate has expired.
    assert_eq!(world.give(admit("anna", operator(8, 200), 100)), Outcome::Done);
    assert_eq!(world.give(CertificateOrder::Dismiss(name("anna"))), Outcome::Done);
    assert!(!world.state.lets_in(&name("anna"), &[8; 32], 150));
    let nobody = CertificateRefusal::NoOperator { name: name("anna"), known: "nobody".to_owned() };
    assert_eq!(world.give(CertificateOrder::Dismiss(name("anna"))), refused(nobody));
    // Certificates signed by the former CA go with it.
    world.give(admit("anna", operator(9, 1_000), 100));
    world.give(admit("bert", Operator { authority: NEXT, ..operator(10, 1_000) }, 100));
    world.begin(FORMER, NEXT, &[]);
    world.did("a", Step::Show);
    assert_eq!(world.step(), Step::Drop);
    assert!(
        !world.state.lets_in(&name("anna"), &[9; 32], 150) && world.state.lets_in(&name("bert"), &[10; 32], 150)
    );
    let many = (0..300).map(|n| world.give(admit(&format!("o{n}"), operator(1, 1_000), 100))).collect::<Vec<_>>();
    assert_eq!(many.last(), Some(&refused(CertificateRefusal::TooManyOperators)));
}

#[test]
fn what_was_agreed_is_read_as_it_was_written_and_older_states_have_none_of_it() {
    let mut world = World::of(&["a", "b"]);
    world.begin(FORMER, NEXT, &["c"]);
    world.did("a", Step::Trust);
    let json = serde_json::to_value(&world.state).unwrap();
    assert_eq!(serde_json::from_value::<State>(json.clone()).unwrap(), world.state);
    let mut older = json;
    older.as_object_mut().unwrap().remove("certificates");
    assert!(serde_json::from_value::<State>(older).unwrap().certificates.rotation.is_none());
}
