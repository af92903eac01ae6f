//! Requests of administrators, and of other members, to a node: on a Unix socket that only this user may open, for
//! operators of other machines over mutual TLS, and between members.

mod admin;
mod backup;
mod delivery;
mod directory;
mod events;
mod mailbox_sync;
mod messages;
mod node_info;
mod operators;
mod provisioning;
mod reports;
mod sending;
mod services;
mod socket;
mod steering;
mod timetable;

use std::sync::Arc;

use twinbox_alarms::Alarms;
use twinbox_config::NodeConfig;
use twinbox_devices::Templates;
use twinbox_directory_duty::DirectoryDuty;
use twinbox_ids::NodeName;
use twinbox_mailbox_sync_duty::MailboxSyncDuty;
use twinbox_mailstore::Mailstore;
use twinbox_members::MemberClients;
use twinbox_notifier::NotifierService;
use twinbox_replication_admin::StorageParts;
use twinbox_replication_peer::Peers;
use twinbox_replication_store::Store;
use twinbox_roles::Roles;
use twinbox_settings_service::SharedSettings;

pub use admin::AdminService;
pub use delivery::MwiResync;
pub use directory::DirectoryOrders;
pub use node_info::{NodeFacts, NodeInfoService, NodeState};
pub use operators::Operators;
pub use socket::{AdminSocket, SocketError};

/// The parts of a node that administrators use.
#[derive(Clone)]
pub struct AdminHandles {
    /// Name of the node.
    pub name: NodeName,
    /// Configuration as read at the start.
    pub config: Arc<NodeConfig>,
    /// Store of records and audio.
    pub store: Store,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Role manager.
    pub roles: Roles,
    /// Mailboxes and messages.
    pub mailstore: Mailstore,
    /// Settings that all nodes share.
    pub settings: SharedSettings,
    /// Alarms and events.
    pub alarms: Alarms,
    /// Connections to the other members.
    pub members: Arc<MemberClients>,
    /// Duty `notifier` on this node.
    pub notifier: NotifierService,
    /// Duty `directory-sync` on this node.
    pub directory_sync: DirectoryDuty,
    /// Duty `mailbox-sync` on this node.
    pub mailbox_sync: MailboxSyncDuty,
    /// Texts of notifications.
    pub templates: Arc<Templates>,
}

impl AdminHandles {
    /// The parts for requests about replication and the store.
    fn storage(&self) -> StorageParts {
        StorageParts {
            name: self.name.clone(),
            store: self.store.clone(),
            dir: self.config.data_dir.join("store"),
            peers: self.peers.clone(),
            mailstore: self.mailstore.clone(),
            members: self.members.clone(),
        }
    }
}
