//! Kept counts and space of a mailbox equal those that reading all of its messages gives.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use twinbox_ids::{MailboxId, MessageId};
use twinbox_mailstore::{Mark, MessageCounts};
use twinbox_store_kit::{Node, audio};

/// Messages of a mailbox that is large enough for its counts to be adjusted.
const MESSAGES: usize = 40;
const MARKS: [Mark; 5] = [Mark::Heard, Mark::Saved, Mark::New, Mark::Deleted, Mark::Undeleted];

async fn large_mailbox(node: &Node) -> (MailboxId, Vec<MessageId>) {
    let mailbox = node.mailbox().await.id;
    let mut messages = Vec::new();
    for _ in 0..MESSAGES {
        messages.push(node.leave(mailbox, &audio(1_100)).await.message);
    }
    (mailbox, messages)
}

/// Compares the kept counts with those of a fresh read of all messages.
async fn check(node: &Node, mailbox: MailboxId, step: &str) {
    let kept = node.mailstore.usage_now(mailbox).unwrap();
    let messages = node.mailstore.messages(mailbox).await.unwrap();
    assert_eq!(kept.counts, MessageCounts::count(&messages), "{step}");
    let present = messages.iter().filter(|message| !message.deleted).filter_map(|message| message.audio.as_ref());
    assert_eq!(kept.audio_bytes, present.map(|audio| audio.blob.length).sum::<u64>(), "{step}");
}

#[tokio::test]
async fn kept_counts_equal_a_recount_after_any_changes_on_either_node() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let dir = TempDir::new().unwrap();
        let nodes = [Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b")];
        let (mailbox, mut messages) = large_mailbox(&nodes[0]).await;
        nodes[0].hand_over(&nodes[1]).await;
        for step in 0..60 {
            let at = random.random_range(0..2);
            let node = &nodes[at];
            match random.random_range(0..10) {
                0 => messages.push(node.leave(mailbox, &audio(1_100)).await.message),
                1 | 2 => {
                    node.hand_over(&nodes[1 - at]).await;
                }
                3 | 4 => check(node, mailbox, &format!("seed {seed}, step {step}")).await,
                _ => {
                    let message = messages[random.random_range(0..messages.len())];
                    let mark = MARKS[random.random_range(0..MARKS.len())];
                    // A message of the other node may not be here yet.
                    let _ = node.mailstore.mark(mailbox, message, mark).await;
                }
            }
        }
        nodes[0].hand_over(&nodes[1]).await;
        nodes[1].hand_over(&nodes[0]).await;
        for node in &nodes {
            check(node, mailbox, &format!("seed {seed}, at the end")).await;
        }
    }
}

#[tokio::test]
async fn change_of_one_message_of_a_large_mailbox_reads_that_message_only() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let (mailbox, messages) = large_mailbox(&node).await;
    check(&node, mailbox, "at first").await;
    let read = node.mailstore.messages_counted();
    for (n, message) in messages.iter().take(5).enumerate() {
        node.mailstore.mark(mailbox, *message, Mark::Heard).await.unwrap();
        check(&node, mailbox, "heard").await;
        assert_eq!(node.mailstore.messages_counted(), read + n as u64 + 1);
    }
    node.leave(mailbox, &audio(1_100)).await;
    check(&node, mailbox, "one more").await;
    assert_eq!(node.mailstore.messages_counted(), read + 6);
}

#[tokio::test]
async fn start_and_callers_read_no_deleted_messages() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let (mailbox, messages) = large_mailbox(&node).await;
    let (deleted, kept) = messages.split_at(MESSAGES - 2);
    for message in deleted {
        node.mailstore.mark(mailbox, *message, Mark::Deleted).await.unwrap();
    }
    drop(node);
    let node = Node::alone(dir.path(), "a");
    node.mailstore.count_all(|| false).unwrap();
    let listed = node.mailstore.present_messages(mailbox).await.unwrap();
    assert!(listed.len() == kept.len() && listed.iter().all(|message| kept.contains(&message.id)), "{listed:?}");
    check(&node, mailbox, "after the start").await;
    assert_eq!(node.mailstore.messages_counted(), 2);
    node.mailstore.mark(mailbox, deleted[0], Mark::Undeleted).await.unwrap();
    assert_eq!(node.mailstore.present_messages(mailbox).await.unwrap().len(), 3);
    check(&node, mailbox, "undeleted").await;
    assert_eq!(node.mailstore.messages_counted(), 5);
}

#[tokio::test]
async fn counts_that_are_read_while_messages_change_are_right_at_the_end() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let (mailbox, messages) = large_mailbox(&node).await;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (mailstore, done) = (node.mailstore.clone(), done.clone());
            std::thread::spawn(move || {
                while !done.load(Relaxed) {
                    let counts = mailstore.usage_now(mailbox).unwrap().counts;
                    assert!((counts.new + counts.saved) as usize <= MESSAGES, "{counts:?}");
                }
            })
        })
        .collect();
    for (n, message) in messages.iter().cycle().take(MESSAGES * 4).enumerate() {
        node.mailstore.mark(mailbox, *message, MARKS[n % MARKS.len()]).await.unwrap();
    }
    done.store(true, Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    check(&node, mailbox, "after all changes").await;
}
