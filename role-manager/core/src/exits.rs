//! Proofs of death (rule R1): which lives of processes have exited, as their supervisors say.

use std::collections::{BTreeMap, VecDeque};

use twinbox_ids::{Incarnation, NodeName};

/// How many lives of one node are remembered beside the latest.
const REMEMBERED_LIVES: usize = 8;

/// Which of these records, oldest first, makes room for a further one: the oldest of a life without calls, else the oldest.
/// Nobody asks again for a life without calls, of which a crash loop leaves many.
pub fn least_needed(had_calls: impl IntoIterator<Item = bool>) -> usize {
    had_calls.into_iter().position(|had_calls| !had_calls).unwrap_or(0)
}

/// A life that has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exit {
    life: Incarnation,
    had_calls: bool,
}

/// The exits that a member has been told of. Every member keeps them, so that whoever leads next need not wait for
/// leases that nobody holds any more (rule R4). Say only what an authenticated supervisor of that very node said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exits {
    lives: BTreeMap<NodeName, VecDeque<Exit>>,
}

impl Exits {
    /// This life of this node's process has exited; it `had_calls` when it reported last. Says whether that is news.
    pub fn note(&mut self, node: &NodeName, life: Incarnation, had_calls: bool) -> bool {
        if self.has(node, life) {
            return false;
        }
        let lives = self.lives.entry(node.clone()).or_default();
        if lives.len() > REMEMBERED_LIVES {
            lives.remove(least_needed(lives.iter().map(|exit| exit.had_calls)));
        }
        lives.push_back(Exit { life, had_calls });
        true
    }

    /// Whether this very life is known to have exited.
    pub fn has(&self, node: &NodeName, life: Incarnation) -> bool {
        self.lives.get(node).is_some_and(|lives| lives.iter().any(|exit| exit.life == life))
    }

    /// Forgets nodes that are no members any more.
    pub fn keep(&mut self, is_member: impl Fn(&NodeName) -> bool) {
        self.lives.retain(|node, _| is_member(node));
    }

    /// All of them, oldest first per node.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, Incarnation)> {
        self.lives.iter().flat_map(|(node, lives)| lives.iter().map(move |exit| (node, exit.life)))
    }
}
