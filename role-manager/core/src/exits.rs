//! Exit proofs (rule R1): incarnations that have exited by their supervisors' reports.

use std::collections::{BTreeMap, VecDeque};

use twinbox_ids::{Incarnation, NodeName};

/// Number of incarnations of one node that are remembered in addition to the latest.
const REMEMBERED_INCARNATIONS: usize = 8;

/// Index of the record, oldest first, that makes room for a new one: the oldest of an incarnation without calls, else
/// the oldest. An incarnation without calls is not queried again, and a crash loop leaves many.
pub fn least_needed(had_calls: impl IntoIterator<Item = bool>) -> usize {
    had_calls.into_iter().position(|had_calls| !had_calls).unwrap_or(0)
}

/// An incarnation that has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exit {
    incarnation: Incarnation,
    had_calls: bool,
}

/// The exits reported to a member. Every member stores them, so that the next leader need not wait for leases without a
/// holder (rule R4). Note only reports of an authenticated supervisor of the same node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exits {
    exits: BTreeMap<NodeName, VecDeque<Exit>>,
}

impl Exits {
    /// Notes that this incarnation has exited; `had_calls` in its last report. Returns whether that is new.
    pub fn note(&mut self, node: &NodeName, incarnation: Incarnation, had_calls: bool) -> bool {
        if self.has(node, incarnation) {
            return false;
        }
        let exits = self.exits.entry(node.clone()).or_default();
        if exits.len() > REMEMBERED_INCARNATIONS {
            exits.remove(least_needed(exits.iter().map(|exit| exit.had_calls)));
        }
        exits.push_back(Exit { incarnation, had_calls });
        true
    }

    /// Whether exactly this incarnation is known to have exited.
    pub fn has(&self, node: &NodeName, incarnation: Incarnation) -> bool {
        self.exits.get(node).is_some_and(|exits| exits.iter().any(|exit| exit.incarnation == incarnation))
    }

    /// Forgets nodes that are no longer members.
    pub fn keep(&mut self, is_member: impl Fn(&NodeName) -> bool) {
        self.exits.retain(|node, _| is_member(node));
    }

    /// All exits, oldest first per node.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, Incarnation)> {
        self.exits.iter().flat_map(|(node, exits)| exits.iter().map(move |exit| (node, exit.incarnation)))
    }
}
