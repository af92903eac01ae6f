//! Reports of members that come to the leader with their keep-alives, in addition to those that the ledger needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::NodeName;
use twinbox_roles_core::{FeatureLevels, KeepAlive, State};

use crate::{RaftGroup, Voter, better_leader};

/// Parts of a keep-alive in addition to the core's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeepAliveExtras {
    /// Round trips to the members that are reached.
    pub round_trips: BTreeMap<NodeName, Duration>,
    /// The node is being removed, and another node has all its data.
    pub handed_over: bool,
}

/// The reports to the present leadership.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemberReports {
    /// Round trips from each member to the others.
    round_trips: BTreeMap<NodeName, BTreeMap<NodeName, Duration>>,
    /// Feature levels that each member knows.
    feature_levels: BTreeMap<NodeName, FeatureLevels>,
    /// Stores of leaving members that have no data left that no other member has.
    handed_over: BTreeSet<u64>,
}

impl MemberReports {
    /// Notes a keep-alive that was granted.
    pub(crate) fn note(&mut self, request: &KeepAlive, extras: &KeepAliveExtras) {
        self.round_trips.insert(request.node.clone(), extras.round_trips.clone());
        self.feature_levels.insert(request.node.clone(), request.report.feature_levels);
        match extras.handed_over {
            true => drop(self.handed_over.insert(request.raft_id)),
            false => drop(self.handed_over.remove(&request.raft_id)),
        }
    }

    /// Whether this store's node has reported that another node has all its data.
    pub(crate) fn has_handed_over(&self, raft_id: u64) -> bool {
        self.handed_over.contains(&raft_id)
    }

    /// The Raft id of another voter that should lead instead of `own` (rule R10).
    pub(crate) fn better_leader(
        &self,
        state: &State,
        own: &NodeName,
        group: &RaftGroup,
        is_live: impl Fn(&NodeName) -> bool,
    ) -> Option<u64> {
        let peers = || group.voters.iter().filter_map(|id| Some((*id, &group.peers.get(id)?.name)));
        let names: BTreeSet<&NodeName> = peers().map(|(_, name)| name).collect();
        let voter = |(id, name): (u64, &NodeName)| Voter {
            name: name.clone(),
            fit: group.matched.get(&id) == Some(&group.last_index) && is_live(name),
            round_trip: self.quorum_round_trip(name, &names),
            feature_levels: self.feature_levels.get(name).copied().unwrap_or(FeatureLevels { min: 0, max: 0 }),
        };
        let voters: Vec<_> = peers().map(voter).collect();
        let better = better_leader(state, own, &voters)?;
        peers().find(|(_, name)| **name == better).map(|(id, _)| id)
    }

    /// Time that a leader on that member, one of these voters, would wait for a majority of them, if known.
    fn quorum_round_trip(&self, name: &NodeName, voters: &BTreeSet<&NodeName>) -> Option<Duration> {
        let known = self.round_trips.get(name)?;
        let mut others: Vec<_> = voters.iter().filter_map(|voter| known.get(*voter).copied()).collect();
        others.sort_unstable();
        match voters.len() / 2 {
            0 => Some(Duration::ZERO),
            needed => others.get(needed - 1).copied(),
        }
    }
}
