//! A core that ends is restarted, and a store is loaded as it was.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tonic::Status;
use twinbox_disk::{DiskError, Transaction};
use twinbox_roles_core::{MemberKind, Order, OrderId, SUPPORTED_LEVELS, State};
use twinbox_wire::roles::{AppendAnswer, AppendRequest};

use super::*;

/// A cluster without other members.
struct NoOthers;

#[tonic::async_trait]
impl Dial for NoOthers {
    fn client(&self, _: &Peer, _: RaftLane) -> Option<Client> {
        None
    }

    async fn heartbeat(&self, _: &Peer, _: AppendRequest) -> Result<AppendAnswer, Status> {
        Err(Status::unavailable("there is no other member"))
    }

    fn note_contact(&self, _: &NodeName) {}
}

fn config() -> RaftConfig {
    RaftConfig {
        node: "a".parse().expect("a name"),
        cluster: ClusterId::random(),
        incarnation: Incarnation::random(),
        timing: Timing::lan(),
        speaks: SUPPORTED_LEVELS,
    }
}

fn store_in(dir: &TempDir) -> PathBuf {
    dir.path().join("roles")
}

async fn open(config: &RaftConfig, dir: &Path) -> (Arc<Core>, Arc<StoreIdentity>) {
    open_on(config, Disk::open(dir).expect("a disk"), State::apply).await
}

async fn open_on(config: &RaftConfig, disk: Disk, apply: Apply) -> (Arc<Core>, Arc<StoreIdentity>) {
    let identity = Arc::new(StoreIdentity::open(config, disk.clone()).await.expect("an identity"));
    let core = Core::open(config, disk, identity.clone(), Arc::new(NoOthers), apply).expect("a core");
    identity.confirm();
    (Arc::new(core), identity)
}

async fn start(core: &Arc<Core>) -> JoinHandle<()> {
    let task = core.start().await.expect("it starts");
    tokio::spawn(async move { task.run().await })
}

fn own(config: &RaftConfig) -> Peer {
    Peer { name: config.node.clone(), kind: MemberKind::Node, address: String::new() }
}

