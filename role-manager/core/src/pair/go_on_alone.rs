//! A survivor goes on alone without the lost majority, by an administrator's order: its state becomes that of a new
//! group of which it is the only member.
//!
//! No node can prove that the others are permanently lost; the administrator answers for the order. If they live after
//! all, both sides may act, each in its own epochs. The epochs of the new group have a generation above all that any
//! node can have given or taken before (rule R7), and neither side accepts a message of the other's group.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{
    Cause, Member, MemberKind, MoveReason, Refusal, SoloReport, Split, State, Status,
    membership::REMEMBERED_REMOVED,
    state::{REMEMBERED_SPLITS, push_bounded},
};

/// Number of left groups that are remembered.
const REMEMBERED_DEPARTURES: usize = 8;

/// A survivor left this group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// The group that was left.
    pub group: u128,
    /// The survivor.
    pub by: NodeName,
    /// The members given up as lost, with kind and last address.
    pub lost: BTreeMap<NodeName, (MemberKind, String)>,
    /// The generation since then.
    pub generation: u64,
    /// Time of the departure by the survivor's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Facts known to a node when an administrator orders it to go on alone.
#[derive(Debug, Clone)]
pub struct GoOnAloneFacts {
    /// Name of the node.
    pub node: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// The members that the administrator gives up as lost.
    pub lost: BTreeSet<NodeName>,
    /// All members in its Raft log: store, name, kind and address.
    pub peers: Vec<(u64, NodeName, MemberKind, String)>,
    /// Whether it is in touch with a majority.
    pub quorum: bool,
    /// The other members with contact so recent that they may hold a lease.
    pub in_contact: BTreeSet<NodeName>,
}

/// Initial data of the new group.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// The group that is left.
    pub group: u128,
    /// The survivor's store in the new group.
    pub raft_id: u64,
    /// The agreed generation that the survivor has on disk.
    pub persisted_generation: u64,
    /// Its solo work that no group has recorded. It has stopped.
    pub solo: Option<SoloReport>,
    /// Its wall clock, in milliseconds since 1970.
    pub at_ms: u64,
}

impl State {
    /// Checks whether this node may go on without these members.
    pub fn may_go_on_alone(&self, facts: &GoOnAloneFacts) -> Result<(), Refusal> {
        let GoOnAloneFacts { node, kind, lost, quorum, in_contact, .. } = facts;
        if *kind == MemberKind::Witness {
            return Err(Refusal::WitnessAlone);
        }
        if !self.members.contains_key(node) {
            return Err(Refusal::NoMemberYet);
        }
        if *quorum {
            return Err(Refusal::Majority);
        }
        let others = self.others(facts);
        if let Some(name) = lost.iter().find(|name| !others.contains_key(*name)) {
            let members = others.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Refusal::NotAnother { name: name.clone(), members });
        }
        let missing: Vec<_> =
            others.keys().filter(|name| !lost.contains(*name)).map(|name| name.as_str()).collect();
        if !missing.is_empty() {
            return Err(Refusal::NotNamed { names: missing.join(", ") });
        }
        match lost.iter().find(|name| in_contact.contains(*name)) {
            Some(name) => Err(Refusal::Heard { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// This state as that of the new group. The caller has checked that the survivor may go on alone.
    pub fn as_new_group(&self, facts: &GoOnAloneFacts, new_group: &NewGroup) -> Self {
        let NewGroup { group, raft_id, persisted_generation, solo, at_ms } = new_group;
        let (node, at_ms) = (&facts.node, *at_ms);
        let mut next = self.clone();
        let lost = self.others(facts);
        for name in lost.keys() {
            next.erase_member(name, None);
        }
        let known: Vec<u64> = next.removed.iter().map(|(id, _)| *id).collect();
        for (id, name, ..) in facts.peers.iter().filter(|(id, ..)| !known.contains(id)) {
            push_bounded(&mut next.removed, (*id, name.clone()), REMEMBERED_REMOVED);
        }
        next.tokens.clear();
        next.invited.clear();
        if let Some(rotation) = &mut next.certificates.rotation {
            rotation.expected.clear();
        }
        // Above the agreed, the solo epochs here, and the solo epochs of a lost node, which are one above the agreed.
        let agreed = self.generation.max(*persisted_generation);
        let ours = solo.as_ref().map_or(0, |report| report.epoch.generation);
        next.generation = (agreed + 1).max(ours) + 1;
        next.number = next.number.max(solo.as_ref().map_or(0, |report| report.epoch.number));
        if let Some(member) = next.members.get_mut(node) {
            member.become_only_member(*raft_id);
        }
        next.publish(node.clone(), MoveReason { cause: Cause::Operator, at_ms, idle_ms: 0 });
        let generation = next.generation;
        if let Some(report) = solo.clone().filter(|report| report.epoch.generation > self.generation) {
            let ran = BTreeMap::from([(node.clone(), report)]);
            let split = Split { generation, ran, winner: node.clone(), healed_ms: at_ms };
            push_bounded(&mut next.splits, split, REMEMBERED_SPLITS);
        }
        let departure = Departure { group: *group, by: node.clone(), lost, generation, at_ms };
        push_bounded(&mut next.departures, departure, REMEMBERED_DEPARTURES);
        next.advance_rotation();
        next
    }

    /// Whether a member of this state has left that group and goes on without it.
    pub fn left_group(&self, group: u128) -> bool {
        self.departures.iter().any(|departure| departure.group == group)
    }

    /// Members that were given up as lost and have not joined again, with their last addresses.
    pub fn lost_members(&self) -> BTreeMap<&NodeName, &str> {
        let lost = self.departures.iter().flat_map(|departure| &departure.lost);
        let not_joined = lost.filter(|(name, _)| self.known().all(|(known, ..)| known != *name));
        not_joined.map(|(name, (_, address))| (name, address.as_str())).collect()
    }

    /// All members but the survivor, by the agreed state and by Raft's log.
    fn others(&self, facts: &GoOnAloneFacts) -> BTreeMap<NodeName, (MemberKind, String)> {
        let raft = facts.peers.iter().map(|(_, name, kind, address)| (name, *kind, address.as_str()));
        let agreed = self.members.iter().map(|(name, m)| (name, m.kind, m.address.as_str()));
        let others = raft.chain(agreed).filter(|(name, ..)| **name != facts.node);
        others.map(|(name, kind, address)| (name.clone(), (kind, address.to_owned()))).collect()
    }
}

impl Member {
    /// The only member serves, regardless of earlier orders: no other is left to serve.
    fn become_only_member(&mut self, raft_id: u64) {
        self.raft_id = raft_id;
        self.drain_ms = None;
        self.revision += 1;
        if !std::mem::replace(&mut self.activated, true) || self.status != Status::InService {
            self.status = Status::Starting;
            self.reason = "it goes on alone".to_owned();
        }
    }
}
