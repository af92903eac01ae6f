//! Files recordings of a failed node as partial messages (rule C2): immediately after an exit proof for the
//! recording incarnation (rule R1), otherwise when the node has been unheard for long enough. This needs no
//! majority, because a later filing by the node itself joins the same message.

use std::{collections::BTreeMap, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{Incarnation, NodeName};
use twinbox_mailstore::Mailstore;
use twinbox_replication_peer::Peers;
use twinbox_roles::Roles;
use twinbox_runtime as runtime;

/// Sources for the search of recordings without a node.
pub struct LostNodes {
    /// Mail store that files them.
    pub mailstore: Mailstore,
    /// Source of last contacts.
    pub peers: Peers,
    /// Source of exit proofs.
    pub roles: Roles,
    /// Time without contact after which a node's recordings are filed.
    pub unheard_for: Duration,
    /// The store was damaged and built again: until it has all records, a take may be an old one whose message was purged.
    pub store_rebuilt: bool,
}

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Interval of further filings for an absent node: more of its recordings may arrive by way of other nodes.
const AGAIN: Duration = Duration::from_secs(10);
/// Wait after an exit for chunks that were in transit.
const LAST_CHUNKS: Duration = Duration::from_millis(500);

/// Files the recordings of unheard nodes, until stopped.
pub fn file_orphans(of: LostNodes, stop: CancellationToken) -> BoxFuture<'static, ()> {
    async move {
        let started = BootInstant::now();
        let mut filed: BTreeMap<NodeName, BootInstant> = BTreeMap::new();
        let mut look = runtime::every(LOOK_EVERY);
        let mut proofs = of.roles.proofs();
        // Exited incarnations, each with the time of the second filing until it is done.
        let mut exited: BTreeMap<Incarnation, Option<BootInstant>> = BTreeMap::new();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                changed = proofs.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            if of.store_rebuilt && !of.mailstore.store().filled().has_records() {
                continue;
            }
            let now = BootInstant::now();
            let proved = proofs.borrow_and_update().clone();
            exited.retain(|incarnation, _| proved.iter().any(|(_, known)| known == *incarnation));
            for (lost, incarnation) in proved.iter() {
                match exited.get(&incarnation) {
                    None => drop(exited.insert(incarnation, Some(now + LAST_CHUNKS))),
                    Some(Some(again)) if *again <= now => drop(exited.insert(incarnation, None)),
                    Some(_) => continue,
                }
                file(&of.mailstore, lost, Some(incarnation)).await;
            }
            for peer in of.peers.status() {
                let unheard = peer.last_contact_ms.map_or_else(|| now.since(started), Duration::from_millis);
                if unheard <= of.unheard_for {
                    filed.remove(&peer.name);
                } else if filed.get(&peer.name).is_none_or(|at| now.since(*at) > AGAIN) {
                    filed.insert(peer.name.clone(), now);
                    file(&of.mailstore, &peer.name, None).await;
                }
            }
        }
    }
    .boxed()
}

async fn file(mailstore: &Mailstore, lost: &NodeName, incarnation: Option<Incarnation>) {
    let exited = incarnation.is_some();
    match mailstore.file_orphans_of(lost, incarnation).await {
        Ok(filed) if filed.is_empty() => {}
        Ok(filed) => {
            info!(node = %lost, exited, count = filed.len(), "filed recordings of a lost node as partial messages")
        }
        Err(error) => warn!(node = %lost, exited, %error, "could not file recordings of a lost node"),
    }
}
