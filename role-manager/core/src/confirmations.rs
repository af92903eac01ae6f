//! Members that have confirmed the run number of a store, and whether they are enough (rule R8).

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

/// The members that durably remember this start of a store. Each counts even after it has died.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confirmations {
    answered: bool,
    by: BTreeSet<u64>,
    newest: VoterSets,
}

impl Confirmations {
    /// Notes that a member remembers the start. `by` are its Raft stores: the one that it reports, else any of its
    /// name. `voters` are those of its log.
    pub fn note(&mut self, by: impl IntoIterator<Item = u64>, voters: VoterSets) {
        self.answered = true;
        self.by.extend(by);
        if !voters.sets.is_empty() && (self.newest.sets.is_empty() || voters.index > self.newest.index) {
            self.newest = voters;
        }
    }

    /// Whether a majority remembers the start, including the store `own` if it votes. Of the lists of voters in its own
    /// log and in the logs of confirming members the newest counts: most voters of an older list may have been
    /// permanently removed. A store whose log names no voter yet has confirmed nothing to any of them; one answer is
    /// enough.
    pub fn suffice(&self, own: u64, voters: &VoterSets) -> bool {
        let reported_is_newer =
            !self.newest.sets.is_empty() && (voters.sets.is_empty() || self.newest.index > voters.index);
        let counting = if reported_is_newer { &self.newest } else { voters };
        if counting.sets.is_empty() {
            return self.answered;
        }
        let stores = self.by.iter().copied().chain([own]).collect();
        counting.have_majority(&stores)
    }
}
