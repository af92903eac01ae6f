//! Soft triggers, failback, pins and failed duties: moves of the role or a duty although its holder serves.

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    AlarmRule, Assignment, Cause, Command, CommandOutcome, Duty, Failback, LeaseFact, Leasing, Member, MemberKind,
    MemberObservation, Move, MoveObject, PlannerPolicy, Presence, SUPPORTED_LEVELS, State, Status, Timing, Trigger,
    View, plan,
};

use crate::planned::{drain_of, then_drains};

const NOW: Duration = Duration::from_secs(10_000);
const LONG_AGO: Duration = Duration::from_secs(1);
const NIGHT_MS: u64 = 3 * 3_600_000;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn policy() -> PlannerPolicy {
    Timing::lan().into()
}

/// Three nodes in service; `a` has been publisher for long, and holds all duties.
fn at_rest() -> View {
    let lease_ms = policy().lease_timing.lease_ms();
    let leasing = Some(Leasing { profile: policy().lease_timing, lease_ms, bound_ms: lease_ms });
    let epoch = |number| Epoch { generation: 0, number, node: name("a") };
    let mut state = State {
        number: 1 + Duty::ALL.len() as u64,
        publisher: Some(epoch(1)),
        leasing,
        feature_level: SUPPORTED_LEVELS.max,
        ..State::default()
    };
    for (raft_id, text) in [(1, "a"), (2, "b"), (3, "c")] {
        let member = Member {
            raft_id,
            kind: MemberKind::Node,
            address: String::new(),
            activated: true,
            status: Status::InService,
            reason: String::new(),
            incarnation: Some(Incarnation(1)),
            drain_ms: None,
            revision: 1,
        };
        state.members.insert(name(text), member);
    }
    let mut leases = BTreeMap::new();
    for (duty, number) in Duty::ALL.into_iter().zip(2..) {
        let assignment = Assignment { epoch: epoch(number), incarnation: Incarnation(1), draining: false };
        state.duties.insert(duty, assignment);
        leases.insert(duty, LeaseFact { epoch: epoch(number), held: true, frozen: false, acted: NOW });
    }
    let observed = || MemberObservation {
        presence: Presence::Live,
        incarnation: Some(Incarnation(1)),
        failing: Some(Vec::new()),
        health_since: LONG_AGO,
        ..MemberObservation::default()
    };
    View {
        state,
        now: NOW,
        wall_ms: NIGHT_MS,
        observed: ["a", "b", "c"].map(|text| (name(text), observed())).into(),
        leases,
        publisher_since: Some((epoch(1), LONG_AGO)),
        longest_running_ms: lease_ms,
        ..View::default()
    }
}

fn observed<'a>(view: &'a mut View, text: &str) -> &'a mut MemberObservation {
    view.observed.get_mut(&name(text)).expect("seen")
}

fn free(view: &mut View, text: &str, gib: u64) {
    let observed = observed(view, text);
    observed.report.measures.free_bytes = Some(gib << 30);
    if gib == 0 {
        observed.bad.insert(Trigger::Space, LONG_AGO);
    }
}

/// The plan, after which nothing more is planned (rule P5).
fn wants(view: &View) -> Vec<String> {
    let commands = plan(view, &policy());
    let mut after = view.clone();
    for command in &commands {
        assert_eq!(after.state.apply(command.clone()), CommandOutcome::Done);
    }
    assert_eq!(plan(&after, &policy()), []);
    commands.iter().map(ToString::to_string).collect()
}

fn cause(view: &View) -> Option<Cause> {
    plan(view, &policy()).into_iter().find_map(|command| match command {
        Command::SetPublisher { reason, .. } => Some(reason.cause),
        _ => None,
    })
}

fn to_b() -> Vec<String> {
    then_drains(&["publisher is b"])
}

