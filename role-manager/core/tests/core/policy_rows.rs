//! Each cell of the policy drives the planner. The rows stand here again, with the sign made in a cluster that runs, and
//! with the changes that must follow and their times: a cell that is changed in the table alone fails here.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    AlarmRule, Assignment, Command, CommandOutcome, Duty, Exits, Failback, KeepAlive, Ledger, Measures,
    MemberObservation, MoveCondition, Order, OrderId, PlannerPolicy, RULES, Report, RoleAction, Rule,
    ServiceHealth, Sign, SoloReport, State, Status, Timing, Trigger, View, plan, rule_for,
};

use crate::{
    common::{START, cluster, name},
    views::{at_rest, live, policy, see},
};

const NODES: [&str; 3] = ["a", "b", "c"];
/// The wall clock: three hours after midnight.
const NIGHT_MS: u64 = 3 * 3_600_000;
const STEP_MS: u64 = 100;
/// Longer than damping.
const LONG_MS: u64 = 33_000;
const GIB: u64 = 1 << 30;

/// The publisher, and the holder of each duty.
type Places = (NodeName, [NodeName; Duty::ALL.len()]);

fn all_at(text: &str) -> Places {
    (name(text), Duty::ALL.map(|_| name(text)))
}

/// One node, as its keep-alives report it.
#[derive(Debug, Clone)]
struct NodeFacts {
    is_up: bool,
    incarnation: u64,
    failing: Option<Vec<ServiceHealth>>,
    measures: Measures,
    /// Whether it releases what it must release.
    releases: bool,
}

/// Three nodes in service and their leader. `a` is publisher and holds all duties.
struct Cluster {
    state: State,
    ledger: Ledger,
    now: Duration,
    nodes: BTreeMap<&'static str, NodeFacts>,
}

impl Cluster {
    /// After two seconds, with these triggers on.
    fn with(triggers: impl Fn(Trigger) -> bool) -> Self {
        let mut state = cluster(&NODES);
        state.settings.triggers = Trigger::ALL.map(|trigger| (trigger, triggers(trigger))).into();
        let facts = NodeFacts {
            is_up: true,
            incarnation: 1,
            failing: Some(Vec::new()),
            measures: Measures::default(),
            releases: true,
        };
        let ledger = Ledger::new(1, START, &state, Timing::lan(), &Exits::default());
        let nodes = NODES.map(|text| (text, facts.clone())).into();
        let mut cluster = Self { state, ledger, now: START, nodes };
        cluster.run(2_000);
        assert_eq!(cluster.places(), all_at("a"));
        cluster
    }

    fn node(&mut self, text: &str) -> &mut NodeFacts {
        self.nodes.get_mut(text).expect("a node")
    }

    fn request(&self, text: &str, leaving: bool) -> KeepAlive {
        let facts = &self.nodes[text];
        let incarnation = Incarnation(facts.incarnation.into());
        let is_due = |a: &Assignment| {
            a.epoch.node == name(text) && a.incarnation == incarnation && (a.draining || leaving) && facts.releases
        };
        let released = self.state.duties.iter().filter(|(_, a)| is_due(a));
        KeepAlive {
            node: name(text),
            raft_id: self.state.members[&name(text)].raft_id,
            run: facts.incarnation,
            incarnation,
            failing: facts.failing.clone(),
            released: released.map(|(duty, a)| (*duty, a.epoch.clone())).collect(),
            leaving,
            echo: None,
            report: Report { measures: facts.measures, ..Report::default() },
        }
    }

    fn keep_alive(&mut self, text: &str, leaving: bool) {
        let request = self.request(text, leaving);
        self.ledger.keep_alive(self.now, self.now, &self.state, &request).expect("granted");
    }

    /// Each node that is up sends a keep-alive, and the leader carries its plan out.
    fn step(&mut self) {
        self.now += Duration::from_millis(STEP_MS);
        for text in NODES {
            if self.nodes[text].is_up {
                self.keep_alive(text, false);
            }
        }
        let view = self.ledger.view(self.now, NIGHT_MS, &self.state);
        for command in plan(&view, &PlannerPolicy::from(Timing::lan())) {
            self.ledger.proposing(&command);
            assert_eq!(self.state.apply(command.clone()), CommandOutcome::Done, "{command}");
            self.ledger.applied(&command);
        }
    }

    fn run(&mut self, ms: u64) {
        (0..ms / STEP_MS).for_each(|_| self.step());
    }

    fn order(&mut self, order: Order) -> CommandOutcome {
        self.state.apply(Command::Operate { id: OrderId(self.state.orders.len() as u128), order })
    }

    fn exit(&mut self, incarnation: u128) {
        self.ledger.exited(self.now, &name("a"), Incarnation(incarnation));
    }

