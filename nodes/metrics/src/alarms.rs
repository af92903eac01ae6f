//! Metrics of alarms and events.

use std::collections::BTreeMap;

use twinbox_alarms::{Alarms, Code};

use crate::page::Page;

/// Writes the metrics. Every code is present, with 0 if no such alarm exists, so that rules can compare.
pub fn render(alarms: &Alarms, page: &mut Page) {
    let mut open: BTreeMap<Code, u32> = Code::ALL.iter().map(|code| (*code, 0)).collect();
    for alarm in alarms.list().unwrap_or_default().iter().filter(|alarm| alarm.is_open()) {
        if let Some(count) = alarm.code.and_then(|code| open.get_mut(&code)) {
            *count += 1;
        }
    }
    page.gauge(
        "twinbox_alarms",
        "Alarms of all nodes that 'twinbox alarm list' shows.",
        open.iter()
            .map(|(code, count)| (format!("code=\"{code}\",severity=\"{}\"", code.severity()), f64::from(*count))),
    );
    let counters = alarms.counters();
    page.counter(
        "twinbox_events_total",
        "Events that this node has told, by kind.",
        counters.events.iter().map(|(kind, count)| (format!("kind=\"{kind}\""), *count as f64)),
    );
    page.counter(
        "twinbox_alarms_left_out_total",
        "Alarms and events of this node that came faster than they can be kept.",
        [
            ("what=\"alarms\"".to_owned(), counters.dropped_alarms as f64),
            ("what=\"events\"".to_owned(), counters.dropped_events as f64),
        ],
    );
    page.counter(
        "twinbox_alarm_notices_total",
        "Notices of alarms to webhook and trap receivers, by what became of them.",
        [
            ("outcome=\"told\"".to_owned(), counters.delivered as f64),
            ("outcome=\"failed\"".to_owned(), counters.failed as f64),
            ("outcome=\"given-up\"".to_owned(), counters.given_up as f64),
        ],
    );
}
