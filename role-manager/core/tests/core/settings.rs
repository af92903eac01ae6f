//! Settings: input of people, invalid values, and the resulting lease lengths.

use twinbox_ids::NodeName;
use twinbox_roles_core::{
    Command, CommandOutcome, Failback, Leasing, MemberKind, Order, OrderId, PlannerPolicy, Refusal, RoleSettings,
    Setting, SettingError, State, Timing, Trigger, View, plan,
};

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn parsed(name: &str, value: &str) -> Setting {
    Setting::parse(name, value).unwrap_or_else(|e| panic!("{e}"))
}

/// Two nodes and a witness, with their timing agreed.
fn cluster() -> State {
    let mut state = State::default();
    for (raft_id, text) in [(1, "a"), (2, "b"), (3, "w")] {
        let kind = if text == "w" { MemberKind::Witness } else { MemberKind::Node };
        state.apply(Command::Admit { name: name(text), kind, address: format!("{text}:1"), raft_id });
    }
    settle(&mut state, 0);
    state
}

/// Applies the planned changes of the lease length.
fn settle(state: &mut State, longest_running_ms: u64) -> Vec<(u64, u64)> {
    let mut observed = Vec::new();
    loop {
        let view = View { state: state.clone(), longest_running_ms, ..View::default() };
        let commands = plan(&view, &PlannerPolicy::from(Timing::lan()));
        let Some(retime) = commands.into_iter().find(|command| matches!(command, Command::Retime { .. })) else {
            return observed;
        };
        assert_eq!(state.apply(retime), CommandOutcome::Done);
        observed.push(lengths(state));
    }
}

fn lengths(state: &State) -> (u64, u64) {
    let Leasing { lease_ms, bound_ms, .. } = state.leasing.expect("agreed");
    (lease_ms, bound_ms)
}

fn set(state: &mut State, settings: &[(&str, &str)]) -> CommandOutcome {
    let changes = settings.iter().map(|(name, value)| parsed(name, value)).collect();
    let id = OrderId(state.orders.len() as u128 + 1);
    state.apply(Command::Operate { id, order: Order::Set(changes) })
}

#[test]
fn a_shown_setting_can_be_parsed_again() {
    let mut state = cluster();
    let all = [
        ("mode", "active-passive"),
        ("preferred", "a"),
        ("failback", "scheduled 22:30-04:00"),
        ("force-failover-on-call", "on"),
        ("on-quorum-loss", "assume"),
        ("arbiter", "gateway.example:443"),
        ("alarm-rule", "replication-lag 3 60"),
        ("keep-alive", "250"),
        ("missed", "3"),
        ("trigger.cpu", "off"),
    ];
    assert_eq!(set(&mut state, &all), CommandOutcome::Done);
    let shown: Vec<_> = state.settings.list().iter().map(|s| (s.name(), s.value())).collect();
    for (name, value) in all {
        assert!(shown.contains(&(name.to_owned(), value.to_owned())), "{name}: {shown:?}");
    }
    assert_eq!(shown.len(), Setting::names().len());
    // Each of them, parsed again, changes nothing.
    let again: Vec<_> = shown.iter().map(|(name, value)| parsed(name, value)).collect();
    let order = Order::Set(again);
    assert_eq!(state.apply(Command::Operate { id: OrderId(99), order }), CommandOutcome::Unchanged);
    assert!(!state.settings.is_on(Trigger::Cpu) && state.settings.is_on(Trigger::Exit));
    // All of them can be reset.
    for name in ["arbiter", "alarm-rule", "failback", "preferred"] {
        assert_eq!(set(&mut state, &[(name, "none")]), CommandOutcome::Done, "{name}");
    }
    for name in ["keep-alive", "missed"] {
        assert_eq!(set(&mut state, &[(name, "default")]), CommandOutcome::Done, "{name}");
    }
}

