//! PIN attempts are counted before they are checked, across calls, restarts and nodes (rule S1).

use tempfile::TempDir;
use twinbox_ids::{MailboxId, Pii};
use twinbox_mailbox::pin::{AttemptPolicy, HashCost, PinRefused};
use twinbox_mailstore::{HASHING_THREADS, PinCheck, PinError};
use twinbox_store_kit::{Node, pair};

const HOUR: u64 = 3_600_000;

fn pin(text: &str) -> Pii<String> {
    Pii::new(text.to_owned())
}

fn policy(free: u64, limit: u64) -> AttemptPolicy {
    AttemptPolicy { window_ms: 10_000 * HOUR, limit, free, backoff_ms: HOUR }
}

/// Two wrong tries, then an hour of waiting.
fn strict(settings: &mut twinbox_mailstore::MailstoreSettings) {
    settings.mailbox_attempts = policy(2, 100);
}

#[tokio::test]
async fn pin_is_accepted_until_it_is_changed() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let id = node.mailbox().await.id;
    let check = async |text: &str| node.mailstore.check_pin(id, &pin(text), "5550100").await.unwrap();
    assert_eq!(check("2580").await, PinCheck::Ok { must_change: true });
    assert_eq!(check("2581").await, PinCheck::Wrong);
    let refused = node.mailstore.set_pin(id, &pin("1111")).await.unwrap_err();
    assert!(matches!(refused, PinError::Refused(_)), "{refused}");
    let unchanged = node.mailstore.set_pin(id, &pin("2580")).await.unwrap_err();
    assert!(matches!(unchanged, PinError::Refused(PinRefused::Unchanged)), "{unchanged}");
    node.mailstore.set_pin(id, &pin("97531")).await.unwrap();
    // A PIN that the owner chose may stay.
    node.mailstore.set_pin(id, &pin("97531")).await.unwrap();
    assert_eq!(check("2580").await, PinCheck::Wrong);
    assert_eq!(check("97531").await, PinCheck::Ok { must_change: false });
    node.mailstore.reset_pin(id, &pin("86420"), true).await.unwrap();
    assert_eq!(check("86420").await, PinCheck::Ok { must_change: true });
}

#[tokio::test]
async fn wrong_attempts_survive_a_restart_and_are_cleared_by_unlock() {
    let dir = TempDir::new().unwrap();
    let id = {
        let node = Node::with(dir.path(), "a", 1, 0, strict);
        let id = node.mailbox().await.id;
        for _ in 0..2 {
            assert_eq!(node.mailstore.check_pin(id, &pin("0000"), "").await.unwrap(), PinCheck::Wrong);
        }
        id
    };
    let node = Node::with(dir.path(), "a", 1, 0, strict);
    // Even the right PIN is not checked.
    let answer = node.mailstore.check_pin(id, &pin("2580"), "").await.unwrap();
    assert!(matches!(answer, PinCheck::BackOff { seconds: 3_590..=3_600 }), "{answer:?}");
    node.mailstore.unlock(id).await.unwrap();
    assert_eq!(node.mailstore.check_pin(id, &pin("2580"), "").await.unwrap(), PinCheck::Ok { must_change: true });
}

#[tokio::test]
async fn right_pins_neither_count_nor_clear_wrong_attempts() {
    let dir = TempDir::new().unwrap();
    let node = Node::with(dir.path(), "a", 1, 0, strict);
    let id = node.mailbox().await.id;
    for text in ["2580", "0000", "2580", "2580", "0001"] {
        let expected = if text == "2580" { PinCheck::Ok { must_change: true } } else { PinCheck::Wrong };
        assert_eq!(node.mailstore.check_pin(id, &pin(text), "").await.unwrap(), expected, "{text}");
    }
    let answer = node.mailstore.check_pin(id, &pin("2580"), "").await.unwrap();
    assert!(matches!(answer, PinCheck::BackOff { .. }), "{answer:?}");
}

#[tokio::test]
async fn concurrent_attempts_are_counted_before_any_answer() {
    let dir = TempDir::new().unwrap();
    let node = Node::with(dir.path(), "a", 1, 0, strict);
    let id = node.mailbox().await.id;
    let mut tries = tokio::task::JoinSet::new();
    for i in 0..8 {
        let mailstore = node.mailstore.clone();
        tries.spawn(async move { mailstore.check_pin(id, &pin(&format!("000{i}")), "").await.unwrap() });
    }
    let answers = tries.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer == PinCheck::Wrong).count(), 2, "{answers:?}");
}

