//! A member whose clock, agreed state and other nodes are the test's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::watch;
use twinbox_alarms::Alarms;
use twinbox_clock::BootInstant;
use twinbox_enrollment::certificates::{CertificateCluster, CertificateRenewer, RenewerParts, Signer};
use twinbox_ids::{ClusterId, NodeName, Timestamp};
use twinbox_pki::{
    CertificateAuthority, CertificateClock, MemberKind, NextAuthority, NodeIdentity, Seal, Validity,
};
use twinbox_roles::{CertificateOrder, Certificates, Fingerprint, Rotation, RotationStep};

/// A day, in milliseconds.
pub const DAY: u64 = 86_400_000;

/// The time at which authorities are made, unless a test says otherwise.
pub const START: Timestamp = Timestamp(1_800_000_000_000);

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// `START` and this number of days.
pub fn day(days: u64) -> Timestamp {
    Timestamp(START.0 + days * DAY)
}

/// The certificate and key of an authority, as PEM.
#[derive(Clone)]
pub struct Key {
    pub fingerprint: Fingerprint,
    pub certificate: String,
    pub key: String,
}

impl Key {
    pub fn of(authority: &CertificateAuthority) -> Self {
        let (certificate, key) = (authority.certificate_pem().to_owned(), authority.key_pem());
        Self { fingerprint: authority.fingerprint(), certificate, key }
    }

    /// The authority itself.
    pub fn open(&self) -> CertificateAuthority {
        let dir = PathBuf::from("/nowhere");
        CertificateAuthority::from_pem(&dir, self.certificate.clone(), &self.key).expect("an authority")
    }
}

/// Another node of the cluster: the keys that it has, or the reason for which it does not answer.
pub type OtherNode = Result<Vec<Key>, &'static str>;

/// A cluster as a member sees it.
#[derive(Clone)]
pub struct Cluster {
    pub agreed: Arc<watch::Sender<Certificates>>,
    nodes: Arc<Mutex<BTreeMap<NodeName, OtherNode>>>,
    /// Reason for which the cluster agrees on nothing now.
    obstacle: Arc<Mutex<Option<&'static str>>>,
    /// The only member that asks.
    asking: (NodeName, MemberKind),
    clock: Clock,
}

impl Cluster {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeName, OtherNode>> {
        self.nodes.lock().expect("not poisoned")
    }

    /// Sets another node.
    pub fn set_node(&self, node: &str, state: OtherNode) {
        self.nodes().insert(name(node), state);
    }

    /// From now on the cluster agrees on nothing, for this reason; `None`: on each order.
    pub fn set_obstacle(&self, reason: Option<&'static str>) {
        *self.obstacle.lock().expect("not poisoned") = reason;
    }

    /// Begins the rotation from that CA to the next one, which node b has made.
    pub fn begin(&self, former: &Key, next: &NextAuthority) {
        let rotation = Rotation {
            former: former.fingerprint,
            next: next.authority.fingerprint(),
            certificate: next.authority.certificate_pem().to_owned(),
            cross: next.cross_pem.clone(),
            by: name("b"),
            begun_ms: START.0,
            step: RotationStep::Trust,
            done: BTreeMap::new(),
            expected: BTreeSet::new(),
            without: BTreeSet::new(),
        };
        self.agreed.send_modify(|agreed| agreed.rotation = Some(rotation));
    }

    /// All members have done the step before this one.
    pub fn step(&self, step: RotationStep) {
        self.agreed.send_modify(|agreed| {
            if let Some(rotation) = &mut agreed.rotation {
                rotation.step = step;
            }
        });
    }

    /// The last step that the member has reported.
    pub fn reported(&self) -> Option<RotationStep> {
        let agreed = self.agreed.borrow();
        agreed.rotation.as_ref().and_then(|rotation| rotation.done.get(&self.asking.0).copied())
    }

    fn key(&self, node: &NodeName, authority: Fingerprint) -> Result<Key, String> {
        let nodes = self.nodes();
        let keys =
            nodes.get(node).expect("it is among the others").as_ref().map_err(|reason| (*reason).to_owned())?;
        let found = keys.iter().find(|key| key.fingerprint == authority).cloned();
        found.ok_or_else(|| "it does not have that key".to_owned())
    }
}

impl CertificateCluster for Cluster {
    fn certificates(&self) -> Certificates {
        self.agreed.borrow().clone()
    }

    async fn certificates_beyond(&self, seen: &Certificates) {
        let mut agreed = self.agreed.subscribe();
        let _changed = agreed.wait_for(|agreed| agreed != seen).await.map(drop);
    }

