//! Files recordings of a failed node as partial messages (rule C2): immediately after an exit proof for the
//! recording incarnation (rule R1), otherwise when the node has been unheard for long enough. This needs no
//! majority, because a later filing by the node itself joins the same message.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{Incarnation, NodeName};

use crate::node::Node;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Interval of further filings for an absent node: more of its recordings may arrive by way of other nodes.
const AGAIN: Duration = Duration::from_secs(10);
/// Wait after an exit for chunks that were in transit.
const LAST_CHUNKS: Duration = Duration::from_millis(500);

/// Files the recordings of unheard nodes, until stopped.
pub async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let timing = &node.config.cluster.timing;
    let patience = timing.lease + timing.margin;
    let started = BootInstant::now();
    let mut filed: BTreeMap<NodeName, BootInstant> = BTreeMap::new();
    let mut look = crate::beat::every(LOOK_EVERY);
    let mut proofs = node.roles.proofs();
    // Exited incarnations, each with the time of the second filing until it is done.
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
