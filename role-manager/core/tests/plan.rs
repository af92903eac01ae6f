//! The planner: tables of its decisions, and the properties that hold for every view (rules P5 and R9).

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    AlarmRule, Assignment, BATCH_LEVEL, Cause, Command, Duty, Ended, Failback, LeaseFact, Leasing, Measures,
    Member, MemberKind, Move, Outcome, Policy, Presence, Report, SPEAKS, Seen, ServiceHealth, Settings, SoloReport,
    Speaks, State, Status, Timing, Trigger, View, What, plan, proposal,
};

const NOW: Duration = Duration::from_secs(100);

fn policy() -> Policy {
    Timing::lan().into()
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn epoch(number: u64, node: &str) -> Epoch {
    Epoch { generation: 0, number, node: name(node) }
}

fn member(kind: MemberKind, status: Status) -> Member {
    Member {
        raft_id: 1,
        kind,
        address: String::new(),
        activated: !matches!(status, Status::Deactivated | Status::Leaving),
        status,
        reason: String::new(),
        incarnation: Some(Incarnation(1)),
        drain_ms: None,
        revision: 5,
    }
}

fn live() -> Seen {
    let incarnation = Some(Incarnation(1));
    Seen { presence: Presence::Live, incarnation, failing: Some(Vec::new()), ..Seen::default() }
}

fn failing(since: Duration) -> Seen {
    let service = ServiceHealth { name: "store".into(), ok: false, detail: "full".into() };
    Seen { failing: Some(vec![service]), health_since: since, ..live() }
}

fn absent(presence: Presence) -> Seen {
    Seen { presence, ..live() }
}

/// Two nodes in service and a witness; `a` is publisher and notifier, with a lease.
fn at_rest() -> View {
    let lease_ms = policy().pace.lease_ms();
    let leasing = Some(Leasing { profile: policy().pace, lease_ms, bound_ms: lease_ms });
    let mut state =
        State { number: 2, publisher: Some(epoch(1, "a")), leasing, feature_level: SPEAKS.max, ..State::default() };
    state.members.insert(name("a"), member(MemberKind::Node, Status::InService));
    state.members.insert(name("b"), member(MemberKind::Node, Status::InService));
    state.members.insert(name("w"), member(MemberKind::Witness, Status::InService));
    let assignment = Assignment { epoch: epoch(2, "a"), incarnation: Incarnation(1), draining: false };
    state.duties.insert(Duty::Notifier, assignment);
    let seen = ["a", "b", "w"].map(|text| (name(text), live())).into();
    let fact = LeaseFact { epoch: epoch(2, "a"), held: true, frozen: false, acted: NOW };
    let leases = [(Duty::Notifier, fact)].into();
    View { state, now: NOW, seen, leases, longest_out_ms: policy().pace.lease_ms(), ..View::default() }
}

/// The plan, as text.
fn wants(change: impl FnOnce(&mut View)) -> Vec<String> {
    let mut view = at_rest();
    change(&mut view);
    plan(&view, &policy()).iter().map(ToString::to_string).collect()
}

fn see(text: &str, seen: Seen) -> impl FnOnce(&mut View) {
    move |view| drop(view.seen.insert(name(text), seen))
}

fn lease(view: &mut View, held: bool, frozen: bool) {
    view.leases.insert(Duty::Notifier, LeaseFact { epoch: epoch(2, "a"), held, frozen, acted: NOW });
}

#[test]
fn a_cluster_at_rest_is_left_alone() {
    assert_eq!(wants(|_| ()), Vec::<String>::new());
}

#[test]
fn what_happens_is_answered() {
    let half = policy().health_grace / 2;
    assert_eq!(wants(see("b", absent(Presence::Silent))), ["b is not-functioning"]);
    assert_eq!(wants(see("b", absent(Presence::Unknown))), [""; 0]);
    assert_eq!(wants(see("w", absent(Presence::Silent))), ["w is not-functioning"]);
    assert_eq!(wants(see("b", failing(NOW - half))), [""; 0], "time for a local restart");
    assert_eq!(wants(see("b", failing(Duration::ZERO))), ["b is not-functioning"]);

    // The publisher is lost: its role moves, its duty only when the lease has expired.
    let lost = |held| {
        wants(move |view| {
            see("a", absent(Presence::Silent))(view);
            lease(view, held, false);
        })
    };
    assert_eq!(lost(true), ["a is not-functioning", "publisher is b", "drain notifier of 0.2@a"]);
    assert_eq!(lost(false), ["a is not-functioning", "publisher is b", "notifier to b"]);

    // The publisher is failing and live: it must first release the duty.
    let ill = wants(see("a", failing(Duration::ZERO)));
    assert_eq!(ill, ["a is not-functioning", "publisher is b", "drain notifier of 0.2@a"]);

    // The other was made publisher.
    let moved = |held, draining| {
        wants(move |view| {
            view.state.publisher = Some(epoch(3, "b"));
            view.state.duties.get_mut(&Duty::Notifier).expect("assigned").draining = draining;
            lease(view, held, draining);
        })
    };
    assert_eq!(moved(true, false), ["drain notifier of 0.2@a"]);
    assert_eq!(moved(true, true), [""; 0], "it waits for the release");
    assert_eq!(moved(false, true), ["notifier to b"]);
}

#[test]
fn a_new_process_gets_a_new_epoch() {
    let again = Seen { incarnation: Some(Incarnation(2)), ..live() };
    let restarted = |held| {
        let again = again.clone();
        wants(move |view| {
            see("a", again)(view);
            lease(view, held, false);
        })
    };
    assert_eq!(restarted(true), ["a is in-service", "drain notifier of 0.2@a"]);
    assert_eq!(restarted(false), ["a is in-service", "notifier to a"]);
}

#[test]
fn an_epoch_whose_move_was_proposed_and_lost_is_replaced() {
    assert_eq!(wants(|view| lease(view, true, true)), ["drain notifier of 0.2@a"]);
    assert_eq!(wants(|view| lease(view, false, true)), ["notifier to a"]);
}

#[test]
fn the_last_in_service_stays_however_ill() {
    let both_ill = wants(|view| {
        see("a", failing(Duration::ZERO))(view);
        see("b", failing(Duration::ZERO))(view);
    });
    assert_eq!(both_ill, ["b is not-functioning"], "the publisher is the last to go");
    let alone_and_ill = wants(|view| {
        see("a", failing(Duration::ZERO))(view);
        see("b", absent(Presence::Silent))(view);
    });
    assert_eq!(alone_and_ill, ["b is not-functioning"]);
}

/// A node out of service for a self-test that failed.
fn out(view: &mut View, text: &str) {
    let member = view.state.members.get_mut(&name(text)).expect("a member");
    (member.status, member.reason) = (Status::NotFunctioning, "store has failed: full".into());
    see(text, failing(Duration::ZERO))(view);
}

#[test]
fn a_node_that_failed_first_serves_again_when_the_other_dies() {
    let survivor = wants(|view| {
        out(view, "b");
        see("a", absent(Presence::Silent))(view);
        lease(view, false, false);
    });
    assert_eq!(survivor, ["a is not-functioning", "b is in-service", "publisher is b", "notifier to b"]);
    let with_a_sound_one = wants(|view| out(view, "b"));
    assert_eq!(with_a_sound_one, [""; 0], "another serves");
    let recovering_first = wants(|view| {
        view.state.members.insert(name("c"), member(MemberKind::Node, Status::NotFunctioning));
        see("c", Seen { health_since: NOW, ..live() })(view);
        out(view, "b");
        see("a", absent(Presence::Silent))(view);
    });
    assert!(recovering_first.contains(&"c is in-service".to_owned()), "{recovering_first:?}");
    assert!(!recovering_first.contains(&"b is in-service".to_owned()), "{recovering_first:?}");
}

#[test]
fn who_was_out_is_let_in_when_it_has_been_well_for_a_while() {
    let back = |since: Duration, alone: bool| {
        wants(move |view| {
            view.state.members.get_mut(&name("b")).expect("b").status = Status::NotFunctioning;
            see("b", Seen { health_since: since, ..live() })(view);
            if alone {
                view.state.members.get_mut(&name("a")).expect("a").status = Status::NotFunctioning;
                see("a", absent(Presence::Silent))(view);
                view.state.members.get_mut(&name("a")).expect("a").reason =
                    "nothing has been heard of it for longer than its lease".into();
            }
        })
    };
    assert_eq!(back(NOW, false), [""; 0]);
    assert_eq!(back(NOW - policy().settle, false), ["b is in-service"]);
    let rest = ["b is in-service", "publisher is b", "drain notifier of 0.2@a"];
    assert_eq!(back(NOW, true), rest, "nobody else serves: at once");
}

#[test]
fn the_preferred_one_wins_a_split_though_the_split_had_put_it_out_of_service() {
    let met = |preferred: Option<&str>, since: Duration| {
        let mut wanted = wants(move |view| {
            view.state.members.remove(&name("w"));
            view.state.settings.preferred = preferred.map(name);
            lease(view, false, false);
            for (number, text) in [(8, "a"), (9, "b")] {
                let epoch = Epoch { generation: 1, number, node: name(text) };
                let solo = Some(SoloReport { epoch, duties: [].into(), from_ms: 1, to_ms: Some(2) });
                let report = Report { solo, ..Report::default() };
                see(text, Seen { report, health_since: since, ..live() })(view);
            }
            // The leader, "a", had planned this for "b" in the split; it is agreed on only now.
            view.state.members.get_mut(&name("b")).expect("there").status = Status::NotFunctioning;
        });
        wanted.truncate(2);
        wanted
    };
    let just_now = NOW - policy().settle / 2;
    assert_eq!(met(Some("b"), just_now), ["b is in-service", "heal to generation 2 with b"]);
    assert_eq!(met(None, just_now), ["b is in-service", "heal to generation 2 with a"]);
    assert_eq!(met(Some("b"), Duration::ZERO), ["b is in-service", "heal to generation 2 with b"]);
}

#[test]
fn a_duty_of_a_deactivated_node_is_drained_even_when_nobody_can_take_it() {
    let out = wants(|view| {
        *view.state.members.get_mut(&name("a")).expect("a") = member(MemberKind::Node, Status::Deactivated);
        view.state.members.get_mut(&name("b")).expect("b").status = Status::NotFunctioning;
        view.state.members.get_mut(&name("b")).expect("b").reason =
            "nothing has been heard of it for longer than its lease".into();
        see("b", absent(Presence::Silent))(view);
    });
    assert_eq!(out, ["drain notifier of 0.2@a"]);
}

// --- properties --------------------------------------------------------------------------------------------

prop_compose! {
    fn any_member()(
        kind in prop_oneof![3 => Just(MemberKind::Node), 1 => Just(MemberKind::Witness)],
        status in prop_oneof![
            1 => Just(Status::Starting), 4 => Just(Status::InService), 1 => Just(Status::Replicating),
            1 => Just(Status::Deactivated), 1 => Just(Status::NotFunctioning), 1 => Just(Status::Recovering),
            1 => Just(Status::Leaving)
        ],
        life in 0..3_u128,
        revision in 0..9_u64,
    ) -> Member {
        let kind = if status == Status::Deactivated { MemberKind::Node } else { kind };
        let incarnation = (life > 0).then_some(Incarnation(life));
        Member { incarnation, revision, ..member(kind, status) }
    }
}

prop_compose! {
    fn any_report()(
        cpu in prop::option::of(prop::sample::select(vec![100_u16, 700, 800, 950])),
        free in prop::option::of(prop::sample::select(vec![1_u64 << 20, 3 << 30, 9 << 30])),
        alarms in prop::option::of(0..6_u32),
        behind in prop::option::of(prop::sample::select(vec![0_u64, 5_000])),
        max in 1..3_u32,
        calls in prop::option::of(0..3_u32),
        unanswered in prop::collection::btree_set(prop::sample::select(NAMES.to_vec()), 0..3),
        solo in prop::option::weighted(0.2, (1..4_u64, any::<bool>())),
        reaches in prop::collection::btree_set(prop::sample::select(NAMES.to_vec()), 0..4),
    ) -> Report {
        let solo = solo.map(|(generation, over)| SoloReport {
            epoch: Epoch { generation, number: 20, node: name("a") },
            duties: [Duty::Notifier].into(),
            from_ms: 1,
            to_ms: over.then_some(2),
        });
        Report {
            measures: Measures { cpu_permille: cpu, free_bytes: free, alarms, behind, calls },
            speaks: Speaks { min: 1, max },
            reaches: reaches.into_iter().map(name).collect(),
            solo,
            unanswered: unanswered.into_iter().map(name).collect(),
            ..Report::default()
        }
    }
}

prop_compose! {
    fn any_seen()(
        presence in prop_oneof![
            4 => Just(Presence::Live), 1 => Just(Presence::Unknown), 1 => Just(Presence::Silent),
            1 => Just(Presence::Left), 1 => Just(Presence::Exited)
        ],
        lapsed in any::<bool>(),
        life in 1..3_u128,
        health in 0..6,
        since in prop::sample::select(vec![0_u64, 60_000, 95_000, 99_500, 100_000]),
        bad_for in prop::collection::btree_map(
            prop::sample::select(vec![Trigger::Space, Trigger::Cpu, Trigger::Alarm]), 0..100_u64, 0..3),
        report in any_report(),
    ) -> Seen {
        let heard = matches!(presence, Presence::Live | Presence::Left);
        let fails = |name: &str| ServiceHealth { name: name.into(), ok: false, detail: "full".into() };
        let since = Duration::from_millis(since);
        Seen {
            presence,
            lapsed,
            incarnation: heard.then_some(Incarnation(life)),
            failing: match health {
                0 => None,
                1 => Some(vec![fails("store")]),
                2 => Some(vec![fails("notifier")]),
                _ => Some(Vec::new()),
            },
            health_since: if health == 2 { Duration::ZERO } else { since },
            duties: [(Duty::Notifier, (health != 2, since))].into(),
            bad: bad_for.into_iter().map(|(trigger, at)| (trigger, Duration::from_secs(at))).collect(),
            report,
            unfit: (lapsed && !heard).then_some(Speaks { min: 1, max: 1 }),
            heard: NOW,
        }
    }
}

prop_compose! {
    fn any_settings(names: Vec<NodeName>)(
        failback in prop_oneof![
            Just(Failback::None), Just(Failback::Manual), Just(Failback::Scheduled { from: 0, to: 1_000 }),
            Just(Failback::Scheduled { from: 1_000, to: 1_200 })
        ],
        preferred in prop::option::of(prop::sample::select(names.clone())),
        pin in prop::option::weighted(0.3, prop::sample::select(names)),
        off in prop::collection::btree_set(prop::sample::select(Trigger::ALL.to_vec()), 0..3),
        missed in prop::option::of(2..9_u32),
        rule in prop::option::of(1..4_u32),
    ) -> Settings {
        Settings {
            failback,
            preferred,
            pins: pin.into_iter().map(|to| (Duty::Notifier, to)).collect(),
            triggers: off.into_iter().map(|trigger| (trigger, false)).collect(),
            alarm_rule: rule.map(|times| AlarmRule { code: "overload".to_owned(), times, seconds: 60 }),
            missed,
            ..Settings::default()
        }
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

prop_compose! {
    fn any_names()(count in 1..=4_usize) -> Vec<NodeName> {
        NAMES.iter().take(count).map(|text| name(text)).collect()
    }
}

/// Agreed lease lengths: the bound is never below the length in force or the wanted one.
fn leasing(settings: &Settings, lease: u64, more: u64) -> Leasing {
    let state = State { settings: settings.clone(), ..State::default() };
    let profile = policy().pace;
    let first = Leasing { profile, lease_ms: profile.lease_ms(), bound_ms: profile.lease_ms() };
    let wanted = State { leasing: Some(first), ..state }.pace().expect("a pace").lease_ms();
    let lease_ms = lease.min(wanted);
    Leasing { profile, lease_ms, bound_ms: wanted.max(lease_ms) + more }
}

prop_compose! {
    fn any_view()(names in any_names())(
        settings in any_settings(names.clone()),
        members in prop::collection::vec(any_member(), names.len()),
        seen in prop::collection::vec(any_seen(), names.len()),
        publisher in prop::option::of(prop::sample::select(names.clone())),
        holder in prop::option::of((prop::sample::select(names.clone()), 1..3_u128, any::<bool>())),
        placed in prop::option::weighted(0.2, prop::sample::select(names.clone())),
        (held, frozen, alone, timed) in (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1), any::<bool>()),
        (generation, published, moved) in (0..3_u64, 0..100_u64, 0..4_usize),
        (lease, more, longest_out_ms) in (200..900_u64, prop_oneof![Just(0), 0..900_u64], 200..1_900_u64),
        level in 1..=SPEAKS.max,
        ended in prop::collection::btree_map(
            (prop::sample::select(names.clone()), 1..4_u128), (0..3_u32, any::<bool>()), 0..4),
        names in Just(names),
    ) -> View {
        let mut state = State { number: 10, generation, feature_level: level, ..State::default() };
        state.leasing = timed.then(|| leasing(&settings, lease, more));
        if !timed {
            // A missing pace cannot have been changed.
            state.settings = Settings { missed: None, ..settings };
        } else {
            state.settings = settings;
        }
        state.members = names.iter().cloned().zip(members).collect();
        state.publisher = publisher.map(|node| Epoch { generation: 0, number: 9, node });
        state.placed = placed.into_iter().map(|to| (Duty::Notifier, to)).collect();
        let publisher_since = state.publisher.clone().map(|epoch| (epoch, Duration::from_secs(published)));
        for _ in 0..moved {
            let (what, to, cause) = (What::Publisher, name("a"), Cause::Cpu);
            state.moves.push(Move { what, from: None, to, epoch: epoch(1, "a"), cause, at_ms: 5, idle_ms: 0 });
        }
        let mut leases = BTreeMap::new();
        if let Some((node, life, draining)) = holder {
            let epoch = Epoch { generation: 0, number: 10, node };
            let assignment = Assignment { epoch: epoch.clone(), incarnation: Incarnation(life), draining };
            state.duties.insert(Duty::Notifier, assignment);
            leases.insert(Duty::Notifier, LeaseFact { epoch, held, frozen: frozen || draining, acted: NOW });
        }
        View {
            state,
            now: NOW,
            wall_ms: 10_000,
            seen: names.into_iter().zip(seen).collect(),
            leases,
            alone_somewhere: alone,
            alone_generation: None,
            publisher_since,
            longest_out_ms,
            ended: ended.into_iter().map(|((node, life), (calls, proven))| Ended { node, life: Incarnation(life), calls, proven }).collect(),
        }
    }
}

/// Fate of a node: well, for long or not; failing for long; restarted; lost.
fn any_fate() -> impl Strategy<Value = Seen> {
    let restarted = Seen { incarnation: Some(Incarnation(2)), ..live() };
    prop::sample::select(vec![
        live(),
        Seen { health_since: NOW, ..live() },
        failing(Duration::ZERO),
        restarted,
        absent(Presence::Silent),
        absent(Presence::Exited),
        absent(Presence::Left),
    ])
}

fn apply_all(view: &View, commands: &[Command]) -> View {
    let mut next = view.clone();
    for command in commands {
        assert_eq!(next.state.apply(command.clone()), Outcome::Done, "{command} of {commands:?}");
    }
    next
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_500) })]

    /// Rule P5: one plan contains all wanted changes, each of its commands has an effect, and after it nothing more is
    /// planned; so constant input makes no cycle.
    #[test]
    fn the_planner_is_content_with_what_it_planned(view in any_view()) {
        let after = apply_all(&view, &plan(&view, &policy()));
        prop_assert_eq!(plan(&after, &policy()), Vec::new());
    }

    /// With any split of a plan into log entries the result is the same, and nothing more is planned.
    #[test]
    fn what_is_proposed_in_batches_is_the_plan(view in any_view(), singly: bool) {
        let wanted = plan(&view, &policy());
        let (mut left, mut state, mut entries) = (wanted.clone(), view.state.clone(), 0);
        while let Some(command) = proposal(left.clone(), &state, singly, |_| false) {
            left.drain(..command.parts().len());
            prop_assert_eq!(state.apply(command), Outcome::Done);
            entries += 1;
        }
        let expected = apply_all(&view, &wanted).state;
        prop_assert_eq!(&state, &expected);
        prop_assert!(singly || view.state.feature_level < BATCH_LEVEL || entries < 4, "{} entries", entries);
        prop_assert_eq!(plan(&View { state, ..view }, &policy()), vec![]);
    }

    /// Rule R9: a live member in service stays in service, or another takes its place.
    #[test]
    fn the_last_node_in_service_is_never_taken_out_for_its_health(view in any_view()) {
        let after = apply_all(&view, &plan(&view, &policy()));
        let heard = |name: &NodeName| matches!(view.seen[name].presence, Presence::Live | Presence::Unknown);
        let served = view.state.members.iter().any(|(name, m)| {
            // A restarted node that has not reported no longer counts as serving.
            let same = view.seen[name].presence == Presence::Unknown
                || (view.seen[name].incarnation == m.incarnation && view.seen[name].failing.is_some());
            m.serves() && heard(name) && same
        });
        if served {
            prop_assert!(after.state.members.values().any(Member::serves), "{:?}", after.state);
        }
    }

    /// No duty goes to a node that is deactivated, a witness, out of service, or not live.
    #[test]
    fn duties_go_only_to_nodes_that_serve(view in any_view()) {
        let commands = plan(&view, &policy());
        let after = apply_all(&view, &commands);
        for command in &commands {
            if let Command::Assign { to, incarnation, .. } = command {
                let member = &after.state.members[to];
                prop_assert!(member.serves() && member.activated && member.kind == MemberKind::Node);
                prop_assert_eq!(view.seen[to].presence, Presence::Live);
                prop_assert_eq!(view.seen[to].incarnation, Some(*incarnation));
            }
        }
    }

    /// Rule R4: while a lease may run, its duty is not assigned.
    #[test]
    fn nothing_is_assigned_while_it_may_be_held(view in any_view()) {
        let held = view.leases.values().any(|fact| fact.held);
        let assigns = plan(&view, &policy()).iter().any(|c| matches!(c, Command::Assign { .. }));
        prop_assert!(!(held && assigns));
    }

    /// A random walk with late, lost and reordered reports: every command is done or stale, epochs only rise, and with
    /// constant reports the planner comes to rest.
    #[test]
    fn random_walks_come_to_rest(
        start in any_view(),
        steps in prop::collection::vec((prop::collection::vec(any_seen(), 4), any::<bool>(), any::<bool>()), 1..12),
    ) {
        let mut view = start;
        let mut late: Vec<Command> = Vec::new();
        for (seen, held, delayed) in steps {
            for ((_, known), heard) in view.seen.iter_mut().zip(seen) {
                *known = heard;
            }
            if let Some(a) = view.state.duties.get(&Duty::Notifier) {
                let fact = LeaseFact { epoch: a.epoch.clone(), held, frozen: a.draining, acted: NOW };
                view.leases.insert(Duty::Notifier, fact);
            }
            let number = view.state.number;
            let planned = plan(&view, &policy());
            // Some earlier planned commands arrive only now, when they are out of date.
            let batch = if delayed { std::mem::replace(&mut late, planned) } else { planned };
            for command in batch {
                let before = view.state.clone();
                match view.state.apply(command) {
                    Outcome::Done => {}
                    other => {
                        prop_assert_eq!(other, Outcome::Stale);
                        prop_assert_eq!(&before, &view.state);
                    }
                }
            }
            prop_assert!(view.state.number >= number);
        }
        let mut rounds = 0;
        while let commands @ [_, ..] = plan(&view, &policy()).as_slice() {
            view = apply_all(&view, commands);
            rounds += 1;
            prop_assert!(rounds < 2, "it goes on: {commands:?}");
        }
    }
    /// Rule R9: with any order of failures, deaths, recoveries and restarts, one of the live nodes serves.
    #[test]
    fn one_serves_as_long_as_one_lives_in_whatever_order_things_fail(
        fates in prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), any_fate()), 1..12),
    ) {
        let mut view = at_rest();
        view.state.members.insert(name("c"), member(MemberKind::Node, Status::InService));
        see("c", live())(&mut view);
        let mut history = Vec::new();
        for (text, fate) in fates {
            see(text, fate.clone())(&mut view);
            history.push((text, fate.presence, fate.failing.is_some_and(|failing| !failing.is_empty())));
            view = apply_all(&view, &plan(&view, &policy()));
            prop_assert_eq!(plan(&view, &policy()), Vec::new(), "{:?}", history);
            let alive = ["a", "b", "c"].iter().any(|node| view.seen[&name(node)].presence == Presence::Live);
            let serving: Vec<_> = view.state.members.iter().filter(|(_, member)| member.serves()).collect();
            prop_assert_eq!(alive, !serving.is_empty(), "{:?}: {:?}", history, view.state.members);
        }
    }
}