async fn leading(core: &Core, above: u64) -> u64 {
    let mut status = core.status();
    let leads = status.wait_for(|p| p.leading && p.term > above);
    timeout(Duration::from_secs(10), leads).await.expect("in time").expect("a status").term
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_that_ends_is_restarted_with_its_state() {
    let dir = TempDir::new().expect("a directory");
    let config = config();
    let (core, identity) = open(&config, &store_in(&dir)).await;
    let running = start(&core).await;
    core.found(own(&config)).await.expect("founded");
    let term = leading(&core, 0).await;
    let raft_id = identity.raft_id();
    let admit =
        Command::Admit { name: config.node.clone(), kind: MemberKind::Node, address: String::new(), raft_id };
    assert_eq!(core.propose(admit).await, Ok(CommandOutcome::Done));

    // Like a storage error or a panic in the core.
    core.raft().expect("a core").shutdown().await.expect("it ends");
    let again = leading(&core, term).await;
    assert!(again > term, "it leads again, by an election");
    let mut applied = core.applied();
    let remembers = applied.wait_for(|a| a.state.members.contains_key(&config.node));
    timeout(Duration::from_secs(10), remembers).await.expect("in time").expect("applied");
    let order = Command::Operate { id: OrderId(1), order: Order::Activate(config.node.clone()) };
    assert_eq!(core.propose(order).await, Ok(CommandOutcome::Unchanged));
    identity.stop();
    running.await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_becomes_a_snapshot_that_survives_the_process() {
    let dir = TempDir::new().expect("a directory");
    let config = config();
    let expected = {
        let (core, identity) = open(&config, &store_in(&dir)).await;
        let running = start(&core).await;
        core.found(own(&config)).await.expect("founded");
        leading(&core, 0).await;
        for n in 0..u128::from(SNAPSHOT_AFTER + 2 * KEEP_IN_LOG) {
            core.propose(Command::Settle { id: OrderId(n) }).await.expect("applied");
        }
        let mut log = core.store.clone();
        let shortened = async {
            use openraft::storage::RaftLogStorage;
            while log.get_log_state().await.expect("a log").last_purged_log_id.is_none() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), shortened).await.expect("the log gets shorter");
        assert!(core.store.snapshot().expect("read").is_some());
        identity.stop();
        running.await.expect("it stops");
        core.applied().borrow().state.clone()
    };
    let limit = BootInstant::now() + Duration::from_secs(10);
    let (core, identity) = loop {
        // The first core's resources are freed shortly after its end.
        match Disk::open(&store_in(&dir)) {
            Ok(disk) => {
                drop(disk);
                break open(&config, &store_in(&dir)).await;
            }
            Err(error) if BootInstant::now() > limit => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    };
    let running = start(&core).await;
    assert_eq!(core.applied().borrow().state, expected);
    assert_eq!(identity.run(), 2);
    identity.stop();
    running.await.expect("it stops");
}

#[tokio::test]
async fn a_store_never_written_by_raft_gets_a_new_id_at_each_start() {
    use openraft::storage::RaftLogStorage;

    let dir = TempDir::new().expect("a directory");
    let config = config();
    let disk = Disk::open(&store_in(&dir)).expect("a disk");
    let (_, first) = open_on(&config, disk.clone(), State::apply).await;
    first.adopt(StoreIdentity::new_group()).await.expect("a disk");
    let (core, second) = open_on(&config, disk.clone(), State::apply).await;
    assert_ne!(second.raft_id(), first.raft_id(), "an image from before joining could vote under the old id");
    assert_eq!((second.run(), second.group()), (1, None));
    let mut store = core.store.next().await.expect("a store");
    store.save_vote(&types::Vote::new(3, second.raft_id())).await.expect("a disk");
    let (_, third) = open_on(&config, disk, State::apply).await;
    assert_eq!((third.raft_id(), third.run()), (second.raft_id(), 2), "it has promised something");
}

#[tokio::test]
async fn an_older_snapshot_does_not_replace_a_later_one() {
    use openraft::vote::RaftLeaderId;

    let dir = TempDir::new().expect("a directory");
    let (core, _) = open(&config(), &store_in(&dir)).await;
    let store = core.store.next().await.expect("a store");
    let snapshot = |term, index| {
        let last = types::LogId::new(types::Vote::new(term, 1).leader_id.to_committed(), index);
        let meta = types::SnapshotMeta { last_log_id: Some(last), ..Default::default() };
        codec::snapshot(&meta, format!("{term} {index}").into())
    };
    // The snapshots are saved in this order; `stored` is the one stored after each.
    for (term, index, stored) in [(1, 10, "1 10"), (1, 9, "1 10"), (2, 8, "2 8"), (1, 12, "2 8"), (2, 9, "2 9")] {
        store.save_snapshot(&snapshot(term, index)).await.expect("a disk");
        let present = store.snapshot().expect("read").expect("a snapshot").state;
        assert_eq!(present, stored, "after {term} {index}");
    }
}

#[tokio::test]
async fn a_start_is_remembered_and_an_older_one_is_detected() {
    let dir = TempDir::new().expect("a directory");
    let (_core, identity) = open(&config(), &store_in(&dir)).await;
    let start = |run, incarnation, earlier: &[u128]| Start {
        run,
        incarnation: Incarnation(incarnation),
        earlier: earlier.iter().flat_map(|incarnation| incarnation.to_be_bytes()).collect(),
    };
    let remember = async |start| identity.remember(7, start).await.expect("a disk");
    assert_eq!(remember(start(3, 1, &[])).await, Remembered::Confirmed);
    assert_eq!(remember(start(3, 1, &[])).await, Remembered::Confirmed, "asked again");
    assert_eq!(remember(start(3, 2, &[])).await, Remembered::Behind { known: 3 }, "a copy");
    assert_eq!(remember(start(2, 2, &[])).await, Remembered::Behind { known: 3 });
    assert_eq!(remember(start(5, 5, &[4, 2])).await, Remembered::Behind { known: 3 }, "another third start");
    assert_eq!(remember(start(5, 5, &[4, 1])).await, Remembered::Confirmed);
    assert_eq!(remember(start(3, 1, &[])).await, Remembered::Behind { known: 5 });
}

#[tokio::test]
async fn a_store_announces_its_starts() {
    let dir = TempDir::new().expect("a directory");
    let disk = Disk::open(&store_in(&dir)).expect("a disk");
    let opened = async |incarnation| {
        let config = RaftConfig { incarnation: Incarnation(incarnation), ..config() };
        open_on(&config, disk.clone(), State::apply).await
    };
    use openraft::storage::RaftLogStorage;
    let (core, first) = opened(11).await;
    assert_eq!(first.start(), Start::first(Incarnation(11)));
    let mut store = core.store.next().await.expect("a store");
    store.save_vote(&types::Vote::new(3, first.raft_id())).await.expect("a disk");
    opened(12).await;
    let (_, third) = opened(13).await;
    let earlier = [12_u128, 11].iter().flat_map(|incarnation| incarnation.to_be_bytes()).collect();
    assert_eq!(third.start(), Start { run: 3, incarnation: Incarnation(13), earlier });
}

#[tokio::test]
async fn a_member_does_not_vote_soon_after_its_start() {
    let dir = TempDir::new().expect("a directory");
    let (_core, identity) = open(&config(), &store_in(&dir)).await;
    let silent = async || {
        assert!(identity.may_take_part() && !identity.may_vote());
        let begun = BootInstant::now();
        while !identity.may_vote() {
            sleep(Duration::from_millis(2)).await;
        }
        begun.elapsed()
    };
    let expected = Timing::lan().silence_after_start();
    silent().await;
    // A core restarted in the same process counts as new.
    identity.core_started();
    assert!(silent().await > expected - Duration::from_millis(20));
    identity.quarantine("its store was rolled back".to_owned()).await;
    assert!(!identity.may_take_part() && !identity.may_vote());
}

/// Makes the disk sync nothing until the sender is dropped.
async fn hang(disk: &Disk) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel();
    let hang = move |_: &mut Transaction<'_>| {
        let _ = released.recv();
        Ok::<_, DiskError>(())
    };
    disk.submit(hang, drop).await.expect("a disk");
    release
}

