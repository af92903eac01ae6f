//! Several planned commands in one log entry, in clusters of real members.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use twinbox_ids::NodeName;
use twinbox_roles_core::{BATCH_LEVEL, Command, CommandOutcome, Duty, State};

use crate::cluster::Cluster;

/// Number of following batches that panic when applied, on any member.
static PANICS: AtomicU32 = AtomicU32::new(0);
/// Serializes the tests that use it.
static SERIAL: Mutex<()> = Mutex::new(());

/// Applies like the product, except for batches that must panic.
pub(crate) fn apply(state: &mut State, command: Command) -> CommandOutcome {
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

/// The batches in the log of a member, each with the term of the leader that proposed it.
fn batches(cluster: &Cluster, name: &NodeName) -> Vec<(u64, Vec<String>)> {
    let batch = |command| match command {
        Command::Batch(parts) => Some(parts.iter().map(ToString::to_string).collect()),
        _ => None,
    };
    let commands = cluster.roles(name.as_str()).core().commands_in_log();
    commands.into_iter().filter_map(|(term, command)| Some((term, batch(command)?))).collect()
}

fn moved(cluster: &Cluster, from: &NodeName, at: &NodeName) -> bool {
    let elsewhere = |duty| cluster.holder_of(duty).is_some_and(|(holder, _)| holder != *from);
    cluster.view(at.as_str()).publisher.as_ref().is_some_and(|publisher| publisher != from)
        && Duty::ALL.into_iter().all(elsewhere)
}

#[test]
fn the_moves_after_a_node_failure_are_one_log_entry() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut cluster, publisher, leader) = at_level();
    cluster.kill(publisher.as_str());
    cluster.until("both duties to follow", |cluster| moved(cluster, &publisher, &leader));
    let batches = batches(&cluster, &leader);
    let lost = format!("{publisher} is not-functioning");
    let with_loss: Vec<_> = batches.iter().map(|(_, parts)| parts).filter(|parts| parts.contains(&lost)).collect();
    assert!(
        with_loss.iter().any(|parts| parts.iter().any(|part| part.starts_with("publisher is "))),
        "{batches:?}"
    );
    let has = |parts: &[String], duty: Duty| parts.iter().any(|part| part.contains(duty.name()));
    assert!(with_loss.iter().any(|parts| Duty::ALL.into_iter().all(|duty| has(parts, duty))), "{batches:?}");
}

#[test]
fn a_batch_that_panics_is_set_aside_and_its_parts_are_proposed_one_by_one() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut cluster, publisher, leader) = at_level();
    let before = batches(&cluster, &leader).len();
    // Every live member applies it.
    PANICS.store(u32::MAX, SeqCst);
    cluster.kill(publisher.as_str());
    cluster.until("both duties to follow", |cluster| moved(cluster, &publisher, &leader));
    let tried = batches(&cluster, &leader).split_off(before);
    assert!(tried[0].1.iter().any(|part| part.starts_with("publisher is ")), "{tried:?}");
    // Duties whose leases run longer than that of their node follow in a batch of their own. Another leader tries each
    // once too: on a busy machine a panic can take longer than a lease.
    let terms = tried.iter().map(|(term, _)| term).collect::<BTreeSet<_>>().len();
    assert!(
        tried.len() < 2 * terms + 1 && tried.iter().collect::<BTreeSet<_>>().len() == tried.len(),
        "tried again: {tried:?}"
    );
    let reason = cluster.roles(leader.as_str()).set_aside().expect("a reason");
    let (_, last) = tried.last().expect("a batch");
    assert!(last.iter().all(|part| reason.contains(part)) && reason.contains("the test panics here"), "{reason}");
    PANICS.store(0, SeqCst);
}