    fn places(&self) -> Places {
        places(&self.state)
    }

    /// Milliseconds until all is in its place.
    fn time_until(&mut self, places: &Places) -> u64 {
        let passed = (0..=LONG_MS).step_by(STEP_MS as usize).find(|passed| {
            if *passed > 0 {
                self.step();
            }
            self.places() == *places
        });
        passed.unwrap_or_else(|| panic!("{:?} are not {places:?}", self.places()))
    }
}

fn places(state: &State) -> Places {
    let holder = |duty| state.holder(duty).expect("assigned").epoch.node.clone();
    (state.publisher().expect("a publisher").clone(), Duty::ALL.map(holder))
}

fn failed(text: &str) -> Option<Vec<ServiceHealth>> {
    Some(vec![ServiceHealth { name: text.to_owned(), ok: false, detail: "stuck".to_owned() }])
}

/// A row with its cells, the sign, and the changes that follow.
struct Row {
    sign: Sign,
    trigger: Option<Trigger>,
    status: Option<Status>,
    publisher: RoleAction,
    duties: RoleAction,
    waits: MoveCondition,
    /// `a` shows the sign.
    show: fn(&mut Cluster),
    /// Node to which that moves what it moves.
    to: &'static str,
    /// Milliseconds until the last duty has moved off a holder that releases it.
    moves_in: RangeInclusive<u64>,
    /// The same for a holder that does not release it.
    unreleased_in: RangeInclusive<u64>,
}

impl Row {
    /// The places of publisher and duties that follow.
    fn places(&self) -> Places {
        let publisher = name(if self.publisher == RoleAction::Stay { "a" } else { self.to });
        let moves = |duty: Duty| match self.duties {
            RoleAction::Stay => false,
            RoleAction::Follow => publisher != name("a"),
            RoleAction::Move | RoleAction::MoveToBetter => self.sign != Sign::DutyFailed || duty == Duty::Notifier,
        };
        let holders = Duty::ALL.map(|duty| name(if moves(duty) { self.to } else { "a" }));
        (publisher, holders)
    }
}

/// All rows but that of a pair.
#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use MoveCondition::{
        DampingAndRelease, ExitProof, FewerAlarms, GraceAndAnother, GraceAndWorkingPlace, LeaseEnd, LessLoad, MoreSpace,
        Nothing, Release,
    };
    use RoleAction::{Follow, Move, MoveToBetter, Stay};
    use Status::{Deactivated, Leaving, NotFunctioning, Starting};
    let row = |sign, trigger, status, publisher, duties, waits, show: fn(&mut Cluster), to, moves_in, unreleased_in| Row {
        sign, trigger, status, publisher, duties, waits, show, to, moves_in, unreleased_in,
    };
    let (immediately, soon, lease) = (100..=100, 100..=400, 700..=1_000);
    let (grace, grace_and_lease) = (1_000..=1_400, 1_700..=2_200);
    let (damping, damping_and_lease) = (30_000..=30_500, 30_700..=31_200);
    vec![
        row(Sign::Ordered, Some(Trigger::Operator), None, Move, Follow, Release,
            |c| drop(c.order(Order::make_publisher(name("b")))), "b", soon.clone(), lease.clone()),
        row(Sign::Deactivated, None, Some(Deactivated), Move, Move, Release,
            |c| drop(c.order(Order::deactivate(name("a")))), "b", soon.clone(), lease.clone()),
        row(Sign::Removed, None, Some(Leaving), Move, Move, Release,
            |c| drop(c.order(Order::Remove { name: name("a"), lost: false, within_ms: None, facts: Default::default() })),
            "b", soon, lease.clone()),
        row(Sign::Left, None, Some(NotFunctioning), Move, Move, Nothing,
            |c| { c.keep_alive("a", true); c.node("a").is_up = false; }, "b", immediately.clone(), lease.clone()),
        row(Sign::Silent, Some(Trigger::MissedKeepAlives), Some(NotFunctioning), Move, Move, LeaseEnd,
            |c| c.node("a").is_up = false, "b", lease.clone(), lease.clone()),
        row(Sign::Exited, Some(Trigger::Exit), Some(NotFunctioning), Move, Move, Nothing,
            |c| { c.exit(1); c.node("a").is_up = false; }, "b", immediately.clone(), immediately),
        row(Sign::Restarted, Some(Trigger::Exit), Some(Starting), Move, Move, ExitProof,
            |c| { c.node("a").incarnation = 2; c.node("a").failing = None; }, "b", lease.clone(), lease),
        row(Sign::ServiceFailed, Some(Trigger::Service), Some(NotFunctioning), Move, Move, GraceAndAnother,
            |c| c.node("a").failing = failed("store"), "b", grace.clone(), grace_and_lease.clone()),
        row(Sign::DutyFailed, Some(Trigger::Service), None, Stay, Move, GraceAndWorkingPlace,
            |c| c.node("a").failing = failed("notifier"), "b", grace, grace_and_lease),
        row(Sign::SpaceLow, Some(Trigger::Space), None, MoveToBetter, Follow, MoreSpace,
            |c| measure(c, |m, number| m.free_bytes = Some(number), GIB - 1, 2 * GIB), "b",
            damping.clone(), damping_and_lease.clone()),
        row(Sign::CpuHigh, Some(Trigger::Cpu), None, MoveToBetter, Follow, LessLoad,
            |c| measure(c, |m, number| m.cpu_permille = Some(number as u16), 900, 700), "b",
            damping.clone(), damping_and_lease.clone()),
        row(Sign::AlarmOften, Some(Trigger::Alarm), None, MoveToBetter, Follow, FewerAlarms,
            |c| measure(c, |m, number| m.alarms = Some(number as u32), 4, 2), "b", damping, damping_and_lease),
        // The preferred node has been well, and the publisher has been publisher, for two seconds already.
        row(Sign::WindowOpen, None, None, Move, Follow, DampingAndRelease,
            open_window, "c", 28_000..=28_500, 28_700..=29_200),
    ]
}

