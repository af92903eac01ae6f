//! Exit proofs (rule R1), and other knowledge of a leader: solo members, failed duties, cut links.

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::Incarnation;
use twinbox_roles_core::{
    Command, CommandOutcome, Duty, Exits, FeatureLevels, Grant, KeepAlive, Ledger, MoveObject, NoGrant, Order,
    OrderId, PersistedBounds, PlannerPolicy, Presence, Report, SUPPORTED_LEVELS, ServiceHealth, SoloReport, State,
    Status, Timing, plan,
};

use crate::common::{START, cluster, name};
use crate::planned::{then_all_to, then_drains};

const DUTY: Duty = Duty::Notifier;

/// Plan after the death of `a`, with all duties free.
fn moved() -> Vec<String> {
    then_all_to(&["a is not-functioning", "publisher is b"], "b")
}

fn at(ms: u64) -> Duration {
    START + Duration::from_millis(ms)
}

/// A cluster in which the first incarnation of `a` has all duties.
fn acting(names: &[&str]) -> State {
    let mut state = cluster(names);
    for duty in Duty::ALL {
        let (to, incarnation) = (name("a"), Incarnation(1));
        state.apply(Command::Assign { duty, from: None, to, incarnation, reason: Default::default() });
    }
    state
}

fn ledger(state: &State) -> Ledger {
    Ledger::new(1, START, state, Timing::lan(), &Exits::default())
}

fn request(text: &str, incarnation: u64) -> KeepAlive {
    KeepAlive {
        node: name(text),
        raft_id: match text {
            "a" => 1,
            "b" => 2,
            _ => 3,
        },
        run: incarnation,
        incarnation: Incarnation(u128::from(incarnation)),
        failing: Some(Vec::new()),
        released: BTreeMap::new(),
        leaving: false,
        echo: None,
        report: Report { persisted: PersistedBounds { generation: 0, longest_lease_ms: 700 }, ..Report::default() },
    }
}

fn ask(ledger: &mut Ledger, now: Duration, state: &State, request: &KeepAlive) -> Result<Grant, NoGrant> {
    ledger.keep_alive(now, now, state, request)
}

fn wants(ledger: &mut Ledger, now: Duration, state: &State) -> Vec<String> {
    let commands = plan(&ledger.view(now, 0, state), &PlannerPolicy::from(Timing::lan()));
    let roles = commands.iter().filter(|command| !matches!(command, Command::Retime { .. }));
    roles.map(ToString::to_string).collect()
}

#[test]
fn an_exit_proof_frees_the_duties_of_that_incarnation_immediately() {
    let state = acting(&["a", "b", "w"]);
    let mut ledger = ledger(&state);
    for text in ["a", "b", "w"] {
        ask(&mut ledger, at(0), &state, &request(text, 1)).expect("granted");
    }
    assert_eq!(wants(&mut ledger, at(5), &state), [""; 0]);
    assert!(ledger.exited(at(10), &name("a"), Incarnation(1)));
    assert_eq!(wants(&mut ledger, at(10), &state), moved());
    // A repeated report is not new; a late message of that incarnation does not count.
    assert!(!ledger.exited(at(11), &name("a"), Incarnation(1)));
    let late = ask(&mut ledger, at(12), &state, &request("a", 1));
    assert_eq!(late, Err(NoGrant::Exited(name("a"))));
    assert_eq!(wants(&mut ledger, at(12), &state), moved());
    // The moves have the cause and the time without an acting holder.
    let mut after = state.clone();
    for command in plan(&ledger.view(at(12), 7, &state), &PlannerPolicy::from(Timing::lan())) {
        assert_eq!(after.apply(command), CommandOutcome::Done);
    }
    let last = after.moves.last().expect("a move");
    assert_eq!((last.cause.to_string(), last.idle_ms, last.at_ms), ("exit".to_owned(), 12, 7));
}

