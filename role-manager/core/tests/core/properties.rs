//! The planner: properties that hold for every view (rules P5 and R9), with two duties.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    AlarmRule, Assignment, BATCH_LEVEL, Cause, Command, CommandOutcome, Duty, EndedIncarnation, Failback,
    FeatureLevels, LeaseFact, Leasing, Measures, Member, MemberKind, MemberObservation, Move, MoveObject, Presence,
    Report, RoleSettings, SUPPORTED_LEVELS, ServiceHealth, SoloReport, State, Status, Trigger, View, plan,
    proposal,
};

use crate::views::{NOW, absent, at_rest, epoch, failing, live, member, name, policy, see};

prop_compose! {
    fn any_member()(
        kind in prop_oneof![3 => Just(MemberKind::Node), 1 => Just(MemberKind::Witness)],
        status in prop_oneof![
            1 => Just(Status::Starting), 4 => Just(Status::InService), 1 => Just(Status::Replicating),
            1 => Just(Status::Deactivated), 1 => Just(Status::NotFunctioning), 1 => Just(Status::Recovering),
            1 => Just(Status::Leaving)
        ],
        incarnation in 0..3_u128,
        revision in 0..9_u64,
    ) -> Member {
        let kind = if status == Status::Deactivated { MemberKind::Node } else { kind };
        let incarnation = (incarnation > 0).then_some(Incarnation(incarnation));
        Member { incarnation, revision, ..member(kind, status) }
    }
}

prop_compose! {
    fn any_report()(
        cpu in prop::option::of(prop::sample::select(vec![100_u16, 700, 800, 950])),
        free in prop::option::of(prop::sample::select(vec![1_u64 << 20, 3 << 30, 9 << 30])),
        alarms in prop::option::of(0..6_u32),
        behind in prop::option::of(prop::sample::select(vec![0_u64, 5_000])),
        max in prop_oneof![1..3_u32, Just(SUPPORTED_LEVELS.max)],
        calls in prop::option::of(0..3_u32),
        unanswered in prop::collection::btree_set(prop::sample::select(NAMES.to_vec()), 0..3),
        solo in prop::option::weighted(0.2, (1..4_u64, any::<bool>())),
        reaches in prop::collection::btree_set(prop::sample::select(NAMES.to_vec()), 0..4),
    ) -> Report {
        let solo = solo.map(|(generation, over)| SoloReport {
            epoch: Epoch { generation, number: 20, node: name("a") },
            duties: Duty::ALL.into(),
            from_ms: 1,
            to_ms: over.then_some(2),
        });
        Report {
            measures: Measures { cpu_permille: cpu, free_bytes: free, alarms, behind, calls },
            feature_levels: FeatureLevels { min: 1, max },
            reaches: reaches.into_iter().map(name).collect(),
            solo,
            unanswered: unanswered.into_iter().map(name).collect(),
            ..Report::default()
        }
    }
}

prop_compose! {
    fn any_observation()(
        presence in prop_oneof![
            4 => Just(Presence::Live), 1 => Just(Presence::Unknown), 1 => Just(Presence::Silent),
            1 => Just(Presence::Left), 1 => Just(Presence::Exited)
        ],
        lease_expired in any::<bool>(),
        incarnation in 1..3_u128,
        health in 0..9,
        since in prop::sample::select(vec![0_u64, 60_000, 95_000, 99_500, 100_000]),
        bad_for in prop::collection::btree_map(
            prop::sample::select(vec![Trigger::Space, Trigger::Cpu, Trigger::Alarm]), 0..100_u64, 0..3),
        report in any_report(),
    ) -> MemberObservation {
        let reachable = matches!(presence, Presence::Live | Presence::Left);
        let fails = |name: &str| ServiceHealth { name: name.into(), ok: false, detail: "full".into() };
        let since = Duration::from_millis(since);
        let (notifier_fails, mta_fails) = (matches!(health, 2 | 4), matches!(health, 3 | 4));
        MemberObservation {
            presence,
            lease_expired,
            incarnation: reachable.then_some(Incarnation(incarnation)),
            failing: match health {
                0 => None,
                1 => Some(vec![fails("store")]),
                2 => Some(vec![fails("notifier")]),
                3 => Some(vec![fails("mta")]),
                4 => Some(vec![fails("notifier"), fails("mta")]),
                _ => Some(Vec::new()),
            },
            health_since: if notifier_fails || mta_fails { Duration::ZERO } else { since },
            duties: [(Duty::Notifier, (!notifier_fails, since)), (Duty::Mta, (!mta_fails, since))].into(),
            bad: bad_for.into_iter().map(|(trigger, at)| (trigger, Duration::from_secs(at))).collect(),
            report,
            unfit: (lease_expired && !reachable).then_some(FeatureLevels { min: 1, max: 1 }),
            last_contact: NOW,
        }
    }
}

