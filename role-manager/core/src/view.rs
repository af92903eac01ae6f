//! The view for people: names, statuses and reasons in plain words.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{CallHeir, Departure, Duty, MemberKind, Move, RoleSettings, Split, State, Status};

/// The cluster as one member sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolesView {
    /// The member that has this view.
    pub node: NodeName,
    /// All members of the cluster, by name.
    pub members: Vec<MemberView>,
    /// The publisher, as last agreed; without a majority that may be out of date.
    pub publisher: Option<NodeName>,
    /// All duties.
    pub duties: Vec<DutyView>,
    /// Raft's leader, if one is known.
    pub leader: Option<NodeName>,
    /// Whether this member is in touch with a majority.
    pub quorum: bool,
    /// Reason, as text, for which there is no majority or this member is kept out; empty when all is well.
    pub reason: String,
    /// The agreed settings.
    pub settings: RoleSettings,
    /// The last moves, oldest first.
    pub moves: Vec<Move>,
    /// The last splits in which nodes ran solo, oldest first.
    pub splits: Vec<Split>,
    /// The last groups that a survivor has left, oldest first.
    pub departures: Vec<Departure>,
    /// Present or former members with recent contact that act in another group of this cluster.
    pub rivals: BTreeSet<NodeName>,
    /// The feature level at which all members work.
    pub feature_level: u32,
    /// Pairs of members in contact with the leader of which the first reports that it does not reach the second.
    pub cuts: BTreeSet<(NodeName, NodeName)>,
    /// Heirs of the calls of ended incarnations, oldest first.
    pub heirs: Vec<CallHeir>,
}

/// One member, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberView {
    /// Its name.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// Its status.
    pub status: Status,
    /// Reason, as text, for which it is not in-service; empty when it is.
    pub reason: String,
    /// The incarnation to which the status refers.
    pub incarnation: Option<Incarnation>,
}

/// One duty, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DutyView {
    /// The duty.
    pub duty: Duty,
    /// Its holder.
    pub holder: Option<NodeName>,
    /// Its epoch.
    pub epoch: Option<Epoch>,
    /// Its state.
    pub state: DutyState,
    /// Reason, as text, for which it is not running; empty when it is.
    pub reason: String,
}

/// State of a duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DutyState {
    /// Its holder has a lease.
    Running,
    /// Its holder has a lease, and reports that the duty fails.
    Failed,
    /// It has a holder that waits for its lease, or is moving.
    Starting,
    /// No node may run it now.
    Waiting,
}

/// Local facts of a member in addition to the agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalFacts {
    /// Raft's leader.
    pub leader: Option<NodeName>,
    /// Whether this member is in touch with a majority.
    pub quorum: bool,
    /// Duties that run under a lease by the leader's report, or for which this node's own gate is open.
    pub running: BTreeSet<Duty>,
    /// Duties that fail by their holder's report, with the reason.
    pub failed: BTreeMap<Duty, String>,
    /// Duties that this node runs solo, in an epoch of its own (rule R7).
    pub solo: BTreeMap<Duty, Epoch>,
    /// Pairs of members of which the first does not reach the second, by the leader's knowledge.
    pub cuts: BTreeSet<(NodeName, NodeName)>,
    /// Members with recent contact that act in another group of this cluster.
    pub rivals: BTreeSet<NodeName>,
    /// Reason that keeps this member itself out: not joined yet, quarantined, …; empty if there is none.
    pub obstacle: String,
    /// Inheritances of this node by exit proof alone (rule C4).
    pub inherited: Vec<CallHeir>,
}

impl RolesView {
    /// Presents the agreed state and a member's local facts as text.
    pub fn new(node: &NodeName, state: &State, known: &LocalFacts) -> Self {
        let members = state.members.iter().map(|(name, member)| MemberView {
            name: name.clone(),
            kind: member.kind,
            status: member.status,
            reason: member.reason.clone(),
            incarnation: member.incarnation,
        });
        let reason = match (known.obstacle.is_empty(), known.quorum) {
            (false, _) => known.obstacle.clone(),
            (true, true) => String::new(),
            (true, false) => no_majority(state, known),
        };
        Self {
            node: node.clone(),
            members: members.collect(),
            publisher: state.publisher.as_ref().map(|epoch| epoch.node.clone()),
            duties: state.known_duties().map(|duty| duty_view(node, state, known, duty)).collect(),
            leader: known.leader.clone(),
            quorum: known.quorum,
            reason,
            settings: state.settings.clone(),
            moves: state.moves.clone(),
            splits: state.splits.clone(),
            departures: state.departures.clone(),
            rivals: known.rivals.clone(),
            feature_level: state.feature_level,
            cuts: known.cuts.clone(),
            heirs: state.heirs.iter().chain(&known.inherited).cloned().collect(),
        }
    }

    /// One member.
    pub fn member(&self, name: &NodeName) -> Option<&MemberView> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// One duty.
    pub fn duty(&self, duty: Duty) -> Option<&DutyView> {
        self.duties.iter().find(|view| view.duty == duty)
    }
}

fn no_majority(state: &State, known: &LocalFacts) -> String {
    let duties = if known.solo.is_empty() { "duties wait" } else { "this node runs duties solo" };
    match state.members.len() {
        0 => "it belongs to no cluster yet".to_owned(),
        members => format!(
            "this member is not in touch with a leader of at least {} of the {members} members, and roles cannot be \
             changed until it is; calls are served, {duties}",
            members / 2 + 1
        ),
    }
}

fn duty_view(node: &NodeName, state: &State, known: &LocalFacts, duty: Duty) -> DutyView {
    if let Some(epoch) = known.solo.get(&duty) {
        let reason = "no majority: this node runs it solo ('on-quorum-loss' is 'assume')".to_owned();
        let (holder, epoch) = (Some(node.clone()), Some(epoch.clone()));
        return DutyView { duty, holder, epoch, state: DutyState::Running, reason };
    }
    let assignment = state.holder(duty);
    let holder = assignment.map(|a| a.epoch.node.clone());
    let (now, reason) = match assignment {
        Some(a) if known.running.contains(&duty) && known.failed.contains_key(&duty) => {
            let detail = known.failed.get(&duty).map_or("", String::as_str);
            (DutyState::Failed, format!("{} runs it, and it fails there: {detail}", a.epoch.node))
        }
        _ if known.running.contains(&duty) => (DutyState::Running, String::new()),
        _ if !known.quorum => {
            (DutyState::Waiting, "it does not run here: this node reaches no majority of the members".to_owned())
        }
        None => (DutyState::Waiting, "no node is in service to take it".to_owned()),
        Some(a) if a.draining => {
            (DutyState::Starting, format!("{} is finishing what is in flight before it moves", a.epoch.node))
        }
        Some(a) if !state.serves(&a.epoch.node) => {
            (DutyState::Waiting, format!("{} holds it and is not in service", a.epoch.node))
        }
        Some(a) => (DutyState::Starting, format!("{} waits for its lease", a.epoch.node)),
    };
    DutyView { duty, holder, epoch: assignment.map(|a| a.epoch.clone()), state: now, reason }
}