#[test]
fn an_exit_proof_of_another_incarnation_or_node_changes_nothing() {
    let state = acting(&["a", "b", "w"]);
    let mut ledger = ledger(&state);
    for text in ["a", "b", "w"] {
        ask(&mut ledger, at(0), &state, &request(text, 1)).expect("granted");
    }
    ledger.exited(at(10), &name("a"), Incarnation(9));
    ledger.exited(at(10), &name("b"), Incarnation(1));
    let view = ledger.view(at(10), 0, &state);
    assert!(view.leases[&DUTY].held && !view.leases[&DUTY].frozen);
    assert_eq!(view.observed[&name("a")].presence, Presence::Live);
    assert_eq!(wants(&mut ledger, at(10), &state), ["b is not-functioning"]);
    assert!(ask(&mut ledger, at(10), &state, &request("a", 1)).expect("granted").duties.contains_key(&DUTY));
}

#[test]
fn a_new_leader_with_the_exit_proof_does_not_wait() {
    let state = acting(&["a", "b", "w"]);
    let mut exits = Exits::default();
    assert!(exits.note(&name("a"), Incarnation(1), false) && !exits.note(&name("a"), Incarnation(1), false));
    let mut ledger = Ledger::new(2, START, &state, Timing::lan(), &exits);
    ask(&mut ledger, at(0), &state, &request("b", 1)).expect("granted");
    ask(&mut ledger, at(0), &state, &request("w", 1)).expect("granted");
    assert_eq!(wants(&mut ledger, at(0), &state), moved());
    // Without the proof, or with one of another incarnation, it waits.
    let mut other = Exits::default();
    other.note(&name("a"), Incarnation(9), false);
    let mut ledger = Ledger::new(2, START, &state, Timing::lan(), &other);
    ask(&mut ledger, at(0), &state, &request("b", 1)).expect("granted");
    ask(&mut ledger, at(0), &state, &request("w", 1)).expect("granted");
    assert_eq!(wants(&mut ledger, at(600), &state), [""; 0]);
    // Memory is bounded, and removed members are forgotten.
    for incarnation in 100..200 {
        exits.note(&name("b"), Incarnation(incarnation), false);
    }
    assert!(exits.iter().count() < 20 && exits.has(&name("b"), Incarnation(199)));
    // A crash loop does not displace the incarnation that had calls.
    exits.note(&name("b"), Incarnation(200), true);
    for incarnation in 201..300 {
        exits.note(&name("b"), Incarnation(incarnation), false);
    }
    assert!(exits.has(&name("b"), Incarnation(200)) && exits.has(&name("b"), Incarnation(299)));
    assert!(exits.iter().count() < 20);
    exits.keep(|node| *node != name("b"));
    assert!(!exits.has(&name("b"), Incarnation(199)) && exits.has(&name("a"), Incarnation(1)));
}

#[test]
fn a_switched_off_trigger_moves_no_role() {
    let mut state = acting(&["a", "b", "w"]);
    let off = |trigger: &str| twinbox_roles_core::Setting::parse(trigger, "off").expect("a setting");
    let order = Order::Set(vec![off("trigger.exit")]);
    assert_eq!(state.apply(Command::Operate { id: OrderId(1), order }), CommandOutcome::Done);
    let mut ledger = ledger(&state);
    for text in ["a", "b", "w"] {
        ask(&mut ledger, at(0), &state, &request(text, 1)).expect("granted");
    }
    ledger.exited(at(10), &name("a"), Incarnation(1));
    // The status is correct all the same; the role waits for the lease.
    assert_eq!(wants(&mut ledger, at(10), &state), ["a is not-functioning"]);
    for text in ["b", "w"] {
        ask(&mut ledger, at(700), &state, &request(text, 1)).expect("granted");
    }
    assert_eq!(wants(&mut ledger, at(720), &state), moved());
    let order = Order::Set(vec![off("trigger.missed-keep-alives")]);
    assert_eq!(state.apply(Command::Operate { id: OrderId(2), order }), CommandOutcome::Done);
    assert_eq!(wants(&mut ledger, at(720), &state), ["a is not-functioning"]);
}

