//! Administrators' orders, as the leader proposes them.

use std::time::Duration;

use twinbox_ids::NodeName;
use twinbox_roles_core::{NEVER_JOINED_LEVEL, Order, Refusal, State};

use crate::LeaderStep;

/// Reason for which an order is not proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotProposed {
    /// This member does not lead, or not with a majority.
    NotLeader,
    /// The order is refused before anything is written.
    Refused(Refusal),
}

/// Facts about a member that an order names, apart from the agreed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedMember {
    /// Whether it is expected, by configuration or invitation.
    pub is_expected: bool,
    /// Whether Raft's group has a store of it.
    pub has_store: bool,
    /// Time since this member's last contact with it; `None` if there was none since the start.
    pub since_contact: Option<Duration>,
}

impl LeaderStep {
    /// The order with its time and the leader's facts about the member that it names: only here it gets them. `wall_ms`
    /// is the leader's wall clock, in milliseconds since 1970.
    pub fn order(
        &self,
        now: Duration,
        wall_ms: u64,
        state: &State,
        order: Order,
        about: impl FnOnce(&NodeName) -> NamedMember,
    ) -> Result<Order, NotProposed> {
        if let Some(refusal) = order.refused_at(state.feature_level) {
            return Err(NotProposed::Refused(refusal));
        }
        let mut order = self.informed(now, wall_ms, state, order).ok_or(NotProposed::NotLeader)?;
        if let Order::Remove { name, lost, facts, .. } = &mut order {
            let name = &*name;
            let named = about(name);
            let may_be_removed = *lost || state.invited.contains_key(name);
            facts.never_joined = may_be_removed && has_never_joined(name, named, state);
            // It runs, and may have data that no other node has.
            let is_heard = |ago: Duration| ago < self.timing().silence_limit(state);
            if facts.never_joined && named.since_contact.is_some_and(is_heard) {
                return Err(NotProposed::Refused(Refusal::Heard { name: name.clone() }));
            }
        }
        Ok(order)
    }
}

/// Whether a member of this name is expected, and no store of it was ever admitted. False below the feature level from
/// which all members remember its removal.
fn has_never_joined(name: &NodeName, named: NamedMember, state: &State) -> bool {
    let is_expected = named.is_expected && !named.has_store;
    is_expected && !state.members.contains_key(name) && state.feature_level >= NEVER_JOINED_LEVEL
}
