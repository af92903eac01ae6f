//! Heirs of the calls of ended incarnations (rules C3, C4 and R11).

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{
    CALLS_FIRST_LEVEL, CallCounts, Cause, Command, CommandOutcome, Exits, Grant, HEIRS_LEVEL, KeepAlive, Ledger,
    Measures, MemberKind, Mode, Order, OrderId, PlannerPolicy, Presence, Report, Setting, State, Status, Timing,
    Voters, heirs_by_proof, plan,
};

use crate::common::{START, cluster, name};

fn at(ms: u64) -> Duration {
    START + Duration::from_millis(ms)
}

fn order(state: &mut State, order: Order) {
    let id = OrderId(state.orders.len() as u128 + 1);
    assert_eq!(state.apply(Command::Operate { id, order }), CommandOutcome::Done);
}

/// A leader that hears all members, and its agreed state.
struct Leading {
    state: State,
    ledger: Ledger,
}

impl Leading {
    fn of(names: &[&str]) -> Self {
        let state = cluster(names);
        let ledger = Ledger::new(1, START, &state, Timing::lan(), &Exits::default());
        Self { state, ledger }
    }

    fn hear(&mut self, ms: u64, text: &str, incarnation: u128, calls: Option<u32>) -> Grant {
        self.hear_of(ms, text, incarnation, calls, &[])
    }

    fn hear_of(
        &mut self,
        ms: u64,
        text: &str,
        incarnation: u128,
        calls: Option<u32>,
        unanswered: &[&str],
    ) -> Grant {
        let report = Report {
            measures: Measures { calls, ..Measures::default() },
            unanswered: unanswered.iter().map(|text| name(text)).collect(),
            ..Report::default()
        };
        let request = KeepAlive {
            node: name(text),
            raft_id: self.state.members[&name(text)].raft_id,
            run: incarnation as u64,
            incarnation: Incarnation(incarnation),
            failing: Some(Vec::new()),
            released: BTreeMap::new(),
            leaving: false,
            echo: None,
            report,
        };
        self.ledger.keep_alive(at(ms), at(ms), &self.state, &request).expect("granted")
    }

    /// Applies the present plan; returns the new inheritances.
    fn settle(&mut self, ms: u64) -> Vec<(String, String, u32, Cause)> {
        let policy = PlannerPolicy::from(Timing::lan());
        let before = self.state.heirs.len();
        for command in plan(&self.ledger.view(at(ms), 7, &self.state), &policy) {
            assert_eq!(self.state.apply(command.clone()), CommandOutcome::Done, "{command}");
        }
        assert_eq!(plan(&self.ledger.view(at(ms), 7, &self.state), &policy), Vec::new(), "content");
        let items = self.state.heirs[before..].iter();
        items.map(|i| (i.node.to_string(), i.heir.to_string(), i.calls, i.cause.clone())).collect()
    }
}

fn item(node: &str, heir: &str, calls: u32, cause: Cause) -> Vec<(String, String, u32, Cause)> {
    vec![(node.to_owned(), heir.to_owned(), calls, cause)]
}

#[test]
fn an_exit_proof_gives_the_calls_to_the_node_with_the_fewest() {
    for (b, c, heir) in [(5, 2, "c"), (2, 5, "b"), (4, 4, "b")] {
        let mut leading = Leading::of(&["a", "b", "c", "w"]);
        for (text, calls) in [("a", Some(3)), ("b", Some(b)), ("c", Some(c)), ("w", None)] {
            leading.hear(0, text, 1, calls);
        }
        assert_eq!(leading.settle(1), []);
        leading.ledger.exited(at(10), &name("a"), Incarnation(1));
        assert_eq!(leading.settle(10), item("a", heir, 3, Cause::Exit), "{b} {c}");
        let known = leading.state.heir_of(&name("a"), Incarnation(1)).expect("agreed");
        let epoch = known.epoch.clone().expect("an epoch");
        assert_eq!((&epoch.node, epoch.number, known.at_ms), (&name(heir), leading.state.number, 7));
        // Never a second time, whichever node dies next: the heir's inheritance is lost with it (rule R11).
        leading.ledger.exited(at(20), &name(heir), Incarnation(1));
        let other = if heir == "b" { "c" } else { "b" };
        assert_eq!(leading.settle(20), item(heir, other, if heir == "b" { b } else { c }, Cause::Exit));
        assert_eq!(leading.state.heir_of(&name("a"), Incarnation(1)).map(|i| &i.heir), Some(&name(heir)));
    }
}

