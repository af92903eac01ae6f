//! A node with its store, alarms and gate, and jobs whose work waits for the test.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use twinbox_alarms::{Alarm, Alarms, Code};
use twinbox_clock::{BootInstant, wall};
use twinbox_gate::Gate;
use twinbox_ids::{ClusterId, Epoch, Incarnation, JobId, NodeName, Timestamp};
use twinbox_mailstore::{Mailstore, MailstoreSettings};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_replication_peer::{PeerAddress, PeerConfig, Peers};
use twinbox_replication_store::{Filled, Store, StoreConfig};
use twinbox_roles_core::Duty;
use twinbox_timetable::{Job, JobChange, JobKind, JobRun, RunState};
use twinbox_timetable_duty::{JobOrder, TimetableDuty, Works};
use twinbox_timetable_store::TimetableStore;

pub const HOUR_MS: u64 = 3_600 * 1_000;
const CLUSTER: ClusterId = ClusterId(7);
/// Incarnation of the process that runs the duty.
const OWN: Incarnation = Incarnation(0xa);

/// A node.
pub struct Node {
    pub store: Store,
    pub gate: Gate,
    pub mailstore: Mailstore,
    pub alarms: Alarms,
    peers: Peers,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
    /// Last: removed after the store.
    _dir: TempDir,
}

