//! Recordings whose node went away are filed here as partial messages (rule C2): at once when it is proved that the life
//! which recorded them has exited (rule R1), else when the node is unheard for long enough. No majority is needed for
//! that, since a later filing by their own node joins the same message.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{Incarnation, NodeName};

use crate::node::Node;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// While a node stays away, what reaches us of its recordings by other ways is filed too.
const AGAIN: Duration = Duration::from_secs(10);
/// What was on its way when its sender exited has come by then.
const LAST_CHUNKS: Duration = Duration::from_millis(500);

/// Looks after the recordings of nodes that are not heard, until stopped.
pub async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let timing = &node.config.cluster.timing;
    let patience = timing.lease + timing.margin;
    let started = BootInstant::now();
    let mut filed: BTreeMap<NodeName, BootInstant> = BTreeMap::new();
    let mut look = crate::beat::every(LOOK_EVERY);
    let mut proofs = node.roles.proofs();
    // Lives that have exited, each with when to look a second time, until that is done.
    let mut exited: BTreeMap<Incarnation, Option<BootInstant>> = BTreeMap::new();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            changed = proofs.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        let now = BootInstant::now();
        let proved = proofs.borrow_and_update().clone();
        exited.retain(|life, _| proved.iter().any(|(_, known)| known == *life));
        for (lost, life) in proved.iter() {
            match exited.get(&life) {
                None => drop(exited.insert(life, Some(now + LAST_CHUNKS))),
                Some(Some(again)) if *again <= now => drop(exited.insert(life, None)),
                Some(_) => continue,
            }
            file(&node, lost, Some(life)).await;
        }
        for peer in node.peers.status() {
            let unheard = peer.last_heard_ms.map_or_else(|| now.since(started), Duration::from_millis);
            if unheard <= patience {
                filed.remove(&peer.name);
            } else if filed.get(&peer.name).is_none_or(|at| now.since(*at) > AGAIN) {
                filed.insert(peer.name.clone(), now);
                file(&node, &peer.name, None).await;
            }
        }
    }
}

async fn file(node: &Node, lost: &NodeName, life: Option<Incarnation>) {
    let exited = life.is_some();
    match node.mailstore.file_orphans_of(lost, life).await {
        Ok(filed) if filed.is_empty() => {}
        Ok(filed) => {
            info!(node = %lost, exited, count = filed.len(), "recordings of a lost node are filed as partial")
        }
        Err(error) => warn!(node = %lost, exited, %error, "recordings of a lost node could not be filed"),
    }
}
