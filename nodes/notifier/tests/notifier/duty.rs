//! The duty over a real store, checked by the states that arrive at a receiver.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};
use twinbox_clock::BootInstant;
use twinbox_gate::{Gate, Permit};
use twinbox_ids::{CallId, ClusterId, Epoch, Incarnation, MailboxId, MessageId, NodeName};
use twinbox_mailbox::schema;
use twinbox_mailstore::{Codec, Mailstore, MailstoreSettings, Mark, MessageCounts, NewMailbox, RecordingMeta};
use twinbox_notifier::mwi::{MwiPolicy, MwiSender, MwiUpdate, Notifier, Receivers, SendError, Target};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_replication_core::{Edit, Value};
use twinbox_replication_peer::{PeerConfig, Peers};
use twinbox_replication_store::{Filled, Store, StoreConfig, StoreError};
use twinbox_roles::Duty;

/// State that reached the receiver: number, new, saved, number of the epoch.
type Arrived = (String, u32, u32, u64);

/// A PBX that accepts, refuses, or does not answer. In addition, another trunk never answers, and subscribers fail.
#[derive(Clone)]
struct Pbx {
    told: Arc<AtomicUsize>,
    /// Mailboxes with subscribers, and those of which the subscribers were told.
    subscribed: Arc<Mutex<Receivers>>,
    told_of: Arc<Mutex<BTreeSet<MailboxId>>>,
    lists: Arc<AtomicUsize>,
    arrivals: mpsc::UnboundedSender<Arrived>,
    deaf: Arc<AtomicBool>,
    hung: Arc<AtomicBool>,
    reached: Arc<Notify>,
    /// Trunks that take MWI, besides those two.
    further: Arc<Mutex<Vec<&'static str>>>,
}

impl MwiSender for Pbx {
    fn targets(&self) -> Vec<Target> {
        let further = self.further.lock().unwrap().clone();
        let trunks = ["pbx", "dead"].into_iter().chain(further).map(trunk);
        trunks.chain([Target::Subscribers(name())]).collect()
    }

    async fn receivers(&self, _: &Target) -> Result<Receivers, SendError> {
        self.lists.fetch_add(1, SeqCst);
        Ok(self.subscribed.lock().unwrap().clone())
    }

    async fn send(&self, to: &Target, updates: &[MwiUpdate], permit: &Permit) -> Vec<Result<(), SendError>> {
        let mut outcomes = Vec::new();
        for update in updates {
            outcomes.push(self.send_one(to, update, permit).await);
        }
        outcomes
    }
}

impl Pbx {
    async fn send_one(&self, to: &Target, update: &MwiUpdate, permit: &Permit) -> Result<(), SendError> {
        let epoch = permit.epoch();
        if *to == trunk("dead") {
            return std::future::pending().await;
        }
        if let Target::Trunk(trunk) = to
            && trunk != "pbx"
        {
            let MessageCounts { new, saved } = update.counts;
            let _ = self.arrivals.send((format!("{trunk}:{}", update.number), new, saved, epoch.number));
            return Err(SendError::Refused("not known here".to_owned()));
        }
        if *to != trunk("pbx") {
            self.told.fetch_add(1, SeqCst);
            self.told_of.lock().unwrap().insert(update.mailbox);
            return Err(SendError::Incomplete("one does not answer".to_owned()));
        }
        self.reached.notify_one();
        if self.hung.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        permit.check()?;
        let MessageCounts { new, saved } = update.counts;
        let _ = self.arrivals.send((update.number.clone(), new, saved, epoch.number));
        if self.deaf.load(SeqCst) { Err(SendError::Unreachable("no answer".to_owned())) } else { Ok(()) }
    }
}

struct Rig {
    store: Store,
    mailstore: Mailstore,
    gate: Gate,
    pbx: Pbx,
    arrivals: mpsc::UnboundedReceiver<Arrived>,
    notifier: Notifier,
}

pub fn name() -> NodeName {
    "a".parse().unwrap()
}

fn trunk(name: &str) -> Target {
    Target::Trunk(name.to_owned())
}