#[test]
fn no_heir_is_exited_deactivated_passive_or_the_next_incarnation() {
    let die = |leading: &mut Leading| {
        leading.ledger.exited(at(10), &name("a"), Incarnation(1));
        leading.settle(10)
    };
    let heard = |names: &[&str]| {
        let mut leading = Leading::of(names);
        names.iter().for_each(|text| drop(leading.hear(0, text, 1, (*text != "w").then_some(1))));
        leading
    };
    let mut leading = heard(&["a", "b", "c", "w"]);
    order(&mut leading.state, Order::Deactivate { name: name("b"), within_ms: None });
    assert_eq!(die(&mut leading), item("a", "c", 1, Cause::Exit));

    let mut leading = heard(&["a", "b", "c", "w"]);
    leading.ledger.exited(at(5), &name("b"), Incarnation(1));
    leading.settle(5);
    assert_eq!(die(&mut leading), item("a", "c", 1, Cause::Exit));

    // In active-passive the heir is the active node, which is the publisher by then.
    let mut leading = heard(&["a", "b", "c", "w"]);
    order(&mut leading.state, Order::Set(vec![Setting::Mode(Mode::ActivePassive)]));
    leading.hear(6, "b", 1, Some(9));
    assert_eq!(die(&mut leading), item("a", "b", 1, Cause::Exit));
    assert_eq!(leading.state.publisher(), Some(&name("b")));

    // If the active node is lost and settings keep the role there, a passive node inherits the calls in progress.
    let mut leading = heard(&["a", "b", "c", "w"]);
    let stays = Setting::parse("trigger.missed-keep-alives", "off").expect("a setting");
    order(&mut leading.state, Order::Set(vec![Setting::Mode(Mode::ActivePassive), stays]));
    for ms in (100..2_000).step_by(100) {
        ["b", "c", "w"].iter().for_each(|text| drop(leading.hear(ms, text, 1, (*text != "w").then_some(1))));
        assert_eq!(leading.settle(ms), []);
    }
    assert_eq!(leading.state.publisher(), Some(&name("a")));
    leading.ledger.exited(at(2_000), &name("b"), Incarnation(1));
    assert_eq!(leading.settle(2_000), item("b", "c", 1, Cause::Exit));

    // Only its own next incarnation is left, which does not know the calls.
    let mut leading = heard(&["a", "b", "w"]);
    leading.ledger.exited(at(5), &name("b"), Incarnation(1));
    assert_eq!(leading.settle(5), item("b", "a", 1, Cause::Exit));
    assert_eq!(die(&mut leading), []);
    leading.hear(20, "a", 2, Some(0));
    assert_eq!(leading.settle(20), []);
    assert_eq!(leading.state.members[&name("a")].status, Status::InService);
    // The other node comes back, in time to inherit.
    leading.hear(30, "b", 2, Some(0));
    assert_eq!(leading.settle(30), item("a", "b", 1, Cause::Exit));
}