/// `a` and `b` measure these; the alarm rule asks for four alarms.
fn measure(cluster: &mut Cluster, set: fn(&mut Measures, u64), of_a: u64, of_b: u64) {
    cluster.state.settings.alarm_rule = Some(AlarmRule { code: "overload".to_owned(), times: 4, seconds: 60 });
    set(&mut cluster.node("a").measures, of_a);
    set(&mut cluster.node("b").measures, of_b);
}

fn open_window(cluster: &mut Cluster) {
    cluster.state.settings.preferred = Some(name("c"));
    cluster.state.settings.failback = Failback::Scheduled { from: 120, to: 240 };
}

#[test]
fn each_row_has_the_cells_that_these_tests_prove() {
    let rows = rows();
    assert_eq!(rows.len() + 1, RULES.len(), "a row without a test");
    for Row { sign, trigger, status, publisher, duties, waits, .. } in rows {
        let when = rule_for(sign).when;
        assert_eq!(*rule_for(sign), Rule { sign, when, trigger, status, publisher, duties, waits });
    }
}

/// Columns `status`, `publisher` and `duties`: with only its own trigger on, each row does all that it says, and no more.
#[test]
fn each_row_changes_status_publisher_and_duties_as_it_says() {
    for row in rows() {
        let mut cluster = Cluster::with(|trigger| Some(trigger) == row.trigger);
        (row.show)(&mut cluster);
        cluster.run(LONG_MS);
        assert_eq!(cluster.places(), row.places(), "{:?}", row.sign);
        let status = cluster.state.members[&name("a")].status;
        assert_eq!(status, row.status.unwrap_or(Status::InService), "{:?}", row.sign);
    }
}

/// Column `trigger`: with all others on, nothing moves.
#[test]
fn no_row_moves_anything_while_its_trigger_is_off() {
    for row in rows().into_iter().filter(|row| row.trigger.is_some()) {
        let mut cluster = Cluster::with(|trigger| Some(trigger) != row.trigger);
        (row.show)(&mut cluster);
        match row.sign {
            // Its lease has expired by then, so that it is silent, too: that row waits for the end of the lease.
            Sign::Exited => {
                let time = cluster.time_until(&row.places());
                assert!((700..=1_000).contains(&time), "{time} ms");
                let mut cluster = Cluster::with(|on| Some(on) != row.trigger && on != Trigger::MissedKeepAlives);
                (row.show)(&mut cluster);
                cluster.run(LONG_MS);
                assert_eq!(cluster.places(), all_at("a"));
            }
            sign => {
                cluster.run(LONG_MS);
                assert_eq!(cluster.places(), all_at("a"), "{sign:?}");
            }
        }
    }
}

/// Column `waits`: the time until the last duty has moved, with and without a release by its holder.
#[test]
fn each_move_waits_for_the_condition_of_its_row() {
    for row in rows() {
        for (releases, expected) in [(true, &row.moves_in), (false, &row.unreleased_in)] {
            let mut cluster = Cluster::with(|_| true);
            cluster.node("a").releases = releases;
            (row.show)(&mut cluster);
            let time = cluster.time_until(&row.places());
            assert!(expected.contains(&time), "{:?}, releases {releases}: {time} ms, not {expected:?}", row.sign);
        }
    }
}