/// A store with all records, and its mail store.
pub async fn mailstore(dir: &Path) -> (Store, Mailstore) {
    let tls = dir.join("tls");
    std::fs::create_dir(&tls).unwrap();
    let authority = CertificateAuthority::create(ClusterId(7), "test").unwrap();
    authority.issue(&name(), MemberKind::Node).unwrap().save(&tls).unwrap();
    let store = Store::open(StoreConfig { dir: dir.join("store"), node: name(), reserve_bytes: 0 }).unwrap();
    store.set_filled(Filled::Complete).await.unwrap();
    let config = PeerConfig {
        node: name(),
        cluster: ClusterId(7),
        peers: vec![],
        ack_timeout: Duration::from_millis(250),
        tls: Arc::new(NodeIdentity::load(&tls).unwrap()),
    };
    let peers = Peers::new(config, store.clone());
    (store.clone(), Mailstore::new(store, peers, MailstoreSettings::new(name(), Incarnation::random())))
}

impl Rig {
    async fn new(dir: &TempDir) -> Self {
        Self::paced(dir, MwiPolicy::default().pace).await
    }

    async fn paced(dir: &TempDir, pace: Duration) -> Self {
        let (store, mailstore) = mailstore(dir.path()).await;
        let (arrivals, receiver) = mpsc::unbounded_channel();
        let gate = Gate::new(Duty::Notifier);
        let pbx = Pbx {
            told: Arc::default(),
            subscribed: Arc::new(Mutex::new(Receivers::Unknown)),
            told_of: Arc::default(),
            lists: Arc::default(),
            arrivals,
            deaf: Arc::default(),
            hung: Arc::default(),
            reached: Arc::new(Notify::new()),
            further: Arc::default(),
        };
        let policy = MwiPolicy { pace, first_retry: Duration::from_millis(5), ..MwiPolicy::default() };
        let notifier = Notifier::start(mailstore.clone(), gate.clone(), pbx.clone(), policy);
        Self { store, mailstore, gate, pbx, arrivals: receiver, notifier }
    }

    /// This node holds the duty in the epoch of this number, until the gate is closed.
    fn give(&self, number: u64) -> Epoch {
        let epoch = Epoch { generation: 0, number, node: name() };
        self.gate.open(&epoch, BootInstant::now() + Duration::from_secs(3_600));
        epoch
    }

    async fn mailbox(&self, number: &str) -> MailboxId {
        let new = NewMailbox { pin: None, ..NewMailbox::new(number, "") };
        self.mailstore.create(new).await.unwrap().0.id
    }

    async fn leave(&self, mailbox: MailboxId) -> MessageId {
        let meta =
            RecordingMeta { mailbox, caller: None, caller_name: None, codec: Codec::Pcmu, call: CallId::random() };
        let live = self.mailstore.begin_recording(meta).await.unwrap();
        live.append(0, Bytes::from(vec![7; 12_000])).unwrap();
        live.file().await.unwrap().message
    }

    async fn arrival(&mut self) -> Arrived {
        timeout(Duration::from_secs(10), self.arrivals.recv()).await.expect("in time").expect("the duty runs")
    }

    /// Waits until this state arrives; states that arrive before it may only be earlier ones.
    async fn until(&mut self, expected: (&str, u32, u32, u64)) {
        let (number, new, saved, epoch) = expected;
        let expected = (number.to_owned(), new, saved, epoch);
        while self.arrival().await != expected {}
    }
}

#[tokio::test]
async fn new_holder_sends_all_states_and_then_changes() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    let (first, second) = (rig.mailbox("1001").await, rig.mailbox("1002").await);
    rig.leave(first).await;
    assert!(rig.arrivals.try_recv().is_err(), "no lease, no NOTIFY");
    assert!(rig.notifier.snapshot().is_empty() && rig.notifier.epoch().is_none() && rig.notifier.is_running());

    let epoch = rig.give(1);
    let mut all = [rig.arrival().await, rig.arrival().await];
    all.sort();
    assert_eq!(all, [("1001".to_owned(), 1, 0, 1), ("1002".to_owned(), 0, 0, 1)]);
    assert_eq!(rig.notifier.epoch(), Some(epoch));
    assert_eq!(rig.notifier.snapshot().len(), 2 * 3, "at each target");

    let message = rig.leave(second).await;
    assert_eq!(rig.arrival().await, ("1002".to_owned(), 1, 0, 1));
    rig.mailstore.mark(second, message, Mark::Heard).await.unwrap();
    assert_eq!(rig.arrival().await, ("1002".to_owned(), 0, 1, 1));
    rig.mailstore.remove(second).await.unwrap();
    assert_eq!(rig.arrival().await, ("1002".to_owned(), 0, 0, 1));
}

