//! Views of a leader, for the planner's tables and properties.

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    Assignment, Duty, LeaseFact, Leasing, Member, MemberKind, MemberObservation, PlannerPolicy, Presence,
    SUPPORTED_LEVELS, ServiceHealth, State, Status, Timing, View,
};

pub const NOW: Duration = Duration::from_secs(100);

pub fn policy() -> PlannerPolicy {
    Timing::lan().into()
}

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

pub fn epoch(number: u64, node: &str) -> Epoch {
    Epoch { generation: 0, number, node: name(node) }
}

pub fn member(kind: MemberKind, status: Status) -> Member {
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

pub fn live() -> MemberObservation {
    let incarnation = Some(Incarnation(1));
    MemberObservation {
        presence: Presence::Live,
        incarnation,
        failing: Some(Vec::new()),
        ..MemberObservation::default()
    }
}

pub fn failing(since: Duration) -> MemberObservation {
    let service = ServiceHealth { name: "store".into(), ok: false, detail: "full".into() };
    MemberObservation { failing: Some(vec![service]), health_since: since, ..live() }
}

pub fn absent(presence: Presence) -> MemberObservation {
    MemberObservation { presence, ..live() }
}

/// Two nodes in service and a witness; `a` is publisher and holds all duties, each with a lease.
pub fn at_rest() -> View {
    let lease_ms = policy().lease_timing.lease_ms();
    let leasing = Some(Leasing { profile: policy().lease_timing, lease_ms, bound_ms: lease_ms });
    let mut state = State {
        number: 1 + Duty::ALL.len() as u64,
        publisher: Some(epoch(1, "a")),
        leasing,
        feature_level: SUPPORTED_LEVELS.max,
        ..State::default()
    };
    state.members.insert(name("a"), member(MemberKind::Node, Status::InService));
    state.members.insert(name("b"), member(MemberKind::Node, Status::InService));
    state.members.insert(name("w"), member(MemberKind::Witness, Status::InService));
    let mut leases = BTreeMap::new();
    for (duty, number) in Duty::ALL.into_iter().zip(2..) {
        let (epoch, incarnation) = (epoch(number, "a"), Incarnation(1));
        state.duties.insert(duty, Assignment { epoch: epoch.clone(), incarnation, draining: false });
        leases.insert(duty, LeaseFact { epoch, held: true, frozen: false, acted: NOW });
    }
    let observed = ["a", "b", "w"].map(|text| (name(text), live())).into();
    View {
        state,
        now: NOW,
        observed,
        leases,
        longest_running_ms: policy().lease_timing.lease_ms(),
        ..View::default()
    }
}

/// The leader's knowledge of this member becomes `observed`.
pub fn see(text: &str, observed: MemberObservation) -> impl FnOnce(&mut View) {
    move |view| drop(view.observed.insert(name(text), observed))
}
