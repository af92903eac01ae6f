//! The data of a node that does not run: a backup of it, also when the node was removed from its cluster (rule D2).

use std::time::Duration;

use twinbox_backup::{BackupFolder, Created, Observer};
use twinbox_config::NodeConfig;
use twinbox_ids::Incarnation;
use twinbox_mailstore::{Mailstore, Settings};
use twinbox_replication_peer::{PeerConfig, Peers};
use twinbox_replication_store::{Store, StoreConfig};

use crate::AppError;

/// A backup of a node that does not run.
#[derive(Debug)]
pub struct StoppedBackup {
    /// The backup.
    pub created: Created,
    /// The node had all records: false for one that was still filling from the others.
    pub had_all: bool,
}

/// Makes a backup of all that the disk of a node has; the node must not run, and no other node is asked for anything.
pub async fn back_up_stopped(
    config: &NodeConfig,
    folder: &BackupFolder,
    release: &str,
    observer: &Observer,
) -> Result<StoppedBackup, AppError> {
    if let Some(backup) = twinbox_backup::unfinished_restore(&config.data_dir) {
        return Err(AppError::Unrestored { backup, dir: config.data_dir.clone() });
    }
    let dir = config.data_dir.join("store");
    if !dir.join("db").is_dir() {
        return Err(AppError::NoStore(dir));
    }
    let store = Store::open(StoreConfig { dir, node: config.name.clone(), reserve_bytes: config.reserve_bytes })?;
    let had_all = store.filled().has_records();
    // Nothing is connected: they are never started.
    let peers = PeerConfig {
        node: config.name.clone(),
        cluster: config.cluster.id,
        peers: Vec::new(),
        ack_timeout: Duration::from_millis(config.calls.ack_timeout_ms),
        tls: config.cluster.tls.clone(),
    };
    let peers = Peers::new(peers, store.clone());
    let mailstore = Mailstore::new(store, peers, Settings::new(config.name.clone(), Incarnation::random(), 1));
    let created = twinbox_backup::create(&mailstore, folder, release, observer).await?;
    Ok(StoppedBackup { created, had_all })
}