/// As at a take-over with many mailboxes.
#[tokio::test]
async fn message_that_is_left_while_all_states_are_sent_is_told_before_the_rest() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::paced(&dir, Duration::from_millis(200)).await;
    let mut mailboxes = Vec::new();
    for number in 1_001..=1_040 {
        mailboxes.push(rig.mailbox(&number.to_string()).await);
    }
    rig.give(1);
    let (first, ..) = rig.arrival().await;
    // Eight seconds for all.
    rig.leave(mailboxes[mailboxes.len() - 1]).await;
    let mut told = vec![first];
    loop {
        match rig.arrival().await {
            (number, 1, 0, 1) => break assert_eq!(number, "1040"),
            (number, ..) => told.push(number),
        }
    }
    assert!(told.len() < mailboxes.len() / 2, "after {told:?}");
}

/// At a take-over the holder has one list for all mailboxes, however many they are.
#[tokio::test]
async fn new_holder_asks_a_node_about_mailboxes_with_subscribers_and_about_changes() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::new(&dir).await;
    let mut mailboxes = Vec::new();
    for number in 1_001..=1_100 {
        mailboxes.push(rig.mailbox(&number.to_string()).await);
    }
    let (listed, changed) = (mailboxes[7], mailboxes[8]);
    *rig.pbx.subscribed.lock().unwrap() = Receivers::Of([listed].into());
    rig.give(1);
    let settled = |rig: &Rig| {
        let states = rig.notifier.snapshot();
        states.iter().filter(|s| matches!(s.target, Target::Subscribers(_)) && s.sent.is_some()).count()
    };
    eventually("the others count as delivered", || settled(&rig) == mailboxes.len() - 1).await;
    eventually("the listed one is told", || rig.pbx.told.load(SeqCst) > 0).await;
    assert_eq!((rig.pbx.lists.load(SeqCst), &*rig.pbx.told_of.lock().unwrap()), (1, &[listed].into()));

    // Its subscriber may have come since the list.
    rig.leave(changed).await;
    eventually("the change is told", || rig.pbx.told_of.lock().unwrap().contains(&changed)).await;
    assert_eq!(rig.pbx.told_of.lock().unwrap().len(), 2);
    rig.notifier.resync(None);
    eventually("another list", || rig.pbx.lists.load(SeqCst) == 2).await;
}

/// Polls until the condition is true; fails after ten seconds.
async fn eventually(what: &str, so: impl Fn() -> bool) {
    let polling = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), polling).await.unwrap_or_else(|_| panic!("not within ten seconds: {what}"));
}

#[tokio::test]
async fn trunk_that_gets_mwi_later_is_sent_all_states_and_one_that_loses_it_none() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    let mailbox = rig.mailbox("1001").await;
    rig.give(1);
    assert_eq!(rig.arrival().await, ("1001".to_owned(), 0, 0, 1));
    rig.pbx.further.lock().unwrap().push("late");
    rig.until(("late:1001", 0, 0, 1)).await;
    let of_late = || rig.notifier.snapshot().iter().filter(|state| state.target == trunk("late")).count();
    assert_eq!(of_late(), 1);
    rig.pbx.further.lock().unwrap().clear();
    eventually("its queue ends", || of_late() == 0).await;
    while rig.arrivals.try_recv().is_ok() {}
    rig.leave(mailbox).await;
    assert_eq!(rig.arrival().await, ("1001".to_owned(), 1, 0, 1));
}

/// An idle loop turns with and without the lease; a hung loop is detected.
#[tokio::test]
async fn one_that_rests_is_told_from_one_that_hangs() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    rig.mailbox("1001").await;
    for holds in [false, true] {
        if holds {
            rig.give(1);
            rig.arrival().await;
        }
        // Longer than the permitted time without a turn.
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(rig.notifier.still_for() < Duration::from_secs(5), "{:?}", rig.notifier.still_for());
        }
        assert!(rig.notifier.still_for() < Duration::from_millis(1_400), "{:?}", rig.notifier.still_for());
    }
    rig.notifier.wedge();
    timeout(Duration::from_secs(20), async {
        while rig.notifier.still_for() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it hangs");
    assert!(rig.notifier.is_running(), "its task is there");
}

#[tokio::test]
async fn unanswered_state_is_sent_again_as_the_latest() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    let mailbox = rig.mailbox("1001").await;
    rig.pbx.deaf.store(true, SeqCst);
    rig.give(1);
    rig.until(("1001", 0, 0, 1)).await;
    rig.until(("1001", 0, 0, 1)).await;
    rig.leave(mailbox).await;
    rig.until(("1001", 1, 0, 1)).await;
    let state = rig.notifier.snapshot().into_iter().find(|state| state.target == trunk("pbx")).unwrap();
    assert!(state.failures > 0 && state.sent.is_none(), "{state:?}");
    rig.pbx.deaf.store(false, SeqCst);
    rig.until(("1001", 1, 0, 1)).await;
    rig.leave(mailbox).await;
    rig.until(("1001", 2, 0, 1)).await;
}