#[test]
fn a_soft_trigger_moves_the_role_only_to_a_node_better_on_the_same_measure() {
    let mut view = at_rest();
    free(&mut view, "a", 0);
    assert_eq!(wants(&view), [""; 0], "nothing is known of the others");
    free(&mut view, "b", 1);
    free(&mut view, "c", 0);
    assert_eq!(wants(&view), [""; 0], "nobody has much more");
    free(&mut view, "b", 3);
    assert_eq!(wants(&view), to_b());
    assert_eq!(cause(&view), Some(Cause::Space));
    observed(&mut view, "b").bad.insert(Trigger::Cpu, LONG_AGO);
    assert_eq!(wants(&view), [""; 0], "it would come back at once for the other measure");
    view.state.settings.triggers.insert(Trigger::Cpu, false);
    assert_eq!(wants(&view), to_b());
    view.state.settings.triggers.insert(Trigger::Space, false);
    assert_eq!(wants(&view), [""; 0], "switched off");

    let mut view = at_rest();
    view.state.settings.alarm_rule = Some(AlarmRule { code: "overload".into(), times: 4, seconds: 60 });
    for (text, alarms) in [("a", 5), ("b", 3), ("c", 2)] {
        observed(&mut view, text).report.measures.alarms = Some(alarms);
    }
    observed(&mut view, "a").bad.insert(Trigger::Alarm, LONG_AGO);
    assert_eq!(wants(&view), then_drains(&["publisher is c"]));
    assert_eq!(cause(&view), Some(Cause::Alarm("overload".into())));
}

#[test]
fn soft_triggers_and_failback_are_damped_and_a_silent_node_is_not() {
    let mut view = at_rest();
    free(&mut view, "a", 0);
    free(&mut view, "b", 9);
    let damping = policy().damping;
    let since = |view: &mut View, ago: Duration| {
        view.publisher_since = view.state.publisher.clone().map(|epoch| (epoch, NOW - ago));
    };
    since(&mut view, damping - Duration::from_millis(1));
    assert_eq!(wants(&view), [""; 0], "it has only just moved");
    since(&mut view, damping);
    assert_eq!(wants(&view), to_b());
    observed(&mut view, "a").bad.insert(Trigger::Space, NOW - damping / 2);
    assert_eq!(wants(&view), [""; 0], "it may pass");
    observed(&mut view, "a").bad.insert(Trigger::Space, LONG_AGO);
    // Each such move within an hour doubles the time; moves for other causes, or of the day before, do not.
    let epoch = view.state.publisher.clone().expect("a publisher");
    let moved = |cause, at_ms| Move {
        object: MoveObject::Publisher,
        from: None,
        to: name("a"),
        epoch: epoch.clone(),
        cause,
        at_ms,
        idle_ms: 0,
    };
    view.state.moves = vec![moved(Cause::Exit, NIGHT_MS), moved(Cause::Space, 0)];
    assert_eq!(wants(&view), to_b());
    view.state.moves = vec![moved(Cause::Space, NIGHT_MS - 60_000), moved(Cause::Failback, NIGHT_MS - 50_000)];
    since(&mut view, damping * 4 - Duration::from_millis(1));
    assert_eq!(wants(&view), [""; 0]);
    since(&mut view, damping * 4);
    assert_eq!(wants(&view), to_b());
    since(&mut view, Duration::ZERO);
    observed(&mut view, "a").presence = Presence::Silent;
    assert_eq!(wants(&view)[..2], ["a is not-functioning", "publisher is b"], "a death waits for nothing");
}

