//! Tests of the pure core of replication, through its public interface.

mod ack;
mod buckets;
mod clock;
mod commits;
mod convergence;
mod first_fill;
mod page_rate;
mod patience;
mod pins;
mod range_sums;
mod ranges;
mod records;
mod state_fill;
mod vector;

use twinbox_ids::{NodeName, Origin, Stamp};
use twinbox_replication_core::{Edit, Record};

/// A stamp, by its time and its origin.
fn stamp(wall: u64, origin: u128) -> Stamp {
    Stamp { wall, counter: 0, origin: Origin(origin) }
}

fn node(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

/// A record after edits that each saw all earlier ones, made by `origin` at times from `wall` on.
fn edited(mut record: Record, wall: u64, origin: u128, edits: impl IntoIterator<Item = Edit>) -> Record {
    for (i, edit) in edits.into_iter().enumerate() {
        let delta = edit.delta(&record, stamp(wall + i as u64, origin), &node(&format!("n{origin}")));
        record.merge(delta);
    }
    record
}

fn merged(a: &Record, b: &Record) -> Record {
    let mut merged = a.clone();
    merged.merge(b.clone());
    merged
}