#[tokio::test]
async fn lost_lease_stops_the_holder_immediately_even_during_a_write() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    let mailbox = rig.mailbox("1001").await;
    rig.pbx.hung.store(true, SeqCst);
    rig.give(1);
    rig.pbx.reached.notified().await;
    assert!(rig.gate.is_busy());
    rig.gate.close();
    // The hanging write is dropped: the duty can be handed over.
    timeout(Duration::from_secs(10), rig.gate.idle()).await.expect("dropped");
    rig.pbx.hung.store(false, SeqCst);
    rig.leave(mailbox).await;
    assert!(rig.arrivals.try_recv().is_err());

    // Holder again, in another epoch: all states are sent, under that epoch.
    rig.give(3);
    assert_eq!(rig.arrival().await, ("1001".to_owned(), 1, 0, 3));
}

#[tokio::test]
async fn next_epoch_sends_all_states_again() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    rig.mailbox("1001").await;
    rig.give(1);
    assert_eq!(rig.arrival().await, ("1001".to_owned(), 0, 0, 1));
    rig.give(2);
    assert_eq!(rig.arrival().await, ("1001".to_owned(), 0, 0, 2));
}

#[tokio::test]
async fn resync_sends_states_again_only_while_the_duty_is_held() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    let (first, second) = (rig.mailbox("1001").await, rig.mailbox("1002").await);
    assert_eq!(rig.notifier.resync(None), None, "no lease");
    rig.give(1);
    let _ = (rig.arrival().await, rig.arrival().await);
    let settled = |rig: &Rig| rig.notifier.snapshot().iter().filter(|state| state.sent.is_some()).count() == 2;
    while !settled(&rig) {
        tokio::task::yield_now().await;
    }

    assert_eq!(rig.notifier.resync(None), Some(2 * 3), "at each target");
    let mut all = [rig.arrival().await, rig.arrival().await];
    all.sort();
    assert_eq!(all, [("1001".to_owned(), 0, 0, 1), ("1002".to_owned(), 0, 0, 1)]);
    while !settled(&rig) {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.notifier.resync(Some(second)), Some(3));
    assert_eq!(rig.arrival().await, ("1002".to_owned(), 0, 0, 1));
    assert_eq!(rig.notifier.resync(Some(MailboxId(0))), Some(0), "no such mailbox");
    rig.leave(first).await;
    assert_eq!(rig.arrival().await, ("1001".to_owned(), 1, 0, 1));
}

/// The other trunk hangs on its first send the whole time, and the subscribers fail repeatedly.
#[tokio::test]
async fn silent_target_holds_up_no_other_and_gets_no_repetition() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    let mailbox = rig.mailbox("1001").await;
    rig.give(1);
    assert_eq!(rig.arrival().await, ("1001".to_owned(), 0, 0, 1));
    rig.leave(mailbox).await;
    assert_eq!(rig.arrival().await, ("1001".to_owned(), 1, 0, 1));
    eventually("subscribers are told again", || rig.pbx.told.load(SeqCst) >= 5).await;
    assert!(rig.arrivals.try_recv().is_err(), "the PBX has it and is not told again");
}

/// Counts warnings.
struct Warnings(AtomicUsize);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("twinbox_notifier") && *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, SeqCst);
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_mailbox_that_cannot_be_read_is_left_out_once() {
    let warnings = Arc::new(Warnings(AtomicUsize::new(0)));
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::new(&dir).await;
    let (broken, whole) = (rig.mailbox("1001").await, rig.mailbox("1002").await);
    rig.give(1);
    let _ = (rig.arrival().await, rig.arrival().await);
    let nonsense = Edit::Set(schema::mailbox::CREATED, Value::Bytes(b"no time".to_vec()));
    let key = schema::mailbox_key(broken);
    let made = rig.store.commit::<_, StoreError, _>(move |draft| draft.edit(key, vec![nonsense])).await;
    made.expect("stored");
    rig.leave(whole).await;
    assert_eq!(rig.arrival().await, ("1002".to_owned(), 1, 0, 1));
    // Long enough for two more reads.
    assert!(timeout(Duration::from_millis(2_500), rig.arrivals.recv()).await.is_err(), "and its MWI stays");
    assert_eq!(warnings.0.load(SeqCst), 1);
}
