//! Raft in a cluster of real members: an expired lease of the leader.

use std::time::Duration;

use tokio::time::timeout;
use twinbox_clock::BootInstant;
use twinbox_raft::ProposeError;
use twinbox_roles_core::{Command, OrderId};

use crate::cluster::Cluster;

/// A command proposed in a partition must not be committed after it, when its caller has long been notified that there
/// is no majority. This relies on the library.
#[test]
fn a_leader_with_an_expired_lease_refuses_writes() {
    let cluster = Cluster::formed(&["a", "b", "c"]);
    let name = cluster.view("a").leader.clone().expect("a leader");
    let core = cluster.roles(name.as_str()).core();
    cluster.isolate(name.as_str(), true);
    let expired = |quorum: Option<BootInstant>| quorum.is_some_and(|at| at.elapsed() > cluster.timing.election_max);
    cluster.until("the lease to expire", |_| {
        let term = core.status().borrow().term;
        expired(core.quorum_heard(term))
    });
    let before = core.status().borrow().clone();
    assert!(before.leading, "it still believes that it leads");
    let refused = cluster.order(name.as_str(), async |_| {
        let proposing = core.propose(Command::Settle { id: OrderId(1) });
        timeout(Duration::from_secs(10), proposing).await.expect("at once")
    });
    assert_eq!(refused, Err(ProposeError::NotLeader));
    assert_eq!(core.status().borrow().last_index, before.last_index, "nothing is in the log");
}
