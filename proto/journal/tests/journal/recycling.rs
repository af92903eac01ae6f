//! Recycled files: bounded in number, and nothing in them is taken for a batch of the new segment.

use twinbox_journal::{BLOCK, OpenError};

use crate::{
    Opened, PER_SEGMENT, append_all, batch, batches, file, open, refusal,
    sim::{Lie, SimMedium},
};

#[test]
fn ten_thousand_appends_need_a_few_files() {
    let sim = SimMedium::new(0, Lie::None);
    let Opened { mut writer, recycler, .. } = open(&sim);
    let mut most = 0;
    for number in 0..10_000 {
        let end = append_all(&mut writer, number..number + 1);
        if number % 5 == 4 {
            recycler.release(end).expect("a release");
            assert_eq!(recycler.retained(), 0, "batch {number}");
        }
        if number % 3 == 0 {
            recycler.prepare().expect("a segment");
            assert!(!recycler.wants_segment(), "batch {number}");
        }
        most = most.max(sim.names().len());
    }
    assert!(most <= 6, "{most} files at once");
    assert!(sim.creations() <= 6, "{} files were created", sim.creations());
    assert_eq!(recycler.retained(), 0);
    let replayed = open(&sim).replayed;
    assert!(replayed.len() as u64 <= 3 * PER_SEGMENT, "{} batches", replayed.len());
    assert_eq!(replayed, batches(10_000 - replayed.len() as u64..10_000));
}

#[test]
fn appends_go_on_without_the_recycler() {
    let sim = SimMedium::new(0, Lie::None);
    let Opened { mut writer, recycler, .. } = open(&sim);
    assert!(recycler.wants_segment());
    append_all(&mut writer, 0..100);
    assert_eq!(open(&sim).replayed, batches(0..100));
}

#[test]
fn starts_without_an_append_take_no_further_segment() {
    let sim = SimMedium::new(0, Lie::None);
    for _ in 0..20 {
        let Opened { recycler, replayed, .. } = open(&sim);
        recycler.prepare().expect("a segment");
        assert_eq!((replayed.len(), sim.names()), (0, vec![file(1)]));
    }
    append_all(&mut open(&sim).writer, 0..1);
    for _ in 0..20 {
        let Opened { recycler, replayed, .. } = open(&sim);
        recycler.prepare().expect("a segment");
        assert_eq!((replayed.len(), sim.names()), (1, vec![file(1), file(2)]));
    }
}

#[test]
fn retained_counts_from_the_released_position_to_the_end() {
    let sim = SimMedium::new(0, Lie::None);
    let Opened { mut writer, recycler, .. } = open(&sim);
    let third = append_all(&mut writer, 0..3);
    append_all(&mut writer, 3..10);
    assert_eq!(recycler.retained(), 10 * BLOCK);
    recycler.release(third).expect("a release");
    assert_eq!(recycler.retained(), 7 * BLOCK);
    assert_eq!(open(&sim).recycler.retained(), 10 * BLOCK, "a start replays whole segments");
    recycler.release(writer.position()).expect("a release");
    recycler.release(third).expect("an earlier release changes nothing");
    assert_eq!(recycler.retained(), 0);
}

#[test]
fn stale_batches_in_a_recycled_file_are_not_replayed() {
    let sim = SimMedium::new(0, Lie::None);
    let Opened { mut writer, recycler, .. } = open(&sim);
    let end = append_all(&mut writer, 0..14);
    recycler.release(end).expect("a release");
    append_all(&mut writer, 14..15);
    let recycled = sim.bytes(&file(1));
    assert!(recycled.windows(160).any(|bytes| bytes == batch(6)), "an old batch is still in the file");
    assert!(recycled.windows(160).any(|bytes| bytes == batch(14)), "the new one is there, too");
    assert_eq!(open(&sim).replayed, batches(7..15));
}

/// A batch of segment 1 with number 2, at the third block, as an attacker would write it into a message: everything in
/// it can be guessed, except for the segment's nonce.
fn forged(nonce: u64) -> Vec<u8> {
    let covered: Vec<u8> = [nonce, 1, 2 * BLOCK, 2, 6].into_iter().flat_map(u64::to_le_bytes).collect();
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&covered);
    checksum.update(b"forged");
    let mut forged = b"TwbB".to_vec();
    forged.extend(checksum.finalize().to_le_bytes());
    forged.extend(covered);
    forged.extend(b"forged");
    forged
}

#[test]
fn content_of_a_torn_batch_is_never_taken_for_a_batch() {
    for knows_nonce in [false, true] {
        let sim = SimMedium::new(0, Lie::None);
        let Opened { mut writer, recycler, .. } = open(&sim);
        recycler.prepare().expect("a segment");
        let header = sim.bytes(&file(1));
        let nonce = u64::from_le_bytes(header[24..32].try_into().expect("eight bytes"));
        // The header of the true batch takes 48 bytes of its first block.
        let mut content = vec![0; BLOCK as usize - 48];
        content.extend(forged(if knows_nonce { nonce } else { !nonce }));
        writer.append(&[&content]).expect("an append");
        drop(writer);
        sim.flip(&file(1), BLOCK + 100);
        if knows_nonce {
            // It is right in all other respects.
            assert!(matches!(refusal(&sim), OpenError::Damaged { .. }));
        } else {
            assert!(open(&sim).replayed.is_empty());
        }
    }
}
