//! Connections to other members: one per purpose, so that a large answer never delays a heartbeat or a lease.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::transport::Channel;
use twinbox_ids::NodeName;
use twinbox_pki::NodeIdentity;
use twinbox_roles_core::Timing;
use twinbox_wire::roles::roles_client::RolesClient;

use crate::roster::Roster;

/// The longest message that is taken, in bytes: snapshots hold a handful of members.
pub(crate) const MESSAGE_LIMIT: usize = 1 << 20;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Log entries, votes.
    Raft,
    /// Raft's heartbeats.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Leases.
    KeepAlive,
    /// Orders, joining, run numbers.
    Control,
    /// Who reaches whom.
    Reach,
}

pub(crate) type Client = RolesClient<Channel>;

/// Makes connections and keeps them.
pub(crate) struct Dialer {
    tls: Arc<NodeIdentity>,
    roster: Arc<Roster>,
    patience: Duration,
    /// With the address that each goes to.
    open: Mutex<BTreeMap<(NodeName, Lane), (String, Client)>>,
}

impl Dialer {
    pub(crate) fn new(tls: Arc<NodeIdentity>, roster: Arc<Roster>, timing: &Timing) -> Self {
        Self { tls, roster, patience: timing.election_max, open: Mutex::default() }
    }

    /// A client for `name`, which connects when it is first used. `None` when the member has no usable address.
    pub(crate) fn client(&self, name: &NodeName, address: Option<&str>, lane: Lane) -> Option<Client> {
        // The roster knows better than what Raft's log said some time ago.
        let address = self.roster.member(name).map(|member| member.address).or(address.map(str::to_owned))?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((to, client)) = open.get(&(name.clone(), lane))
            && *to == address
        {
            return Some(client.clone());
        }
        let endpoint = match self.tls.endpoint(name, &address) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::warn!(peer = %name, %error, "cannot reach a member");
                return None;
            }
        };
        // A link that was cut silently must not outlive the cut: TCP's own patience is a quarter of an hour.
        let channel = endpoint
            .connect_timeout(self.patience)
            .http2_keep_alive_interval(self.patience * 2)
            .keep_alive_timeout(self.patience * 2)
            .connect_lazy();
        let client = RolesClient::new(channel)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        open.insert((name.clone(), lane), (address, client.clone()));
        Some(client)
    }
}
