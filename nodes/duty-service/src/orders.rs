//! Orders of administrators for the holder of a duty, and the reports on their runs.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

/// Kind of the orders for one duty.
pub trait OrderKind: 'static {
    /// Name of the duty whose holder takes the orders.
    const DUTY: &'static str;
    /// Maximum number of orders that wait.
    const MOST_WAITING: usize;
    /// Number of reports that are kept.
    const KEPT_REPORTS: usize;
    /// Key of an order, and of the report on it.
    type Key: Copy + Ord + Send;
    /// Content of an order.
    type Order: Send;
    /// Report on an ordered run.
    type Report: Clone + Send;

    /// Report on an order that was just taken.
    fn begun(key: Self::Key) -> Self::Report;
    /// Whether the run of a report has ended.
    fn has_ended(report: &Self::Report) -> bool;
    /// Ends a report with this outcome, because the run failed.
    fn fail(report: &mut Self::Report, outcome: String);
    /// Adds another order with the same key to one that waits.
    fn join(waiting: &mut Self::Order, order: Self::Order);
}

/// Reason why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    /// Another node holds the duty, or none does.
    #[error("this node does not hold the duty {duty} now: see 'twinbox duty list', then repeat the command")]
    NotHolder {
        /// Name of the duty.
        duty: &'static str,
    },
    /// Too many orders wait.
    #[error("too many orders wait already: give the command again when some have ended")]
    TooMany,
}

/// The orders that wait, and the latest reports. Cheap to clone.
pub struct Orders<K: OrderKind>(Arc<Inner<K>>);

struct Inner<K: OrderKind> {
    state: Mutex<State<K>>,
    /// Counts changes of `state`.
    changes: watch::Sender<u64>,
}

struct State<K: OrderKind> {
    open: bool,
    waiting: BTreeMap<K::Key, K::Order>,
    /// The latest report on each key; the oldest first.
    reports: VecDeque<(K::Key, K::Report)>,
}

impl<K: OrderKind> Clone for Orders<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: OrderKind> Default for Orders<K> {
    fn default() -> Self {
        let state = State { open: false, waiting: BTreeMap::new(), reports: VecDeque::new() };
        Self(Arc::new(Inner { state: Mutex::new(state), changes: watch::Sender::new(0) }))
    }
}

impl<K: OrderKind> Orders<K> {
    /// Takes orders from now on, because this node holds the duty.
    pub fn open(&self) {
        self.state().open = true;
    }

    /// Takes no more orders; those that wait or are under way fail.
    pub fn close(&self, reason: &str) {
        let mut state = self.state();
        state.open = false;
        state.waiting.clear();
        for (_, report) in state.reports.iter_mut().filter(|(_, report)| !K::has_ended(report)) {
            K::fail(report, format!("failed: {reason}"));
        }
        drop(state);
        self.changed();
    }

    /// Takes an order. Another one with the same key joins one that waits.
    ///
    /// # Errors
    /// This node does not hold the duty, or too many orders wait.
    pub fn take(&self, key: K::Key, order: K::Order) -> Result<(), OrderRefused> {
        let mut state = self.state();
        if !state.open {
            return Err(OrderRefused::NotHolder { duty: K::DUTY });
        }
        if let Some(waiting) = state.waiting.get_mut(&key) {
            K::join(waiting, order);
        } else if state.waiting.len() >= K::MOST_WAITING {
            return Err(OrderRefused::TooMany);
        } else {
            state.waiting.insert(key, order);
        }
        state.reports.retain(|(of, _)| *of != key);
        if state.reports.len() >= K::KEPT_REPORTS {
            // Reports on runs that have not ended are still asked for.
            let oldest = state.reports.iter().position(|(_, report)| K::has_ended(report)).unwrap_or_default();
            state.reports.remove(oldest);
        }
        state.reports.push_back((key, K::begun(key)));
        drop(state);
        self.changed();
        Ok(())
    }

    /// Keys of the orders that wait, in their order.
    pub fn waiting(&self) -> Vec<K::Key> {
        self.state().waiting.keys().copied().collect()
    }

    /// Whether an order with one of these keys waits.
    pub fn has(&self, keys: impl RangeBounds<K::Key>) -> bool {
        self.state().waiting.range::<K::Key, _>(keys).next().is_some()
    }

    /// Begins the order with this key; `None` if none waits.
    pub fn begin(&self, key: K::Key) -> Option<K::Order> {
        self.state().waiting.remove(&key)
    }

