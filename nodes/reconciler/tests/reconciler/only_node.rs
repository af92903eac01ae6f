//! The reconciler of a node that is its cluster's only member, beside a real role manager: what it measures decides whether
//! the node serves.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use twinbox_alarms::Alarms;
use twinbox_calls::{CallsConfig, CallsDeps, CallsService};
use twinbox_clock::BootClock;
use twinbox_ids::Incarnation;
use twinbox_media::{Engine, MediaConfig};
use twinbox_prompts::Prompts;
use twinbox_reconciler::{NodeReconciler, ReconcilerParts, SharedDrain, first_measures};
use twinbox_replication_store::Filled;
use twinbox_roles::{
    HealthReport, MemberAddress, MemberKind, Roles, RolesConfig, SUPPORTED_LEVELS, ServiceHealth, Status, Timing,
};
use twinbox_store_kit::{Authority, Node, name};

/// Longest wait for anything; the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Node a, whose services all work. Its store lacks records at first.
struct OnlyNode {
    node: Node,
    roles: Roles,
    _running: DropGuard,
    _dir: TempDir,
}

impl OnlyNode {
    async fn start(store_rebuilt: bool) -> Self {
        let dir = TempDir::new().expect("a folder");
        let node = Node::alone(&dir.path().join("store"), "a");
        let tls = Authority::new().identity("a");
        // No other member connects to it.
        let own = MemberAddress { name: name("a"), kind: MemberKind::Node, address: "127.0.0.1:1".to_owned() };
        let incarnation = Incarnation::random();
        let config = RolesConfig {
            node: own.name.clone(),
            kind: own.kind,
            cluster: tls.cluster,
            incarnation,
            members: vec![own],
            learned: Vec::new(),
            removed: Vec::new(),
            dir: dir.path().join("roles"),
            timing: Timing::lan(),
            tls,
            speaks: SUPPORTED_LEVELS,
            found: true,
        };
        let roles = Roles::start(config).await.expect("a role manager");
        roles.measure(first_measures(&node.store));
        let works = ServiceHealth { name: "calls".to_owned(), ok: true, detail: String::new() };
        roles.report(HealthReport { services: vec![works] });
        let media = MediaConfig::new(Ipv4Addr::LOCALHOST.into(), 21_000..=21_099);
        let deps = CallsDeps {
            node: name("a"),
            incarnation,
            mailstore: node.mailstore.clone(),
            prompts: Arc::new(Prompts::load(None, "en").expect("the embedded prompts")),
            media: Engine::start(media).expect("a media engine"),
            clock: BootClock::default(),
        };
        let reconciler = NodeReconciler::new(ReconcilerParts {
            name: name("a"),
            incarnation,
            timing: Timing::lan(),
            store: node.store.clone(),
            peers: node.peers.clone(),
            roles: roles.clone(),
            calls: CallsService::new(CallsConfig::default(), deps),
            alarms: Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms"),
            measured: Box::new(|| None),
            drain: SharedDrain::default(),
            store_rebuilt,
        });
        let stop = CancellationToken::new();
        tokio::spawn(reconciler.run(stop.clone()));
        Self { node, roles, _running: stop.drop_guard(), _dir: dir }
    }

    /// Waits until the node has this status.
    async fn becomes(&self, status: Status) {
        let mut view = self.roles.watch();
        let is_so = view.wait_for(|view| view.member(&name("a")).is_some_and(|member| member.status == status));
        let in_time = timeout(PATIENCE, is_so).await.is_ok_and(|found| found.is_ok());
        assert!(in_time, "not {status} within {PATIENCE:?}: {:?}", self.roles.watch().borrow().members);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_node_without_others_ends_its_first_fill_and_then_serves() {
    let only = OnlyNode::start(false).await;
    only.becomes(Status::InService).await;
    assert!(only.node.store.filled().has_records());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_whose_store_was_built_again_is_replicating_until_it_has_all_records() {
    let only = OnlyNode::start(true).await;
    only.becomes(Status::Replicating).await;
    assert!(!only.node.store.filled().has_records());
    only.node.store.set_filled(Filled::Complete).await.expect("stored");
    only.becomes(Status::InService).await;
}
