//! Soft triggers, failback, pins and failed duties: moves of the role or a duty although its holder serves.

use std::time::Duration;

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    AlarmRule, Assignment, Cause, Command, Duty, Failback, LeaseFact, Leasing, Member, MemberKind, Move, Outcome,
    Policy, Presence, SPEAKS, Seen, State, Status, Timing, Trigger, View, What, plan,
};

const NOW: Duration = Duration::from_secs(10_000);
const LONG_AGO: Duration = Duration::from_secs(1);
const NIGHT_MS: u64 = 3 * 3_600_000;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn policy() -> Policy {
    Timing::lan().into()
}

/// Three nodes in service; `a` has been publisher and notifier for long.
fn at_rest() -> View {
    let lease_ms = policy().pace.lease_ms();
    let leasing = Some(Leasing { profile: policy().pace, lease_ms, bound_ms: lease_ms });
    let epoch = |number| Epoch { generation: 0, number, node: name("a") };
    let mut state =
        State { number: 2, publisher: Some(epoch(1)), leasing, feature_level: SPEAKS.max, ..State::default() };
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
    let assignment = Assignment { epoch: epoch(2), incarnation: Incarnation(1), draining: false };
    state.duties.insert(Duty::Notifier, assignment);
    let seen = || Seen {
        presence: Presence::Live,
        incarnation: Some(Incarnation(1)),
        failing: Some(Vec::new()),
        health_since: LONG_AGO,
        ..Seen::default()
    };
    let fact = LeaseFact { epoch: epoch(2), held: true, frozen: false, acted: NOW };
    View {
        state,
        now: NOW,
        wall_ms: NIGHT_MS,
        seen: ["a", "b", "c"].map(|text| (name(text), seen())).into(),
        leases: [(Duty::Notifier, fact)].into(),
        publisher_since: Some((epoch(1), LONG_AGO)),
        longest_out_ms: lease_ms,
        ..View::default()
    }
}

fn seen<'a>(view: &'a mut View, text: &str) -> &'a mut Seen {
    view.seen.get_mut(&name(text)).expect("seen")
}

fn free(view: &mut View, text: &str, gib: u64) {
    let seen = seen(view, text);
    seen.report.measures.free_bytes = Some(gib << 30);
    if gib == 0 {
        seen.bad.insert(Trigger::Space, LONG_AGO);
    }
}

/// The plan, after which nothing more is planned (rule P5).
fn wants(view: &View) -> Vec<String> {
    let commands = plan(view, &policy());
    let mut after = view.clone();
    for command in &commands {
        assert_eq!(after.state.apply(command.clone()), Outcome::Done);
    }
    assert_eq!(plan(&after, &policy()), []);
    commands.iter().map(ToString::to_string).collect()
}

fn cause(view: &View) -> Option<Cause> {
    plan(view, &policy()).into_iter().find_map(|command| match command {
        Command::SetPublisher { why, .. } => Some(why.cause),
        _ => None,
    })
}

const TO_B: [&str; 2] = ["publisher is b", "drain notifier of 0.2@a"];

#[test]
fn a_soft_trigger_moves_only_to_a_node_that_is_better_on_that_very_measure() {
    let mut view = at_rest();
    free(&mut view, "a", 0);
    assert_eq!(wants(&view), [""; 0], "nothing is known of the others");
    free(&mut view, "b", 1);
    free(&mut view, "c", 0);
    assert_eq!(wants(&view), [""; 0], "nobody has much more");
    free(&mut view, "b", 3);
    assert_eq!(wants(&view), TO_B);
    assert_eq!(cause(&view), Some(Cause::Space));
    seen(&mut view, "b").bad.insert(Trigger::Cpu, LONG_AGO);
    assert_eq!(wants(&view), [""; 0], "it would come back at once for the other measure");
    view.state.settings.triggers.insert(Trigger::Cpu, false);
    assert_eq!(wants(&view), TO_B);
    view.state.settings.triggers.insert(Trigger::Space, false);
    assert_eq!(wants(&view), [""; 0], "switched off");

    let mut view = at_rest();
    view.state.settings.alarm_rule = Some(AlarmRule { code: "overload".into(), times: 4, seconds: 60 });
    for (text, alarms) in [("a", 5), ("b", 3), ("c", 2)] {
        seen(&mut view, text).report.measures.alarms = Some(alarms);
    }
    seen(&mut view, "a").bad.insert(Trigger::Alarm, LONG_AGO);
    assert_eq!(wants(&view), ["publisher is c", "drain notifier of 0.2@a"]);
    assert_eq!(cause(&view), Some(Cause::Alarm("overload".into())));
}