fn any_duty() -> impl Strategy<Value = Duty> {
    prop::sample::select(Duty::ALL.to_vec())
}

/// The holder of a duty and its lease.
#[derive(Debug, Clone)]
struct Holding {
    assignment: Assignment,
    held: bool,
    frozen: bool,
}

prop_compose! {
    fn any_holding(names: Vec<NodeName>)(
        node in prop::sample::select(names),
        incarnation in 1..3_u128,
        (draining, held, frozen) in any::<(bool, bool, bool)>(),
    ) -> Holding {
        let epoch = Epoch { generation: 0, number: 10, node };
        let assignment = Assignment { epoch, incarnation: Incarnation(incarnation), draining };
        Holding { assignment, held, frozen }
    }
}

prop_compose! {
    fn any_settings(names: Vec<NodeName>)(
        failback in prop_oneof![
            Just(Failback::None), Just(Failback::Manual), Just(Failback::Scheduled { from: 0, to: 1_000 }),
            Just(Failback::Scheduled { from: 1_000, to: 1_200 })
        ],
        preferred in prop::option::of(prop::sample::select(names.clone())),
        pins in prop::option::weighted(0.3, prop::collection::btree_map(any_duty(), prop::sample::select(names), 1..=2)),
        off in prop::collection::btree_set(prop::sample::select(Trigger::ALL.to_vec()), 0..3),
        missed in prop::option::of(2..9_u32),
        rule in prop::option::of(1..4_u32),
    ) -> RoleSettings {
        RoleSettings {
            failback,
            preferred,
            pins: pins.unwrap_or_default(),
            triggers: off.into_iter().map(|trigger| (trigger, false)).collect(),
            alarm_rule: rule.map(|times| AlarmRule { code: "overload".to_owned(), times, seconds: 60 }),
            missed,
            ..RoleSettings::default()
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
fn leasing(settings: &RoleSettings, lease: u64, more: u64) -> Leasing {
    let state = State { settings: settings.clone(), ..State::default() };
    let profile = policy().lease_timing;
    let first = Leasing { profile, lease_ms: profile.lease_ms(), bound_ms: profile.lease_ms() };
    let wanted = State { leasing: Some(first), ..state }.lease_timing().expect("a lease timing").lease_ms();
    let lease_ms = lease.min(wanted);
    Leasing { profile, lease_ms, bound_ms: wanted.max(lease_ms) + more }
}

prop_compose! {
    fn any_view()(names in any_names())(
        settings in any_settings(names.clone()),
        members in prop::collection::vec(any_member(), names.len()),
        observed in prop::collection::vec(any_observation(), names.len()),
        publisher in prop::option::of(prop::sample::select(names.clone())),
        holdings in prop::collection::btree_map(any_duty(), any_holding(names.clone()), 0..=2),
        placed in prop::option::weighted(
            0.3, prop::collection::btree_map(any_duty(), prop::sample::select(names.clone()), 1..=2)),
        (solo, timed) in (prop::bool::weighted(0.1), any::<bool>()),
        (generation, published, moved) in (0..3_u64, 0..100_u64, 0..4_usize),
        (lease, more, longest_running_ms) in (200..900_u64, prop_oneof![Just(0), 0..900_u64], 200..1_900_u64),
        level in prop_oneof![1..=SUPPORTED_LEVELS.max, Just(SUPPORTED_LEVELS.max)],
        ended in prop::collection::btree_map(
            (prop::sample::select(names.clone()), 1..4_u128), (0..3_u32, any::<bool>()), 0..4),
        names in Just(names),
    ) -> View {
        let mut state = State { number: 10, generation, feature_level: level, ..State::default() };
        state.leasing = timed.then(|| leasing(&settings, lease, more));
        if !timed {
            // A missing lease timing cannot have been changed.
            state.settings = RoleSettings { missed: None, ..settings };
        } else {
            state.settings = settings;
        }
        state.members = names.iter().cloned().zip(members).collect();
        state.publisher = publisher.map(|node| Epoch { generation: 0, number: 9, node });
        // No order about a duty above the level is accepted, and none is assigned.
        let known = |duty: &Duty| duty.level() <= level;
        state.settings.pins.retain(|duty, _| known(duty));
        state.placed = placed.into_iter().flatten().filter(|(duty, _)| known(duty)).collect();
        let publisher_since = state.publisher.clone().map(|epoch| (epoch, Duration::from_secs(published)));
        for _ in 0..moved {
            let (object, to, cause) = (MoveObject::Publisher, name("a"), Cause::Cpu);
            state.moves.push(Move { object, from: None, to, epoch: epoch(1, "a"), cause, at_ms: 5, idle_ms: 0 });
        }
        let mut leases = BTreeMap::new();
        for ((duty, holding), number) in holdings.into_iter().filter(|(duty, _)| known(duty)).zip(10..) {
            let Holding { mut assignment, held, frozen } = holding;
            assignment.epoch.number = number;
            let (epoch, frozen) = (assignment.epoch.clone(), frozen || assignment.draining);
            state.number = number;
            state.duties.insert(duty, assignment);
            leases.insert(duty, LeaseFact { epoch, held, frozen, acted: NOW });
        }
        View {
            state,
            now: NOW,
            wall_ms: 10_000,
            observed: names.into_iter().zip(observed).collect(),
            leases,
            may_act_solo: solo,
            solo_generation: None,
            publisher_since,
            longest_running_ms,
            ended: ended.into_iter().map(|((node, incarnation), (calls, proven))| EndedIncarnation { node, incarnation: Incarnation(incarnation), calls, proven }).collect(),
        }
    }
}

/// Fate of a node: well, for long or not; failing for long; restarted; lost.
fn any_fate() -> impl Strategy<Value = MemberObservation> {
    let restarted = MemberObservation { incarnation: Some(Incarnation(2)), ..live() };
    prop::sample::select(vec![
        live(),
        MemberObservation { health_since: NOW, ..live() },
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
        assert_eq!(next.state.apply(command.clone()), CommandOutcome::Done, "{command} of {commands:?}");
    }
    next
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_500) })]

    /// Rule P5: one plan contains all wanted changes, each of its commands has an effect, and after it nothing more is
    /// planned; so constant input makes no cycle.
    #[test]
    fn the_plan_after_an_applied_plan_is_empty(view in any_view()) {
        let after = apply_all(&view, &plan(&view, &policy()));
        prop_assert_eq!(plan(&after, &policy()), Vec::new());
    }

    /// With any split of a plan into log entries the result is the same, and nothing more is planned.
    #[test]
    fn batches_together_equal_the_plan(view in any_view(), singly: bool) {
        let wanted = plan(&view, &policy());
        let (mut left, mut state, mut entries) = (wanted.clone(), view.state.clone(), 0);
        while let Some(command) = proposal(left.clone(), &state, singly, |_| false) {
            left.drain(..command.parts().len());
            prop_assert_eq!(state.apply(command), CommandOutcome::Done);
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
        let heard = |name: &NodeName| matches!(view.observed[name].presence, Presence::Live | Presence::Unknown);
        let served = view.state.members.iter().any(|(name, m)| {
            // A restarted node that has not reported no longer counts as serving.
            let same = view.observed[name].presence == Presence::Unknown
                || (view.observed[name].incarnation == m.incarnation && view.observed[name].failing.is_some());
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
                prop_assert_eq!(view.observed[to].presence, Presence::Live);
                prop_assert_eq!(view.observed[to].incarnation, Some(*incarnation));
            }
        }
    }

    /// Rule R4: while a lease may run, its duty is not assigned.
    #[test]
    fn nothing_is_assigned_while_it_may_be_held(view in any_view()) {
        for command in plan(&view, &policy()) {
            if let Command::Assign { duty, .. } = command {
                prop_assert!(!view.leases.get(&duty).is_some_and(|fact| fact.held), "{}", duty);
            }
        }
    }

    /// Each duty is planned for itself: what is known of one changes no command about the other.
    #[test]
    fn a_duty_is_planned_alike_whatever_happens_to_the_other(
        view in any_view(),
        other in any_duty(),
        holding in prop::option::of(any_holding(vec![name("a")])),
        works in any::<bool>(),
    ) {
        let about = |view: &View| -> Vec<Command> {
            let moves = plan(view, &policy()).into_iter().map(|command| command.timeless());
            moves.filter(|command| match command {
                Command::Assign { duty, .. } | Command::Drain { duty, .. } => *duty != other,
                _ => false,
            }).collect()
        };
        // A publisher is elected by the number of its duties, too: then the other duty matters.
        if plan(&view, &policy()).iter().any(|command| matches!(command, Command::SetPublisher { .. })) {
            return Ok(());
        }
        let mut changed = view.clone();
        changed.state.duties.remove(&other);
        changed.leases.remove(&other);
        if let Some(Holding { assignment, held, frozen }) = holding {
            let epoch = assignment.epoch.clone();
            changed.leases.insert(other, LeaseFact { epoch, held, frozen, acted: NOW });
            changed.state.duties.insert(other, assignment);
        }
        for observed in changed.observed.values_mut() {
            observed.duties.insert(other, (works, Duration::ZERO));
        }
        prop_assert_eq!(about(&changed), about(&view));
    }

    /// A random walk with late, lost and reordered reports: every command is done or stale, epochs only rise, and with
    /// constant reports the planner comes to rest.
    #[test]
    fn the_planner_comes_to_rest_after_a_random_walk(
        start in any_view(),
        steps in prop::collection::vec((prop::collection::vec(any_observation(), 4), any::<[bool; 2]>(), any::<bool>()), 1..12),
    ) {
        let mut view = start;
        let mut late: Vec<Command> = Vec::new();
        for (observed, held, delayed) in steps {
            for ((_, known), heard) in view.observed.iter_mut().zip(observed) {
                *known = heard;
            }
            for (duty, held) in Duty::ALL.into_iter().zip(held) {
                if let Some(a) = view.state.duties.get(&duty) {
                    let fact = LeaseFact { epoch: a.epoch.clone(), held, frozen: a.draining, acted: NOW };
                    view.leases.insert(duty, fact);
                }
            }
            let number = view.state.number;
            let planned = plan(&view, &policy());
            // Some earlier planned commands arrive only now, when they are out of date.
            let batch = if delayed { std::mem::replace(&mut late, planned) } else { planned };
            for command in batch {
                let before = view.state.clone();
                match view.state.apply(command) {
                    CommandOutcome::Done => {}
                    other => {
                        prop_assert_eq!(other, CommandOutcome::Stale);
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
    fn a_node_serves_while_one_is_live_with_any_order_of_failures(
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
            let one_is_live = ["a", "b", "c"].iter().any(|node| view.observed[&name(node)].presence == Presence::Live);
            let serving: Vec<_> = view.state.members.iter().filter(|(_, member)| member.serves()).collect();
            prop_assert_eq!(one_is_live, !serving.is_empty(), "{:?}: {:?}", history, view.state.members);
        }
    }
}
