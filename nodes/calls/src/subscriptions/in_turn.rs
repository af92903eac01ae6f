//! Order and rate of NOTIFYs that can be many at a time: thousands of subscriptions can expire together, or get one change. Sent
//! at the same moment, they would fill queues and buffers on their way, and delay the answers to requests.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::MissedTickBehavior;

/// Maximum number of NOTIFYs that begin in each [`TICK`].
const BATCH: usize = 32;
/// Time between two batches: 6,400 NOTIFYs a second.
const TICK: Duration = Duration::from_millis(5);

/// Does all work, within the task of the caller: begins in its order, at most [`BATCH`] more in each [`TICK`], and does not wait
/// for the end of one before it begins the next. `fold` adds each result to the outcome.
pub(super) async fn in_turn<F: Future, T>(
    work: impl IntoIterator<Item = F>,
    mut outcome: T,
    fold: impl Fn(T, F::Output) -> T,
) -> T {
    let mut work = work.into_iter().peekable();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running = FuturesUnordered::new();
    while work.peek().is_some() || !running.is_empty() {
        tokio::select! {
            _ = ticks.tick(), if work.peek().is_some() => running.extend(work.by_ref().take(BATCH)),
            Some(result) = running.next(), if !running.is_empty() => outcome = fold(outcome, result),
        }
    }
    outcome
}

#[cfg(test)]
#[path = "../../tests/unit/in_turn.rs"]
mod tests;
