//! A core that ends is started again, and a store comes back as it was.

use std::{path::Path, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;
use twinbox_ids::{ClusterId, Incarnation, NodeName};
use twinbox_pki::{CertificateAuthority, NodeIdentity};
use twinbox_roles_core::{MemberKind, Order, OrderId, SPEAKS};

use super::*;
use crate::{MemberAddress, roster::Roster, standing::Remembered};

fn config(dir: &Path) -> RolesConfig {
    let node: NodeName = "a".parse().expect("a name");
    let cluster = ClusterId::random();
    let authority = CertificateAuthority::create(cluster, "test").expect("an authority");
    let tls = dir.join("tls");
    std::fs::create_dir_all(&tls).expect("a directory");
    let issued = authority.issue(&node, twinbox_pki::MemberKind::Node).expect("a certificate");
    issued.save(&tls).expect("saved");
    let address = "127.0.0.1:1".to_owned();
    RolesConfig {
        members: vec![MemberAddress { name: node.clone(), kind: MemberKind::Node, address }],
        learned: Vec::new(),
        removed: Vec::new(),
        kind: MemberKind::Node,
        cluster,
        incarnation: Incarnation::random(),
        dir: dir.join("roles"),
        timing: Timing::lan(),
        tls: Arc::new(NodeIdentity::load(&tls).expect("an identity")),
        speaks: SPEAKS,
        found: true,
        node,
    }
}

async fn open(config: &RolesConfig) -> (Arc<Core>, Arc<Standing>) {
    let disk = Disk::open(&config.dir).expect("a disk");
    let standing = Arc::new(Standing::open(config, disk.clone()).await.expect("a standing"));
    let (roster, reach) = (Arc::new(Roster::new(config)), Arc::default());
    let dialer = Arc::new(Dialer::new(config.tls.clone(), roster, Arc::clone(&reach), &config.timing));
    let core = Core::open(config, disk, standing.clone(), dialer, reach).expect("a core");
    standing.confirm();
    (Arc::new(core), standing)
}

fn own(config: &RolesConfig) -> Peer {
    Peer { name: config.node.clone(), kind: config.kind, address: String::new() }
}

async fn leading(core: &Core, above: u64) -> u64 {
    let mut pulse = core.pulse();
    let leads = pulse.wait_for(|p| p.leading && p.term > above);
    timeout(Duration::from_secs(10), leads).await.expect("in time").expect("a pulse").term
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_that_ends_is_started_again_and_remembers() {
    let dir = TempDir::new().expect("a directory");
    let config = config(dir.path());
    let (core, standing) = open(&config).await;
    let running = core.start().await.expect("it starts");
    core.found(own(&config)).await.expect("founded");
    let term = leading(&core, 0).await;
    let raft_id = standing.raft_id();
    let admit = Command::Admit { name: config.node.clone(), kind: config.kind, address: String::new(), raft_id };
    assert_eq!(core.propose(admit).await, Ok(Outcome::Done));

    // As a storage error or a panic in it would.
    core.raft().expect("a core").shutdown().await.expect("it ends");
    let again = leading(&core, term).await;
    assert!(again > term, "it leads anew, by an election");
    let mut applied = core.applied();
    let remembers = applied.wait_for(|a| a.state.members.contains_key(&config.node));
    timeout(Duration::from_secs(10), remembers).await.expect("in time").expect("applied");
    let order = Command::Operate { id: OrderId(1), order: Order::Activate(config.node.clone()) };
    assert_eq!(core.propose(order).await, Ok(Outcome::Unchanged));
    standing.stop();
    running.await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_becomes_a_snapshot_that_survives_the_process() {
    let dir = TempDir::new().expect("a directory");
    let config = config(dir.path());
    let expected = {
        let (core, standing) = open(&config).await;
        let running = core.start().await.expect("it starts");
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
        standing.stop();
        running.await.expect("it stops");
        core.applied().borrow().state.clone()
    };
    let limit = BootInstant::now() + Duration::from_secs(10);
    let (core, standing) = loop {
        // What the first core held is freed a moment after its end.
        match Disk::open(&config.dir) {
            Ok(disk) => {
                drop(disk);
                break open(&config).await;
            }
            Err(error) if BootInstant::now() > limit => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    };
    let running = core.start().await.expect("it starts");
    assert_eq!(core.applied().borrow().state, expected);
    assert_eq!(standing.run(), 2);
    standing.stop();
    running.await.expect("it stops");
}

#[tokio::test]
async fn a_start_is_remembered_and_an_older_one_is_known() {
    let dir = TempDir::new().expect("a directory");
    let (_core, standing) = open(&config(dir.path())).await;
    let (first, second) = (Incarnation(1), Incarnation(2));
    let remember = async |run, life| standing.remember(7, run, life).await.expect("a disk");
    assert_eq!(remember(3, first).await, Remembered::Confirmed);
    assert_eq!(remember(3, first).await, Remembered::Confirmed, "asked again");
    assert_eq!(remember(3, second).await, Remembered::Behind { known: 3 }, "a copy");
    assert_eq!(remember(2, second).await, Remembered::Behind { known: 3 });
    assert_eq!(remember(4, second).await, Remembered::Confirmed);
    assert_eq!(remember(3, first).await, Remembered::Behind { known: 4 });
}

#[tokio::test]
async fn who_has_just_started_does_not_vote() {
    let dir = TempDir::new().expect("a directory");
    let (_core, standing) = open(&config(dir.path())).await;
    let silent = async || {
        assert!(standing.may_take_part() && !standing.may_vote());
        let begun = BootInstant::now();
        while !standing.may_vote() {
            sleep(Duration::from_millis(2)).await;
        }
        begun.elapsed()
    };
    let expected = Timing::lan().silence_after_start();
    silent().await;
    // A core that begins anew in the same process is as new.
    standing.core_started();
    assert!(silent().await > expected - Duration::from_millis(20));
    standing.quarantine("its store was set back".to_owned()).await;
    assert!(!standing.may_take_part() && !standing.may_vote());
}
