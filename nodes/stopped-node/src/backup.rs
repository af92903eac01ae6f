//! The data of a node that does not run: a backup of it, also when the node was removed from its cluster (rule D2), and the
//! settings of its cluster.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_backup::{BackupFolder, Created, Observer, is_s3, refuse_unfinished};
use twinbox_cluster_settings::{Rows, schema};
use twinbox_config::{Config, ConfigError, NodeConfig, Services};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_mailstore::{Mailstore, MailstoreSettings};
use twinbox_replication_peer::{PeerConfig, Peers};
use twinbox_replication_store::{Store, StoreConfig, StoreError};

use crate::{StoppedNodeError, check_owner};

/// A backup of a node that does not run.
#[derive(Debug)]
pub struct StoppedBackup {
    /// The backup.
    pub created: Created,
    /// The folder or bucket that it is in, as administrators write it.
    pub location: String,
    /// Descriptions of the data that was taken over now from a damaged index, each with its folder.
    pub salvaged: Vec<String>,
}

/// Folder of the index in that of a store.
const INDEX: &str = "db";

/// Source of the settings of a bucket.
#[derive(Debug)]
pub enum BucketSettings {
    /// Those of the cluster, as the store of this node has them.
    Cluster(NodeName),
    /// Those of a file: the store of its node could not tell.
    File {
        /// The file.
        file: PathBuf,
        /// Reason for which the store could not tell.
        reason: Box<NoClusterSettings>,
    },
}

impl fmt::Display for BucketSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(node) => write!(f, "those of the cluster, from the store of {node}"),
            Self::File { file, reason } => write!(f, "those of {}, since {reason}", file.display()),
        }
    }
}

/// Reason for which the settings of the cluster are not those of a bucket.
#[derive(Debug, thiserror::Error)]
pub enum NoClusterSettings {
    /// The file is not the configuration of a node.
    #[error("it is no complete configuration of a node")]
    NoNode(#[source] ConfigError),
    /// The node has no store, or one that cannot be opened: it runs, its disk fails, or the store belongs to another user.
    #[error("the store of the node cannot be read: {0}")]
    Store(String),
}

/// Reason for which there is no access to a bucket.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The file has mistakes.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// Neither the store nor the file tells how the bucket is reached.
    #[error("{} has no section [backup.s3], and the settings of the cluster are not known here: {reason}", file.display())]
    NoSettings {
        /// The file.
        file: PathBuf,
        /// Reason for which the store could not tell.
        reason: Box<NoClusterSettings>,
    },
    /// The settings are wrong.
    #[error(transparent)]
    Bucket(#[from] twinbox_backup::BackupError),
}

/// Opens a bucket by the settings of the cluster, if the file is the configuration of a node that does not run and has a store,
/// else by the section `[backup.s3]` of the file. Returns the source of the settings, too.
pub fn open_bucket(destination: &str, file: &Path) -> Result<(BackupFolder, BucketSettings), BucketError> {
    let (file, reason) = match of_cluster(file) {
        Ok((node, services)) => {
            return Ok((services.backup_folder(destination)?, BucketSettings::Cluster(node)));
        }
        Err(reason) => (file.to_owned(), Box::new(reason)),
    };
    match Config::backup_s3(&file)? {
        Some(settings) => {
            let folder = BackupFolder::open(destination, Some(&settings))?;
            Ok((folder, BucketSettings::File { file, reason }))
        }
        None => Err(BucketError::NoSettings { file, reason }),
    }
}

/// The services to the outside by the settings of the cluster, and the node whose store has them.
fn of_cluster(file: &Path) -> Result<(NodeName, Services), NoClusterSettings> {
    let config = NodeConfig::load(file).map_err(NoClusterSettings::NoNode)?;
    let unreadable = |error: &dyn std::error::Error| {
        let cause = error.source().map(|cause| format!(": {cause}"));
        NoClusterSettings::Store(format!("{error}{}", cause.unwrap_or_default()))
    };
    let store = open_store(&config).map_err(|error| unreadable(&error))?;
    let services = services(&config, &store).map_err(|error| unreadable(&error))?;
    Ok((config.name, services))
}

fn services(config: &NodeConfig, store: &Store) -> Result<Services, StoreError> {
    let rows = store.scan(schema::SETTING, &[])?;
    let rows = Rows::of(rows.iter().map(|(key, record)| (key, record)));
    let values = rows.values(&config.shared, config.cluster.is_wan());
    Ok(config.services.in_force(&values, &config.name).0)
}

/// Opens the store of a node that does not run.
fn open_store(config: &NodeConfig) -> Result<Store, StoppedNodeError> {
    Ok(Store::open(store_of(config)?)?)
}

/// The store of a node, if it has one that is not restored in part, and that belongs to the user of this process.
fn store_of(config: &NodeConfig) -> Result<StoreConfig, StoppedNodeError> {
    refuse_unfinished(&config.data_dir)?;
    let dir = config.data_dir.join("store");
    if !dir.join(INDEX).is_dir() {
        return Err(StoppedNodeError::NoStore(dir));
    }
    check_owner(&dir)?;
    Ok(StoreConfig { dir, node: config.name.clone(), reserve_bytes: config.reserve_bytes })
}

/// Descriptions of the data that was taken over from folders which were set aside.
fn taken_over(index: &Path) -> Result<Vec<String>, StoppedNodeError> {
    let found = twinbox_rebuild::find(index).map_err(StoreError::from)?.into_iter();
    Ok(found.filter_map(|aside| Some(format!("{}: {}", aside.folder.display(), aside.taken_over?))).collect())
}

/// Makes a backup of all that the disk of a node has, in this folder or bucket; the node must not run, and no other node is
/// asked for anything. A damaged index is set aside, as at a start of the node. Runs within a runtime of several threads.
pub async fn back_up_stopped(
    config: &NodeConfig,
    destination: &Path,
    release: &str,
    observer: &Observer,
) -> Result<StoppedBackup, StoppedNodeError> {
    let of = store_of(config)?;
    let index = of.dir.join(INDEX);
    let before = taken_over(&index)?;
    let store = twinbox_rebuild::open(of).await.map_err(|error| match error.into() {
        StoppedNodeError::InUse(dir) => StoppedNodeError::BackupInUse(dir),
        other => other,
    })?;
    let mut salvaged = taken_over(&index)?;
    salvaged.retain(|text| !before.contains(text));
    if store.cluster_id().is_none() {
        // A new index does not know it yet.
        store.set_cluster_id(config.cluster.id).await?;
    }
    let folder = match destination.to_str().filter(|destination| is_s3(destination)) {
        Some(bucket) => services(config, &store)?.backup_folder(bucket)?,
        None => BackupFolder::at(destination).outside(&config.data_dir),
    };
    // Nothing is connected: they are never started.
    let peers = PeerConfig {
        node: config.name.clone(),
        cluster: config.cluster.id,
        peers: Vec::new(),
        ack_timeout: Duration::from_millis(config.calls.ack_timeout_ms),
        tls: config.cluster.tls.clone(),
    };
    let peers = Peers::new(peers, store.clone());
    let mailstore =
        Mailstore::new(store, peers, MailstoreSettings::new(config.name.clone(), Incarnation::random()));
    let created = twinbox_backup::create(&mailstore, &folder, release, observer).await?;
    Ok(StoppedBackup { created, location: folder.location(), salvaged })
}