#[test]
fn exit_proof_ends_the_wait_for_leases_of_a_node_that_has_restarted_or_left() {
    for row in rows().into_iter().filter(|row| matches!(row.sign, Sign::Restarted | Sign::Left)) {
        let mut cluster = Cluster::with(|_| true);
        cluster.node("a").releases = false;
        (row.show)(&mut cluster);
        cluster.step();
        assert_ne!(cluster.places(), row.places(), "{:?}: its leases run", row.sign);
        cluster.exit(1);
        assert_eq!(cluster.time_until(&row.places()), STEP_MS, "{:?}", row.sign);
    }
}

#[test]
fn last_node_that_serves_stays_when_its_service_fails_and_a_duty_that_works_nowhere_stays() {
    let mut cluster = Cluster::with(|_| true);
    for text in ["b", "c", "a"] {
        cluster.node(text).failing = failed("store");
        cluster.run(3_000);
    }
    let statuses = NODES.map(|text| cluster.state.members[&name(text)].status);
    assert_eq!(statuses, [Status::InService, Status::NotFunctioning, Status::NotFunctioning]);
    assert_eq!(cluster.places(), all_at("a"));

    let mut cluster = Cluster::with(|_| true);
    NODES.into_iter().for_each(|text| cluster.node(text).failing = failed("notifier"));
    cluster.run(3_000);
    assert_eq!(cluster.places(), all_at("a"));
}

#[test]
fn failing_space_takes_a_node_out_by_the_trigger_of_the_row_of_low_space() {
    for (only, moves) in [(Trigger::Space, true), (Trigger::Service, false)] {
        let mut cluster = Cluster::with(|trigger| trigger == only);
        cluster.node("a").failing = failed("space");
        cluster.run(3_000);
        assert_eq!(cluster.state.publisher(), Some(&name(if moves { "b" } else { "a" })), "only {only}");
    }
}

/// The thresholds as the texts of the table name them: `a` is not quite bad, or `b` not quite better.
#[test]
fn soft_rows_move_only_a_publisher_that_is_bad_and_only_to_a_node_that_is_better() {
    let space: fn(&mut Measures, u64) = |m, number| m.free_bytes = Some(number);
    let cpu: fn(&mut Measures, u64) = |m, number| m.cpu_permille = Some(number as u16);
    let alarms: fn(&mut Measures, u64) = |m, number| m.alarms = Some(number as u32);
    for (set, of_a, of_b) in [
        (space, GIB, 9 * GIB),
        (space, GIB - 1, 2 * GIB - 1),
        (cpu, 899, 0),
        (cpu, 900, 701),
        (alarms, 3, 0),
        (alarms, 4, 3),
    ] {
        let mut cluster = Cluster::with(|_| true);
        measure(&mut cluster, set, of_a, of_b);
        cluster.run(LONG_MS);
        assert_eq!(cluster.places(), all_at("a"), "{of_a} and {of_b}");
    }
}

/// Two nodes that ran solo and are connected again; `a` was publisher, `b` is preferred. `acting` goes on.
fn met(acting: Option<&str>) -> View {
    let mut view = at_rest();
    view.state.members.remove(&name("w"));
    view.observed.remove(&name("w"));
    view.state.settings.preferred = Some(name("b"));
    view.state.settings.triggers = Trigger::ALL.map(|trigger| (trigger, false)).into();
    view.leases.values_mut().for_each(|fact| fact.held = false);
    for (number, text) in [(8, "a"), (9, "b")] {
        let epoch = Epoch { generation: 1, number, node: name(text) };
        let to_ms = (acting != Some(text)).then_some(2);
        let solo = Some(SoloReport { epoch, duties: Duty::ALL.into(), from_ms: 1, to_ms });
        see(text, MemberObservation { report: Report { solo, ..Report::default() }, ..live() })(&mut view);
    }
    view
}

#[test]
fn nodes_that_ran_solo_heal_as_their_row_says_once_both_have_stopped() {
    let sign = Sign::RanSolo;
    let (when, moves) = (rule_for(sign).when, RoleAction::Move);
    let (status, waits) = (Some(Status::Recovering), MoveCondition::BothStopped);
    let row = Rule { sign, when, trigger: None, status, publisher: moves, duties: moves, waits };
    assert_eq!(*rule_for(sign), row);

    let mut view = met(None);
    for command in plan(&view, &policy()) {
        assert_eq!(view.state.apply(command.clone()), CommandOutcome::Done, "{command}");
    }
    assert_eq!(view.state.members[&name("a")].status, Status::Recovering);
    assert_eq!(places(&view.state), all_at("b"));
    for acting in ["a", "b"] {
        let commands = plan(&met(Some(acting)), &policy());
        assert!(!commands.iter().any(|command| matches!(command, Command::Heal { .. })), "{acting}: {commands:?}");
    }
}
