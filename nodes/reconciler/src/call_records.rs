//! Keeps the records of calls: writes those of ended calls, and removes old ones.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use twinbox_mailstore::Mailstore;
use twinbox_roles::{Duty, Roles};

/// Writes call records, and removes those older than `keep` at that time, until stopped. None is written before all
/// members know such records; until then the records wait in a bounded queue.
pub fn keep_call_records(
    mailstore: Mailstore,
    roles: Roles,
    keep: Box<dyn Fn() -> Duration + Send + Sync>,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    async move {
        let mut view = roles.watch();
        tokio::select! {
            // The feature level of the release that introduced call records.
            raised = view.wait_for(|view| view.feature_level >= Duty::Timetable.level()) => {
                if raised.is_err() {
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
        tokio::join!(
            mailstore.write_call_records(stop.clone().cancelled_owned()),
            stop.run_until_cancelled(mailstore.keep_call_records(keep)),
        );
    }
    .boxed()
}
