//! Proofs of death (rule R1): which lives of processes have exited, as their supervisors say.

use std::collections::{BTreeMap, VecDeque};

use twinbox_ids::{Incarnation, NodeName};

/// How many lives of one node are remembered.
const REMEMBERED_LIVES: usize = 8;

/// The exits that a member has been told of. Every member keeps them, so that whoever leads next need not wait for
/// leases that nobody holds any more (rule R4). Say only what an authenticated supervisor of that very node said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exits {
    lives: BTreeMap<NodeName, VecDeque<Incarnation>>,
}

impl Exits {
    /// This life of this node's process has exited. Says whether that is news.
    pub fn note(&mut self, node: &NodeName, life: Incarnation) -> bool {
        let lives = self.lives.entry(node.clone()).or_default();
        if lives.contains(&life) {
            return false;
        }
        if lives.len() >= REMEMBERED_LIVES {
            lives.pop_front();
        }
        lives.push_back(life);
        true
    }

    /// Whether this very life is known to have exited.
    pub fn has(&self, node: &NodeName, life: Incarnation) -> bool {
        self.lives.get(node).is_some_and(|lives| lives.contains(&life))
    }

    /// Forgets nodes that are no members any more.
    pub fn keep(&mut self, is_member: impl Fn(&NodeName) -> bool) {
        self.lives.retain(|node, _| is_member(node));
    }

    /// All of them, oldest first per node.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, Incarnation)> {
        self.lives.iter().flat_map(|(node, lives)| lives.iter().map(move |life| (node, *life)))
    }
}
