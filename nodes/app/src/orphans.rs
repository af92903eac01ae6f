//! Recordings whose node went away are filed here as partial messages (rule C2): no majority is needed for that,
//! since a later filing by their own node joins the same message.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;

use crate::node::Node;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// While a node stays away, what reaches us of its recordings by other ways is filed too.
const AGAIN: Duration = Duration::from_secs(10);

/// Looks after the recordings of nodes that are not heard, until stopped.
pub async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let timing = &node.config.cluster.timing;
    let patience = timing.lease + timing.margin;
    let started = BootInstant::now();
    let mut filed: BTreeMap<NodeName, BootInstant> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = BootInstant::now();
        for peer in node.peers.status() {
            let unheard = peer.last_heard_ms.map_or_else(|| now.since(started), Duration::from_millis);
            if unheard <= patience {
                filed.remove(&peer.name);
            } else if filed.get(&peer.name).is_none_or(|at| now.since(*at) > AGAIN) {
                filed.insert(peer.name.clone(), now);
                file(&node, &peer.name).await;
            }
        }
    }
}

async fn file(node: &Node, lost: &NodeName) {
    match node.mailstore.file_orphans_of(lost, None).await {
        Ok(filed) if filed.is_empty() => {}
        Ok(filed) => {
            info!(node = %lost, count = filed.len(), "recordings of a node that is not heard are filed as partial")
        }
        Err(error) => warn!(node = %lost, %error, "recordings of a node that is not heard could not be filed"),
    }
}
