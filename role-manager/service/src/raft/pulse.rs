//! The state of Raft, without its types.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_roles_core::VoterSets;

use super::Peer;

/// What Raft says of itself, in our words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pulse {
    pub(crate) term: u64,
    /// This member leads.
    pub(crate) leading: bool,
    pub(crate) leader: Option<u64>,
    /// When the leader, this member, last knew itself followed by a majority.
    pub(crate) quorum_heard: Option<BootInstant>,
    pub(crate) voters: BTreeSet<u64>,
    pub(crate) learners: BTreeSet<u64>,
    /// The voters are changing.
    pub(crate) joint: bool,
    /// Sets of voters, of each of which a majority is needed.
    pub(crate) quorums: Vec<BTreeSet<u64>>,
    /// The log's index of these members.
    pub(crate) members_index: Option<u64>,
    pub(crate) peers: BTreeMap<u64, Peer>,
    /// How much of the leader's log each other member is known to have.
    pub(crate) matched: BTreeMap<u64, u64>,
    pub(crate) last_index: u64,
}

impl Pulse {
    /// The voters by the log.
    pub(crate) fn voter_sets(&self) -> VoterSets {
        VoterSets { index: self.members_index.unwrap_or(0), sets: self.quorums.clone() }
    }

    /// Whether Raft's core has said what is in its store: a store that was written to has a term or voters.
    pub(crate) fn is_known(&self) -> bool {
        self.term > 0 || !self.voters.is_empty()
    }

    /// The stores of a member of this name.
    pub(crate) fn stores_of(&self, name: &NodeName) -> impl Iterator<Item = u64> {
        self.peers.iter().filter(move |(_, peer)| peer.name == *name).map(|(id, _)| *id)
    }

    /// The name that goes with a Raft id.
    pub(crate) fn peer(&self, id: u64) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// Which of the other voters that are `fit` has most of the log.
    pub(crate) fn heir(&self, own: u64, fit: impl Fn(&u64) -> bool) -> Option<u64> {
        let behind = |id: &u64| std::cmp::Reverse(self.matched.get(id).copied().unwrap_or(0));
        self.voters.iter().copied().filter(|id| *id != own && fit(id)).min_by_key(behind)
    }

    /// The next of the other voters that are `fit`, in a ring of all: who hands over to it again and again tries each.
    pub(crate) fn next_voter(&self, own: u64, fit: impl Fn(&u64) -> bool) -> Option<u64> {
        let after = self.voters.range(own.saturating_add(1)..);
        after.chain(self.voters.range(..own)).copied().find(fit)
    }
}
