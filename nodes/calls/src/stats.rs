//! What the door counts, for `/metrics`: fixed counters and two histograms, all without a lock.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use twinbox_overload::View;

/// Upper bounds of the histograms, in microseconds.
const BOUNDS_US: &[u64] = &[
    250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
];

/// A histogram: `counts[i]` values were at most `bounds_us[i]` microseconds; the last count is for all above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Upper bounds in microseconds.
    pub bounds_us: &'static [u64],
    /// One more than bounds.
    pub counts: Vec<u64>,
    /// Sum of all values in microseconds.
    pub sum_us: u64,
}

/// A look at the counters.
#[derive(Debug, Clone, PartialEq)]
pub struct StatsView {
    /// Calls in progress.
    pub active: usize,
    /// Subscriptions held.
    pub subscriptions: usize,
    /// Server and client transactions held.
    pub transactions: usize,
    /// The overload control.
    pub overload: View,
    /// Counters by name.
    pub counters: BTreeMap<&'static str, u64>,
    /// Malformed messages by fault.
    pub malformed: BTreeMap<&'static str, u64>,
    /// INVITE received to `200` sent.
    pub answer_time: Histogram,
    /// BYE received to its answer sent.
    pub bye_time: Histogram,
}

/// A value that is measured.
#[derive(Default)]
pub(crate) struct Measure {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Measure {
    pub(crate) fn record(&self, value: Duration) {
        let us = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.iter().position(|&bound| us <= bound).unwrap_or(BOUNDS_US.len());
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn view(&self) -> Histogram {
        let counts = self.counts.iter().map(|c| c.load(Relaxed)).collect();
        Histogram { bounds_us: BOUNDS_US, counts, sum_us: self.sum_us.load(Relaxed) }
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// All that is counted.
        #[derive(Default)]
        pub(crate) struct Stats {
            $($(#[doc = $doc])* pub(crate) $name: AtomicU64,)*
            malformed: std::sync::Mutex<BTreeMap<&'static str, u64>>,
            pub(crate) answer_time: Measure,
            pub(crate) bye_time: Measure,
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
    /// Calls that ended, whoever hung up.
    calls_ended,
    /// INVITEs cancelled before they were answered.
    calls_cancelled,
    /// 200s that were never acknowledged.
    calls_unacknowledged,
    /// Calls whose caller vanished: no media, or no session refresh.
    callers_vanished,
    /// Calls that ended because they were on hold for longer than max_hold_seconds.
    calls_held_too_long,
    /// 503: as many calls as max_calls.
    refused_busy,
    /// 503: more new calls a second than max_calls_per_second.
    refused_rate,
    /// 503: what was promised to calls in progress would suffer.
    refused_overload,
    /// 503: draining.
    refused_draining,
    /// 503: records of other nodes are still missing here.
    refused_filling,
    /// 503: require_two is set and no peer counts.
    refused_alone,
    /// 503: no RTP port is free.
    refused_no_port,
    /// 500 and 503: the store does not answer, or takes no more writes.
    refused_store,
    /// 404: no such mailbox.
    refused_unknown_mailbox,
    /// 403: not from a trunk.
    strangers,
    /// Answers to strangers that were left out, so as not to be a reflector.
    strangers_unanswered,
    /// 403 to members, of no trunk, that ask whether this node lives (rule C3).
    members_asked,
    /// 405 and 501.
    refused_method,
    /// 420.
    refused_extension,
    /// 481.
    refused_no_dialog,
    /// 500 to a request for a dialog of another life or node (rule C4).
    refused_other_incarnation,
    /// 482.
    refused_merged,
    /// 415, 416, 488 and 400 for what is asked for, not how it is written.
    refused_offer,
    /// 422.
    refused_session_timer,
    /// 489, 406, 423 and 503 to SUBSCRIBE.
    refused_subscription,
    /// Digits by INFO.
    digits_info,
    /// Digits by RFC 4733.
    digits_rtp,
    /// Digits that came by the other way before.
    digits_repeated,
    /// Messages filed and on two disks.
    filed_on_two,
    /// Messages filed and on this disk alone.
    filed_alone,
    /// Recordings that could not be filed.
    filed_not,
    /// BYEs answered 500 because filing took too long, failed or lost some of what was said (rule A1).
    byes_unacknowledged,
    /// NOTIFYs that were accepted.
    notifies_sent,
    /// NOTIFYs that were not.
    notifies_failed,
    /// Transfers that came about.
    transfers,
    /// Transfers that did not.
    transfers_failed,
    /// TCP connections refused because there were too many.
    connections_refused,
    /// Octets that could not be sent.
    send_failures,
}

impl Stats {
    pub(crate) fn malformed(&self, fault: &'static str) {
        // Faults are a closed set of names: this map cannot grow.
        *self.malformed.lock().unwrap_or_else(|e| e.into_inner()).entry(fault).or_default() += 1;
    }

    pub(crate) fn view(
        &self,
        active: usize,
        subscriptions: usize,
        transactions: usize,
        overload: View,
    ) -> StatsView {
        StatsView {
            overload,
            active,
            subscriptions,
            transactions,
            counters: self.counters(),
            malformed: self.malformed.lock().unwrap_or_else(|e| e.into_inner()).clone(),
            answer_time: self.answer_time.view(),
            bye_time: self.bye_time.view(),
        }
    }
}

/// Counts one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