#[test]
fn a_silent_node_keeps_its_calls_until_two_members_report_its_address_unanswered() {
    let long = 2_000;
    let silent = |says: &dyn Fn(&mut Leading)| {
        let mut leading = Leading::of(&["a", "b", "w"]);
        ["a", "b", "w"].iter().for_each(|text| drop(leading.hear(0, text, 1, (*text != "w").then_some(2))));
        leading.settle(0);
        says(&mut leading);
        leading.settle(long)
    };
    let b = |leading: &mut Leading, deaf: &[&str]| drop(leading.hear_of(long, "b", 1, Some(2), deaf));
    let w = |leading: &mut Leading, deaf: &[&str]| drop(leading.hear_of(long, "w", 1, None, deaf));
    assert_eq!(silent(&|l| (b(l, &[]), w(l, &[])).0), []);
    assert_eq!(silent(&|l| (b(l, &["a"]), w(l, &[])).0), [], "the heir alone may be cut off");
    assert_eq!(silent(&|l| (b(l, &[]), w(l, &["a"])).0), [], "it answers the heir");
    assert_eq!(silent(&|l| (b(l, &["a"]), w(l, &["a"])).0), item("a", "b", 2, Cause::MissedKeepAlives));
    // No heir as long as its lease runs, or once another incarnation of it is heard.
    let mut leading = Leading::of(&["a", "b", "w"]);
    ["a", "b", "w"].iter().for_each(|text| drop(leading.hear_of(0, text, 1, (*text != "w").then_some(2), &["a"])));
    assert_eq!(leading.settle(100), []);
    leading.hear(long, "a", 2, Some(0));
    ["b", "w"].iter().for_each(|text| drop(leading.hear_of(long, text, 1, None, &["a"])));
    assert_eq!(leading.settle(long), []);
    leading.ledger.exited(at(long), &name("a"), Incarnation(1));
    assert_eq!(leading.settle(long), item("a", "b", 2, Cause::Exit));
}

#[test]
fn a_new_leader_uses_the_call_counts_reported_by_the_previous_one() {
    let mut before = Leading::of(&["a", "b", "w"]);
    before.hear(0, "a", 1, Some(4));
    before.hear(0, "b", 1, Some(1));
    let told = before.hear(0, "w", 1, None).call_counts;
    assert_eq!(told.calls(&name("a"), Incarnation(1)), Some(4));
    let mut exits = Exits::default();
    exits.note(&name("a"), Incarnation(1), false);
    let heard = |told: &CallCounts| {
        let state = before.state.clone();
        let ledger = Ledger::new(2, START, &state, Timing::lan(), &exits);
        let mut leading = Leading { state, ledger };
        leading.ledger.adopt_call_counts(told);
        leading.hear(1, "b", 1, Some(1));
        leading.hear(1, "w", 1, None);
        leading.settle(2)
    };
    assert_eq!(heard(&told), item("a", "b", 4, Cause::Exit));
    assert_eq!(heard(&CallCounts::default()), [], "the calls of an incarnation of long ago are unknown");
}

#[test]
fn a_node_that_shut_down_in_order_leaves_no_calls() {
    let mut leading = Leading::of(&["a", "b", "w"]);
    ["a", "b", "w"].iter().for_each(|text| drop(leading.hear(0, text, 1, Some(1))));
    let request = KeepAlive {
        node: name("a"),
        raft_id: 1,
        run: 1,
        incarnation: Incarnation(1),
        failing: Some(Vec::new()),
        released: BTreeMap::new(),
        leaving: true,
        echo: None,
        report: Report { measures: Measures { calls: Some(1), ..Measures::default() }, ..Report::default() },
    };
    leading.ledger.keep_alive(at(1), at(1), &leading.state, &request).expect("granted");
    leading.ledger.exited(at(2), &name("a"), Incarnation(1));
    assert_eq!(leading.settle(2), []);
}

