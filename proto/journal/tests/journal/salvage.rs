//! Reading a journal that is refused: batches as they were written, in order, and nothing else.

use std::io;

use twinbox_journal::{BLOCK, Blocks, Medium, Salvaged, salvage};

use crate::{
    append_all, batch, batches, file, open, refusal, segment_sized,
    sim::{Lie, SimMedium},
};

/// A byte in the middle of a batch's first block.
const INSIDE: u64 = 60;

/// A journal of three segments and a part of a fourth.
fn journal() -> SimMedium {
    let sim = SimMedium::new(0, Lie::None);
    append_all(&mut open(&sim).writer, 0..25);
    sim
}

/// The batches that are found, each with the flag that others are missing before it.
fn found(sim: &SimMedium) -> (Vec<(Vec<u8>, bool)>, Salvaged) {
    let mut found = Vec::new();
    let salvaged = salvage(sim, |batch, gap| found.push((batch.to_vec(), gap)));
    (found, salvaged)
}

/// All batches but these, and a gap after each run of missing ones.
fn all_but(missing: impl Fn(u64) -> bool) -> Vec<(Vec<u8>, bool)> {
    let left = (0..25).filter(|number| !missing(*number));
    let mut left: Vec<_> = left.map(|n| (batch(n), n > 0 && missing(n - 1))).collect();
    if let Some(first) = left.first_mut() {
        first.1 = false;
    }
    left
}

#[test]
fn whole_journal_is_found_in_order() {
    let (found, salvaged) = found(&journal());
    assert_eq!(found, all_but(|_| false));
    assert_eq!(salvaged, Salvaged { batches: 25, gaps: 0, unreadable: 0 });
}

#[test]
fn damaged_batch_is_left_out_and_its_place_is_told() {
    for wrong in [0, 3, 6, 7, 20] {
        let sim = journal();
        sim.flip(&file(wrong / 7 + 1), (wrong % 7 + 1) * BLOCK + INSIDE);
        refusal(&sim);
        let (found, salvaged) = found(&sim);
        assert_eq!(found, all_but(|n| n == wrong), "batch {wrong}");
        assert_eq!((salvaged.batches, salvaged.gaps), (24, u64::from(wrong > 0)), "batch {wrong}");
    }
}

#[test]
fn batches_behind_a_damaged_header_are_found() {
    let sim = journal();
    sim.flip(&file(2), 20);
    refusal(&sim);
    assert_eq!(found(&sim).0, all_but(|_| false));
    // The nonce is known from the first batch alone.
    sim.flip(&file(2), BLOCK + INSIDE);
    let (found, salvaged) = found(&sim);
    assert_eq!(found, all_but(|n| (7..14).contains(&n)));
    assert_eq!((salvaged.gaps, salvaged.unreadable), (1, 1));
}

#[test]
fn missing_and_short_files_leave_the_rest() {
    let sim = journal();
    sim.lose(&file(1));
    refusal(&sim);
    assert_eq!(found(&sim).0, all_but(|n| n < 7));
    let sim = journal();
    sim.shorten(&file(2), 3 * BLOCK);
    refusal(&sim);
    assert_eq!(found(&sim).0, all_but(|n| (9..14).contains(&n)));
    assert_eq!(found(&SimMedium::new(0, Lie::None)).1, Salvaged::default());
}

// Mutant: a batch that is accepted without its nonce.
#[test]
fn content_does_not_pass_for_a_batch() {
    let sim = SimMedium::new(0, Lie::None);
    // A segment of another journal, whole blocks, as the content of a batch: its batches stand at their own offsets.
    let other = SimMedium::new(7, Lie::None);
    append_all(&mut open(&other).writer, 100..107);
    let mut opened = open(&sim);
    let mut forged = segment_sized(0, &opened.writer);
    let bytes = other.bytes(&file(1));
    // The content of the first batch begins 48 bytes after the second block does.
    forged.splice(.., bytes[BLOCK as usize + 48..].iter().copied());
    opened.writer.append(&[&forged]).expect("an append");
    append_all(&mut opened.writer, 1..3);
    drop(opened);
    sim.flip(&file(1), BLOCK + INSIDE);
    assert_eq!(found(&sim).0, batches(1..3).into_iter().map(|batch| (batch, false)).collect::<Vec<_>>());
}

/// A folder whose names cannot be read.
struct Unlisted(SimMedium);

impl Medium for Unlisted {
    type File = <SimMedium as Medium>::File;

    fn list(&self) -> io::Result<Vec<String>> {
        Err(io::Error::other("input/output error"))
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.0.open(name)
    }

    fn create(&self, name: &str, length: u64, blocks: Blocks) -> io::Result<Self::File> {
        self.0.create(name, length, blocks)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
}

#[test]
fn folder_that_cannot_be_listed_counts_as_unreadable() {
    let salvaged = salvage(&Unlisted(journal()), |_, _| panic!("no batch can be found"));
    assert_eq!(salvaged, Salvaged { batches: 0, gaps: 0, unreadable: 1 });
}
