//! Retries recordings that could not be filed; an alarm lasts until all are filed (rule A1).

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_alarms::Code;

use crate::node::Node;

/// Pauses between attempts: the first, doubled each time, up to the maximum.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Files waiting recordings, until stopped.
pub async fn watch(node: Arc<Node>, stop: CancellationToken) {
    stop.run_until_cancelled(file(&node)).await;
}

async fn file(node: &Node) {
    let mut waiting = node.mailstore.unfiled();
    let name = node.name.as_str();
    loop {
        if *waiting.borrow_and_update() == 0 {
            // Also at the start: an alarm of an earlier incarnation has ended.
            node.alarms.clear(Code::MessageUnfiled, name);
        }
        if waiting.wait_for(|count| *count > 0).await.is_err() {
            return;
        }
        let mut pause = PAUSE.0;
        let mut reason = "they are tried again".to_owned();
        loop {
            let count = *waiting.borrow_and_update();
            if count == 0 {
                break;
            }
            node.alarms.raise(Code::MessageUnfiled, name, format!("{count} wait: {reason}"));
            tokio::time::sleep(pause).await;
            pause = PAUSE.1.min(pause * 2);
            let again = node.mailstore.file_again().await;
            if !again.filed.is_empty() {
                info!(count = again.filed.len(), "messages that waited for the disk are filed");
            }
            if let Some(error) = again.error {
                warn!(%error, next_in = ?pause, "messages still cannot be filed");
                reason = error.to_string();
            }
        }
    }
}
