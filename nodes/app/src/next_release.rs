//! Test hook, only in builds with debug assertions: a program that acts as the next release writes records and fields
//! that this release does not know.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_enrollment::acts_as_next;
use twinbox_mailstore::Mailstore;

const LOOK: Duration = Duration::from_millis(200);

/// Writes the records of the next release if this program acts as that release, until stopped.
pub async fn write(mailstore: Mailstore, stop: CancellationToken) {
    if !acts_as_next() {
        return;
    }
    warn!("this node acts as the next release, for a test");
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        match mailstore.write_as_a_later_release().await {
            Ok(true) => info!("records of the next release are written"),
            Ok(false) => {}
            Err(error) => warn!(%error, "records of the next release are not written yet"),
        }
    }
}
