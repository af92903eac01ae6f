//! Orders of administrators to look at an account now, and the reports on them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use twinbox_ids::MailboxId;

/// Maximum number of orders that wait.
const MOST_WAITING: usize = 1_000;
/// Number of reports that are kept.
const KEPT_REPORTS: usize = 2_000;

/// Report on an ordered round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// The round has ended, and the rest is filled.
    pub ended: bool,
    /// `done`, `held-back`, or `failed: ` and the reason.
    pub outcome: String,
    /// Messages that were appended to the folder there.
    pub appended: u64,
    /// Messages that were changed here.
    pub marked_here: u64,
    /// Messages whose flags were changed there.
    pub flagged_there: u64,
    /// Messages that were removed there.
    pub removed_there: u64,
    /// Messages that are missing there, and whose deletion is not believed.
    pub held_back: u32,
}

/// Reason why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    /// Another node holds the duty, or none does.
    #[error("this node does not hold the duty mailbox-sync now: see 'twinbox duty list', then repeat the command")]
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
    /// Orders that wait, with the acceptance of deletions.
    waiting: BTreeMap<MailboxId, bool>,
    /// The latest report of each mailbox; the oldest first.
    reports: VecDeque<(MailboxId, SyncReport)>,
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

    /// Takes no more orders; those that wait or are under way fail.
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

    /// Takes an order. A second one for the same mailbox joins one that waits.
    pub(crate) fn take(&self, mailbox: MailboxId, accept_deletions: bool) -> Result<(), OrderRefused> {
        let mut state = self.state();
        if !state.open {
            return Err(OrderRefused::NotHolder);
        }
        if let Some(accepted) = state.waiting.get_mut(&mailbox) {
            *accepted |= accept_deletions;
        } else if state.waiting.len() >= MOST_WAITING {
            return Err(OrderRefused::TooMany);
        } else {
            state.waiting.insert(mailbox, accept_deletions);
        }
        state.reports.retain(|(of, _)| *of != mailbox);
        if state.reports.len() >= KEPT_REPORTS {
            // Reports of rounds that have not ended are still asked for.
            let oldest = state.reports.iter().position(|(_, report)| report.ended).unwrap_or_default();
            state.reports.remove(oldest);
        }
        state.reports.push_back((mailbox, SyncReport::default()));
        drop(state);
        self.changed();
        Ok(())
    }

    /// The mailboxes with an order that waits.
    pub(crate) fn waiting(&self) -> Vec<MailboxId> {
        self.state().waiting.keys().copied().collect()
    }

    /// Begins the order for a mailbox; returns the acceptance of deletions, `None` if no order waits.
    pub(crate) fn begin(&self, mailbox: MailboxId) -> Option<bool> {
        self.state().waiting.remove(&mailbox)
    }

    /// Stores the report on a round that has ended, unless another order for the mailbox waits.
    pub(crate) fn ended(&self, mailbox: MailboxId, report: SyncReport) {
        let mut state = self.state();
        if !state.waiting.contains_key(&mailbox)
            && let Some((_, known)) = state.reports.iter_mut().find(|(of, _)| *of == mailbox)
        {
            *known = report;
        }
        drop(state);
        self.changed();
    }

    /// The report on the latest order as soon as its round has ended, or its present state after the time limit; `None`
    /// if no order for the mailbox is known here.
    pub(crate) async fn report(&self, mailbox: MailboxId, within: Duration) -> Option<SyncReport> {
        let mut changes = self.0.changes.subscribe();
        let ended = async {
            loop {
                let report = self.known(mailbox)?;
                if report.ended || changes.changed().await.is_err() {
                    return Some(report);
                }
            }
        };
        timeout(within, ended).await.unwrap_or_else(|_| self.known(mailbox))
    }

    /// Receiver that is notified of each change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn known(&self, mailbox: MailboxId) -> Option<SyncReport> {
        let state = self.state();
        state.reports.iter().find(|(of, _)| *of == mailbox).map(|(_, report)| report.clone())
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

    const MAILBOX: MailboxId = MailboxId(1);
    const NOW: Duration = Duration::ZERO;

    fn done() -> SyncReport {
        SyncReport { ended: true, outcome: "done".to_owned(), appended: 3, ..SyncReport::default() }
    }

    #[tokio::test]
    async fn order_is_taken_only_by_the_holder_and_its_report_is_found() {
        let orders = Orders::default();
        assert_eq!(orders.take(MAILBOX, false), Err(OrderRefused::NotHolder));
        orders.open();
        orders.take(MAILBOX, true).expect("taken");
        assert_eq!(orders.waiting(), [MAILBOX]);
        assert!(!orders.report(MAILBOX, NOW).await.expect("known").ended);
        assert_eq!((orders.begin(MAILBOX), orders.begin(MAILBOX)), (Some(true), None));
        orders.ended(MAILBOX, done());
        assert_eq!(orders.report(MAILBOX, Duration::from_secs(60)).await, Some(done()));
        assert_eq!(orders.report(MailboxId(2), NOW).await, None);
    }

    #[tokio::test]
    async fn report_on_an_earlier_round_is_not_taken_for_that_of_a_later_order() {
        let orders = Orders::default();
        orders.open();
        orders.take(MAILBOX, false).expect("taken");
        orders.begin(MAILBOX);
        orders.take(MAILBOX, true).expect("taken");
        orders.ended(MAILBOX, done());
        assert!(!orders.report(MAILBOX, NOW).await.expect("known").ended);
        assert_eq!(orders.begin(MAILBOX), Some(true));
    }

    #[tokio::test]
    async fn second_order_joins_the_first_and_orders_are_bounded() {
        let orders = Orders::default();
        orders.open();
        orders.take(MAILBOX, true).expect("taken");
        orders.take(MAILBOX, false).expect("joined");
        assert_eq!(orders.begin(MAILBOX), Some(true));
        for number in 0..MOST_WAITING as u128 {
            orders.take(MailboxId(number), false).expect("taken");
        }
        assert_eq!(orders.take(MailboxId(u128::MAX), false), Err(OrderRefused::TooMany));
        orders.close("the duty moved");
        let report = orders.report(MailboxId(5), Duration::from_secs(60)).await.expect("kept");
        assert_eq!((report.ended, report.outcome.as_str()), (true, "failed: the duty moved"));
        assert!(orders.waiting().is_empty());
    }
}
