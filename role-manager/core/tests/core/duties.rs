//! The duties of one cluster: each has a lease, an epoch and moves of its own, and moves for one reason are one entry.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation};
use twinbox_roles_core::{
    Assignment, Command, CommandOutcome, Duty, DutyState, Exits, Grant, HealthReport, Holder, KeepAlive, Ledger,
    LocalFacts, MoveObject, Order, OrderId, PersistedBounds, PlannerPolicy, Report, RolesView, ServiceHealth,
    State, Status, Timing, plan, proposal,
};

use crate::common::{START, cluster, name};

fn at(ms: u64) -> Duration {
    START + Duration::from_millis(ms)
}

fn service(name: &str, ok: bool) -> ServiceHealth {
    ServiceHealth { name: name.to_owned(), ok, detail: "stuck".to_owned() }
}

/// A leader, its agreed state, and the two sides of the leases of `a`.
struct Leading {
    state: State,
    ledger: Ledger,
    holders: BTreeMap<Duty, Holder>,
}

/// The entry that moves everything from `a` to `b`.
const ALL_MOVED: &str = "a is not-functioning; publisher is b; notifier to b; mta to b; directory-sync to b; timetable to b; mailbox-sync to b";

impl Leading {
    /// `a` is publisher and has been assigned all duties.
    fn new() -> Self {
        let mut state = cluster(&["a", "b", "w"]);
        let lease_timing = PlannerPolicy::from(Timing::lan()).lease_timing;
        let lease_ms = lease_timing.lease_ms();
        let to = twinbox_roles_core::Leasing { profile: lease_timing, lease_ms, bound_ms: lease_ms };
        assert_eq!(state.apply(Command::Retime { from: None, to }), CommandOutcome::Done);
        for duty in Duty::ALL {
            let (to, incarnation) = (name("a"), Incarnation(1));
            let assign = Command::Assign { duty, from: None, to, incarnation, reason: Default::default() };
            assert_eq!(state.apply(assign), CommandOutcome::Done);
        }
        let ledger = Ledger::new(1, START, &state, Timing::lan(), &Exits::default());
        let holder = |duty| (duty, Holder::new(duty, name("a"), Incarnation(1), Timing::lan()));
        let mut leading = Self { state, ledger, holders: Duty::ALL.into_iter().map(holder).collect() };
        leading.holders_apply();
        leading
    }

    fn holders_apply(&mut self) {
        self.holders.values_mut().for_each(|holder| holder.applied(&self.state));
    }

    fn epoch(&self, duty: Duty) -> Epoch {
        self.state.holder(duty).expect("assigned").epoch.clone()
    }

    /// A keep-alive of a member, with these failing services.
    fn hear(&mut self, ms: u64, text: &str, failing: &[ServiceHealth]) -> Grant {
        let own = text == "a";
        let released = |(duty, holder): (&Duty, &Holder)| Some((*duty, holder.released().filter(|_| own)?.clone()));
        let request = KeepAlive {
            node: name(text),
            raft_id: self.state.members[&name(text)].raft_id,
            run: 1,
            incarnation: Incarnation(1),
            failing: Some(failing.to_vec()),
            released: self.holders.iter().filter_map(released).collect(),
            leaving: false,
            echo: None,
            report: Report {
                persisted: PersistedBounds { generation: 0, longest_lease_ms: 700 },
                ..Report::default()
            },
        };
        let grant = self.ledger.keep_alive(at(ms), at(ms), &self.state, &request).expect("granted");
        if own {
            self.holders.values_mut().for_each(|holder| holder.granted(at(ms), &grant));
        }
        grant
    }

    fn hear_all(&mut self, ms: u64) {
        ["a", "b", "w"].iter().for_each(|text| drop(self.hear(ms, text, &[])));
    }

    /// The next entry of the log, which is applied.
    fn next_entry(&mut self, ms: u64) -> Option<Command> {
        let planned = plan(&self.ledger.view(at(ms), 7, &self.state), &PlannerPolicy::from(Timing::lan()));
        let entry = proposal(planned, &self.state, false, |_| false)?;
        self.ledger.proposing(&entry);
        assert_eq!(self.state.apply(entry.clone()), CommandOutcome::Done, "{entry}");
        self.ledger.applied(&entry);
        self.holders_apply();
        Some(entry)
    }

    fn acts(&self, ms: u64) -> Vec<Duty> {
        Duty::ALL.into_iter().filter(|duty| self.holders[duty].may_act(at(ms)).is_some()).collect()
    }
}