#[test]
fn no_heirs_are_planned_below_their_feature_level() {
    let mut leading = Leading::of(&["a", "b", "w"]);
    leading.state.feature_level = HEIRS_LEVEL - 1;
    ["a", "b", "w"].iter().for_each(|text| drop(leading.hear(0, text, 1, Some(1))));
    leading.ledger.exited(at(2), &name("a"), Incarnation(1));
    let commands = plan(&leading.ledger.view(at(2), 7, &leading.state), &PlannerPolicy::from(Timing::lan()));
    assert!(!commands.is_empty() && commands.iter().all(|c| !matches!(c, Command::Inherit { .. })), "{commands:?}");
    let early = Command::Inherit {
        of: name("a"),
        ended: Incarnation(1),
        to: name("b"),
        incarnation: Incarnation(1),
        calls: 1,
        cause: Cause::Exit,
        at_ms: 7,
    };
    assert_eq!(leading.state.apply(early), CommandOutcome::Stale);
    // A state without the field has no inheritances.
    let mut old = serde_json::to_value(&leading.state).expect("JSON");
    old.as_object_mut().expect("an object").remove("heirs");
    assert_eq!(serde_json::from_value::<State>(old).expect("a state"), leading.state);
}

#[test]
fn the_survivor_of_a_pair_is_the_heir_by_proof_alone() {
    let state = cluster(&["a", "b"]);
    let mut call_counts = CallCounts::default();
    call_counts.note(&name("a"), Incarnation(1), 3);
    call_counts.note(&name("b"), Incarnation(1), 2);
    let mut exits = Exits::default();
    let b = name("b");
    let inherits = |state: &State, exits: &Exits, voters: &[u64]| {
        let voters = Voters { raft_ids: voters.iter().copied().collect(), applied: true };
        heirs_by_proof(state, &voters, (&b, Incarnation(1)), exits, &call_counts, 7)
    };
    assert_eq!(inherits(&state, &exits, &[1, 2]), [], "no heir without an exit proof");
    exits.note(&name("b"), Incarnation(1), false);
    assert_eq!(inherits(&state, &exits, &[1, 2]), [], "no node inherits from itself");
    exits.note(&name("a"), Incarnation(9), false);
    assert_eq!(
        inherits(&state, &exits, &[1, 2]),
        [],
        "an incarnation whose calls were never reported to this process"
    );
    exits.note(&name("a"), Incarnation(1), false);
    let got = inherits(&state, &exits, &[1, 2]);
    assert_eq!(got.len(), 1);
    assert_eq!((&got[0].node, &got[0].heir, got[0].calls, &got[0].epoch), (&name("a"), &b, 3, &None));
    // No inheritance once others may have agreed on something without it, without its vote, with a witness that gives a
    // majority, or when it is deactivated.
    assert_eq!(inherits(&state, &exits, &[1, 2, 3]), []);
    assert_eq!(inherits(&state, &exits, &[2, 3]), [], "another pair, of which its state does not know yet");
    let unread = Voters { raft_ids: [1, 2].into(), applied: false };
    let own = (&b, Incarnation(1));
    assert_eq!(
        heirs_by_proof(&state, &unread, own, &exits, &call_counts, 7),
        [],
        "the same pair, after it was another"
    );
    assert_eq!(inherits(&cluster(&["a", "b", "w"]), &exits, &[1, 2]), []);
    let mut out = state.clone();
    order(&mut out, Order::Deactivate { name: name("b"), within_ms: None });
    assert_eq!(inherits(&out, &exits, &[1, 2]), []);
    // The inheritance is never agreed on, and the next leader does not get it.
    let mut leading = Leading::of(&["a", "b"]);
    ["a", "b"].iter().for_each(|text| drop(leading.hear(0, text, 1, Some(1))));
    leading.ledger.exited(at(10), &name("a"), Incarnation(1));
    assert_eq!(leading.settle(10), []);
    let told = leading.hear(20, "a", 2, Some(0)).call_counts;
    assert_eq!((told.calls(&name("a"), Incarnation(1)), told.calls(&name("b"), Incarnation(1))), (None, Some(1)));
    leading.ledger.inherited(&name("a"), Incarnation(1));
    let (kind, address) = (MemberKind::Node, String::new());
    leading.state.apply(Command::Admit { name: name("c"), kind, address, raft_id: 3 });
    leading.hear(30, "c", 1, Some(0));
    leading.hear(30, "b", 1, Some(0));
    assert_eq!(leading.settle(30), []);
    // An expired lease is no proof in a pair, whatever members report on SIP addresses.
    let mut leading = Leading::of(&["a", "b"]);
    ["a", "b"].iter().for_each(|text| drop(leading.hear_of(0, text, 1, Some(1), &["a", "b"])));
    leading.hear_of(2_000, "b", 1, Some(1), &["a"]);
    assert_eq!(leading.settle(2_000), []);
}

