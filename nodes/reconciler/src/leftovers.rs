//! Recordings of earlier incarnations of this node, which become messages.

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_mailstore::Mailstore;

/// Files the recordings of earlier incarnations. If the store was built again, call this only with all records: without them, a
/// take in an old pack whose message was purged may look like an orphan.
pub fn file_leftovers(mailstore: &Mailstore) -> BoxFuture<'_, ()> {
    async move {
        match mailstore.file_own_leftovers().await {
            Ok(filed) if filed.is_empty() => {}
            Ok(filed) => {
                info!(count = filed.len(), "filed recordings of an earlier incarnation as partial messages")
            }
            Err(error) => warn!(%error, "could not file recordings of an earlier incarnation"),
        }
    }
    .boxed()
}

/// Files the recordings of earlier incarnations when the first fill has all records.
pub fn file_leftovers_when_filled(mailstore: Mailstore, stop: CancellationToken) -> BoxFuture<'static, ()> {
    async move {
        let mut filled = mailstore.store().watch_filled();
        tokio::select! {
            ended = filled.wait_for(|filled| filled.has_records()) => if ended.is_err() { return },
            () = stop.cancelled() => return,
        }
        file_leftovers(&mailstore).await;
    }
    .boxed()
}
