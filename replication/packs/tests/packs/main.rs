//! Tests of packs through their public interface, most of them on a simulated folder that loses what was not synced.

mod appending;
mod damage;
mod faults;
mod moving;
mod pieces;
mod power_cuts;
mod reading;
mod real;
mod reuse;
mod sim;
mod syncs;

use sim::SimMedium;
use twinbox_packs::{Config, Extent, Found, Frame, Kind, MIN_PACK, PackError, Packs};

/// Packs of the tests: 1 MiB and 8 KiB.
const CONFIG: Config = Config { pack_bytes: MIN_PACK, longest_bytes: MIN_PACK, spare_bytes: 0 };
/// The same, with files of removed packs that become new ones.
const REUSING: Config = Config { spare_bytes: 2 * MIN_PACK, ..CONFIG };

fn open(sim: &SimMedium) -> Packs<SimMedium> {
    Packs::open(sim.clone(), CONFIG, 0).unwrap_or_else(|error| panic!("{error}"))
}

/// A chunk of the first take of a recording.
fn chunk(recording: u128, payload: &[u8]) -> Frame<'_> {
    Frame { kind: Kind::Chunk, recording, take: 1, offset: 160, payload }
}

/// Appends one chunk.
fn append(packs: &Packs<SimMedium>, recording: u128, payload: &[u8]) -> Extent {
    append_checked(packs, recording, payload).unwrap_or_else(|error| panic!("{error}"))
}

fn append_checked(packs: &Packs<SimMedium>, recording: u128, payload: &[u8]) -> Result<Extent, PackError> {
    packs.append(&[chunk(recording, payload)]).map(|extents| extents[0])
}

/// The whole payload of an extent.
fn read(packs: &Packs<SimMedium>, extent: Extent) -> Vec<u8> {
    packs.read(extent, 0..extent.length).unwrap_or_else(|error| panic!("{error}"))
}

/// All frames in all packs.
fn scan_all(packs: &Packs<SimMedium>) -> Vec<Found> {
    let scan = |pack| packs.scan(pack).unwrap_or_else(|error| panic!("{error}"));
    packs.list().into_iter().flat_map(scan).collect()
}

/// The recordings of all frames in all packs.
fn recordings(packs: &Packs<SimMedium>) -> Vec<u128> {
    scan_all(packs).into_iter().map(|found| found.recording).collect()
}

/// Name of a pack's file.
fn file(pack: u32) -> String {
    format!("{pack:08}.pack")
}
