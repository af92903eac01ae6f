//! Orders of administrators for the holder of the duty, and the reports on their runs.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use twinbox_clock::wall;
use twinbox_directory_core::AdoptBy;
use twinbox_duty_service::orders::{self, OrderKind, OrderRefused};
use twinbox_ids::DirectoryId;
use twinbox_mailbox::RunCounts;

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

/// Orders by directory and number of the run, so that those of one directory run one after another.
struct SyncOrders;

impl OrderKind for SyncOrders {
    const DUTY: &'static str = "directory-sync";
    const MOST_WAITING: usize = 32;
    const KEPT_REPORTS: usize = 64;
    type Key = (DirectoryId, u64);
    type Order = SyncOrder;
    type Report = RunReport;

    fn begun((_, run): Self::Key) -> RunReport {
        RunReport { run, ..RunReport::default() }
    }

    fn has_ended(report: &RunReport) -> bool {
        report.ended
    }

    fn fail(report: &mut RunReport, outcome: String) {
        (report.ended, report.outcome) = (true, outcome);
    }

    /// Two runs never have one number.
    fn join(waiting: &mut SyncOrder, order: SyncOrder) {
        *waiting = order;
    }
}

/// An order that waits.
#[derive(Debug, Clone)]
pub(crate) struct Ordered {
    pub run: u64,
    pub order: SyncOrder,
}

/// The orders that wait, the latest reports, and the numbers of runs. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Orders {
    orders: orders::Orders<SyncOrders>,
    latest_run: Arc<Mutex<u64>>,
}

impl Orders {
    /// Takes orders from now on, because this node holds the duty.
    pub(crate) fn open(&self) {
        self.orders.open();
    }

    /// Takes no more orders; those that wait or are under way fail.
    pub(crate) fn close(&self, reason: &str) {
        self.orders.close(reason);
    }

    /// A number for a run that begins now: the time in milliseconds, and above all earlier numbers of this process.
    pub(crate) fn new_run(&self) -> u64 {
        let mut latest = self.latest_run.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = wall().0.max(*latest + 1);
        *latest
    }

    /// Takes an order; returns the number of its run.
    pub(crate) fn take(&self, directory: DirectoryId, order: SyncOrder) -> Result<u64, OrderRefused> {
        let run = self.new_run();
        self.orders.take((directory, run), order)?;
        Ok(run)
    }

    /// Whether an order for the directory waits.
    pub(crate) fn has(&self, directory: DirectoryId) -> bool {
        self.orders.has(all_of(directory))
    }

    /// The next order for the directory.
    pub(crate) fn next(&self, directory: DirectoryId) -> Option<Ordered> {
        let ((_, run), order) = self.orders.begin_first(all_of(directory))?;
        Some(Ordered { run, order })
    }

    /// Stores the report on a run that has ended.
    pub(crate) fn ended(&self, directory: DirectoryId, report: RunReport) {
        self.orders.ended((directory, report.run), report);
    }

    /// The report on a run as soon as it has ended, or its present state after the time limit; `None` if the run is not
    /// known here.
    pub(crate) async fn report(&self, directory: DirectoryId, run: u64, within: Duration) -> Option<RunReport> {
        self.orders.report((directory, run), within).await
    }

    /// Receiver that is notified of each change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.orders.watch()
    }
}

/// The keys of all runs of a directory.
fn all_of(directory: DirectoryId) -> RangeInclusive<(DirectoryId, u64)> {
    (directory, 0)..=(directory, u64::MAX)
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
        assert_eq!(orders.take(DIRECTORY, order()), Err(OrderRefused::NotHolder { duty: "directory-sync" }));
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
        let runs: Vec<u64> =
            (0..SyncOrders::MOST_WAITING).map(|_| orders.take(DIRECTORY, order()).expect("taken")).collect();
        assert!(runs.is_sorted_by(|a, b| a < b), "{runs:?}");
        assert_eq!(orders.take(DIRECTORY, order()), Err(OrderRefused::TooMany));
        assert_eq!(orders.next(DIRECTORY).map(|next| next.run), runs.first().copied(), "the oldest first");
        orders.close("the duty moved");
        let last = runs.last().copied().unwrap_or_default();
        let report = orders.report(DIRECTORY, last, Duration::from_secs(60)).await.expect("kept");
        assert_eq!((report.ended, report.outcome.as_str()), (true, "failed: the duty moved"));
        assert!(!orders.has(DIRECTORY));
    }
}
