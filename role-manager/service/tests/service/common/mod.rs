//! Clusters of real members: each in its own runtime, so that a kill stops everything immediately, with mutual TLS on
//! loopback and links that can be cut silently.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    time::sleep,
};
use twinbox_clock::BootInstant;
use twinbox_ids::{ClusterId, Epoch, Incarnation, NodeName};
use twinbox_pki::{CertificateAuthority, NodeIdentity};
use twinbox_roles::{
    CommandError, Duty, FeatureLevels, Gate, HealthReport, MemberAddress, MemberKind, Roles, RolesConfig,
    RolesError, RolesView, SUPPORTED_LEVELS, ServiceHealth, Status, StoreError, Timing,
};

/// Longest time for any step; the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// Maximum number of concurrent clusters: they measure time, and the machine is small. `.config/nextest.toml` has the
/// same value.
const AT_A_TIME: usize = 3;

/// Permit for one of them.
pub struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

pub fn turn() -> Turn {
    let slot = |n| std::env::temp_dir().join(format!("twinbox-roles-tests-{n}.lock"));
    loop {
        for n in 0..AT_A_TIME {
            let file = File::create(slot(n)).expect("a lock file");
            if file.try_lock().is_ok() {
                return Turn(file);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A cluster of nodes `a`, `b`, … and perhaps a witness `w`.
pub struct Cluster {
    _turn: Turn,
    pub dir: TempDir,
    id: ClusterId,
    links: Runtime,
    cuts: BTreeMap<(NodeName, NodeName), Arc<AtomicBool>>,
    proxies: BTreeMap<(NodeName, NodeName), SocketAddr>,
    own: BTreeMap<NodeName, SocketAddr>,
    /// Bound and never listening: reserves the port while its member does not run.
    _ports: Vec<TcpSocket>,
    kinds: BTreeMap<NodeName, MemberKind>,
    pub timing: Timing,
    /// Feature levels that all members announce.
    pub speaks: FeatureLevels,
    pub members: BTreeMap<NodeName, Running>,
}

/// A running member.
pub struct Running {
    runtime: Option<Runtime>,
    pub roles: Roles,
    /// The gate of the notifier.
    pub gate: Gate,
    pub incarnation: Incarnation,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

impl Cluster {
    /// Certificates, directories and links for these members; none runs yet. A name that begins with `w` is a witness.
    pub fn prepare(names: &[&str]) -> Self {
        let turn = turn();
        init_log();
        let dir = TempDir::new().expect("a directory");
        let id = ClusterId::random();
        let authority = CertificateAuthority::create(id, "test").expect("an authority");
        let mut kinds = BTreeMap::new();
        let mut own = BTreeMap::new();
        let mut ports = Vec::new();
        for text in names {
            let witness = text.starts_with('w');
            let kind = if witness { MemberKind::Witness } else { MemberKind::Node };
            let pki = if witness { twinbox_pki::MemberKind::Witness } else { twinbox_pki::MemberKind::Node };
            let tls = dir.path().join(text).join("tls");
            std::fs::create_dir_all(&tls).expect("a directory");
            authority.issue(&name(text), pki).expect("a certificate").save(&tls).expect("saved");
            kinds.insert(name(text), kind);
            let port = TcpSocket::new_v4().expect("a socket");
            port.set_reuseaddr(true).expect("an option");
            port.bind(([127, 0, 0, 1], 0).into()).expect("a port");
            own.insert(name(text), port.local_addr().expect("an address"));
            ports.push(port);
        }
        let mut cluster = Self {
            _turn: turn,
            dir,
            id,
            links: runtime(),
            cuts: BTreeMap::new(),
            proxies: BTreeMap::new(),
            own,
            _ports: ports,
            kinds,
            timing: Timing::lan(),
            speaks: SUPPORTED_LEVELS,
            members: BTreeMap::new(),
        };
        cluster.lay_links();
        cluster
    }

    /// As [`Self::prepare`], with all members running; the first founds the group.
    pub fn start(names: &[&str]) -> Self {
        let mut cluster = Self::prepare(names);
        cluster.run_all(names);
        cluster
    }

    /// As [`Self::start`], with all members in service and all duties running.
    pub fn formed(names: &[&str]) -> Self {
        let cluster = Self::start(names);
        cluster.wait_formed();
        cluster.wait_voting();
        cluster
    }

    fn lay_links(&mut self) {
        for from in self.kinds.keys() {
            for (to, target) in &self.own {
                if from != to {
                    let cut = Arc::new(AtomicBool::new(false));
                    let listener = self.links.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
                    let address = listener.local_addr().expect("an address");
                    self.links.spawn(forward(listener, *target, cut.clone()));
                    self.cuts.insert((from.clone(), to.clone()), cut);
                    self.proxies.insert((from.clone(), to.clone()), address);
                }
            }
        }
    }

    pub fn roles_dir(&self, text: &str) -> PathBuf {
        self.dir.path().join(text).join("roles")
    }

    pub fn identity(&self, text: &str) -> Arc<NodeIdentity> {
        Arc::new(NodeIdentity::load(&self.dir.path().join(text).join("tls")).expect("an identity"))
    }

    pub fn address(&self, text: &str) -> SocketAddr {
        self.own[&name(text)]
    }

    pub fn config(&self, text: &str, found: bool) -> RolesConfig {
        let node = name(text);
        let members = self.kinds.iter().map(|(member, kind)| {
            let address = match *member == node {
                true => self.own[member],
                false => self.proxies[&(node.clone(), member.clone())],
            };
            MemberAddress { name: member.clone(), kind: *kind, address: address.to_string() }
        });
        RolesConfig {
            kind: self.kinds[&node],
            cluster: self.id,
            incarnation: Incarnation::random(),
            members: members.collect(),
            learned: Vec::new(),
            removed: Vec::new(),
            dir: self.roles_dir(text),
            timing: self.timing,
            tls: self.identity(text),
            speaks: self.speaks,
            found,
            node,
        }
    }

    /// Starts these members; the first founds the group.
    pub fn run_all(&mut self, names: &[&str]) {
        for (i, text) in names.iter().enumerate() {
            self.run(text, i == 0);
        }
    }

    /// Starts a member. Its services are well from the start.
    pub fn run(&mut self, text: &str, found: bool) {
        let config = self.config(text, found);
        let (address, incarnation, tls) = (self.address(text), config.incarnation, config.tls.clone());
        let runtime = runtime();
        let roles = runtime.block_on(async {
            let limit = BootInstant::now() + PATIENCE;
            // A killed member's resources are freed shortly after its death.
            let roles = loop {
                match Roles::start(config.clone()).await {
                    Err(RolesError::Store(StoreError::Disk(error))) if BootInstant::now() < limit => {
                        tracing::info!(%error, "not yet");
                        sleep(Duration::from_millis(10)).await;
                    }
                    other => break other.expect("it starts"),
                }
            };
            let listener = loop {
                match TcpListener::bind(address).await {
                    Err(_) if BootInstant::now() < limit => sleep(Duration::from_millis(10)).await,
                    other => break other.expect("the port is free"),
                }
            };
            let incoming = tls.listen(listener);
            let services = tls.server().add_service(roles.service()).add_service(roles.exits());
            let serving = services.serve_with_incoming(incoming);
            tokio::spawn(async move { serving.await.expect("it serves") });
            roles
        });
        roles.report(healthy());
        let gate = roles.gate(Duty::Notifier);
        self.members.insert(name(text), Running { runtime: Some(runtime), roles, gate, incarnation });
    }

    /// Stops a member between two instructions: nothing is released, and no member is notified.
    pub fn kill(&mut self, text: &str) {
        drop(self.members.remove(&name(text)).expect("it runs"));
    }

    /// Stops a member in an orderly way.
    pub fn stop(&mut self, text: &str) {
        let member = self.members.remove(&name(text)).expect("it runs");
        member.runtime.as_ref().expect("a runtime").block_on(member.roles.shutdown());
    }

    /// Cuts or heals the links between one member and all others.
    pub fn isolate(&self, text: &str, cut: bool) {
        for ((from, to), link) in &self.cuts {
            if from.as_str() == text || to.as_str() == text {
                link.store(cut, SeqCst);
            }
        }
    }

    pub fn roles(&self, text: &str) -> &Roles {
        &self.members[&name(text)].roles
    }

    pub fn view(&self, text: &str) -> Arc<RolesView> {
        self.roles(text).watch().borrow().clone()
    }

    /// Runs an order on a member's own runtime.
    pub fn order<T>(&self, text: &str, f: impl AsyncFnOnce(&Roles) -> T) -> T {
        let member = &self.members[&name(text)];
        member.runtime.as_ref().expect("a runtime").block_on(f(&member.roles))
    }

    /// Runs an order until its outcome is known: on a busy machine there may be no leader for a moment.
    pub fn settled<T>(
        &self,
        text: &str,
        f: impl AsyncFn(&Roles) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let begun = BootInstant::now();
        loop {
            match self.order(text, &f) {
                Err(CommandError::NoMajority { .. } | CommandError::Unknown { .. })
                    if begun.elapsed() < PATIENCE =>
                {
                    thread::sleep(Duration::from_millis(10));
                }
                known => return known,
            }
        }
    }

    /// Starts a future on a member's own runtime: it ends with the member.
    pub fn begin<F: Future<Output = ()> + Send + 'static>(&self, text: &str, f: impl FnOnce(Roles) -> F) {
        let member = &self.members[&name(text)];
        drop(member.runtime.as_ref().expect("a runtime").spawn(f(member.roles.clone())));
    }

    /// The error for which a member's store cannot be used again.
    pub fn refusal_to_start(&self, text: &str) -> RolesError {
        let config = self.config(text, false);
        let limit = BootInstant::now() + PATIENCE;
        self.links.block_on(async {
            loop {
                match Roles::start(config.clone()).await {
                    // The store's former resources are freed shortly after their end.
                    Err(RolesError::Store(StoreError::Disk(error))) if BootInstant::now() < limit => {
                        tracing::info!(%error, "not yet");
                        sleep(Duration::from_millis(10)).await;
                    }
                    Err(other) => return other,
                    Ok(_) => panic!("{text} runs with a store that is not to be used again"),
                }
            }
        })
    }

    /// The epoch in which a member may act as notifier now. Two members cut off from each other may both act, each in
    /// its own epoch.
    pub fn epoch_of(&self, text: &str) -> Option<Epoch> {
        self.epoch_under(text, Duty::Notifier)
    }

    /// The epoch in which a member may act under this duty now.
    pub fn epoch_under(&self, text: &str, duty: Duty) -> Option<Epoch> {
        let gate = self.roles(text).gate(duty);
        let epoch = gate.holding().borrow().clone()?;
        gate.check(&epoch).ok().map(|()| epoch)
    }

    /// Waits until a condition holds, and returns the time taken.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let begun = BootInstant::now();
        while !holds(self) {
            if begun.elapsed() > PATIENCE {
                let views: Vec<_> = self.members.keys().map(|n| self.view(n.as_str())).collect();
                panic!("after {PATIENCE:?} still not: {what}\n{views:#?}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }

    /// Checks repeatedly for this time.
    pub fn throughout(&self, long: Duration, mut look: impl FnMut(&Self)) {
        let begun = BootInstant::now();
        while begun.elapsed() < long {
            look(self);
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn wait_formed(&self) {
        let took = self.until("every running member is in service and all duties run", |c| {
            let running: Vec<_> = c.members.keys().cloned().collect();
            c.members.keys().all(|n| {
                let view = c.view(n.as_str());
                view.quorum
                    && view.reason.is_empty()
                    && running.iter().all(|m| view.member(m).is_some_and(|m| m.status == Status::InService))
            }) && c.duties().all(|duty| c.holder_of(duty).is_some())
        });
        println!("formed after {took:?}");
    }

    /// The duties of a cluster of these members.
    pub fn duties(&self) -> impl Iterator<Item = Duty> {
        let level = self.speaks.max;
        Duty::ALL.into_iter().filter(move |duty| duty.level() <= level)
    }

    /// Waits until all running members vote and know it: from then on one may fail.
    pub fn wait_voting(&self) {
        self.until("all members vote", |c| {
            let all = |roles: &Roles| roles.voters().iter().eq(c.members.keys()) && !roles.voters_change();
            c.members.keys().all(|n| all(c.roles(n.as_str())))
        });
    }

    /// The node that may act as notifier now. Two nodes at the same time are an error, for any duty.
    pub fn holder(&self) -> Option<(NodeName, Epoch)> {
        let others = Duty::ALL.into_iter().filter(|duty| *duty != Duty::Notifier);
        others.for_each(|duty| drop(self.holder_of(duty)));
        self.holder_of(Duty::Notifier)
    }

    /// The node that may act under this duty now. Two at the same time are an error.
    pub fn holder_of(&self, duty: Duty) -> Option<(NodeName, Epoch)> {
        let acts = |(name, member): (&NodeName, &Running)| {
            let gate = member.roles.gate(duty);
            let epoch = gate.holding().borrow().clone()?;
            gate.check(&epoch).ok().map(|()| (name.clone(), epoch))
        };
        let open: Vec<_> = self.members.iter().filter_map(acts).collect();
        assert!(open.len() < 2, "two act under {duty} at once: {open:?}");
        open.into_iter().next()
    }

    /// As [`Self::holder`], waiting for one: on a busy machine a lease may expire for a moment.
    pub fn wait_holder(&self) -> (NodeName, Epoch) {
        let mut acts = None;
        self.until("a node acts", |c| {
            acts = c.holder();
            acts.is_some()
        });
        acts.expect("waited for")
    }

    /// Whether this node is the one that acts, once there is one.
    pub fn acts(&self, text: &str) -> bool {
        self.wait_holder().0.as_str() == text
    }

    pub fn holder_is(&self, text: &str) -> bool {
        self.holder().is_some_and(|(holder, _)| holder.as_str() == text)
    }

    /// The leader, as the given member knows.
    pub fn leader(&self, asked: &str) -> Option<NodeName> {
        self.view(asked).leader.clone()
    }
}

/// A report in which everything works.
pub fn healthy() -> HealthReport {
    HealthReport { services: vec![ServiceHealth { name: "calls".into(), ok: true, detail: String::new() }] }
}

/// A report in which the store has failed.
pub fn failing() -> HealthReport {
    let detail = "the disk says no".into();
    HealthReport { services: vec![ServiceHealth { name: "store".into(), ok: false, detail }] }
}

async fn forward(listener: TcpListener, target: SocketAddr, cut: Arc<AtomicBool>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { return };
        let cut = cut.clone();
        tokio::spawn(async move {
            while cut.load(SeqCst) {
                sleep(Duration::from_millis(5)).await;
            }
            let Ok(far) = TcpStream::connect(target).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            tokio::select! {
                () = copy(near_in, far_out, &cut) => {}
                () = copy(far_in, near_out, &cut) => {}
            }
        });
    }
}

/// Copies; while the link is cut nothing gets through, without any notice.
async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, cut: &AtomicBool) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return };
        while cut.load(SeqCst) {
            sleep(Duration::from_millis(5)).await;
        }
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

fn init_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("TWINBOX_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}