#[test]
fn an_invalid_setting_is_refused_with_the_permitted_values() {
    for (name, value) in [
        ("mode", "active"),
        ("failback", "scheduled 25:00-04:00"),
        ("failback", "scheduled 02:60-04:00"),
        ("failback", "scheduled 02:00-02:00"),
        ("failback", "scheduled 02:00"),
        ("failback", "sometimes"),
        ("preferred", "no name"),
        ("force-failover-on-call", "yes"),
        ("on-quorum-loss", "guess"),
        ("arbiter", "gateway"),
        ("arbiter", "gateway:0"),
        ("alarm-rule", "overload"),
        ("alarm-rule", "overload 0 60"),
        ("alarm-rule", "overload 3 60 9"),
        ("keep-alive", "49"),
        ("keep-alive", "5ms"),
        ("keep-alive", "5001"),
        ("keep-alive", "-1"),
        ("missed", "1"),
        ("missed", "21"),
        ("trigger.exit", "maybe"),
    ] {
        let error = Setting::parse(name, value).expect_err(&format!("{name} = {value}"));
        let words = error.to_string();
        let named = words.contains(&format!("'{value}'")) && words.contains(&format!("'{name}'"));
        assert!(named && words.contains("write "), "{words}");
    }
    let unknown = Setting::parse("colour", "red").expect_err("unknown");
    assert!(matches!(&unknown, SettingError::Unknown { .. }) && unknown.to_string().contains("on-quorum-loss"));

    let mut state = cluster();
    let before = state.settings.clone();
    let refused = |outcome: CommandOutcome| match outcome {
        CommandOutcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(set(&mut state, &[("failback", "scheduled 02:00-04:00")])),
        Refusal::ScheduleWithoutPreferred
    );
    assert!(matches!(
        refused(set(&mut state, &[("mode", "active-passive"), ("preferred", "z")])),
        Refusal::Unknown { .. }
    ));
    assert_eq!(refused(set(&mut state, &[("preferred", "w")])), Refusal::Witness { name: name("w") });
    let long = refused(set(&mut state, &[("keep-alive", "5000"), ("missed", "20")]));
    assert!(long.to_string().contains("100100 ms"), "{long}");
    assert_eq!(state.settings, before, "all or none");
    // Input from another member is checked, too.
    let forged = Order::Set(vec![Setting::KeepAlive(Some(1))]);
    let outcome = state.apply(Command::Operate { id: OrderId(77), order: forged });
    assert!(matches!(refused(outcome), Refusal::Setting(SettingError::Value { .. })));
    let mut new = State::default();
    assert_eq!(refused(set(&mut new, &[("missed", "3")])), Refusal::NoTimingYet);
}

#[test]
fn windows_span_midnight() {
    let open = |from, to| Failback::Scheduled { from, to };
    assert!(open(120, 240).is_open(120) && !open(120, 240).is_open(240) && !open(120, 240).is_open(0));
    assert!(open(1_320, 240).is_open(1_439) && open(1_320, 240).is_open(0) && !open(1_320, 240).is_open(240));
    assert!(!Failback::None.is_open(0) && !Failback::Manual.is_open(0));
}

#[test]
fn a_shorter_lease_is_in_force_immediately_and_its_bound_falls_when_longer_ones_expired() {
    let mut state = cluster();
    assert_eq!(lengths(&state), (700, 700));
    assert_eq!(set(&mut state, &[("missed", "2")]), CommandOutcome::Done);
    assert_eq!(lengths(&state), (400, 700));
    assert_eq!(settle(&mut state, 700), [], "leases of 700 ms may be out");
    let timing = Timing::lan();
    assert_eq!(timing.agreed(&state).lease.as_millis(), 400);
    assert_eq!(timing.longest_lease(&state).as_millis(), 700);
    assert_eq!(settle(&mut state, 400), [(400, 400)]);
}

#[test]
fn a_longer_lease_raises_the_bound_before_it_is_in_force() {
    let mut state = cluster();
    assert_eq!(set(&mut state, &[("keep-alive", "250")]), CommandOutcome::Done);
    assert_eq!(lengths(&state), (700, 1_100));
    assert_eq!(Timing::lan().agreed(&state).keep_alive.as_millis(), 250);
    assert_eq!(settle(&mut state, 700), [(1_100, 1_100)]);
    // Changed back and forth before the length is settled: the longest bound stays.
    assert_eq!(set(&mut state, &[("keep-alive", "500")]), CommandOutcome::Done);
    assert_eq!(set(&mut state, &[("keep-alive", "100")]), CommandOutcome::Done);
    assert_eq!(lengths(&state), (500, 2_100));
    assert_eq!(settle(&mut state, 1_100), []);
    assert_eq!(settle(&mut state, 500), [(500, 500)]);
    // Other settings do not change the lease length.
    let leasing = state.leasing;
    assert_eq!(set(&mut state, &[("mode", "active-passive")]), CommandOutcome::Done);
    assert_eq!((state.leasing, RoleSettings::default().missed), (leasing, None));
}
