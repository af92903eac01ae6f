//! Costs of an idle cluster: traffic between its members, processor time of each.
//!
//! Method: two nodes with a witness, and two nodes without, in namespaces; a switch in this process counts the frames between them
//! (Ethernet headers included). No calls. A few seconds pass first, so that start-up costs are not counted.

use std::{thread::sleep, time::Duration};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Lab, Spec};

use crate::{machine, report::Report};

const SETTLES: Duration = Duration::from_secs(5);

/// Watches both kinds of cluster for this many seconds.
pub fn run(report: &mut Report, seconds: u64) {
    watch(report, seconds, ["traffic at rest", "processor at rest"], &["a", "b", "w"]);
    watch(report, seconds, ["traffic of two nodes alone", "processor of two nodes alone"], &["a", "b"]);
}

fn watch(report: &mut Report, seconds: u64, [traffic, processor]: [&'static str; 2], members: &[&str]) {
    let lab = Lab::switched(&["a", "b", "w"], 1);
    let spec = Spec { log: "warn", witness: members.contains(&"w"), ..Spec::default() };
    let cluster = Cluster::start_in(&lab, &spec);
    sleep(SETTLES);
    let links = (1..members.len()).flat_map(|n| members[..n].iter().map(move |one| (*one, members[n])));
    let bytes = || links.clone().map(|(one, other)| lab.bytes_between(one, other)).collect::<Vec<_>>();
    let used = || members.iter().map(|name| machine::cpu_of(cluster.member(name).pid())).collect::<Vec<_>>();
    let (bytes_before, used_before) = (bytes(), used());
    let began = BootInstant::now();
    sleep(Duration::from_secs(seconds));
    let (bytes_after, used_after) = (bytes(), used());
    let passed = began.elapsed().as_secs_f64();
    let mut table = report.table(traffic, &["between", "kbit/s"]);
    for (n, (one, other)) in links.clone().enumerate() {
        let rate = (bytes_after[n] - bytes_before[n]) as f64 * 8.0 / 1_000.0 / passed;
        table.row(&[json!(format!("{one} {other}")), json!(rate)]);
    }
    drop(table);
    let leader = cluster.cli("a").status().map_or(json!(null), |status| status["leader"].clone());
    let mut table = report.table(processor, &["member", "% of a core", "leads"]);
    for (n, name) in members.iter().enumerate() {
        let share = (used_after[n] - used_before[n]).as_secs_f64() / passed * 100.0;
        table.row(&[json!(name), json!(share), json!(leader == *name)]);
    }
}
