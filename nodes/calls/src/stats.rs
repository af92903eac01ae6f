//! Statistics of the SIP server for `/metrics`: fixed counters and two histograms, without locks.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use twinbox_clock::{DurationHistogram, HistogramView};
use twinbox_overload::View;

/// Upper bounds of the histograms, in microseconds.
const BOUNDS_US: &[u64] = &[
    250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
];

/// Snapshot of the statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct StatsView {
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// Number of server and client transactions.
    pub transactions: usize,
    /// State of the overload control.
    pub overload: View,
    /// Counters by name.
    pub counters: BTreeMap<&'static str, u64>,
    /// Malformed messages by fault.
    pub malformed: BTreeMap<&'static str, u64>,
    /// Time from INVITE received to `200` sent.
    pub answer_time: HistogramView,
    /// Time from BYE received to its answer sent.
    pub bye_time: HistogramView,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// All statistics.
        pub(crate) struct Stats {
            $($(#[doc = $doc])* pub(crate) $name: AtomicU64,)*
            malformed: std::sync::Mutex<BTreeMap<&'static str, u64>>,
            pub(crate) answer_time: DurationHistogram,
            pub(crate) bye_time: DurationHistogram,
        }

        impl Default for Stats {
            fn default() -> Self {
                Self {
                    $($name: AtomicU64::default(),)*
                    malformed: Default::default(),
                    answer_time: DurationHistogram::new(BOUNDS_US),
                    bye_time: DurationHistogram::new(BOUNDS_US),
                }
            }
        }

        impl Stats {
            fn counters(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$((stringify!($name), self.$name.load(Relaxed)),)*])
            }
        }
    };
}

counters! {
    /// INVITEs answered with 200.
    calls_answered,
    /// Calls that ended, by either side.
    calls_ended,
    /// INVITEs cancelled before the answer.
    calls_cancelled,
    /// 200s never acknowledged.
    calls_unacknowledged,
    /// Calls that ended because the caller vanished: no media, or no session refresh.
    callers_vanished,
    /// Calls ended after max_hold_seconds on hold.
    calls_held_too_long,
    /// 503: limit max_calls reached.
    refused_busy,
    /// 503: limit max_calls_per_second reached.
    refused_rate,
    /// 503: overload control.
    refused_overload,
    /// 503: draining.
    refused_draining,
    /// 503: records of other nodes are missing here.
    refused_filling,
    /// 503: require_two is set and no peer is available.
    refused_alone,
    /// 503: no free RTP port.
    refused_no_port,
    /// 500 and 503: the store does not answer, or accepts no writes.
    refused_store,
    /// 404: no such mailbox.
    refused_unknown_mailbox,
    /// 403: not from a trunk.
    strangers,
    /// Answers to strangers omitted by the rate limit.
    strangers_unanswered,
    /// 403 to probes of this node by members that are in no trunk (rule C3).
    members_asked,
    /// 405 and 501.
    refused_method,
    /// 420.
    refused_extension,
    /// 481.
    refused_no_dialog,
    /// 500 to a request for a dialog of another incarnation or node (rule C4).
    refused_other_incarnation,
    /// 482.
    refused_merged,
    /// 415, 416, 488, and 400 for unsupported content.
    refused_offer,
    /// 422.
    refused_session_timer,
    /// 489, 406, 423 and 503 to SUBSCRIBE.
    refused_subscription,
    /// Digits by INFO.
    digits_info,
    /// Digits by RFC 4733.
    digits_rtp,
    /// Digits received before by the other way.
    digits_repeated,
    /// Messages filed on two disks.
    filed_on_two,
    /// Messages filed on this disk alone.
    filed_alone,
    /// Recordings not filed.
    filed_not,
    /// BYEs answered 500 because filing was late, failed or lost a part of the message (rule A1).
    byes_unacknowledged,
    /// NOTIFYs accepted.
    notifies_sent,
    /// NOTIFYs not accepted.
    notifies_failed,
    /// Transfers completed.
    transfers,
    /// Transfers failed.
    transfers_failed,
    /// TCP connections refused at the limit.
    connections_refused,
    /// Messages that could not be sent.
    send_failures,
}

impl Stats {
    pub(crate) fn malformed(&self, fault: &'static str) {
        // Faults are a closed set of names: this map cannot grow.
        *self.malformed.lock().unwrap_or_else(|e| e.into_inner()).entry(fault).or_default() += 1;
    }

    pub(crate) fn view(&self, subscriptions: usize, transactions: usize, overload: View) -> StatsView {
        StatsView {
            overload,
            subscriptions,
            transactions,
            counters: self.counters(),
            malformed: self.malformed.lock().unwrap_or_else(|e| e.into_inner()).clone(),
            answer_time: self.answer_time.view(),
            bye_time: self.bye_time.view(),
        }
    }
}

/// Increments a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
