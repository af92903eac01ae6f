//! What a cluster at rest costs: traffic between its members, processor time of each.
//!
//! Method: two nodes and a witness in namespaces, frames between them counted by a switch in this process (Ethernet
//! headers and all). Nothing calls. A few seconds pass first, so that what a start costs is not counted.

use std::{thread::sleep, time::Duration};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Lab, Spec};

use crate::{machine, report::Report};

const SETTLES: Duration = Duration::from_secs(5);
const PAIRS: [(&str, &str); 3] = [("a", "b"), ("a", "w"), ("b", "w")];

/// Watches for this long.
pub fn run(report: &mut Report, seconds: u64) {
    let lab = Lab::switched(&["a", "b", "w"], 1);
    let cluster = Cluster::start_in(&lab, &Spec { log: "warn", ..Spec::default() });
    sleep(SETTLES);
    let bytes = || PAIRS.map(|(one, other)| lab.bytes_between(one, other));
    let used = |name: &str| machine::cpu_of(cluster.member(name).pid());
    let (bytes_before, used_before) = (bytes(), ["a", "b", "w"].map(used));
    let began = BootInstant::now();
    sleep(Duration::from_secs(seconds));
    let (bytes_after, used_after) = (bytes(), ["a", "b", "w"].map(used));
    let passed = began.elapsed().as_secs_f64();
    let mut table = report.table("traffic at rest", &["between", "kbit/s"]);
    for (n, (one, other)) in PAIRS.iter().enumerate() {
        let rate = (bytes_after[n] - bytes_before[n]) as f64 * 8.0 / 1_000.0 / passed;
        table.row(&[json!(format!("{one} {other}")), json!(rate)]);
    }
    drop(table);
    let leader = cluster.cli("a").status().map_or(json!(null), |status| status["leader"].clone());
    let mut table = report.table("processor at rest", &["member", "% of a core", "leads"]);
    for (n, name) in ["a", "b", "w"].into_iter().enumerate() {
        let share = (used_after[n] - used_before[n]).as_secs_f64() / passed * 100.0;
        table.row(&[json!(name), json!(share), json!(leader == *name)]);
    }
}
