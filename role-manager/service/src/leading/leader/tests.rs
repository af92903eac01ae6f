//! A planner that panics, in clusters of real members.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use twinbox_clock::BootInstant;

use super::*;
use crate::cluster::{Cluster, name};

/// Number of following plans that panic. Only the leader plans.
static PANICS: AtomicU32 = AtomicU32::new(0);
/// Serializes the tests that use it.
static SERIAL: Mutex<()> = Mutex::new(());

/// Called at the start of planning.
pub(super) fn panic_if_requested() {
    if PANICS.load(SeqCst) > 0 {
        PANICS.fetch_sub(1, SeqCst);
        panic!("the test panics here");
    }
}

/// Members whose health reports a panic of the planner.
fn panicked(cluster: &Cluster) -> Vec<NodeName> {
    let reported = |reason: String| reason.contains("'planner' has panicked: the test panics here");
    let panicked = cluster.members.iter().filter(|(_, member)| member.roles.health().is_err_and(reported));
    panicked.map(|(name, _)| name.clone()).collect()
}

#[test]
fn a_leader_resigns_when_its_planner_panics_and_another_plans() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::formed(&["a", "b", "c"]);
    PANICS.store(1, SeqCst);
    // Whichever leads then: on a busy machine leadership may just have moved.
    cluster.until("the leader's planner to panic", |cluster| !panicked(cluster).is_empty());
    let before = panicked(&cluster);
    assert_eq!(before.len(), 1, "{before:?}");
    let before = before[0].as_str();
    cluster
        .until("another to lead", |cluster| cluster.leader(before).is_some_and(|leader| leader.as_str() != before));
    for (other, member) in cluster.members.iter().filter(|(other, _)| other.as_str() != before) {
        assert_eq!(member.roles.health(), Ok(()), "{other}");
    }
    let publisher = cluster.view("a").publisher.clone().expect("a publisher");
    let next = name(if publisher.as_str() == "b" { "c" } else { "b" });
    cluster.settled("a", async |roles| roles.make_publisher(&next).await).expect("it is carried out");
    cluster.until("the duty to follow", |cluster| cluster.epoch_of(next.as_str()).is_some());
}

#[test]
fn leases_are_renewed_while_the_plan_panics_on_all_members() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::formed(&["a", "b", "c"]);
    let holder =
        cluster.members.keys().find(|name| cluster.epoch_of(name.as_str()).is_some()).expect("one").clone();
    let epoch = cluster.epoch_of(holder.as_str());
    PANICS.store(u32::MAX, SeqCst);
    let mut all = BTreeSet::new();
    cluster.until("all planners to panic", |cluster| {
        all.extend(panicked(cluster));
        all.len() == 3
    });
    let begun = BootInstant::now();
    cluster.until("leases to expire unless renewed", |cluster| begun.elapsed() > cluster.timing.lease * 3);
    PANICS.store(0, SeqCst);
    cluster.until("the duty to be held as before", |cluster| cluster.epoch_of(holder.as_str()) == epoch);
    cluster.until("the planners to recover", |cluster| panicked(cluster).is_empty());
}
