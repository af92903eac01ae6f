//! A node at twice its capacity.
//!
//! Method: the steps of [`crate::load`] with messages of 10 s, up to the first that is not clean; the capacity is the
//! highest clean rate. Then callers arrive at twice that rate. Refused callers do not call again. Goals: at least 80 %
//! of the capacity is admitted, every BYE of admitted calls is answered `200`, refusals come within 100 ms, and no duty
//! moves.

use std::time::Duration;

use serde_json::json;

use crate::{
    load::{self, Loaded},
    report::{Report, ms, percentile},
};

const MESSAGE: Duration = Duration::from_secs(10);
/// Seconds at twice the load: several lengths of a call, since the effects of late admissions show late.
const LONG: u64 = 60;

/// Determines the node's capacity, and doubles it.
pub fn run(report: &mut Report, steps: &[usize], seconds: u64) {
    let mut loaded = Loaded::new();
    let mut table = load::table(report, "callers who leave messages of 10 s on a node of a pair");
    let carried = loaded.steps(&mut table, steps, MESSAGE, seconds);
    drop(table);
    let moves = |loaded: &Loaded| loaded.cluster.cli("a").json(&["cluster", "moves"]).to_string();
    let before = moves(&loaded);
    let (step, late) = loaded.step(carried * 2.0, MESSAGE, LONG);
    let mut table = load::table(report, "the same at twice the highest rate that was clean");
    loaded.row(&mut table, json!("twice"), carried * 2.0, &step);
    drop(table);
    let mut table = report.table(
        "overload",
        &[
            "carried a second",
            "offered",
            "admitted",
            "of carried %",
            "kept %",
            "refused p99 ms",
            "slowest ms",
            "generator ms",
            "duties moved",
        ],
    );
    let admitted = step.arrived.answers.len() as f64 / LONG as f64;
    let (kept, answered) = (step.arrived.byes.len() as f64, step.arrived.answers.len().max(1) as f64);
    let mut refusals = step.arrived.refusals.clone();
    let slowest = refusals.iter().max().copied().unwrap_or_default();
    table.row(&[
        json!(carried),
        json!(carried * 2.0),
        json!(admitted),
        json!(admitted / carried * 100.0),
        json!(kept / answered * 100.0),
        json!(ms(percentile(&mut refusals, 0.99))),
        json!(ms(slowest)),
        json!(ms(late)),
        json!(moves(&loaded) != before),
    ]);
}
