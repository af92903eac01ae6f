//! Every message that a caller was told to be stored is in its mailbox on both nodes.

use std::time::Duration;

use twinbox_crowd::Driver;
use twinbox_testkit::{Cluster, holds};

/// A message that was acknowledged *alone* gets this long to reach the other node.
const WITHIN: Duration = Duration::from_secs(30);

/// Number of callers so far whose BYE was answered `200`.
pub fn acknowledged(driver: &Driver) -> usize {
    driver.crowd.callers.iter().filter(|caller| matches!(caller.bye, Some((200, _)))).count()
}

/// The error states how many of the acknowledged messages a node lacks. For messages that were neither heard nor
/// deleted, and that were long enough to be kept.
pub fn check(cluster: &Cluster, acknowledged: usize) -> Result<(), String> {
    for node in ["a", "b"] {
        let mut listed = 0;
        holds(WITHIN, || {
            let reply = cluster.cli(node).try_json(&["user", "list"]).unwrap_or_default();
            let users = reply["users"].as_array().into_iter().flatten();
            listed = users.map(|user| user["new_messages"].as_u64().unwrap_or(0)).sum::<u64>() as usize;
            (listed >= acknowledged).then_some(())
        });
        if listed < acknowledged {
            let lost = acknowledged - listed;
            return Err(format!("node {node} lacks {lost} of {acknowledged} messages whose BYE was answered 200"));
        }
    }
    Ok(())
}
