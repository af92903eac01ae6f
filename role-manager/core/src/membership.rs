//! Membership of the cluster: admitted, replaced, leaving and removed members.

use std::collections::BTreeSet;

use twinbox_ids::NodeName;

use crate::{
    CommandOutcome, Failback, Member, MemberKind, Refusal, Sign, State, Status, orders::Facts, rule_for,
    state::push_bounded,
};

/// The feature level from which members remember the removal of one that never joined.
pub const NEVER_JOINED_LEVEL: u32 = 9;
/// Number of removed Raft stores that are remembered.
pub(crate) const REMEMBERED_REMOVED: usize = 64;

/// The voters by the last membership entry in this node's log. It counts as soon as it is in the log, applied or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Voters {
    /// Their Raft ids; during a change both the former and the next voters.
    pub raft_ids: BTreeSet<u64>,
    /// Whether that entry has been applied, and with it all that others agreed on before it.
    pub applied: bool,
}

impl State {
    /// Whether this Raft store was removed from the cluster: it is not admitted again.
    pub fn was_removed(&self, raft_id: u64) -> bool {
        self.removed.iter().any(|(id, _)| *id == raft_id)
    }

    pub(crate) fn admit(
        &mut self,
        name: NodeName,
        kind: MemberKind,
        address: String,
        raft_id: u64,
    ) -> CommandOutcome {
        if self.was_removed(raft_id) {
            return CommandOutcome::Stale;
        }
        let replaces = self.invited.remove(&name).and_then(|invited| invited.replaces);
        let is_replaced = replaces.as_ref() == Some(&name);
        if let Some(old) = replaces.filter(|_| !is_replaced) {
            self.erase_member(&old, Some(&name));
        }
        let joined = Member {
            raft_id,
            kind,
            address,
            activated: true,
            status: Status::Starting,
            reason: "it has just joined".to_owned(),
            incarnation: None,
            drain_ms: None,
            revision: 1,
        };
        let Some(member) = self.members.get_mut(&name) else {
            self.members.insert(name, joined);
            return CommandOutcome::Done;
        };
        let Member { raft_id: old, kind: was, address: at, revision, .. } = member.clone();
        if (old, was, &at) == (raft_id, kind, &joined.address) {
            return CommandOutcome::Unchanged;
        }
        // The machine that replaces one which was leaving, or taken out, is neither.
        *member = match is_replaced {
            true => Member { revision: revision + 1, ..joined },
            false => Member { raft_id, kind, address: joined.address, revision: revision + 1, ..member.clone() },
        };
        if old != raft_id {
            push_bounded(&mut self.removed, (old, name), REMEMBERED_REMOVED);
        }
        CommandOutcome::Done
    }

    /// Removes a member on an administrator's order: a lost one, or one that never joined, immediately; any other once it
    /// has left in order.
    pub(crate) fn remove(
        &mut self,
        name: &NodeName,
        lost: bool,
        within_ms: Option<u64>,
        facts: Facts,
    ) -> Result<CommandOutcome, Refusal> {
        let is_expected = self.invited.remove(name).is_some() || facts.never_joined;
        if is_expected && !self.members.contains_key(name) {
            if facts.never_joined {
                // All members forget the name, even if their configuration has it.
                push_bounded(&mut self.removed, (0, name.clone()), REMEMBERED_REMOVED);
                if let Some(rotation) = &mut self.certificates.rotation {
                    rotation.expected.remove(name);
                }
            }
            return Ok(CommandOutcome::Done);
        }
        let member = self.known_member(name)?;
        if member.kind == MemberKind::Node && !self.leaves_another(name, member) {
            return Err(Refusal::LastInService { name: name.clone() });
        }
        if lost {
            // One that had never joined when the leader looked has joined since.
            if facts.live || facts.never_joined {
                return Err(Refusal::NotLost { name: name.clone() });
            }
            self.rise_above_lost(name, facts.at_ms);
            self.erase_member(name, None);
            return Ok(CommandOutcome::Done);
        }
        let Some(member) = self.members.get_mut(name) else { return Ok(CommandOutcome::Unchanged) };
        if member.status == Status::Leaving {
            return Ok(member.drain_within(within_ms));
        }
        member.activated = false;
        member.drain_ms = within_ms;
        member.status = rule_for(Sign::Removed).status.unwrap_or(member.status);
        member.reason = "an administrator removes it from the cluster".to_owned();
        member.revision += 1;
        Ok(CommandOutcome::Done)
    }

    pub(crate) fn remove_left(&mut self, name: &NodeName, raft_id: u64) -> CommandOutcome {
        let leaves = |m: &Member| m.raft_id == raft_id && m.status == Status::Leaving;
        if !self.members.get(name).is_some_and(leaves) {
            return CommandOutcome::Stale;
        }
        self.erase_member(name, None);
        CommandOutcome::Done
    }

    /// Removes a member from everything that names it; a joining member may take its place.
    pub(crate) fn erase_member(&mut self, name: &NodeName, heir: Option<&NodeName>) {
        if let Some(member) = self.members.remove(name) {
            push_bounded(&mut self.removed, (member.raft_id, name.clone()), REMEMBERED_REMOVED);
        }
        for map in [&mut self.settings.pins, &mut self.placed] {
            match heir {
                Some(heir) => map.values_mut().filter(|node| *node == name).for_each(|node| node.clone_from(heir)),
                None => map.retain(|_, node| node != name),
            }
        }
        if self.settings.preferred.as_ref() == Some(name) {
            self.settings.preferred = heir.cloned();
            if heir.is_none() && matches!(self.settings.failback, Failback::Scheduled { .. }) {
                self.settings.failback = Failback::Manual;
            }
        }
    }

    /// The member of this name, or a refusal that lists the members.
    pub(crate) fn known_member(&self, name: &NodeName) -> Result<&Member, Refusal> {
        self.members.get(name).ok_or_else(|| {
            let members = self.members.keys().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
            Refusal::Unknown { name: name.clone(), members }
        })
    }

    /// Whether another node could replace a node that is taken out: one in service if that node is in service, else one
    /// that may come into service.
    pub(crate) fn leaves_another(&self, name: &NodeName, member: &Member) -> bool {
        let mut others = self.members.iter().filter(|(other, _)| *other != name).map(|(_, other)| other);
        others.any(|other| match member.serves() {
            true => other.serves(),
            false => other.kind == MemberKind::Node && other.activated,
        })
    }
}
