//! Stores of nodes with their alarms: each alone, with changes handed over as by a stream.
#![allow(unused, reason = "each test file uses its part")]

use std::{path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use twinbox_alarms::{Alarms, Event, Follower, Item, Since, Syslog};
use twinbox_clock::BootInstant;
use twinbox_ids::{ClusterId, NodeName};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_replication_peer::{PeerConfig, Peers};
use twinbox_replication_store::{Store, StoreConfig};

pub const CLUSTER: ClusterId = ClusterId(7);

/// The part of a node that has alarms.
pub struct Node {
    pub store: Store,
    pub alarms: Alarms,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub fn name(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

impl Node {
    /// Starts an incarnation of this node.
    pub async fn start(dir: &Path, node: &str) -> Self {
        Self::start_with(dir, node, None).await
    }

    pub async fn start_with(dir: &Path, node: &str, syslog: Option<Syslog>) -> Self {
        let config = StoreConfig { dir: dir.join(node), node: name(node), reserve_bytes: 0 };
        let store = Store::open(config).expect("a store");
        store.set_cluster_id(CLUSTER).await.expect("of this cluster");
        let alarms = Alarms::open(store.clone(), peers(node, &store)).await.expect("alarms");
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (alarms, stop) = (alarms.clone(), stop.clone());
            async move { alarms.serve(syslog, stop).await }
        });
        Self { store, alarms, stop, task }
    }

    /// Ends this incarnation in good order.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the task ends");
    }

    /// Hands all its changes to another node.
    pub async fn hand_over(&self, other: &Self) {
        loop {
            let changes = self.store.changes_after(&other.store.vector(), 512).expect("changes");
            if changes.is_empty() {
                return;
            }
            other.store.apply(changes).await.expect("applied");
        }
    }

    /// Waits until the alarm with this subject fulfils the condition.
    pub async fn wait(
        &self,
        subject: &str,
        wanted: impl Fn(&twinbox_alarms::Alarm) -> bool,
    ) -> twinbox_alarms::Alarm {
        wait_for(subject, || {
            let all = self.alarms.list().expect("a list");
            all.into_iter().find(|alarm| alarm.subject == subject && wanted(alarm))
        })
        .await
    }

    /// Items for a reader with this cursor, and the cursor after them.
    pub fn read(&self, since: &Since) -> (Vec<Item>, String) {
        let mut follower = self.alarms.follow(since).expect("a reader");
        let items = std::iter::from_fn(|| follower.try_next()).collect();
        (items, follower.cursor().to_string())
    }
}

/// No other node to wait for.
pub fn peers(node: &str, store: &Store) -> Peers {
    let dir = TempDir::new().expect("a folder");
    let authority = CertificateAuthority::create(CLUSTER, "test").expect("an authority");
    authority.issue(&name(node), MemberKind::Node).expect("a certificate").save(dir.path()).expect("saved");
    let tls = Arc::new(NodeIdentity::load(dir.path()).expect("loaded"));
    let config =
        PeerConfig { node: name(node), cluster: CLUSTER, peers: vec![], ack_timeout: Duration::from_secs(1), tls };
    Peers::new(config, store.clone())
}

/// Waits until `look` returns a value.
pub async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = BootInstant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The events among them, as `node kind subject`.
pub fn words(items: &[Item]) -> Vec<String> {
    items
        .iter()
        .map(|item| match item {
            Item::Event(event) => format!("{} {} {}", event.node, event.kind, event.subject),
            Item::Gap { node, missing } => format!("{node} gap {missing:?}"),
        })
        .collect()
}
