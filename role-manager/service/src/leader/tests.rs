//! A planner that panics, in clusters of real members.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

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

fn leader(cluster: &Cluster) -> Option<NodeName> {
    cluster.view("a").leader.clone()
}

#[test]
fn a_leader_resigns_when_its_planner_panics_and_another_plans() {
    let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::formed(&["a", "b", "c"]);
    let before = leader(&cluster).expect("a leader");
    PANICS.store(1, SeqCst);
    cluster.until("another to lead", |cluster| leader(cluster).is_some_and(|leader| leader != before));
    let health = cluster.roles(before.as_str()).health();
    assert!(health.is_err_and(|reason| reason.contains("'planner' has panicked: the test panics here")));
    for (other, member) in cluster.members.iter().filter(|(other, _)| **other != before) {
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
    let panicked_now = |cluster: &Cluster| -> Vec<NodeName> {
        let panicked = cluster.members.iter().filter(|(_, member)| member.roles.health().is_err());
        panicked.map(|(name, _)| name.clone()).collect()
    };
    let panicked = Mutex::new(BTreeSet::new());
    cluster.until("all planners to panic", |cluster| {
        let mut panicked = panicked.lock().unwrap_or_else(PoisonError::into_inner);
        panicked.extend(panicked_now(cluster));
        panicked.len() == 3
    });
    let begun = BootInstant::now();
    cluster.until("leases to expire unless renewed", |cluster| begun.elapsed() > cluster.timing.lease * 3);
    PANICS.store(0, SeqCst);
    cluster.until("the duty to be held as before", |cluster| cluster.epoch_of(holder.as_str()) == epoch);
    cluster.until("the planners to recover", |cluster| panicked_now(cluster).is_empty());
}