    async fn order(&self, order: CertificateOrder) -> Result<(), String> {
        if let Some(reason) = *self.obstacle.lock().expect("not poisoned") {
            return Err(reason.to_owned());
        }
        let CertificateOrder::Did { name, next, step } = order else {
            panic!("a member reports, and orders nothing")
        };
        self.agreed.send_modify(|agreed| {
            if let Some(rotation) = agreed.rotation.as_mut().filter(|rotation| rotation.next == next) {
                rotation.done.insert(name, step);
            }
        });
        Ok(())
    }

    fn other_nodes(&self) -> Vec<NodeName> {
        self.nodes().keys().cloned().collect()
    }

    async fn certificate_from(
        &self,
        node: &NodeName,
        public_key: &[u8],
        authority: Fingerprint,
    ) -> Result<String, String> {
        let (name, kind) = &self.asking;
        let signed = self.key(node, authority)?.open().certify(
            public_key,
            name,
            *kind,
            Validity::of_member(self.clock.now()),
        );
        signed.map_err(|error| error.to_string())
    }

    async fn key_from(&self, node: &NodeName, authority: Fingerprint) -> Result<String, String> {
        Ok(self.key(node, authority)?.key)
    }
}

/// A clock that the test sets.
#[derive(Clone)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    pub fn now(&self) -> Timestamp {
        Timestamp(self.0.load(SeqCst))
    }

    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, SeqCst);
    }

    fn of_certificates(&self) -> CertificateClock {
        let clock = self.clone();
        CertificateClock::new(move || clock.now())
    }
}

/// Member a, and its renewer.
pub struct Member {
    dir: TempDir,
    pub clock: Clock,
    pub cluster: Cluster,
    /// The CA that has signed its first certificate.
    pub authority: Key,
    pub tls: Arc<NodeIdentity>,
    pub renewer: CertificateRenewer<Cluster>,
    alarms: Option<Alarms>,
}

impl Member {
    /// A node whose certificate was signed at `now` by a CA that was made at `START`, and that has the key of this CA.
    pub fn node(now: Timestamp) -> Self {
        let member = Self::start(MemberKind::Node, now, None);
        member.seal().close(&member.authority.open()).expect("sealed");
        member
    }

    /// A witness, with a certificate as that of [`Self::node`].
    pub fn witness(now: Timestamp) -> Self {
        Self::start(MemberKind::Witness, now, None)
    }

    /// A node that does not have the key of its CA.
    pub fn without_key(now: Timestamp, alarms: Option<Alarms>) -> Self {
        Self::start(MemberKind::Node, now, alarms)
    }

    fn start(kind: MemberKind, now: Timestamp, alarms: Option<Alarms>) -> Self {
        let (dir, clock) = (TempDir::new().expect("a folder"), Clock(Arc::new(AtomicU64::new(now.0))));
        fs::create_dir(dir.path().join("tls")).expect("a folder");
        let authority = CertificateAuthority::create_at(ClusterId(7), "test", START).expect("an authority");
        let issued = authority.issue_for(&name("a"), kind, Validity::of_member(now)).expect("a certificate");
        issued.save(&dir.path().join("tls")).expect("saved");
        let cluster = Cluster {
            agreed: Arc::new(watch::Sender::new(Certificates::default())),
            nodes: Arc::default(),
            obstacle: Arc::default(),
            asking: (name("a"), kind),
            clock: clock.clone(),
        };
        let (tls, renewer) = Self::load(&dir, &clock, &cluster, &alarms);
        Self { dir, clock, cluster, authority: Key::of(&authority), tls, renewer, alarms }
    }

    fn load(
        dir: &TempDir,
        clock: &Clock,
        cluster: &Cluster,
        alarms: &Option<Alarms>,
    ) -> (Arc<NodeIdentity>, CertificateRenewer<Cluster>) {
        let tls_dir = dir.path().join("tls");
        let tls = Arc::new(NodeIdentity::load_with(&tls_dir, clock.of_certificates()).expect("usable files"));
        let signer = Arc::new(Signer::new(tls.clone(), &tls_dir, &dir.path().join("seal.key")));
        let renewer = CertificateRenewer::new(RenewerParts {
            tls: tls.clone(),
            tls_dir,
            signer: (tls.kind == MemberKind::Node).then_some(signer),
            cluster: cluster.clone(),
            alarms: alarms.clone(),
        });
        (tls, renewer)
    }

    /// The next process of this member, with the same files.
    pub fn restart(&mut self) {
        (self.tls, self.renewer) = Self::load(&self.dir, &self.clock, &self.cluster, &self.alarms);
    }

    pub fn seal(&self) -> Seal {
        Seal::new(&self.dir.path().join("tls"), &self.dir.path().join("seal.key"))
    }

    /// Path of a file beside its certificate.
    pub fn file(&self, file: &str) -> PathBuf {
        self.dir.path().join("tls").join(file)
    }

    /// One poll; the wait until the next one.
    pub async fn poll(&mut self) -> Duration {
        self.renewer.poll(BootInstant::from_nanos(0)).await
    }
}
