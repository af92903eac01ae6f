//! Retries recordings that could not be filed; an alarm lasts until all are filed (rule A1).

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_alarms::{Alarms, Code};
use twinbox_ids::NodeName;
use twinbox_mailstore::Mailstore;

/// Pauses between attempts: the first, doubled each time, up to the maximum.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Files waiting recordings, until stopped.
pub async fn retry_unfiled(node: NodeName, mailstore: Mailstore, alarms: Alarms, stop: CancellationToken) {
    stop.run_until_cancelled(file(node.as_str(), &mailstore, &alarms)).await;
}

async fn file(name: &str, mailstore: &Mailstore, alarms: &Alarms) {
    let mut waiting = mailstore.unfiled();
    loop {
        if *waiting.borrow_and_update() == 0 {
            // Also at the start: an alarm of an earlier incarnation has ended.
            alarms.clear(Code::MessageUnfiled, name);
        }
        if waiting.wait_for(|count| *count > 0).await.is_err() {
            return;
        }
        let mut pause = PAUSE.0;
        let mut reason = "retrying".to_owned();
        loop {
            let count = *waiting.borrow_and_update();
            if count == 0 {
                break;
            }
            alarms.raise(Code::MessageUnfiled, name, format!("{count} wait: {reason}"));
            tokio::time::sleep(pause).await;
            pause = PAUSE.1.min(pause * 2);
            let again = mailstore.file_again().await;
            if !again.filed.is_empty() {
                info!(count = again.filed.len(), "filed messages that waited for the disk");
            }
            if let Some(error) = again.error {
                warn!(%error, next_in = ?pause, "messages still cannot be filed");
                reason = error.to_string();
            }
        }
    }
}
