//! All possible members: by configuration, and by later agreement of the cluster.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use twinbox_ids::NodeName;
use twinbox_raft::{Core, RaftStatus, wait};
use twinbox_roles_core::State;

use crate::{MemberAddress, RolesConfig};

/// Possible members and their addresses. A restart of Raft forgets no name; only a removal does.
pub(crate) struct Roster {
    node: NodeName,
    /// The configured members; they take precedence over older agreements.
    configured: Vec<MemberAddress>,
    removals: Mutex<Removals>,
    members: watch::Sender<Arc<Vec<MemberAddress>>>,
}

/// Removed members. They take precedence over the configuration, which may still name them.
#[derive(Default)]
struct Removals {
    /// Removed members that have not joined again.
    removed: BTreeSet<NodeName>,
    /// Members that were ever removed: their configured address is out of date.
    outdated: BTreeSet<NodeName>,
}

impl Roster {
    pub(crate) fn new(config: &RolesConfig) -> Self {
        let removed: BTreeSet<_> = config.removed.iter().filter(|name| **name != config.node).cloned().collect();
        // A stored address that differs from the configured one was agreed after a removal.
        let moved = |m: &&MemberAddress| config.member(&m.name).is_some_and(|known| known != *m);
        let outdated = config.learned.iter().filter(moved).map(|m| m.name.clone()).chain(removed.clone()).collect();
        let removals = Removals { removed, outdated };
        let mut members = config.members.clone();
        config.learned.iter().for_each(|learned| learn(&config.members, &removals, &mut members, learned));
        members.retain(|member| !removals.removed.contains(&member.name));
        let (node, configured) = (config.node.clone(), config.members.clone());
        Self { node, configured, removals: Mutex::new(removals), members: watch::Sender::new(Arc::new(members)) }
    }

    /// Removed members that have not joined again.
    pub(crate) fn removed(&self) -> BTreeSet<NodeName> {
        self.removals().removed.clone()
    }

    fn removals(&self) -> MutexGuard<'_, Removals> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Vec<MemberAddress>>> {
        self.members.subscribe()
    }

    pub(crate) fn member(&self, name: &NodeName) -> Option<MemberAddress> {
        self.members.borrow().iter().find(|member| member.name == *name).cloned()
    }

    /// All members but this one.
    pub(crate) fn others(&self) -> Vec<MemberAddress> {
        self.members.borrow().iter().filter(|member| member.name != self.node).cloned().collect()
    }

    /// Adds the members that the cluster agrees on, for as long as the process runs.
    pub(crate) async fn follow(&self, core: &Core) {
        let (mut status, mut applied) = (core.status(), core.applied());
        loop {
            self.update(&applied.borrow_and_update().state, &status.borrow_and_update());
            tokio::select! {
                () = wait(&mut applied) => {}
                () = wait(&mut status) => {}
            }
        }
    }

    fn update(&self, state: &State, status: &RaftStatus) {
        let mut removals = self.removals();
        removals.removed.retain(|name| state.known().all(|(member, ..)| member != name));
        let names = state.removed.iter().map(|(_, name)| name);
        let now: Vec<_> = names.filter(|name| **name != self.node && is_removed(state, name)).cloned().collect();
        removals.outdated.extend(now.iter().cloned());
        // One that was removed and replaced under its own name, at another address.
        let replaced = state.known().filter(|(name, _, address)| {
            let is_configured = |member: &MemberAddress| member.name == **name && member.address == *address;
            state.removed.iter().any(|(_, removed)| removed == *name) && !self.configured.iter().any(is_configured)
        });
        removals.outdated.extend(replaced.map(|(name, ..)| name.clone()));
        removals.removed.extend(now);
        // Raft's own list of voters is available before anything has been applied.
        let voters = status.peers.values().map(|peer| (&peer.name, peer.kind, peer.address.as_str()));
        let agreed: Vec<_> = voters
            .chain(state.known())
            .map(|(name, kind, address)| MemberAddress { name: name.clone(), kind, address: address.to_owned() })
            .collect();
        self.members.send_if_modified(|members| {
            let mut next = members.as_ref().clone();
            agreed.iter().for_each(|member| learn(&self.configured, &removals, &mut next, member));
            next.retain(|member| !removals.removed.contains(&member.name));
            let changed = next != **members;
            if changed {
                *members = Arc::new(next);
            }
            changed
        });
    }
}

/// Whether this name belonged to the cluster and no longer does.
pub(crate) fn is_removed(state: &State, name: &NodeName) -> bool {
    state.removed.iter().any(|(_, removed)| removed == name) && state.known().all(|(known, ..)| known != name)
}

fn learn(
    configured: &[MemberAddress],
    removals: &Removals,
    members: &mut Vec<MemberAddress>,
    learned: &MemberAddress,
) {
    let as_configured =
        |member: &MemberAddress| member.name == learned.name && !removals.outdated.contains(&member.name);
    if configured.iter().any(as_configured) {
        return;
    }
    match members.iter_mut().find(|member| member.name == learned.name) {
        Some(known) => *known = learned.clone(),
        None => members.push(learned.clone()),
    }
}