#[test]
fn the_role_returns_within_its_window_to_a_healthy_preferred_node() {
    let mut view = at_rest();
    view.state.settings.preferred = Some(name("b"));
    for (failback, moves) in [
        (Failback::None, false),
        (Failback::Manual, false),
        (Failback::Scheduled { from: 120, to: 240 }, true),
        (Failback::Scheduled { from: 240, to: 300 }, false),
        (Failback::Scheduled { from: 1_320, to: 240 }, true),
    ] {
        view.state.settings.failback = failback;
        assert_eq!(wants(&view), if moves { to_b() } else { Vec::new() }, "{failback:?}");
    }
    assert_eq!(cause(&view), Some(Cause::Failback));
    let unfit: [fn(&mut View); 5] = [
        |view| observed(view, "b").health_since = NOW - policy().damping / 2,
        |view| observed(view, "b").report.measures.behind = Some(5_000),
        |view| observed(view, "b").bad.extend([(Trigger::Cpu, LONG_AGO)]),
        |view| observed(view, "b").presence = Presence::Silent,
        |view| view.publisher_since = None,
    ];
    for (i, make) in unfit.into_iter().enumerate() {
        let mut view = view.clone();
        make(&mut view);
        assert_eq!(cause(&view), None, "{i}");
    }
}

#[test]
fn a_duty_stays_on_the_node_of_its_pin_or_move_while_that_node_serves() {
    for (place, duty) in Duty::ALL.into_iter().enumerate() {
        let (drain, other) = (drain_of(duty), Duty::ALL[(place + 1) % Duty::ALL.len()]);
        let mut view = at_rest();
        view.state.settings.pins.insert(duty, name("c"));
        assert_eq!(wants(&view), [drain], "the other duties stay");
        let free = |view: &mut View| view.leases.get_mut(&duty).expect("a lease").held = false;
        free(&mut view);
        assert_eq!(wants(&view), [format!("{duty} to c")]);
        observed(&mut view, "c").presence = Presence::Silent;
        assert_eq!(wants(&view), ["c is not-functioning"], "with the publisher, then");

        let mut view = at_rest();
        view.state.placed.insert(duty, name("b"));
        free(&mut view);
        assert_eq!(wants(&view), [format!("{duty} to b")]);
        view.state.placed.insert(other, name("c"));
        view.leases.get_mut(&other).expect("a lease").held = false;
        let mut both = [format!("{duty} to b"), format!("{other} to c")];
        both.sort_by_key(|words| Duty::ALL.into_iter().position(|duty| words.starts_with(duty.name())));
        assert_eq!(wants(&view), both, "each to its own node");
    }
}

#[test]
fn a_failing_duty_moves_without_the_role_and_the_other_duties_and_returns_only_after_damping() {
    for duty in Duty::ALL {
        let drain = drain_of(duty);
        let mut view = at_rest();
        let failing = |view: &mut View, text: &str, since: Duration| {
            observed(view, text).duties.insert(duty, (false, since));
        };
        failing(&mut view, "a", NOW - policy().health_grace / 2);
        assert_eq!(wants(&view), [""; 0], "time for a local restart");
        failing(&mut view, "a", LONG_AGO);
        assert_eq!(wants(&view), [drain.as_str()]);
        view.state.settings.triggers.insert(Trigger::Service, false);
        assert_eq!(wants(&view), [""; 0], "the trigger is off");
        view.state.settings.triggers.clear();
        view.leases.get_mut(&duty).expect("a lease").held = false;
        assert_eq!(wants(&view), [format!("{duty} to b")]);
        failing(&mut view, "b", LONG_AGO);
        assert_eq!(wants(&view), [format!("{duty} to c")]);
        failing(&mut view, "c", LONG_AGO);
        assert_eq!(wants(&view), [""; 0], "it fails everywhere: it stays, and people see it");
        // The duty returns to the publisher, but only after its part there has worked for a while.
        let mut view = at_rest();
        view.state.duties.get_mut(&duty).expect("assigned").epoch.node = name("c");
        view.leases.get_mut(&duty).expect("a lease").epoch.node = name("c");
        observed(&mut view, "a").duties.insert(duty, (true, NOW - policy().damping / 2));
        assert_eq!(wants(&view), [""; 0]);
        observed(&mut view, "a").duties.insert(duty, (true, NOW - policy().damping));
        assert_eq!(wants(&view), [drain.replace("@a", "@c")]);
    }
}
