//! Everyone who may be a member: by configuration, and by what the cluster has agreed on since.

use std::sync::Arc;

use tokio::sync::watch;
use twinbox_ids::NodeName;
use twinbox_roles_core::State;

use crate::{
    MemberAddress, RolesConfig,
    leader::wait,
    raft::{Core, Pulse},
};

/// Who may be a member, and where they are. It only grows: nobody is forgotten because Raft begins again.
pub(crate) struct Roster {
    node: NodeName,
    /// What the configuration says counts before what was agreed some time ago.
    configured: Vec<MemberAddress>,
    members: watch::Sender<Arc<Vec<MemberAddress>>>,
}

impl Roster {
    pub(crate) fn new(config: &RolesConfig) -> Self {
        let mut members = config.members.clone();
        config.learned.iter().for_each(|learned| learn(&config.members, &mut members, learned));
        let (node, configured) = (config.node.clone(), config.members.clone());
        Self { node, configured, members: watch::Sender::new(Arc::new(members)) }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Vec<MemberAddress>>> {
        self.members.subscribe()
    }

    pub(crate) fn member(&self, name: &NodeName) -> Option<MemberAddress> {
        self.members.borrow().iter().find(|member| member.name == *name).cloned()
    }

    /// Everyone but this member.
    pub(crate) fn others(&self) -> Vec<MemberAddress> {
        self.members.borrow().iter().filter(|member| member.name != self.node).cloned().collect()
    }

    /// Takes in whom the cluster has agreed on, for as long as the process runs.
    pub(crate) async fn follow(&self, core: &Core) {
        let (mut pulse, mut applied) = (core.pulse(), core.applied());
        loop {
            self.update(&applied.borrow_and_update().state, &pulse.borrow_and_update());
            tokio::select! {
                () = wait(&mut applied) => {}
                () = wait(&mut pulse) => {}
            }
        }
    }

    fn update(&self, state: &State, pulse: &Pulse) {
        // Raft's own list of voters is there before anything has been applied.
        let voters = pulse.peers.values().map(|peer| (&peer.name, peer.kind, peer.address.as_str()));
        let agreed: Vec<_> = voters
            .chain(state.known())
            .map(|(name, kind, address)| MemberAddress { name: name.clone(), kind, address: address.to_owned() })
            .collect();
        self.members.send_if_modified(|members| {
            let mut next = members.as_ref().clone();
            agreed.iter().for_each(|member| learn(&self.configured, &mut next, member));
            let changed = next != **members;
            if changed {
                *members = Arc::new(next);
            }
            changed
        });
    }
}

fn learn(configured: &[MemberAddress], members: &mut Vec<MemberAddress>, learned: &MemberAddress) {
    if configured.iter().any(|member| member.name == learned.name) {
        return;
    }
    match members.iter_mut().find(|member| member.name == learned.name) {
        Some(known) => *known = learned.clone(),
        None => members.push(learned.clone()),
    }
}
