//! Attempts to connect. Requests to one address share an attempt and its outcome, and none begins just after one that
//! failed: an address where nothing answers costs one socket, however many requests wait for it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::lock;

/// Time after a failed attempt in which requests to its address get its error.
const PAUSE: Duration = Duration::from_secs(1);

/// Outcome of an attempt.
pub(crate) type DialResult<T> = Result<T, Arc<io::Error>>;

/// The attempts of one listener by address: those in progress, and those that have just failed.
pub(crate) struct Dials<T>(Mutex<HashMap<SocketAddr, watch::Receiver<Option<DialResult<T>>>>>);

impl<T: Clone + Send + Sync + 'static> Dials<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    /// The outcome of the attempt at this address; `dial` is the attempt, if there is none. It ends with `stop`, and
    /// continues if no request waits for it any more.
    pub(crate) async fn join(
        self: &Arc<Self>,
        to: SocketAddr,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        dial: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> DialResult<T> {
        let begin = || {
            let (sender, outcome) = watch::channel(None);
            let attempt = self.clone().run(to, dial, sender);
            tasks.spawn(stop.clone().run_until_cancelled_owned(attempt));
            outcome
        };
        let mut outcome = lock(&self.0).entry(to).or_insert_with(begin).clone();
        let stopped = || Err(Arc::new(io::Error::other("the SIP server stops")));
        outcome.wait_for(Option::is_some).await.map_or_else(|_| stopped(), |it| it.clone().unwrap_or_else(stopped))
    }

    async fn run(
        self: Arc<Self>,
        to: SocketAddr,
        dial: impl Future<Output = io::Result<T>>,
        sender: watch::Sender<Option<DialResult<T>>>,
    ) {
        let outcome = dial.await.map_err(Arc::new);
        let has_failed = outcome.is_err();
        sender.send_replace(Some(outcome));
        if has_failed {
            sleep(PAUSE).await;
        }
        lock(&self.0).remove(&to);
    }
}

#[cfg(test)]
#[path = "../tests/unit/dials.rs"]
mod tests;