    /// Begins the first order with one of these keys; `None` if none waits.
    pub fn begin_first(&self, keys: impl RangeBounds<K::Key>) -> Option<(K::Key, K::Order)> {
        let mut state = self.state();
        let key = *state.waiting.range::<K::Key, _>(keys).next()?.0;
        state.waiting.remove_entry(&key)
    }

    /// Stores the report on a run that has ended, unless another order with the key waits.
    pub fn ended(&self, key: K::Key, report: K::Report) {
        let mut state = self.state();
        if !state.waiting.contains_key(&key)
            && let Some((_, known)) = state.reports.iter_mut().find(|(of, _)| *of == key)
        {
            *known = report;
        }
        drop(state);
        self.changed();
    }

    /// The report on the latest order with this key as soon as its run has ended, or its present state after the time
    /// limit; `None` if no such order is known here.
    pub async fn report(&self, key: K::Key, within: Duration) -> Option<K::Report> {
        let mut changes = self.0.changes.subscribe();
        let ended = async {
            loop {
                let report = self.known(key)?;
                if K::has_ended(&report) || changes.changed().await.is_err() {
                    return Some(report);
                }
            }
        };
        timeout(within, ended).await.unwrap_or_else(|_| self.known(key))
    }

    /// Receiver that is notified of each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn known(&self, key: K::Key) -> Option<K::Report> {
        let state = self.state();
        state.reports.iter().find(|(of, _)| *of == key).map(|(_, report)| report.clone())
    }

    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const SOON: Duration = Duration::from_secs(60);

    /// Orders that join, with a report of (ended, outcome).
    struct Joining;

    impl OrderKind for Joining {
        const DUTY: &'static str = "test";
        const MOST_WAITING: usize = 3;
        const KEPT_REPORTS: usize = 4;
        type Key = u32;
        type Order = bool;
        type Report = (bool, String);

        fn begun(key: u32) -> (bool, String) {
            (false, key.to_string())
        }

        fn has_ended(report: &(bool, String)) -> bool {
            report.0
        }

        fn fail(report: &mut (bool, String), outcome: String) {
            *report = (true, outcome);
        }

        fn join(waiting: &mut bool, order: bool) {
            *waiting |= order;
        }
    }

    fn done(text: &str) -> (bool, String) {
        (true, text.to_owned())
    }

    #[tokio::test]
    async fn order_is_taken_only_by_the_holder_and_its_report_is_found() {
        let orders = Orders::<Joining>::default();
        assert_eq!(orders.take(1, false), Err(OrderRefused::NotHolder { duty: "test" }));
        orders.open();
        orders.take(1, true).expect("taken");
        assert!(orders.has(1..=1) && !orders.has(2..));
        assert_eq!(orders.report(1, NOW).await, Some((false, "1".to_owned())));
        assert_eq!((orders.begin(1), orders.begin(1)), (Some(true), None));
        orders.ended(1, done("done"));
        assert_eq!((orders.report(1, SOON).await, orders.report(2, NOW).await), (Some(done("done")), None));
    }

    #[tokio::test]
    async fn second_order_joins_the_first_and_orders_and_reports_are_bounded() {
        let orders = Orders::<Joining>::default();
        orders.open();
        for (key, order) in [(2, false), (2, true), (1, false), (3, false)] {
            orders.take(key, order).expect("taken");
        }
        assert_eq!(orders.take(4, false), Err(OrderRefused::TooMany));
        assert_eq!(orders.begin_first(2..), Some((2, true)));
        assert_eq!(orders.waiting(), [1, 3]);
        orders.ended(2, done("done"));
        // The report that has ended makes room, not those that are still asked for.
        for key in [4, 5] {
            orders.take(key, false).expect("taken");
            orders.begin(key);
        }
        assert_eq!(orders.report(2, NOW).await, None);
        orders.close("the duty moved");
        assert_eq!(orders.report(1, SOON).await, Some(done("failed: the duty moved")));
        assert!(orders.waiting().is_empty());
    }

    #[tokio::test]
    async fn report_on_an_earlier_run_is_not_taken_for_that_of_a_later_order() {
        let orders = Orders::<Joining>::default();
        orders.open();
        orders.take(1, false).expect("taken");
        orders.begin(1);
        orders.take(1, true).expect("taken");
        orders.ended(1, done("done"));
        assert_eq!(orders.report(1, NOW).await, Some((false, "1".to_owned())));
        assert_eq!(orders.begin(1), Some(true));
    }
}