#[test]
fn a_bare_pair_gets_leases_once_both_report_not_to_act_solo() {
    let mut state = acting(&["a", "b"]);
    let mut ledger = ledger(&state);
    let none = |grant: &Grant| grant.duties.is_empty();
    let first = ask(&mut ledger, at(0), &state, &request("a", 1)).expect("a node lease");
    let other = ask(&mut ledger, at(0), &state, &request("b", 1)).expect("a node lease");
    assert!(none(&first) && none(&other));
    let echoing = |text: &str, grant: &Grant| KeepAlive { echo: Some(grant.echo()), ..request(text, 1) };
    // An answer to a grant by only one of them is not enough.
    assert!(none(&ask(&mut ledger, at(10), &state, &echoing("a", &first)).expect("a node lease")));
    ask(&mut ledger, at(10), &state, &echoing("b", &other)).expect("a node lease");
    assert!(!none(&ask(&mut ledger, at(20), &state, &echoing("a", &first)).expect("granted")));
    // A node that answers a grant older than a lease may have gone solo since.
    assert!(none(&ask(&mut ledger, at(800), &state, &echoing("a", &first)).expect("a node lease")));

    // One reports solo work: no lease until the generation is above its epochs.
    let fresh = ask(&mut ledger, at(800), &state, &request("b", 1)).expect("a node lease");
    let ours = ask(&mut ledger, at(800), &state, &request("a", 1)).expect("a node lease");
    let epoch = twinbox_ids::Epoch { generation: 1, number: 9, node: name("b") };
    let solo = |to_ms| SoloReport { epoch: epoch.clone(), duties: [DUTY].into(), from_ms: 1, to_ms };
    let mut told = echoing("b", &fresh);
    told.report.solo = Some(solo(None));
    ask(&mut ledger, at(810), &state, &told).expect("a node lease");
    assert!(none(&ask(&mut ledger, at(810), &state, &echoing("a", &ours)).expect("a node lease")));
    assert_eq!(wants(&mut ledger, at(810), &state), ["drain notifier of 0.2@a"][..0], "it still acts");
    told.report.solo = Some(solo(Some(5)));
    ask(&mut ledger, at(820), &state, &told).expect("a node lease");
    // The same with a node that has forgotten it, until this leader has applied the reason.
    ask(&mut ledger, at(830), &state, &echoing("b", &fresh)).expect("a node lease");
    assert!(none(&ask(&mut ledger, at(830), &state, &echoing("a", &ours)).expect("a node lease")));
    ask(&mut ledger, at(840), &state, &told).expect("a node lease");
    let healed = plan(&ledger.view(at(840), 6, &state), &PlannerPolicy::from(Timing::lan()));
    assert!(healed.iter().any(|c| c.to_string() == "heal to generation 2 with a"), "{healed:?}");
    for command in healed {
        assert_eq!(state.apply(command), CommandOutcome::Done);
    }
    assert_eq!((state.generation, state.members[&name("b")].status), (2, Status::Recovering));
    let split = state.splits.first().expect("listed");
    assert_eq!((split.ran.len(), &split.winner, split.healed_ms), (1, &name("a"), 6));
    // An epoch of the former generation is not extended, though all is well.
    assert!(none(&ask(&mut ledger, at(850), &state, &echoing("a", &ours)).expect("a node lease")));
    assert_eq!(wants(&mut ledger, at(850), &state), [""; 0], "the other does not know of the generation yet");
    let mut knowing = echoing("b", &fresh);
    let mut own = echoing("a", &ours);
    for request in [&mut knowing, &mut own] {
        request.report.persisted.generation = 2;
        ask(&mut ledger, at(860), &state, request).expect("a node lease");
    }
    let rest = then_drains(&["b is in-service"]);
    assert_eq!(wants(&mut ledger, at(860), &state), rest);
}