#[test]
fn every_duty_is_found_by_its_name_alone() {
    assert_eq!(Duty::ALL.map(Duty::name), ["notifier", "mta", "directory-sync", "timetable", "mailbox-sync"]);
    for duty in Duty::ALL {
        assert_eq!(Duty::from_name(duty.name()), Some(duty));
        assert_eq!(
            serde_json::to_value(duty).expect("JSON"),
            duty.name(),
            "one name in logs, on disks and for people"
        );
    }
    for other in ["", "Mta", "mtaa", "notifer", "publisher"] {
        assert_eq!(Duty::from_name(other), None, "{other}");
    }
}

#[test]
fn all_duties_of_a_dead_node_move_in_one_entry() {
    let mut leading = Leading::new();
    leading.hear_all(0);
    assert_eq!(leading.next_entry(1), None);
    leading.ledger.exited(at(10), &name("a"), Incarnation(1));
    let old = Duty::ALL.map(|duty| leading.epoch(duty));
    let entry = leading.next_entry(10).expect("one");
    assert_eq!((entry.parts().len(), entry.to_string().as_str()), (2 + Duty::ALL.len(), ALL_MOVED));
    assert_eq!(leading.next_entry(11), None, "nothing is left to do");
    // An epoch for each, above that of its duty, and one record of each move.
    let new = Duty::ALL.map(|duty| leading.epoch(duty));
    assert!(new.iter().zip(&old).all(|(new, old)| new > old && new.node == name("b")), "{new:?} after {old:?}");
    assert_eq!(new.iter().collect::<BTreeSet<_>>().len(), Duty::ALL.len(), "{new:?}");
    for (duty, epoch) in Duty::ALL.into_iter().zip(&new) {
        let last = leading.state.moves.iter().rfind(|m| m.object == MoveObject::Duty(duty)).expect("a move");
        assert_eq!((&last.epoch, &last.from, last.idle_ms), (epoch, &Some(name("a")), 10));
    }
    let grant = leading.hear(20, "b", &[]);
    assert_eq!(grant.duties.values().collect::<Vec<_>>(), new.iter().collect::<Vec<_>>());
}

/// Without a proof the leases of all expire at the same time, so that one entry is enough here, too.
#[test]
fn all_duties_of_a_silent_node_move_in_one_entry() {
    let mut leading = Leading::new();
    leading.hear_all(0);
    let expired = Timing::lan().lease_at_leader().as_millis() as u64 + 1;
    for ms in (100..expired).step_by(100) {
        ["b", "w"].iter().for_each(|text| drop(leading.hear(ms, text, &[])));
        assert_eq!(leading.next_entry(ms), None, "its leases run, {ms} ms");
    }
    // By then the leader has waited for leases of earlier leaders, too (rule R4).
    let settled = Timing::lan().new_leader_wait().as_millis() as u64 + 1;
    ["b", "w"].iter().for_each(|text| drop(leading.hear(settled, text, &[])));
    let entry = leading.next_entry(settled).expect("one");
    assert_eq!(entry.to_string(), ALL_MOVED);
}

#[test]
fn each_duty_has_a_lease_and_a_release_of_its_own() {
    let moved = Duty::Mta;
    let kept: Vec<Duty> = Duty::ALL.into_iter().filter(|duty| *duty != moved).collect();
    let mut leading = Leading::new();
    leading.hear_all(0);
    assert_eq!(leading.acts(1), Duty::ALL);
    let epochs = Duty::ALL.map(|duty| leading.holders[&duty].may_act(at(1)).expect("it acts").0.clone());
    assert_ne!(epochs[0], epochs[1]);

    // An administrator moves one.
    let order = Order::MoveDuty { duty: moved, to: name("b") };
    assert_eq!(leading.state.apply(Command::Operate { id: OrderId(1), order }), CommandOutcome::Done);
    assert_eq!(leading.next_entry(10).expect("one").to_string(), format!("drain mta of {}", epochs[1]));
    assert_eq!(leading.acts(11), kept);
    let grant = leading.hear(20, "a", &[]);
    assert_eq!(
        grant.duties.keys().copied().collect::<Vec<_>>(),
        kept,
        "only the drained one is not extended (rule R3)"
    );
    assert!(kept.iter().all(|duty| leading.holders[duty].must_release().is_none()));
    assert_eq!(leading.next_entry(21), None, "it waits for the release");

    // Its release frees that duty alone.
    leading.holders.get_mut(&moved).expect("a holder").release(epochs[1].clone());
    leading.hear(30, "a", &[]);
    let facts = leading.ledger.view(at(30), 0, &leading.state).leases;
    assert!(kept.iter().all(|duty| facts[duty].held) && !facts[&moved].held);
    assert_eq!(leading.next_entry(30).expect("one").to_string(), "mta to b");
    let (a, b) = (leading.hear(40, "a", &[]), leading.hear(40, "b", &[]));
    assert_eq!(
        (a.duties.keys().copied().collect::<Vec<_>>(), b.duties.keys().copied().collect::<Vec<_>>()),
        (kept.clone(), vec![moved])
    );
    assert_eq!(b.running, Duty::ALL.into());
    assert_eq!((leading.acts(41), leading.epoch(kept[0])), (kept, epochs[0].clone()));
    assert_eq!(leading.next_entry(41), None);

    // The next publisher gets the others.
    let order = Order::make_publisher(name("b"));
    assert_eq!(leading.state.apply(Command::Operate { id: OrderId(2), order }), CommandOutcome::Done);
    let drained = leading.next_entry(50).expect("one").to_string();
    assert!(
        drained.starts_with(&format!("drain notifier of {}", epochs[0])) && !drained.contains("mta"),
        "{drained}"
    );
}

