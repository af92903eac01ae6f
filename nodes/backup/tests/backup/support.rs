//! A node with a folder for its backups.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use twinbox_backup::{
    Backup, BackupError, BackupFolder, Created, Manifest, Observer, Progress, RestoreTarget, Restored, S3Settings,
};
use twinbox_ids::{ClusterId, MailboxId};
use twinbox_mailstore::Message;
use twinbox_peer_kit::S3Server;
use twinbox_replication_store::Filled;
use twinbox_store_kit::{Node, name};

/// Cluster of the nodes that are backed up.
pub const OLD: ClusterId = ClusterId(7);
/// Cluster into which backups are restored.
pub const NEW: ClusterId = ClusterId(8);

/// A node of cluster [`OLD`], and a folder for backups.
pub struct Fixture {
    pub node: Node,
    pub folder: BackupFolder,
    dir: TempDir,
}

/// The bucket of a server, as a destination.
pub trait Bucket {
    /// Settings that fit.
    fn settings(&self) -> S3Settings;
    /// A destination below a prefix in the bucket.
    fn folder(&self) -> BackupFolder;
}

impl Bucket for S3Server {
    fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: Some(self.endpoint()),
            region: "us-east-1".to_owned(),
            access_key: Self::ACCESS_KEY.to_owned(),
            secret_key: Self::SECRET.to_owned(),
            ca_file: None,
            allow_http: false,
            virtual_host: false,
            timeout: Duration::from_secs(60),
        }
    }

    fn folder(&self) -> BackupFolder {
        BackupFolder::open(Self::DESTINATION, Some(&self.settings())).expect("a destination")
    }
}

/// Takes progress without showing it.
pub fn silent() -> Observer {
    Arc::new(|_: Progress| {})
}

impl Fixture {
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let node = Node::alone(&dir.path().join("store"), "a");
        let folder = BackupFolder::at(dir.path().join("backups")).with_patience(Duration::ZERO);
        Self { node, folder, dir }
    }

    /// With another destination.
    pub fn with(folder: BackupFolder) -> Self {
        Self { folder: folder.with_patience(Duration::ZERO), ..Self::new() }
    }

    /// The directory for backups.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    pub async fn create(&self) -> Created {
        self.node.store.set_cluster_id(OLD).await.expect("a cluster");
        self.node.store.set_filled(Filled::Complete).await.expect("a mark");
        let made = twinbox_backup::create(&self.node.mailstore, &self.folder, "test", &silent()).await;
        made.expect("a backup")
    }

    pub fn backups(&self) -> Vec<Backup> {
        self.folder.backups_by_age().expect("backups")
    }

    /// All files of audio.
    pub fn audio_files(&self) -> Vec<PathBuf> {
        let list = |dir: &Path| {
            let entries = std::fs::read_dir(dir).expect("a folder");
            entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
        };
        list(&self.dir().join("audio")).iter().flat_map(|folder| list(folder)).collect()
    }

    /// Restores the newest backup into the store of a node in `data_dir`.
    pub async fn restore(&self, data_dir: &Path, cluster: ClusterId) -> Result<Restored, BackupError> {
        let target = RestoreTarget {
            data_dir: data_dir.to_owned(),
            node: name("a"),
            cluster,
            reserve_bytes: 0,
            founds: true,
        };
        let from = self.folder.clone();
        let backup = aside(move || from.find(None, None)).await?;
        twinbox_backup::restore(&target, &self.folder, &backup, &silent()).await
    }
}

/// Gives a backup another time.
pub fn shift(made: &Created, to: impl FnOnce(u64) -> u64) {
    let file = Path::new(&made.location).join("manifest.json");
    let mut manifest: Manifest =
        serde_json::from_slice(&std::fs::read(&file).expect("a manifest")).expect("readable");
    manifest.began_ms = to(manifest.began_ms);
    std::fs::write(&file, serde_json::to_vec(&manifest).expect("text")).expect("written");
}

/// Runs work that waits for a destination on a thread that may block.
pub async fn aside<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    tokio::task::spawn_blocking(work).await.expect("the work ends")
}

/// The messages of a mailbox with their audio.
pub async fn heard(node: &Node, mailbox: MailboxId) -> Vec<(Message, Vec<u8>)> {
    let mut heard = Vec::new();
    for message in node.mailstore.messages(mailbox).await.expect("messages") {
        let audio = node.mailstore.audio(&message).await.expect("audio").bytes.to_vec();
        heard.push((message, audio));
    }
    heard
}
