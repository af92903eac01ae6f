//! Orders of administrators to look at an account now, and the reports on them.

use twinbox_duty_service::orders::{self, OrderKind};
use twinbox_ids::MailboxId;

/// Report on an ordered round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// The round has ended, and the other fields are set.
    pub ended: bool,
    /// `done`, `held-back`, or `failed: ` and the reason.
    pub outcome: String,
    /// Messages that were appended to the folder on the server.
    pub appended: u64,
    /// Messages that were changed here.
    pub marked_here: u64,
    /// Messages whose flags were changed on the server.
    pub flagged_there: u64,
    /// Messages that were removed on the server.
    pub removed_there: u64,
    /// Messages that are missing on the server, and whose deletion is held back.
    pub held_back: u32,
}

/// The orders that wait, each with the acceptance of deletions, and the latest report of each mailbox.
pub(crate) type Orders = orders::Orders<RoundOrders>;

/// Orders by mailbox: a second order for a mailbox joins one that waits.
pub(crate) struct RoundOrders;

impl OrderKind for RoundOrders {
    const DUTY: &'static str = "mailbox-sync";
    const MOST_WAITING: usize = 1_000;
    const KEPT_REPORTS: usize = 2_000;
    type Key = MailboxId;
    type Order = bool;
    type Report = SyncReport;

    fn begun(_: MailboxId) -> SyncReport {
        SyncReport::default()
    }

    fn has_ended(report: &SyncReport) -> bool {
        report.ended
    }

    fn fail(report: &mut SyncReport, outcome: String) {
        (report.ended, report.outcome) = (true, outcome);
    }

    fn join(accepted: &mut bool, order: bool) {
        *accepted |= order;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn second_order_for_a_mailbox_keeps_the_acceptance_of_the_first() {
        let orders = Orders::default();
        orders.open();
        orders.take(MailboxId(1), true).expect("taken");
        orders.take(MailboxId(1), false).expect("joined");
        assert_eq!(orders.begin(MailboxId(1)), Some(true));
        orders.close("the duty moved");
        let report = orders.report(MailboxId(1), Duration::from_secs(60)).await.expect("kept");
        assert_eq!((report.ended, report.outcome.as_str()), (true, "failed: the duty moved"));
    }
}
