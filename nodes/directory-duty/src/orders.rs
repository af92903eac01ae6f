//! Orders of administrators for the holder of the duty, and the reports on their runs.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use twinbox_clock::wall;
use twinbox_directory_core::AdoptBy;
use twinbox_ids::DirectoryId;
use twinbox_mailbox::RunCounts;

/// Maximum number of orders that wait.
const MOST_WAITING: usize = 32;
/// Number of reports that are kept.
const KEPT_REPORTS: usize = 64;

/// An order to run a full search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncOrder {
    /// Only report what would change.
    pub dry_run: bool,
    /// Field by which local users are bound to entries; `None`: they stay local.
    pub adopt_by: Option<AdoptBy>,
    /// Number of the run whose deletions and disablings are accepted.
    pub accept_deletions: Option<u64>,
}

/// Report on an ordered run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Number of the run.
    pub run: u64,
    /// The run has ended, and the rest is filled.
    pub ended: bool,
    /// `done`, `held-back`, or `failed: ` and the reason.
    pub outcome: String,
    /// Numbers of users.
    pub counts: RunCounts,
    /// Changes, made or not, one line each; bounded.
    pub lines: Vec<String>,
    /// Number of lines that were left out.
    pub more_lines: u64,
}

/// Reason why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    /// Another node holds the duty, or none does.
    #[error(
        "this node does not hold the duty directory-sync now: see 'twinbox duty list', then repeat the command"
    )]
    NotHolder,
    /// Too many orders wait.
    #[error("too many orders wait already: give the command again when some have ended")]
    TooMany,
}

/// The orders that wait, and the latest reports. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Orders(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Counts changes of `state`.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    open: bool,
    latest_run: u64,
    waiting: VecDeque<Ordered>,
    reports: VecDeque<(DirectoryId, RunReport)>,
}

/// An order that waits.
#[derive(Debug, Clone)]
pub(crate) struct Ordered {
    pub directory: DirectoryId,
    pub run: u64,
    pub order: SyncOrder,
}

impl Default for Orders {
    fn default() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), changes: watch::Sender::new(0) }))
    }
}

impl Orders {
    /// Takes orders from now on, because this node holds the duty.
    pub(crate) fn open(&self) {
        self.state().open = true;
    }

    /// Takes no more orders; those that wait fail.
    pub(crate) fn close(&self, reason: &str) {
        let mut state = self.state();
        state.open = false;
        state.waiting.clear();
        for (_, report) in state.reports.iter_mut().filter(|(_, report)| !report.ended) {
            report.ended = true;
            report.outcome = format!("failed: {reason}");
        }
        drop(state);
        self.changed();
    }

    /// A number for a run that begins now: the time in milliseconds, and above all earlier numbers of this process.
    pub(crate) fn new_run(&self) -> u64 {
        let mut state = self.state();
        state.latest_run = wall().0.max(state.latest_run + 1);
        state.latest_run
    }

    /// Takes an order; returns the number of its run.
    pub(crate) fn take(&self, directory: DirectoryId, order: SyncOrder) -> Result<u64, OrderRefused> {
        let run = self.new_run();
        let mut state = self.state();
        if !state.open {
            return Err(OrderRefused::NotHolder);
        }
        if state.waiting.len() >= MOST_WAITING {
            return Err(OrderRefused::TooMany);
        }
        state.waiting.push_back(Ordered { directory, run, order });
        if state.reports.len() >= KEPT_REPORTS {
            // Reports of runs that have not ended are still asked for.
            let oldest = state.reports.iter().position(|(_, report)| report.ended).unwrap_or_default();
            state.reports.remove(oldest);
        }
        state.reports.push_back((directory, RunReport { run, ..RunReport::default() }));
        drop(state);
        self.changed();
        Ok(run)
    }

    /// Whether an order for the directory waits.
    pub(crate) fn has(&self, directory: DirectoryId) -> bool {
        self.state().waiting.iter().any(|waiting| waiting.directory == directory)
    }

    /// The next order for the directory.
    pub(crate) fn next(&self, directory: DirectoryId) -> Option<Ordered> {
        let mut state = self.state();
        let at = state.waiting.iter().position(|waiting| waiting.directory == directory)?;
        state.waiting.remove(at)
    }

    /// Stores the report on a run that has ended.
    pub(crate) fn ended(&self, directory: DirectoryId, report: RunReport) {
        let mut state = self.state();
        let found = state.reports.iter_mut().find(|(of, known)| *of == directory && known.run == report.run);
        if let Some((_, known)) = found {
            *known = report;
        }
        drop(state);
        self.changed();
    }

    /// The report on a run as soon as it has ended, or its present state after the time limit; `None` if the run is not
    /// known here.
    pub(crate) async fn report(&self, directory: DirectoryId, run: u64, within: Duration) -> Option<RunReport> {
        let mut changes = self.0.changes.subscribe();
        let ended = async {
            loop {
                let report = self.known(directory, run)?;
                if report.ended || changes.changed().await.is_err() {
                    return Some(report);
                }
            }
        };
        timeout(within, ended).await.unwrap_or_else(|_| self.known(directory, run))
    }

    /// Receiver that is notified of each change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn known(&self, directory: DirectoryId, run: u64) -> Option<RunReport> {
        let state = self.state();
        let found = state.reports.iter().find(|(of, report)| *of == directory && report.run == run);
        found.map(|(_, report)| report.clone())
    }

    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: DirectoryId = DirectoryId(1);
    const NOW: Duration = Duration::ZERO;

    fn order() -> SyncOrder {
        SyncOrder { dry_run: true, adopt_by: None, accept_deletions: None }
    }

    #[tokio::test]
    async fn order_is_taken_only_by_the_holder_and_its_report_is_found_by_its_number() {
        let orders = Orders::default();
        assert_eq!(orders.take(DIRECTORY, order()), Err(OrderRefused::NotHolder));
        orders.open();
        let run = orders.take(DIRECTORY, order()).expect("taken");
        assert!(orders.has(DIRECTORY) && !orders.has(DirectoryId(2)));
        assert_eq!(orders.next(DIRECTORY).expect("it waits").run, run);
        assert!(orders.next(DIRECTORY).is_none());
        assert!(!orders.report(DIRECTORY, run, NOW).await.expect("known").ended);
        let report = RunReport { run, ended: true, outcome: "done".to_owned(), ..RunReport::default() };
        orders.ended(DIRECTORY, report.clone());
        assert_eq!(orders.report(DIRECTORY, run, Duration::from_secs(60)).await, Some(report));
        assert_eq!(orders.report(DIRECTORY, run + 1, NOW).await, None);
    }

    #[tokio::test]
    async fn runs_that_the_duty_leaves_behind_have_failed_and_numbers_rise() {
        let orders = Orders::default();
        orders.open();
        let runs: Vec<u64> = (0..MOST_WAITING).map(|_| orders.take(DIRECTORY, order()).expect("taken")).collect();
        assert!(runs.is_sorted_by(|a, b| a < b), "{runs:?}");
        assert_eq!(orders.take(DIRECTORY, order()), Err(OrderRefused::TooMany));
        orders.close("the duty moved");
        let last = runs.last().copied().unwrap_or_default();
        let report = orders.report(DIRECTORY, last, Duration::from_secs(60)).await.expect("kept");
        assert_eq!((report.ended, report.outcome.as_str()), (true, "failed: the duty moved"));
        assert!(!orders.has(DIRECTORY));
    }
}
