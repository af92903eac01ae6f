//! A node at twice its capacity.
//!
//! Method: the steps of [`crate::load`] with messages of 10 s, refusals or not, up to the first in which a BYE was not
//! answered `200` or more than a tenth of the callers was refused. The capacity is the highest rate of admitted calls
//! among the steps in which every BYE of an admitted call was answered `200`. Then callers arrive at twice that rate.
//! Refused callers do not call again. Goals, of which a missed one fails the run: at least 80 % of the capacity is
//! admitted, every BYE of admitted calls is answered `200`, each refusal comes within 100 ms, and no duty moves.

use std::time::Duration;

use serde_json::json;
use twinbox_crowd::Arrived;

use crate::{
    load::{self, Loaded},
    report::{Report, ms, percentile},
};

const MESSAGE: Duration = Duration::from_secs(10);
/// Seconds at twice the load: several lengths of a call, since the effects of late admissions show late.
const LONG: u64 = 60;
/// Minimum share of the capacity that is admitted at twice the capacity.
const ADMITTED: f64 = 0.8;
/// Limit of each refusal.
const REFUSED: Duration = Duration::from_millis(100);

/// Determines the node's capacity, and doubles it. The error names the goals that were missed.
pub fn run(report: &mut Report, steps: &[usize], seconds: u64) -> Result<(), String> {
    let mut loaded = Loaded::new();
    let mut table = load::table(report, "callers who leave messages of 10 s on a node of a pair, refusals or not");
    let mut capacity: f64 = 0.0;
    for &calls in steps {
        let rate = calls as f64 / MESSAGE.as_secs_f64();
        let (step, late) = loaded.attempt(rate, MESSAGE, seconds);
        if late > load::LATE {
            table.generator_bound(json!(calls), late);
            break;
        }
        loaded.row(&mut table, json!(calls), rate, &step);
        if !keeps_promises(&step.arrived) {
            break;
        }
        capacity = capacity.max(step.arrived.answers.len() as f64 / seconds as f64);
        if step.arrived.refusals.len() * 10 > step.arrived.offered {
            break;
        }
    }
    drop(table);
    if capacity == 0.0 {
        return Err("overload: no step kept its promises, so there is no capacity to double".to_owned());
    }
    let moves = |loaded: &Loaded| loaded.cluster.cli("a").json(&["cluster", "moves"]).to_string();
    let before = moves(&loaded);
    let (step, late) = loaded.step(capacity * 2.0, MESSAGE, LONG);
    let mut table = load::table(report, "the same at twice the capacity");
    loaded.row(&mut table, json!("twice"), capacity * 2.0, &step);
    drop(table);
    let mut table = report.table(
        "overload",
        &[
            "capacity a second",
            "offered",
            "admitted",
            "of capacity %",
            "kept %",
            "refused p99 ms",
            "slowest ms",
            "generator ms",
            "duties moved",
            "goals met",
        ],
    );
    let admitted = step.arrived.answers.len() as f64 / LONG as f64;
    let (kept, answered) = (step.arrived.byes.len() as f64, step.arrived.answers.len().max(1) as f64);
    let mut refusals = step.arrived.refusals.clone();
    let slowest = refusals.iter().max().copied().unwrap_or_default();
    let moved = moves(&loaded) != before;
    let goals = [
        (admitted >= ADMITTED * capacity, format!("{admitted:.1} a second are admitted")),
        (keeps_promises(&step.arrived), format!("{} BYEs are not answered 200", step.arrived.broken.len())),
        (slowest <= REFUSED, format!("a refusal takes {:.1} ms", ms(slowest))),
        (!moved, "a duty has moved".to_owned()),
    ];
    let missed: Vec<String> = goals.into_iter().filter(|(met, _)| !met).map(|(_, text)| text).collect();
    table.row(&[
        json!(capacity),
        json!(capacity * 2.0),
        json!(admitted),
        json!(admitted / capacity * 100.0),
        json!(kept / answered * 100.0),
        json!(ms(percentile(&mut refusals, 0.99))),
        json!(ms(slowest)),
        json!(ms(late)),
        json!(moved),
        json!(missed.is_empty()),
    ]);
    match missed.is_empty() {
        true => Ok(()),
        false => Err(format!("overload, at twice the capacity of {capacity:.1} a second: {}", missed.join("; "))),
    }
}

/// Whether every BYE of an admitted call was answered `200`, and every INVITE was answered.
fn keeps_promises(arrived: &Arrived) -> bool {
    arrived.broken.is_empty() && arrived.unanswered == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_break_no_promise_but_a_bye_without_200_does() {
        let refused = Arrived { offered: 2, refusals: vec![Duration::ZERO; 2], ..Arrived::default() };
        assert!(keeps_promises(&refused));
        assert!(!keeps_promises(&Arrived { broken: vec![500], ..refused.clone() }));
        assert!(!keeps_promises(&Arrived { unanswered: 1, ..refused }));
    }
}