#[test]
fn agreed_heirs_and_call_counts_are_bounded() {
    let mut state = cluster(&["a", "b", "w"]);
    for number in 1..100 {
        let (of, to) = (name("a"), name("b"));
        let (ended, incarnation) = (Incarnation(number), Incarnation(1));
        let cause = Cause::Exit;
        let command = Command::Inherit { of, ended, to, incarnation, calls: 1, cause, at_ms: 7 };
        assert_eq!(state.apply(command), CommandOutcome::Done);
    }
    assert_eq!(state.heirs.len(), 5);
    assert!(state.heir_of(&name("a"), Incarnation(99)).is_some());
    let mut call_counts = CallCounts::default();
    (0..100).for_each(|incarnation| call_counts.note(&name("a"), Incarnation(incarnation), 1));
    assert_eq!(call_counts.iter().count(), 5);
}

/// Step of a random walk of a cluster of three nodes and a witness.
#[derive(Debug, Clone)]
enum WalkStep {
    Hear { node: usize, calls: u32, deaf: Vec<usize> },
    Die { node: usize },
    Prove { death: usize },
    Deactivate { node: usize },
    Activate { node: usize },
    Wait { ms: u64 },
    Elect,
    Plan { late: bool },
}

const NAMES: [&str; 4] = ["a", "b", "c", "w"];

