//! Which members have confirmed the run number of a store, and whether they are enough (rule R8).

use std::collections::BTreeSet;

/// The voters by one entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VoterSets {
    /// Index of the entry.
    pub index: u64,
    /// Sets of Raft ids, of each of which a majority is needed: one, or two while the voters change (joint consensus).
    pub sets: Vec<BTreeSet<u64>>,
}

impl VoterSets {
    /// Whether these stores are a majority.
    fn have_majority(&self, stores: &BTreeSet<u64>) -> bool {
        self.sets.iter().all(|set| 2 * set.intersection(stores).count() > set.len())
    }
}

/// The members that remember this start of a store, durably, so that each of them counts even after it has died.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confirmations {
    answered: bool,
    by: BTreeSet<u64>,
    newest: VoterSets,
}

impl Confirmations {
    /// A member remembers the start, which has one of these Raft stores: one that does not say which has any of its name.
    /// `voters` are those that its log names.
    pub fn note(&mut self, by: impl IntoIterator<Item = u64>, voters: VoterSets) {
        self.answered = true;
        self.by.extend(by);
        if !voters.sets.is_empty() && (self.newest.sets.is_empty() || voters.index > self.newest.index) {
            self.newest = voters;
        }
    }

    /// Whether a majority remembers the start, the store `own` itself counted, if it votes. The newest list of voters counts
    /// that its log or a member that has confirmed knows: most of an older list may have been removed for good. A store
    /// whose log names no voter yet has confirmed nothing to any of them; one answer is enough.
    pub fn suffice(&self, own: u64, voters: &VoterSets) -> bool {
        let heard = !self.newest.sets.is_empty() && (voters.sets.is_empty() || self.newest.index > voters.index);
        let counting = if heard { &self.newest } else { voters };
        if counting.sets.is_empty() {
            return self.answered;
        }
        let stores = self.by.iter().copied().chain([own]).collect();
        counting.have_majority(&stores)
    }
}