#[test]
fn a_grant_reports_failed_duties_cuts_and_unsupported_members() {
    let mut state = acting(&["a", "b", "w"]);
    let mut ledger = ledger(&state);
    let mut a = request("a", 1);
    a.report.reaches = [name("w")].into();
    a.failing = Some(vec![ServiceHealth { name: "notifier".into(), ok: false, detail: "stuck".into() }]);
    ask(&mut ledger, at(0), &state, &request("b", 1)).expect("granted");
    ask(&mut ledger, at(0), &state, &request("w", 1)).expect("granted");
    let grant = ask(&mut ledger, at(0), &state, &a).expect("granted");
    assert_eq!(grant.cuts, [(name("a"), name("b"))].into());
    assert_eq!(grant.failed[&DUTY], "stuck");
    // Only the duty moves, after the grace for a restart; the node stays in service, and publisher.
    let grace = u64::try_from(Timing::lan().health_grace.as_millis()).expect("small");
    for ms in [400, 800, grace] {
        for request in [&a, &request("b", 1), &request("w", 1)] {
            ask(&mut ledger, at(ms), &state, request).expect("granted");
        }
    }
    assert_eq!(wants(&mut ledger, at(grace), &state), ["drain notifier of 0.2@a"]);

    // The level rises when all know it; after that a member that does not is refused.
    const NEXT: u32 = SUPPORTED_LEVELS.max + 1;
    let known = format!("supports the feature levels 1 to {}: install", SUPPORTED_LEVELS.max);
    let newer = |text: &str| {
        let report = Report { feature_levels: FeatureLevels { min: 1, max: NEXT }, ..request(text, 1).report };
        KeepAlive { report, ..request(text, 1) }
    };
    for text in ["a", "b"] {
        ask(&mut ledger, at(1_100), &state, &newer(text)).expect("granted");
    }
    assert!(!wants(&mut ledger, at(1_100), &state).contains(&format!("feature level is {NEXT}")));
    ask(&mut ledger, at(1_100), &state, &newer("w")).expect("granted");
    assert!(wants(&mut ledger, at(1_100), &state).contains(&format!("feature level is {NEXT}")));
    assert_eq!(state.apply(Command::RaiseLevel { from: SUPPORTED_LEVELS.max, to: NEXT }), CommandOutcome::Done);
    assert_eq!(state.apply(Command::RaiseLevel { from: SUPPORTED_LEVELS.max, to: NEXT }), CommandOutcome::Stale);
    let old = ask(&mut ledger, at(1_110), &state, &request("b", 1));
    assert_eq!(old, Err(NoGrant::FeatureLevel { name: name("b"), min: 1, max: SUPPORTED_LEVELS.max, level: NEXT }));
    // The status shows that reason instead of a silence.
    let reason = |ledger: &mut Ledger| {
        let commands = plan(&ledger.view(at(2_000), 0, &state), &PlannerPolicy::from(Timing::lan()));
        commands.into_iter().find_map(|command| match command {
            Command::SetStatus { name: member, reason, .. } if member == name("b") => Some(reason),
            _ => None,
        })
    };
    for text in ["a", "w"] {
        ask(&mut ledger, at(1_900), &state, &newer(text)).expect("granted");
    }
    assert!(reason(&mut ledger).expect("out").contains(&known));
    assert!(ledger.exited(at(2_000), &name("b"), Incarnation(2)));
    assert!(reason(&mut ledger).expect("out").contains("no message from it"));
}

/// A publisher that led Raft has died: the next leader counts from its own last contact, not from the start of its
/// leadership.
#[test]
fn a_new_leader_counts_the_idle_time_from_the_last_contact_with_the_holder() {
    let state = acting(&["a", "b", "w"]);
    let heard = START - Duration::from_millis(420);
    let idle = |heard: &dyn Fn(&mut Ledger)| {
        let mut exits = Exits::default();
        exits.note(&name("a"), Incarnation(1), false);
        let mut ledger = Ledger::new(2, START, &state, Timing::lan(), &exits);
        heard(&mut ledger);
        for text in ["b", "w"] {
            ask(&mut ledger, at(10), &state, &request(text, 1)).expect("granted");
        }
        let mut after = state.clone();
        for command in plan(&ledger.view(at(30), 7, &state), &PlannerPolicy::from(Timing::lan())) {
            assert_eq!(after.apply(command), CommandOutcome::Done);
        }
        let last = |object| after.moves.iter().rfind(|m| m.object == object).expect("a move").idle_ms;
        (last(MoveObject::Publisher), last(MoveObject::Duty(DUTY)))
    };
    let before = |incarnation| {
        move |ledger: &mut Ledger| ledger.note_earlier_contact(&name("a"), Incarnation(incarnation), heard)
    };
    assert_eq!(idle(&before(1)), (450, 450));
    assert_eq!(idle(&|_| ()), (30, 30), "not before it led, as far as it knows");
    assert_eq!(idle(&before(9)), (30, 30), "another life says nothing of this one");
    // A contact later than the start of the leadership does not count.
    let later = |ledger: &mut Ledger| ledger.note_earlier_contact(&name("a"), Incarnation(1), at(20));
    assert_eq!(idle(&later), (30, 30));
}