fn any_step() -> impl Strategy<Value = WalkStep> {
    let node = || 0..NAMES.len();
    prop_oneof![
        8 => (node(), 0..6_u32, prop::collection::vec(0..3_usize, 0..3)).prop_map(|(node, calls, deaf)| WalkStep::Hear { node, calls, deaf }),
        2 => (0..3_usize).prop_map(|node| WalkStep::Die { node }),
        3 => (0..20_usize).prop_map(|death| WalkStep::Prove { death }),
        1 => (0..3_usize).prop_map(|node| WalkStep::Deactivate { node }),
        1 => (0..3_usize).prop_map(|node| WalkStep::Activate { node }),
        3 => (1..900_u64).prop_map(|ms| WalkStep::Wait { ms }),
        1 => Just(WalkStep::Elect),
        6 => any::<bool>().prop_map(|late| WalkStep::Plan { late }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    /// With any order of reports, deaths, proofs, leaders and late commands: an incarnation has one heir, which is live
    /// and serves when it becomes the heir, and no proof is needed twice.
    #[test]
    fn each_incarnation_has_at_most_one_heir(steps in prop::collection::vec(any_step(), 1..80)) {
        let mut leading = Leading::of(&NAMES);
        let (mut now, mut term) = (0, 1);
        let mut incarnations = [1_u128; 4];
        let mut deaths: Vec<(usize, u128)> = Vec::new();
        let mut exits = Exits::default();
        let mut told = CallCounts::default();
        let mut late: Vec<Command> = Vec::new();
        let mut heirs: BTreeMap<(NodeName, Incarnation), NodeName> = BTreeMap::new();
        for step in steps {
            now += 1;
            match step {
                WalkStep::Hear { node, calls, deaf } => {
                    let dead = exits.has(&name(NAMES[node]), Incarnation(incarnations[node]));
                    let deaf: Vec<_> = deaf.into_iter().map(|node| NAMES[node]).collect();
                    if !dead {
                        told = leading.hear_of(now, NAMES[node], incarnations[node], (node < 3).then_some(calls), &deaf).call_counts;
                    }
                }
                WalkStep::Die { node } => {
                    deaths.push((node, incarnations[node]));
                    incarnations[node] += 1;
                }
                WalkStep::Prove { death } => if let Some((node, incarnation)) = deaths.get(death) {
                    exits.note(&name(NAMES[*node]), Incarnation(*incarnation), false);
                    leading.ledger.exited(at(now), &name(NAMES[*node]), Incarnation(*incarnation));
                },
                WalkStep::Deactivate { node } => {
                    let id = OrderId(u128::from(now));
                    leading.state.apply(Command::Operate { id, order: Order::Deactivate { name: name(NAMES[node]), within_ms: None } });
                }
                WalkStep::Activate { node } => {
                    let id = OrderId(u128::from(now));
                    leading.state.apply(Command::Operate { id, order: Order::Activate(name(NAMES[node])) });
                }
                WalkStep::Wait { ms } => now += ms,
                WalkStep::Elect => {
                    term += 1;
                    leading.ledger = Ledger::new(term, at(now), &leading.state, Timing::lan(), &exits);
                    leading.ledger.adopt_call_counts(&told);
                }
                WalkStep::Plan { late: delayed } => {
                    let view = leading.ledger.view(at(now), 7, &leading.state);
                    let planned = plan(&view, &PlannerPolicy::from(Timing::lan()));
                    let batch = if delayed { std::mem::replace(&mut late, planned) } else { planned };
                    for command in batch {
                        let before = leading.state.clone();
                        let inherits = matches!(command, Command::Inherit { .. });
                        if leading.state.apply(command.clone()) != CommandOutcome::Done || !inherits {
                            continue;
                        }
                        let new = leading.state.heirs.last().expect("an heir");
                        let heir = &before.members[&new.heir];
                        prop_assert!(heir.serves() && heir.incarnation == Some(new.heir_incarnation), "{command}");
                        prop_assert!(new.heir != new.node);
                        if !delayed {
                            prop_assert_eq!(view.observed[&new.heir].presence, Presence::Live);
                        }
                        let first = heirs.insert((new.node.clone(), new.incarnation), new.heir.clone());
                        prop_assert_eq!(first, None, "{}", command);
                    }
                    if !delayed {
                        let view = leading.ledger.view(at(now), 7, &leading.state);
                        prop_assert_eq!(plan(&view, &PlannerPolicy::from(Timing::lan())), Vec::new());
                    }
                }
            }
        }
    }
}

#[test]
fn a_crash_loop_does_not_evict_the_incarnation_with_calls() {
    let mut call_counts = CallCounts::default();
    call_counts.note(&name("a"), Incarnation(1), 20);
    for incarnation in 2..40 {
        call_counts.note(&name("a"), Incarnation(incarnation), 0);
        assert_eq!(call_counts.calls(&name("a"), Incarnation(1)), Some(20), "forgotten after {incarnation}");
        assert_eq!(call_counts.calls(&name("a"), Incarnation(incarnation)), Some(0), "the present incarnation");
    }
    assert!(call_counts.iter().count() < 10);
}

/// From the feature level that all members need for it.
#[test]
fn the_heir_of_an_incarnation_with_calls_is_remembered_through_a_crash_loop() {
    for (feature_level, kept) in [(CALLS_FIRST_LEVEL - 1, false), (CALLS_FIRST_LEVEL, true)] {
        let mut state = State { feature_level, ..cluster(&["a", "b"]) };
        for number in 10..60 {
            let (of, to, incarnation) = (name("a"), name("b"), Incarnation(1));
            let (ended, calls) = (Incarnation(number), if number == 10 { 20 } else { 0 });
            let cause = Cause::Exit;
            let inherit = Command::Inherit { of, ended, to, incarnation, calls, cause, at_ms: 0 };
            assert_eq!(state.apply(inherit), CommandOutcome::Done);
        }
        assert_eq!(state.heir_of(&name("a"), Incarnation(10)).is_some(), kept, "at level {feature_level}");
        assert!(state.heir_of(&name("a"), Incarnation(59)).is_some() && state.heirs.len() < 10);
    }
}
