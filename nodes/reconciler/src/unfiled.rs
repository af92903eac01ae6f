//! Retries recordings that could not be filed; an alarm lasts until all are filed (rule A1).

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_alarms::{Alarms, Code};
use twinbox_ids::{Backoff, NodeName};
use twinbox_mailstore::{FiledAgain, Mailstore};

/// Pauses between attempts.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Files waiting recordings, until stopped.
pub fn retry_unfiled(
    node: NodeName,
    mailstore: Mailstore,
    alarms: Alarms,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    async move {
        stop.run_until_cancelled(file(node.as_str(), &mailstore, &alarms)).await;
    }
    .boxed()
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
        let raise = |detail: String| alarms.raise(Code::MessageUnfiled, name, detail);
        retry(&mut waiting, raise, || mailstore.file_again()).await;
    }
}

/// Attempts to file, with growing pauses, until none waits. `raise` gets the alarm's detail before each attempt.
async fn retry<F: Future<Output = FiledAgain>>(
    waiting: &mut watch::Receiver<usize>,
    raise: impl Fn(String),
    attempt: impl Fn() -> F,
) {
    let mut pauses = PAUSES;
    let mut pause = pauses.failed();
    let mut reason = "retrying".to_owned();
    loop {
        let count = *waiting.borrow_and_update();
        if count == 0 {
            break;
        }
        raise(format!("{count} wait: {reason}"));
        tokio::time::sleep(pause).await;
        pause = pauses.failed();
        let again = attempt().await;
        if !again.filed.is_empty() {
            info!(count = again.filed.len(), "filed messages that waited for the disk");
        }
        if let Some(error) = again.error {
            warn!(%error, next_in = ?pause, "messages still cannot be filed");
            reason = error.to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant as PausedInstant;
    use twinbox_mailstore::FileError;

    use super::*;

    #[tokio::test(start_paused = true)]
    #[allow(clippy::disallowed_methods, reason = "tokio's paused clock, not the system clock")]
    async fn pauses_double_from_one_second_to_sixty() {
        let (count, mut waiting) = watch::channel(1);
        let begun = PausedInstant::now();
        let (attempts, raised) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let attempt = || {
            attempts.borrow_mut().push(begun.elapsed().as_secs());
            let last = attempts.borrow().len() == 9;
            if last {
                count.send_replace(0);
            }
            std::future::ready(FiledAgain { error: (!last).then_some(FileError::Full), ..FiledAgain::default() })
        };
        retry(&mut waiting, |detail| raised.borrow_mut().push(detail), attempt).await;
        // Pauses of 1, 2, 4, 8, 16, 32, 60, 60 and 60 s.
        assert_eq!(*attempts.borrow(), [1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert_eq!(raised.borrow().len(), 9, "raised before each attempt");
        assert_eq!(raised.borrow()[0], "1 wait: retrying");
        assert!(raised.borrow()[1].contains("disk is full"), "{raised:?}");
    }
}
