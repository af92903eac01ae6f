//! Tests of the journal through its public interface, on a simulated folder that loses what was not synced.

mod damage;
mod faults;
mod power_cuts;
mod recycling;
mod salvage;
mod sim;
mod stale_batches;

use std::convert::Infallible;

use sim::SimMedium;
use twinbox_journal::{BLOCK, Config, OpenError, Position, Recycler, Writer};

/// Segments of the tests: a header and seven blocks of batches.
const CONFIG: Config = Config { segment_bytes: 8 * BLOCK };

/// Number of batches of [`batch`] in a segment.
const PER_SEGMENT: u64 = 7;

/// An open journal.
struct Opened {
    writer: Writer<SimMedium>,
    recycler: Recycler<SimMedium>,
    replayed: Vec<Vec<u8>>,
}

fn try_open(sim: &SimMedium) -> Result<Opened, OpenError<Infallible>> {
    let mut replayed = Vec::new();
    let (writer, recycler) = twinbox_journal::open(sim.clone(), CONFIG, |batch| {
        replayed.push(batch.to_vec());
        Ok::<(), Infallible>(())
    })?;
    Ok(Opened { writer, recycler, replayed })
}

fn open(sim: &SimMedium) -> Opened {
    try_open(sim).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(sim: &SimMedium) -> OpenError<Infallible> {
    try_open(sim).err().expect("a refusal to open")
}

/// A batch that takes one block.
fn batch(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(20)
}

/// A batch that takes a whole segment.
fn segment_sized(number: u64, writer: &Writer<SimMedium>) -> Vec<u8> {
    let mut batch = number.to_le_bytes().repeat(writer.largest() as usize / 8 + 1);
    batch.truncate(writer.largest() as usize);
    batch
}

fn batches(numbers: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    numbers.map(batch).collect()
}

/// Appends the batches with these numbers.
fn append_all(writer: &mut Writer<SimMedium>, numbers: std::ops::Range<u64>) -> Position {
    for number in numbers {
        writer.append(&[&batch(number)]).expect("an append");
    }
    writer.position()
}

/// Name of the file that was created as the given one.
fn file(number: u64) -> String {
    format!("{number:08}.segment")
}
