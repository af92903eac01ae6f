//! Failing calls and full disks (rule A4).

use twinbox_journal::{AppendError, JournalError};

use crate::{
    Opened, PER_SEGMENT, append_all, batch, batches, open, segment_sized,
    sim::{Call, Lie, SimMedium},
};

#[test]
fn failed_write_or_sync_stops_all_further_appends() {
    for call in [Call::Write, Call::Sync] {
        let sim = SimMedium::new(0, Lie::None);
        let Opened { mut writer, recycler, .. } = open(&sim);
        let end = append_all(&mut writer, 0..3);
        sim.fail_next(call);
        let Err(AppendError::Broken { detail }) = writer.append(&[&batch(3)]) else { panic!("{call:?} failed") };
        let writes = sim.writes();
        // The medium works again: that changes nothing, the pages may be lost.
        for _ in 0..2 {
            let again = writer.append(&[&batch(4)]);
            assert_eq!(again, Err(AppendError::Broken { detail: detail.clone() }));
            assert_eq!(recycler.prepare(), Err(JournalError::Broken { detail: detail.clone() }));
        }
        assert_eq!((sim.writes(), writer.position()), (writes, end), "{call:?}");
        let replayed = open(&sim).replayed;
        assert_eq!(replayed[..3], batches(0..3), "{call:?}");
        assert!(replayed.len() <= 4, "{call:?}: {} batches", replayed.len());
    }
}

#[test]
fn failed_preparation_stops_the_writer() {
    for call in [Call::Write, Call::Sync] {
        let sim = SimMedium::new(0, Lie::None);
        let Opened { mut writer, recycler, .. } = open(&sim);
        append_all(&mut writer, 0..3);
        sim.fail_next(call);
        let Err(JournalError::Broken { detail }) = recycler.prepare() else { panic!("{call:?} failed") };
        assert_eq!(writer.append(&[&batch(3)]), Err(AppendError::Broken { detail }));
        drop((writer, recycler));
        let Opened { mut writer, replayed, .. } = open(&sim);
        assert_eq!(replayed, batches(0..3), "{call:?}");
        append_all(&mut writer, 3..30);
        assert_eq!(open(&sim).replayed, batches(0..30), "{call:?}");
    }
}

#[test]
fn append_without_room_for_a_segment_is_refused_until_there_is_some() {
    let sim = SimMedium::new(0, Lie::None);
    sim.set_room(1);
    let Opened { mut writer, recycler, .. } = open(&sim);
    let end = append_all(&mut writer, 0..PER_SEGMENT);
    for _ in 0..2 {
        assert!(matches!(writer.append(&[&batch(7)]), Err(AppendError::Full { .. })));
        assert!(matches!(recycler.prepare(), Err(JournalError::Full { .. })));
        assert_eq!(writer.position(), end);
    }
    assert_eq!(open(&sim).replayed, batches(0..7), "nothing was written");
    sim.set_room(2);
    append_all(&mut writer, 7..9);
    assert_eq!(open(&sim).replayed, batches(0..9));
}

#[test]
fn batch_that_fits_is_appended_although_a_larger_one_found_no_room() {
    let sim = SimMedium::new(0, Lie::None);
    sim.set_room(1);
    let Opened { mut writer, .. } = open(&sim);
    append_all(&mut writer, 0..3);
    let large = segment_sized(9, &writer);
    assert!(matches!(writer.append(&[&large]), Err(AppendError::Full { .. })));
    append_all(&mut writer, 3..4);
    assert_eq!(open(&sim).replayed, batches(0..4));
}

#[test]
fn released_segments_take_batches_on_a_full_disk_also_after_a_restart() {
    let sim = SimMedium::new(0, Lie::None);
    sim.set_room(2);
    let Opened { mut writer, .. } = open(&sim);
    append_all(&mut writer, 0..14);
    assert!(matches!(writer.append(&[&batch(14)]), Err(AppendError::Full { .. })));
    drop(writer);
    let Opened { mut writer, recycler, replayed } = open(&sim);
    assert_eq!(replayed, batches(0..14));
    assert!(matches!(writer.append(&[&batch(14)]), Err(AppendError::Full { .. })));
    recycler.release(writer.position()).expect("a release");
    append_all(&mut writer, 14..20);
    assert_eq!(open(&sim).replayed, batches(7..20), "the first of two segments was recycled");
}

#[test]
fn segment_that_cannot_be_opened_again_for_too_many_open_files_is_opened_later() {
    let sim = SimMedium::new(0, Lie::None);
    sim.set_room(2);
    let Opened { mut writer, recycler, .. } = open(&sim);
    append_all(&mut writer, 0..14);
    recycler.release(writer.position()).expect("a release");
    sim.refuse_opens(true);
    assert!(matches!(writer.append(&[&batch(14)]), Err(AppendError::Full { .. })));
    sim.refuse_opens(false);
    append_all(&mut writer, 14..20);
    assert_eq!(open(&sim).replayed, batches(7..20));
}

#[test]
fn batch_over_the_limit_is_refused_before_anything_is_written() {
    let sim = SimMedium::new(0, Lie::None);
    let Opened { mut writer, .. } = open(&sim);
    let largest = writer.largest();
    let batch = vec![1_u8; largest as usize + 1];
    let refused = writer.append(&[&batch]);
    assert_eq!(refused, Err(AppendError::TooLarge { length: largest + 1, largest }));
    assert_eq!((sim.writes(), sim.names()), (0, Vec::new()));
    let (first, second) = batch[1..].split_at(1000);
    writer.append(&[first, second]).expect("an append");
    writer.append(&[]).expect("an append of nothing");
    assert_eq!(open(&sim).replayed, [batch[1..].to_vec(), Vec::new()]);
}
