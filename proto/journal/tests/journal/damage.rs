//! Bytes that changed on the disk: found where a durable batch is concerned, no matter elsewhere.

use std::convert::Infallible;

use twinbox_journal::{BLOCK, Config, OpenError};

use crate::{
    CONFIG, Opened, append_all, batch, batches, file, open, refusal, segment_sized,
    sim::{Lie, SimMedium},
    try_open,
};

/// A byte in the middle of a batch's first block.
const INSIDE: u64 = 60;

/// A journal with these batches, closed.
fn journal(count: u64) -> SimMedium {
    let sim = SimMedium::new(0, Lie::None);
    append_all(&mut open(&sim).writer, 0..count);
    sim
}

/// Three segments of one batch each.
fn three_large() -> SimMedium {
    let sim = SimMedium::new(0, Lie::None);
    let Opened { mut writer, .. } = open(&sim);
    for number in 0..3 {
        let batch = segment_sized(number, &writer);
        writer.append(&[&batch]).expect("an append");
    }
    assert_eq!(sim.names(), [file(1), file(2), file(3)]);
    sim
}

/// The journal is refused because of this place.
fn assert_damaged(sim: &SimMedium, in_file: u64, at: u64) {
    let refused = refusal(sim);
    let place = match &refused {
        OpenError::Damaged { file, offset, .. } => (file.clone(), *offset),
        other => panic!("file {in_file}, byte {at}: {other}"),
    };
    assert_eq!(place, (file(in_file), at), "{refused}");
    assert!(refused.to_string().contains("from its peers"), "{refused}");
}

#[test]
fn flipped_bit_in_a_batch_before_valid_ones_is_damage() {
    for wrong in 1..=2 {
        let sim = journal(3);
        sim.flip(&file(1), wrong * BLOCK + INSIDE);
        assert_damaged(&sim, 1, wrong * BLOCK);
        sim.flip(&file(1), wrong * BLOCK + INSIDE);
        assert_eq!(open(&sim).replayed, batches(0..3), "a refused start changes nothing");
    }
}

#[test]
fn flipped_bit_in_the_last_batch_of_a_full_segment_is_damage() {
    let sim = journal(8);
    sim.flip(&file(1), 7 * BLOCK + INSIDE);
    assert_damaged(&sim, 2, BLOCK);
}

#[test]
fn flipped_bit_in_the_only_batch_of_a_segment_is_damage() {
    for number in 1..=2 {
        let sim = three_large();
        sim.flip(&file(number), BLOCK + INSIDE);
        assert_damaged(&sim, number, BLOCK);
    }
}

#[test]
fn flipped_bit_in_the_header_of_a_needed_segment_is_damage() {
    for number in 1..=3 {
        let sim = three_large();
        sim.flip(&file(number), 20);
        assert_damaged(&sim, number, 0);
        assert_eq!(sim.names().len(), 3, "a refused start removes nothing");
    }
}

#[test]
fn shortened_or_lost_file_of_a_needed_segment_is_found() {
    let sim = three_large();
    sim.shorten(&file(2), 3 * BLOCK);
    assert_damaged(&sim, 2, 3 * BLOCK);
    for number in 1..=2 {
        let sim = three_large();
        sim.lose(&file(number));
        assert_eq!(refusal(&sim), OpenError::Missing { segment: number });
    }
}

#[test]
fn torn_last_batch_ends_the_journal_and_appends_go_on() {
    let sim = journal(3);
    sim.flip(&file(1), 3 * BLOCK + INSIDE);
    let Opened { mut writer, replayed, .. } = open(&sim);
    assert_eq!(replayed, batches(0..2));
    append_all(&mut writer, 2..5);
    drop(writer);
    assert_eq!(open(&sim).replayed, batches(0..5));
    // The torn one is not the end any more, and the batch that replaced it follows it.
    sim.flip(&file(1), 3 * BLOCK + INSIDE);
    assert_damaged(&sim, 2, BLOCK);
}

#[test]
fn flipped_bits_in_released_segments_do_not_matter() {
    for place in [20, BLOCK + INSIDE] {
        let sim = SimMedium::new(0, Lie::None);
        let Opened { mut writer, recycler, .. } = open(&sim);
        let end = append_all(&mut writer, 0..56);
        recycler.release(end).expect("a release");
        recycler.prepare().expect("a segment");
        append_all(&mut writer, 56..57);
        for spare in [6, 7] {
            sim.flip(&file(spare), place);
        }
        assert_eq!(open(&sim).replayed, batches(49..57), "byte {place}");
    }
}

#[test]
fn segment_of_another_format_is_refused_and_stays() {
    let sim = journal(1);
    sim.change(&file(1), 8, |_| 2);
    assert_eq!(refusal(&sim), OpenError::Version { file: file(1), version: 2 });
    assert_eq!(sim.names(), [file(1)]);
}

#[test]
fn two_files_of_one_segment_are_refused() {
    let sim = journal(3);
    sim.copy(&file(1), &file(2));
    assert_damaged(&sim, 1, 0);
}

#[test]
fn refused_batch_is_reported() {
    let sim = journal(3);
    let mut count = 0;
    let refused = twinbox_journal::open(sim, CONFIG, |bytes| {
        count += 1;
        if bytes == batch(1) { Err("not this one") } else { Ok(()) }
    });
    assert_eq!(refused.err(), Some(OpenError::Refused("not this one")));
    assert_eq!(count, 2);
}

#[test]
fn segments_that_are_no_whole_blocks_are_refused() {
    for segment_bytes in [0, BLOCK, 2 * BLOCK + 1] {
        let sim = SimMedium::new(0, Lie::None);
        let refused = twinbox_journal::open(sim, Config { segment_bytes }, |_| Ok::<(), Infallible>(()));
        assert_eq!(refused.err(), Some(OpenError::Config { segment_bytes }));
    }
}

#[test]
fn journal_keeps_the_length_of_its_segments() {
    let sim = journal(3);
    let longer = Config { segment_bytes: 2 * CONFIG.segment_bytes };
    let opened = twinbox_journal::open(sim.clone(), longer, |_| Ok::<(), Infallible>(()));
    let (mut writer, _) = opened.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(writer.largest(), open(&SimMedium::new(0, Lie::None)).writer.largest());
    append_all(&mut writer, 3..20);
    assert_eq!(try_open(&sim).map(|opened| opened.replayed), Ok(batches(0..20)));
}

#[test]
fn foreign_files_in_the_folder_stay() {
    let sim = journal(1);
    sim.put("notes.txt", b"not ours");
    assert_eq!(open(&sim).replayed, batches(0..1));
    assert_eq!(sim.names(), [file(1), "notes.txt".to_owned()]);
}