#[tokio::test]
async fn pin_check_of_a_missing_mailbox_answers_like_a_wrong_pin() {
    let dir = TempDir::new().unwrap();
    let node = Node::with(dir.path(), "a", 1, 0, strict);
    let missing = MailboxId::random();
    for _ in 0..2 {
        assert_eq!(node.mailstore.check_pin(missing, &pin("2580"), "").await.unwrap(), PinCheck::Wrong);
    }
    let answer = node.mailstore.check_pin(missing, &pin("2580"), "").await.unwrap();
    assert!(matches!(answer, PinCheck::BackOff { .. }), "{answer:?}");
}

#[tokio::test]
async fn one_source_cannot_try_mailbox_after_mailbox() {
    let dir = TempDir::new().unwrap();
    let node = Node::with(dir.path(), "a", 1, 0, |settings| settings.source_attempts = policy(3, 100));
    for _ in 0..3 {
        let answer = node.mailstore.check_pin(MailboxId::random(), &pin("2580"), "5550100").await.unwrap();
        assert_eq!(answer, PinCheck::Wrong);
    }
    let id = node.mailbox().await.id;
    let answer = node.mailstore.check_pin(id, &pin("2580"), "5550100").await.unwrap();
    assert!(matches!(answer, PinCheck::BackOff { .. }), "{answer:?}");
    assert_eq!(
        node.mailstore.check_pin(id, &pin("2580"), "5550101").await.unwrap(),
        PinCheck::Ok { must_change: true }
    );
}

#[tokio::test]
async fn isolated_node_allows_its_share_of_attempts() {
    let dir = TempDir::new().unwrap();
    let settle = |settings: &mut twinbox_mailstore::MailstoreSettings| settings.mailbox_attempts = policy(100, 6);
    let node = Node::with(dir.path(), "a", 2, 0, settle);
    let id = node.mailbox().await.id;
    let mut answers = vec![];
    for _ in 0..4 {
        answers.push(node.mailstore.check_pin(id, &pin("0000"), "").await.unwrap());
    }
    assert_eq!(answers[..3], [PinCheck::Wrong; 3]);
    assert!(matches!(answers[3], PinCheck::BackOff { .. }), "{answers:?}");
}

/// A split changes nothing, however long it lasts.
#[tokio::test]
async fn share_of_attempts_rises_with_each_removal_of_another_node() {
    let dir = TempDir::new().unwrap();
    let settle = |settings: &mut twinbox_mailstore::MailstoreSettings| settings.mailbox_attempts = policy(100, 6);
    let node = Node::with(dir.path(), "a", 3, 0, settle);
    let (id, mut attempts) = (node.mailbox().await.id, 0);
    for (others, allowed) in [(2, 2), (1, 3), (0, 6)] {
        while node.mailstore.check_pin(id, &pin("0000"), "").await.unwrap() == PinCheck::Wrong {
            attempts += 1;
        }
        let away = node.peers.status();
        assert_eq!((away.len(), attempts), (others, allowed));
        if let Some(other) = away.first() {
            node.peers.remove(&other.name);
        }
    }
}

#[tokio::test]
async fn attempts_on_one_node_count_on_the_other() {
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let id = a.mailbox().await.id;
    for _ in 0..5 {
        assert_eq!(a.mailstore.check_pin(id, &pin("0000"), "").await.unwrap(), PinCheck::Wrong);
    }
    let answer = b.mailstore.check_pin(id, &pin("2580"), "").await.unwrap();
    assert!(matches!(answer, PinCheck::BackOff { seconds: 1..=5 }), "{answer:?}");
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The runtime of a busy node has many blocking threads. None of them may keep the memory of a hash.
#[tokio::test(flavor = "multi_thread")]
async fn hashing_memory_is_bounded_for_any_runtime() {
    const THREADS: usize = 64;
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(THREADS));
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..THREADS {
        let barrier = barrier.clone();
        busy.spawn_blocking(move || barrier.wait());
    }
    busy.join_all().await;
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let id = node.mailbox().await.id;
    let before = resident();
    let mut setting = tokio::task::JoinSet::new();
    for n in 0..THREADS {
        let mailstore = node.mailstore.clone();
        setting.spawn(async move { mailstore.set_pin(id, &pin(&format!("97531{n}"))).await.map(drop) });
    }
    setting.join_all().await.into_iter().for_each(|set| set.unwrap());
    let (grown, a_hash) = (resident().saturating_sub(before), 1024 * u64::from(HashCost::default().memory_kib));
    let cores = std::thread::available_parallelism().unwrap().get().max(*HASHING_THREADS.start());
    // The hashing threads' own, and one more for the rest of this test.
    let bound = a_hash * (HASHING_THREADS.end().min(&cores) + 1) as u64;
    assert!(grown <= bound, "{} MiB stay, of at most {}", grown >> 20, bound >> 20);
}