pub fn name(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

pub fn epoch(number: u64) -> Epoch {
    Epoch { generation: 0, number, node: name("a") }
}

fn identity(authority: &CertificateAuthority, dir: &Path, node: &str) -> Arc<NodeIdentity> {
    let dir = dir.join("tls");
    std::fs::create_dir(&dir).expect("a folder");
    authority.issue(&name(node), MemberKind::Node).expect("a certificate").save(&dir).expect("saved");
    Arc::new(NodeIdentity::load(&dir).expect("loaded"))
}

impl Node {
    /// A node without peers, whose store has all records.
    pub async fn alone() -> Self {
        let node = Self::without_records().await;
        node.store.set_filled(Filled::Complete).await.expect("a mark");
        node
    }

    /// A node without peers, whose store waits for its first fill.
    pub async fn without_records() -> Self {
        let authority = CertificateAuthority::create(CLUSTER, "test").expect("an authority");
        Self::new(&authority, "a", vec![], None).await
    }

    /// Two nodes that replicate.
    pub async fn pair() -> [Self; 2] {
        let authority = CertificateAuthority::create(CLUSTER, "test").expect("an authority");
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (first, second) = (listen().await, listen().await);
        let address = |node: &str, listener: &TcpListener| PeerAddress {
            name: name(node),
            address: listener.local_addr().expect("an address").to_string(),
        };
        let both = vec![address("a", &first), address("b", &second)];
        let a = Self::new(&authority, "a", both.clone(), Some(first)).await;
        let b = Self::new(&authority, "b", both, Some(second)).await;
        for node in [&a, &b] {
            node.store.set_filled(Filled::Complete).await.expect("a mark");
        }
        eventually("both count", async || a.peers.counting() == 1 && b.peers.counting() == 1).await;
        [a, b]
    }

    async fn new(
        authority: &CertificateAuthority,
        node: &str,
        peers: Vec<PeerAddress>,
        listener: Option<TcpListener>,
    ) -> Self {
        let dir = TempDir::new().expect("a folder");
        let tls = identity(authority, dir.path(), node);
        let store = StoreConfig { dir: dir.path().join("store"), node: name(node), reserve_bytes: 0 };
        let store = Store::open(store).expect("a store");
        store.set_cluster_id(CLUSTER).await.expect("of this cluster");
        let config = PeerConfig {
            node: name(node),
            cluster: CLUSTER,
            peers,
            ack_timeout: Duration::from_secs(1),
            tls: tls.clone(),
        };
        let peers = Peers::new(config, store.clone());
        let server = listener.map(|listener| {
            let service = tls.server().add_service(peers.service());
            peers.start();
            tokio::spawn(async move {
                let _ = service.serve_with_incoming(tls.listen(listener)).await;
            })
        });
        let alarms = Alarms::open(store.clone(), peers.clone()).await.expect("alarms");
        let stop = CancellationToken::new();
        tokio::spawn({
            let (alarms, stop) = (alarms.clone(), stop.clone());
            async move { alarms.serve(None, stop).await }
        });
        let mailstore = Mailstore::new(store.clone(), peers.clone(), MailstoreSettings::new(name(node), OWN));
        Self { store, gate: Gate::new(Duty::Timetable), mailstore, alarms, peers, stop, server, _dir: dir }
    }

    /// Starts the duty on this node. It works while the node holds the duty.
    pub fn duty(&self, works: Works) -> TimetableDuty {
        let duty = TimetableDuty::new(self.mailstore.clone(), self.gate.clone(), self.alarms.clone(), works);
        duty.restart();
        duty
    }

    /// Gives the duty to this node, in that epoch.
    pub fn hold(&self, number: u64) {
        self.gate.open(&epoch(number), BootInstant::now() + Duration::from_secs(3_600));
    }

    /// Lets other commits pass: time for a write that must not come.
    pub async fn commits(&self) {
        for _ in 0..20 {
            let _ = self.store.probe().await;
            tokio::task::yield_now().await;
        }
    }

    /// Adds a job that was made three hours ago. It is due at the next change of the year, unless its settings differ.
    pub async fn add(&self, name: &str, settings: &[&str]) -> JobId {
        self.add_kind(JobKind::Ageing, name, settings).await
    }

    pub async fn add_kind(&self, kind: JobKind, name: &str, settings: &[&str]) -> JobId {
        let parse = |text: &str| JobChange::parse(kind, text).expect(text);
        let mut changes = vec![parse("cron=@yearly")];
        changes.extend(settings.iter().map(|text| parse(text)));
        let created = Timestamp(wall().0 - 3 * HOUR_MS);
        let job = Job::new(JobId::random(), name, kind, &changes, created).expect("a job");
        TimetableStore::of(&self.mailstore).add_job(job.clone()).await.expect("added");
        job.id
    }

    /// Adds a job and asks for a run of it.
    pub async fn request(&self, name: &str, settings: &[&str]) -> JobId {
        let id = self.add(name, settings).await;
        TimetableStore::of(&self.mailstore).request_job_run(id).await.expect("requested");
        id
    }

    pub async fn last(&self, job: JobId) -> Option<JobRun> {
        TimetableStore::of(&self.mailstore).job_runs(job).await.expect("readable").into_iter().next()
    }

    /// Waits until the latest run of a job is in that state.
    pub async fn until(&self, job: JobId, state: RunState) -> JobRun {
        let what = format!("a run is {}", state.word());
        eventually(&what, async || self.last(job).await.is_some_and(|run| run.state == state)).await;
        self.last(job).await.expect("a run")
    }

    /// Waits for the alarm of a job that failed; returns its text.
    pub async fn alarm(&self, code: Code, job: &str) -> String {
        let found = || {
            let alarms = self.alarms.list().expect("a list");
            let failed = |it: &Alarm| it.code == Some(code) && it.subject == job;
            alarms.into_iter().find(failed).map(|alarm| alarm.detail)
        };
        eventually("an alarm is raised", async || found().is_some()).await;
        found().expect("an alarm")
    }

    pub fn has_no_alarm(&self) -> bool {
        self.alarms.list().expect("a list").is_empty()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// Polls until the condition is true; fails after twenty seconds.
pub async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let began = BootInstant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The work of the jobs of a test: records each run, and lets those wait whose jobs it keeps.
#[derive(Clone)]
pub struct Workshop(Arc<Inner>);

struct Inner {
    /// Names of the jobs whose work began, in order.
    begun: Mutex<Vec<String>>,
    active: Mutex<Vec<String>>,
    kept: watch::Sender<HashSet<String>>,
}

/// Work under way: also ends when its task is aborted.
struct UnderWay<'a>(&'a Workshop, String);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.active().retain(|name| *name != self.1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workshop {
    pub fn new() -> Self {
        let kept = watch::Sender::new(HashSet::new());
        Self(Arc::new(Inner { begun: Mutex::default(), active: Mutex::default(), kept }))
    }

    /// The list with this work, for jobs of the kind `ageing`.
    pub fn works(&self) -> Works {
        let this = self.clone();
        Works::default().with(JobKind::Ageing, move |order: JobOrder| {
            let this = this.clone();
            async move { this.work(order).await }
        })
    }

    async fn work(&self, order: JobOrder) -> Result<String, String> {
        assert!(order.check().is_ok(), "work without the duty");
        let name = order.job.name.clone();
        lock(&self.0.begun).push(name.clone());
        self.active().push(name.clone());
        let _under_way = UnderWay(self, name.clone());
        let mut kept = self.0.kept.subscribe();
        let released = kept.wait_for(|kept| !kept.contains(&name)).await.is_ok();
        assert!(released && !name.starts_with("panics"), "a panic in the work");
        if name.starts_with("fails") { Err(format!("{name} by itself")) } else { Ok(format!("{name} is done")) }
    }

    pub fn begun(&self) -> Vec<String> {
        lock(&self.0.begun).clone()
    }

    fn active(&self) -> MutexGuard<'_, Vec<String>> {
        lock(&self.0.active)
    }

    /// Keeps the work of this job waiting.
    pub fn keep(&self, name: &str) {
        self.0.kept.send_modify(|kept| {
            kept.insert(name.to_owned());
        });
    }

    /// Lets the work of this job go on.
    pub fn release(&self, name: &str) {
        self.0.kept.send_modify(|kept| {
            kept.remove(name);
        });
    }

    /// Waits until these are under way, and no others.
    pub async fn under_way(&self, names: &[&str]) {
        let same = async || {
            let mut active = self.active().clone();
            active.sort();
            active == names
        };
        eventually("the work is under way", same).await;
    }
}
