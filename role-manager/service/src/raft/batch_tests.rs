//! Several planned commands in one log entry, in clusters of real members.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use openraft::EntryPayload;
use twinbox_ids::NodeName;
use twinbox_roles_core::{BATCH_LEVEL, Command, Outcome, State};

use crate::cluster::Cluster;

/// Number of following batches that panic when applied, on any member.
static PANICS: AtomicU32 = AtomicU32::new(0);
/// Serializes the tests that use it.
static ONE: Mutex<()> = Mutex::new(());

/// Applies like the product, except for batches that must panic.
pub(super) fn apply(state: &mut State, command: Command) -> Outcome {
    let batch = matches!(command, Command::Batch(_));
    let outcome = state.apply(command);
    if batch && PANICS.load(SeqCst) > 0 {
        PANICS.fetch_sub(1, SeqCst);
        panic!("the test panics here");
    }
    outcome
}

/// A cluster at the batch level, and a publisher that does not lead.
fn at_level() -> (Cluster, NodeName, NodeName) {
    let cluster = Cluster::formed(&["a", "b", "c"]);
    cluster.until("the level of batches", |cluster| cluster.view("a").feature_level >= BATCH_LEVEL);
    cluster.until("the publisher not to lead", |cluster| {
        let view = cluster.view("a");
        view.leader.is_some() && view.publisher.is_some() && view.leader != view.publisher
    });
    let view = cluster.view("a");
    let (publisher, leader) = (view.publisher.clone().expect("one"), view.leader.clone().expect("one"));
    (cluster, publisher, leader)
}

/// The batches in the log of a member.
fn batches(cluster: &Cluster, name: &NodeName) -> Vec<Vec<String>> {
    let (entries, ..) = cluster.roles(name.as_str()).core().store.beyond(None);
    let batch = |payload| match payload {
        EntryPayload::Normal(Command::Batch(parts)) => Some(parts.iter().map(ToString::to_string).collect()),
        _ => None,
    };
    entries.into_iter().filter_map(|entry| batch(entry.payload)).collect()
}

fn moved(cluster: &Cluster, from: &NodeName, at: &NodeName) -> bool {
    let holder = cluster.holder().map(|(holder, _)| holder);
    cluster.view(at.as_str()).publisher.as_ref().is_some_and(|publisher| publisher != from)
        && holder.is_some_and(|holder| holder != *from)
}

#[test]
fn what_follows_from_a_loss_is_one_entry() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut cluster, publisher, leader) = at_level();
    cluster.kill(publisher.as_str());
    cluster.until("the duty to follow", |cluster| moved(cluster, &publisher, &leader));
    let batches = batches(&cluster, &leader);
    let lost = format!("{publisher} is not-functioning");
    let with_loss: Vec<_> = batches.iter().filter(|parts| parts.contains(&lost)).collect();
    assert!(
        with_loss.iter().any(|parts| parts.iter().any(|part| part.starts_with("publisher is "))),
        "{batches:?}"
    );
    assert!(with_loss.iter().any(|parts| parts.iter().any(|part| part.contains("notifier"))), "{batches:?}");
}

#[test]
fn a_batch_that_panics_is_set_aside_and_its_parts_are_tried_one_by_one() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut cluster, publisher, leader) = at_level();
    // Every live member applies it.
    PANICS.store(u32::MAX, SeqCst);
    cluster.kill(publisher.as_str());
    cluster.until("the duty to follow", |cluster| moved(cluster, &publisher, &leader));
    let words = cluster.roles(leader.as_str()).set_aside().expect("in words");
    assert!(words.contains("publisher is") && words.contains("the test panics here"), "{words}");
    assert_eq!(batches(&cluster, &leader).len(), 1, "it was tried again");
    PANICS.store(0, SeqCst);
}