fn admit(config: &RaftConfig, identity: &StoreIdentity, address: &str) -> Command {
    let raft_id = identity.raft_id();
    Command::Admit { name: config.node.clone(), kind: MemberKind::Node, address: address.to_owned(), raft_id }
}

async fn last_index(core: &Core) -> u64 {
    let raft = core.raft().expect("a core");
    let asked = raft.with_raft_state(|state| state.log_ids.last().map_or(0, |id| id.index));
    timeout(Duration::from_secs(10), asked).await.expect("the core answers").expect("a core")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_sync_delays_the_answer_but_not_the_core() {
    let dir = TempDir::new().expect("a directory");
    let config = config();
    let disk = Disk::open(&store_in(&dir)).expect("a disk");
    let (core, identity) = open_on(&config, disk.clone(), State::apply).await;
    let running = start(&core).await;
    core.found(own(&config)).await.expect("founded");
    leading(&core, 0).await;
    let before = last_index(&core).await;

    let hanging = hang(&disk).await;
    let proposed = tokio::spawn({
        let (core, command) = (core.clone(), admit(&config, &identity, "somewhere"));
        async move { core.propose(command).await }
    });
    while last_index(&core).await == before {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(last_index(&core).await > before, "the core goes on with the entry that is not durable yet");
    assert!(!proposed.is_finished(), "nothing is answered before it is durable");
    assert!(!core.applied().borrow().state.members.contains_key(&config.node));
    drop(hanging);
    assert_eq!(proposed.await.expect("no panic"), Ok(CommandOutcome::Done));
    identity.stop();
    running.await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_not_durable_when_its_core_ended_is_not_in_the_next_log() {
    let dir = TempDir::new().expect("a directory");
    let config = config();
    let disk = Disk::open(&store_in(&dir)).expect("a disk");
    let (core, identity) = open_on(&config, disk.clone(), State::apply).await;
    let running = start(&core).await;
    core.found(own(&config)).await.expect("founded");
    let term = leading(&core, 0).await;
    let before = last_index(&core).await;

    let hanging = hang(&disk).await;
    let proposed = tokio::spawn({
        let (core, command) = (core.clone(), admit(&config, &identity, "nowhere"));
        async move { core.propose(command).await }
    });
    while last_index(&core).await == before {
        sleep(Duration::from_millis(1)).await;
    }
    core.raft().expect("a core").shutdown().await.expect("it ends");
    // The next core is starting: writes queued by the old one no longer count.
    while core.store.starts() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    drop(hanging);
    leading(&core, term).await;
    assert!(matches!(proposed.await.expect("no panic"), Err(ProposeError::Stopped(_))));
    assert_eq!(core.propose(Command::Settle { id: OrderId(1) }).await.map(drop), Ok(()));
    assert!(!core.applied().borrow().state.members.contains_key(&config.node), "it was never durable");
    identity.stop();
    running.await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_after_an_entry_that_the_disk_refuses() {
    let dir = TempDir::new().expect("a directory");
    let config = config();
    let disk = Disk::open(&store_in(&dir)).expect("a disk");
    let (core, identity) = open_on(&config, disk.clone(), State::apply).await;
    let running = start(&core).await;
    core.found(own(&config)).await.expect("founded");
    let term = leading(&core, 0).await;

    // Both writes wait for the disk together.
    let hanging = hang(&disk).await;
    let large = "x".repeat(twinbox_disk::MAX_VALUE + 1);
    let propose = |command| {
        let core = core.clone();
        tokio::spawn(async move { core.propose(command).await })
    };
    let before = last_index(&core).await;
    let refused = propose(admit(&config, &identity, &large));
    while last_index(&core).await == before {
        sleep(Duration::from_millis(1)).await;
    }
    let behind = propose(Command::Settle { id: OrderId(7) });
    while last_index(&core).await == before + 1 {
        sleep(Duration::from_millis(1)).await;
    }
    drop(hanging);
    assert!(refused.await.expect("no panic").is_err());
    assert!(behind.await.expect("no panic").is_err(), "there would be a hole in front of it");
    leading(&core, term).await;
    let settled = core.propose(Command::Settle { id: OrderId(8) }).await;
    assert_eq!(settled, Ok(CommandOutcome::Refused(twinbox_roles_core::Refusal::Settled)));
    let known = core.applied().borrow().state.orders.clone();
    assert_eq!(known.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [OrderId(8)]);
    identity.stop();
    running.await.expect("it stops");
}

/// Number of panics of a command, for the test of this thread.
static PANICS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Applies like the product, except for an order with this id.
fn apply_or_panic(state: &mut State, command: Command) -> CommandOutcome {
    let bad = matches!(command, Command::Settle { id: OrderId(13) });
    let outcome = state.apply(command);
    if bad {
        PANICS.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        panic!("the test panics here");
    }
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_panics_is_set_aside_and_not_applied_at_the_next_start() {
    let dir = TempDir::new().expect("a directory");
    let config = config();
    let disk = Disk::open(&store_in(&dir)).expect("a disk");
    let panics = || PANICS.load(std::sync::atomic::Ordering::SeqCst);
    let expected = {
        let (core, identity) = open_on(&config, disk.clone(), apply_or_panic).await;
        let running = start(&core).await;
        core.found(own(&config)).await.expect("founded");
        let term = leading(&core, 0).await;
        let settle = |id| core.propose(Command::Settle { id: OrderId(id) });
        let settled = Ok(CommandOutcome::Refused(twinbox_roles_core::Refusal::Settled));
        assert_eq!(settle(12).await, settled);
        assert_eq!(settle(13).await, Err(ProposeError::SetAside));
        assert_eq!(settle(14).await, settled, "what comes after it is applied");
        assert_eq!(panics(), 1);
        let reason = core.applied().borrow().set_aside.clone().expect("a reason");
        assert!(reason.ends_with(": the test panics here"), "{reason}");
        let known = core.applied().borrow().state.orders.clone();
        assert_eq!(known.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [12, 14], "none of its changes stay");

        // The set-aside command stays so for a core restarted in this process.
        core.raft().expect("a core").shutdown().await.expect("it ends");
        leading(&core, term).await;
        assert_eq!(settle(15).await, settled);
        identity.stop();
        running.await.expect("it stops");
        core.applied().borrow().state.clone()
    };
    // The same for a core in the next process.
    let (core, identity) = open_on(&config, disk, apply_or_panic).await;
    let running = start(&core).await;
    let mut applied = core.applied();
    let remembers = applied.wait_for(|applied| applied.state == expected);
    timeout(Duration::from_secs(10), remembers).await.expect("in time").expect("applied");
    assert_eq!(panics(), 1, "it was applied once");
    identity.stop();
    running.await.expect("it stops");
}
