//! The state of Raft, without its types.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_roles_core::VoterSets;

use super::Peer;

/// Raft's metrics, in our types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The present term.
    pub term: u64,
    /// This member leads.
    pub leading: bool,
    /// Raft id of the leader, if one is known.
    pub leader: Option<u64>,
    /// Last time at which a majority followed this member as leader.
    pub quorum_heard: Option<BootInstant>,
    /// Raft ids of the voters.
    pub voters: BTreeSet<u64>,
    /// Raft ids of the followers that do not vote.
    pub learners: BTreeSet<u64>,
    /// The voters are changing.
    pub joint: bool,
    /// Sets of voters, of each of which a majority is needed.
    pub quorums: Vec<BTreeSet<u64>>,
    /// Log index of the last change of members.
    pub members_index: Option<u64>,
    /// Voters and learners, by Raft id.
    pub peers: BTreeMap<u64, Peer>,
    /// Log index up to which each other member is known to match the leader.
    pub matched: BTreeMap<u64, u64>,
    /// Log index after the last entry; 0 when there is none.
    pub last_index: u64,
}

impl RaftStatus {
    /// The voters by the log.
    pub fn voter_sets(&self) -> VoterSets {
        VoterSets { index: self.members_index.unwrap_or(0), sets: self.quorums.clone() }
    }

    /// Whether Raft's core has loaded its store: a store that was written to has a term or voters.
    pub fn is_known(&self) -> bool {
        self.term > 0 || !self.voters.is_empty()
    }

    /// The stores of a member of this name.
    pub fn stores_of(&self, name: &NodeName) -> impl Iterator<Item = u64> {
        self.peers.iter().filter(move |(_, peer)| peer.name == *name).map(|(id, _)| *id)
    }

    /// The peer with this Raft id.
    pub fn peer(&self, id: u64) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// The voter with the most of the log, among the others that are `fit`.
    pub fn best_successor(&self, own: u64, fit: impl Fn(&u64) -> bool) -> Option<u64> {
        let missing = |id: &u64| std::cmp::Reverse(self.matched.get(id).copied().unwrap_or(0));
        self.voters.iter().copied().filter(|id| *id != own && fit(id)).min_by_key(missing)
    }

    /// The next of the other voters that are `fit`, in a ring: repeated handovers try each voter.
    pub fn next_voter(&self, own: u64, fit: impl Fn(&u64) -> bool) -> Option<u64> {
        let after = self.voters.range(own.saturating_add(1)..);
        after.chain(self.voters.range(..own)).copied().find(fit)
    }
}