#[test]
fn a_duty_whose_service_fails_on_the_publisher_moves_alone() {
    for failed in Duty::ALL {
        let others: Vec<Duty> = Duty::ALL.into_iter().filter(|duty| *duty != failed).collect();
        let mut leading = Leading::new();
        leading.hear_all(0);
        let grace = Timing::lan().health_grace.as_millis() as u64;
        let failing = [service(failed.name(), false)];
        let mut grant = leading.hear(1, "a", &failing);
        assert_eq!(leading.next_entry(2), None, "time for a local restart");
        for ms in (100..=grace + 100).step_by(100) {
            grant = leading.hear(ms, "a", &failing);
            ["b", "w"].iter().for_each(|text| drop(leading.hear(ms, text, &[])));
        }
        assert_eq!(grant.failed, [(failed, "stuck".to_owned())].into());
        let entry = leading.next_entry(grace + 100).expect("one");
        assert_eq!(entry, Command::Drain { duty: failed, epoch: leading.epoch(failed) });
        assert_eq!(leading.state.members[&name("a")].status, Status::InService);
        assert_eq!(leading.state.publisher(), Some(&name("a")));
        assert_eq!(leading.acts(grace + 101), others);
        let epoch = leading.epoch(failed);
        leading.holders.get_mut(&failed).expect("a holder").release(epoch);
        leading.hear(grace + 110, "a", &failing);
        assert_eq!(leading.next_entry(grace + 110).expect("one").to_string(), format!("{failed} to b"));
        assert!(others.iter().all(|duty| leading.epoch(*duty).node == name("a")));
        assert_eq!(leading.epoch(failed).node, name("b"));
    }
}

#[test]
fn the_service_of_a_duty_is_reported_from_the_level_of_the_duty_on() {
    let services = ["calls", "store", "notifier", "mta"].into_iter();
    let report = |ok: bool| HealthReport { services: services.clone().map(|name| service(name, ok)).collect() };
    let names = |level| report(false).failing(level).into_iter().map(|service| service.name).collect::<Vec<_>>();
    let level = Duty::Mta.level();
    // A leader of an earlier release takes a node out of service for a service that is no duty that it knows.
    assert_eq!(names(level - 1), ["calls", "store", "notifier"]);
    assert_eq!(names(level), ["calls", "store", "notifier", "mta"]);
    assert_eq!(report(true).failing(level), []);
}

#[test]
fn a_duty_is_shown_from_its_level_on_with_a_state_of_its_own() {
    let leading = Leading::new();
    let failed = [(Duty::Mta, "stuck".to_owned())].into();
    let known = LocalFacts { quorum: true, running: Duty::ALL.into(), failed, ..LocalFacts::default() };
    let shown = |level| {
        let state = State { feature_level: level, ..leading.state.clone() };
        let view = RolesView::new(&name("b"), &state, &known);
        view.duties.iter().map(|duty| (duty.duty, duty.state)).collect::<Vec<_>>()
    };
    let (running, failed) = ((Duty::Notifier, DutyState::Running), (Duty::Mta, DutyState::Failed));
    assert_eq!(shown(Duty::Mta.level()), [running, failed]);
    assert_eq!(shown(Duty::MailboxSync.level()).len(), Duty::ALL.len());
    assert_eq!(shown(Duty::Mta.level() - 1), [running]);
}

#[test]
fn a_state_with_all_duties_survives_its_encoding() {
    let leading = Leading::new();
    let json = serde_json::to_value(&leading.state).expect("JSON");
    assert!(Duty::ALL.into_iter().all(|duty| json["duties"][duty.name()].is_object()), "{json}");
    let read: State = serde_json::from_value(json).expect("read");
    assert_eq!(read, leading.state);
    let nodes: Vec<_> = read.duties.values().map(|Assignment { epoch, .. }| epoch.node.as_str()).collect();
    assert_eq!(nodes, ["a"; Duty::ALL.len()]);
}
