//! Removal of effects that are done and have no use as history any more, and of secrets that nothing needs.
//!
//! The holder of a duty removes those of its channels, and the removals replicate. A search notes the changes that are here;
//! a later run removes what it found, once every member has these changes. A member that knows an attempt and not its success
//! could otherwise repeat it, as the next holder. A run is a task of its own: the outbox may be large, and the loop of the duty
//! does not wait for it.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tracing::warn;
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::Timestamp;
use twinbox_mailstore::{DoneEffects, Mailstore};
use twinbox_outbox::Channel;

use crate::{Channels, secrets::forget_secrets};

/// Time for which done effects stay as history, and interval of the runs.
const KEEP_DONE_MS: u64 = 24 * 3_600 * 1_000;
const EVERY: Duration = Duration::from_secs(600);

/// The removal, while a node holds the duty.
pub(crate) struct Sweep {
    latest: BootInstant,
    /// Effects that wait until every member has their records.
    found: Option<DoneEffects>,
    /// The run under way; it ends with the sweep.
    under_way: JoinSet<Option<DoneEffects>>,
}

impl Sweep {
    /// The first run is an interval from now.
    pub(crate) fn new() -> Self {
        Self { latest: BootInstant::now(), found: None, under_way: JoinSet::new() }
    }

    /// Begins a run, if it is time for that and none is under way.
    pub(crate) fn run<C: Channels>(&mut self, mailstore: &Mailstore, channels: &Arc<C>) {
        if let Some(Ok(found)) = self.under_way.try_join_next() {
            self.found = found;
        }
        if self.latest.elapsed() < EVERY || !self.under_way.is_empty() {
            return;
        }
        self.latest = BootInstant::now();
        self.under_way.spawn(run(mailstore.clone(), channels.clone(), self.found.take()));
    }
}

/// One run: removes what the run before has found, and searches. Returns what waits for the next run.
async fn run<C: Channels>(
    mailstore: Mailstore,
    channels: Arc<C>,
    found: Option<DoneEffects>,
) -> Option<DoneEffects> {
    if channels.serves(Channel::System)
        && let Err(error) = forget_secrets(&mailstore, wall()).await
    {
        warn!(%error, "secrets of ended effects are not removed now");
    }
    if let Some(found) = found {
        match mailstore.remove_if_stable(&found).await {
            Ok(Some(_)) => {}
            // No search meanwhile: what it would find waits for the same member.
            Ok(None) => return Some(found),
            Err(error) => {
                warn!(%error, "done effects are not removed now");
                return Some(found);
            }
        }
    }
    let before = Timestamp(wall().0.saturating_sub(KEEP_DONE_MS));
    match mailstore.done_effects(before, move |channel| channels.serves(channel)).await {
        Ok(found) => Some(found).filter(|found| !found.is_empty()),
        Err(error) => {
            warn!(%error, "done effects are not found now");
            None
        }
    }
}