#[test]
fn soft_triggers_and_failback_are_damped_and_a_death_is_not() {
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
    assert_eq!(wants(&view), TO_B);
    seen(&mut view, "a").bad.insert(Trigger::Space, NOW - damping / 2);
    assert_eq!(wants(&view), [""; 0], "it may pass");
    seen(&mut view, "a").bad.insert(Trigger::Space, LONG_AGO);
    // Each such move within an hour doubles the time; moves for other causes, or of the day before, do not.
    let epoch = view.state.publisher.clone().expect("a publisher");
    let moved = |cause, at_ms| Move {
        what: What::Publisher,
        from: None,
        to: name("a"),
        epoch: epoch.clone(),
        cause,
        at_ms,
        idle_ms: 0,
    };
    view.state.moves = vec![moved(Cause::Exit, NIGHT_MS), moved(Cause::Space, 0)];
    assert_eq!(wants(&view), TO_B);
    view.state.moves = vec![moved(Cause::Space, NIGHT_MS - 60_000), moved(Cause::Failback, NIGHT_MS - 50_000)];
    since(&mut view, damping * 4 - Duration::from_millis(1));
    assert_eq!(wants(&view), [""; 0]);
    since(&mut view, damping * 4);
    assert_eq!(wants(&view), TO_B);
    since(&mut view, Duration::ZERO);
    seen(&mut view, "a").presence = Presence::Silent;
    assert_eq!(wants(&view)[..2], ["a is not-functioning", "publisher is b"], "a death waits for nothing");
}

#[test]
fn the_role_goes_back_within_its_window_to_a_node_that_is_well() {
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
        assert_eq!(wants(&view), if moves { &TO_B[..] } else { &[] }, "{failback:?}");
    }
    assert_eq!(cause(&view), Some(Cause::Failback));
    let unfit: [fn(&mut View); 5] = [
        |view| seen(view, "b").health_since = NOW - policy().damping / 2,
        |view| seen(view, "b").report.measures.behind = Some(5_000),
        |view| seen(view, "b").bad.extend([(Trigger::Cpu, LONG_AGO)]),
        |view| seen(view, "b").presence = Presence::Silent,
        |view| view.publisher_since = None,
    ];
    for (i, make) in unfit.into_iter().enumerate() {
        let mut view = view.clone();
        make(&mut view);
        assert_eq!(cause(&view), None, "{i}");
    }
}

#[test]
fn a_duty_stays_where_it_is_pinned_or_was_moved_as_long_as_that_serves() {
    let mut view = at_rest();
    view.state.settings.pins.insert(Duty::Notifier, name("c"));
    assert_eq!(wants(&view), ["drain notifier of 0.2@a"]);
    let free_of = |view: &mut View| view.leases.get_mut(&Duty::Notifier).expect("a lease").held = false;
    free_of(&mut view);
    assert_eq!(wants(&view), ["notifier to c"]);
    seen(&mut view, "c").presence = Presence::Silent;
    assert_eq!(wants(&view), ["c is not-functioning"], "with the publisher, then");

    let mut view = at_rest();
    view.state.placed.insert(Duty::Notifier, name("b"));
    free_of(&mut view);
    assert_eq!(wants(&view), ["notifier to b"]);
}

#[test]
fn a_duty_that_fails_moves_alone_and_does_not_swing_back() {
    let mut view = at_rest();
    let failing = |view: &mut View, text: &str, since: Duration| {
        seen(view, text).duties.insert(Duty::Notifier, (false, since));
    };
    failing(&mut view, "a", NOW - policy().health_grace / 2);
    assert_eq!(wants(&view), [""; 0], "time for a local restart");
    failing(&mut view, "a", LONG_AGO);
    assert_eq!(wants(&view), ["drain notifier of 0.2@a"]);
    view.leases.get_mut(&Duty::Notifier).expect("a lease").held = false;
    assert_eq!(wants(&view), ["notifier to b"]);
    failing(&mut view, "b", LONG_AGO);
    assert_eq!(wants(&view), ["notifier to c"]);
    failing(&mut view, "c", LONG_AGO);
    assert_eq!(wants(&view), [""; 0], "it fails everywhere: it stays, and people see it");
    // The duty returns to the publisher, but only after its part there has worked for a while.
    let mut view = at_rest();
    view.state.duties.get_mut(&Duty::Notifier).expect("assigned").epoch.node = name("c");
    view.leases.get_mut(&Duty::Notifier).expect("a lease").epoch.node = name("c");
    seen(&mut view, "a").duties.insert(Duty::Notifier, (true, NOW - policy().damping / 2));
    assert_eq!(wants(&view), [""; 0]);
    seen(&mut view, "a").duties.insert(Duty::Notifier, (true, NOW - policy().damping));
    assert_eq!(wants(&view), ["drain notifier of 0.2@c"]);
}
