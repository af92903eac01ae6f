//! Metrics of the outbox, by duty, and of mail in.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use twinbox_clock::wall;
use twinbox_duty::DutyCounts;
use twinbox_mail_gateway::{Counter, GatewayCounts};

use crate::page::{Page, plain};

/// Counts of a duty, with its name.
pub type OutboxCounts = (&'static str, Arc<DutyCounts>);

/// Writes the metrics. Depth and age are those of the duties that this node holds, 0 for the others. `holds` is absent
/// while the store cannot be read.
pub fn render(outbox: &[OutboxCounts], holds: Option<usize>, gateway: Option<&GatewayCounts>, page: &mut Page) {
    let label = |duty: &str| format!("duty=\"{duty}\"");
    page.gauge(
        "twinbox_outbox_waiting",
        "Effects that wait, are on hold or are being attempted, on the node that holds the duty.",
        outbox.iter().map(|(duty, counts)| (label(duty), counts.waiting.load(Relaxed) as f64)),
    );
    let age = |counts: &DutyCounts| match counts.oldest_ms.load(Relaxed) {
        0 => 0.0,
        oldest => wall().0.saturating_sub(oldest) as f64 / 1e3,
    };
    page.gauge(
        "twinbox_outbox_oldest_seconds",
        "Time since the most overdue effect became due, on the node that holds the duty.",
        outbox.iter().map(|(duty, counts)| (label(duty), age(counts))),
    );
    let outcomes = outbox.iter().flat_map(|(duty, counts)| {
        [("done", &counts.done), ("failed", &counts.failed), ("dead", &counts.dead)]
            .map(|(outcome, count)| (format!("{},outcome=\"{outcome}\"", label(duty)), count.load(Relaxed) as f64))
    });
    page.gauge(
        "twinbox_outbox_holds",
        "Destinations that administrators hold; their effects are not attempted.",
        holds.map(|holds| plain(holds as f64)),
    );
    page.counter("twinbox_outbox_attempts_total", "Attempts at effects of this node, by their outcome.", outcomes);
    if let Some(gateway) = gateway {
        page.counter(
            "twinbox_mail_in_total",
            "Connections, mails and recipients of mail in, by what became of them.",
            Counter::ALL.map(|counter| (format!("what=\"{}\"", counter.word()), gateway.get(counter) as f64)),
        );
    }
}
