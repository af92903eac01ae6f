//! Failing calls and full disks (rule A4).

use std::thread;

use twinbox_packs::PackError;

use crate::{
    append, append_checked, chunk, file, open, read, recordings,
    sim::{Call, SimMedium},
};

#[test]
fn failed_write_or_sync_stops_all_further_writes_and_reading_goes_on() {
    for call in [Call::Write, Call::Sync] {
        let sim = SimMedium::new(0);
        let packs = open(&sim);
        let one = append(&packs, 1, b"one");
        packs.sync().expect("a sync");
        assert_eq!(packs.broken(), None);
        sim.fail_next(call);
        let failed = append_checked(&packs, 2, b"two").and_then(|_| packs.sync());
        let Err(PackError::Broken { detail }) = &failed else { panic!("{call:?} failed, and then {failed:?}") };
        let detail = detail.clone();
        let (writes, syncs) = (sim.writes(), sim.syncs());
        // The medium works again: that changes nothing, the pages may be lost.
        for _ in 0..2 {
            let refusal = PackError::Broken { detail: detail.clone() };
            assert_eq!(append_checked(&packs, 3, b"three"), Err(refusal.clone()), "{call:?}");
            assert_eq!(packs.sync(), Err(refusal), "{call:?}");
        }
        assert_eq!((sim.writes(), sim.syncs()), (writes, syncs), "{call:?}");
        assert_eq!(packs.broken(), Some(detail));
        assert_eq!(read(&packs, one), b"one");
        drop(packs);
        sim.power_cut(0.0);
        assert_eq!(recordings(&open(&sim)), [1], "{call:?}");
    }
}

#[test]
fn failed_sync_is_reported_to_every_caller_that_waits_for_it() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    append(&packs, 1, b"one");
    sim.hold_syncs(true);
    sim.fail_next(Call::Sync);
    thread::scope(|scope| {
        let leader = scope.spawn(|| packs.sync());
        sim.wait_for_held_sync();
        append(&packs, 2, b"two");
        let other = scope.spawn(|| packs.sync());
        sim.hold_syncs(false);
        let outcomes = [leader.join().expect("no panic"), other.join().expect("no panic")];
        assert!(matches!(&outcomes[0], Err(PackError::Broken { .. })), "{outcomes:?}");
        assert_eq!(outcomes[0], outcomes[1]);
    });
}

#[test]
fn failed_creation_or_header_stops_all_further_writes() {
    for call in [Call::Create, Call::Write, Call::Sync] {
        let sim = SimMedium::new(0);
        let packs = open(&sim);
        sim.fail_next(call);
        let failed = append_checked(&packs, 1, b"one");
        assert!(matches!(failed, Err(PackError::Broken { .. })), "{call:?}: {failed:?}");
        assert_eq!(append_checked(&packs, 2, b"two"), failed, "{call:?}");
        assert_eq!((packs.list(), packs.active()), (Vec::new(), None), "{call:?}");
    }
}

#[test]
fn failed_scan_of_a_killed_process_pack_stops_all_writes() {
    let sim = SimMedium::new(0);
    append(&open(&sim), 1, b"one");
    let packs = open(&sim);
    sim.fail_next(Call::Sync);
    assert!(matches!(packs.scan(1), Err(PackError::Broken { .. })));
    assert!(matches!(append_checked(&packs, 2, b"two"), Err(PackError::Broken { .. })));
}

#[test]
fn append_without_room_for_a_pack_is_refused_until_there_is_some() {
    let sim = SimMedium::new(0);
    sim.set_room(0);
    let packs = open(&sim);
    assert!(matches!(append_checked(&packs, 1, b"one"), Err(PackError::Full { .. })));
    sim.set_room(1);
    append(&packs, 1, &vec![1; 900_000]);
    for _ in 0..2 {
        assert!(matches!(append_checked(&packs, 2, &vec![2; 900_000]), Err(PackError::Full { .. })));
    }
    append(&packs, 3, b"what fits is appended");
    sim.set_room(2);
    append(&packs, 2, &vec![2; 900_000]);
    packs.sync().expect("a sync");
    assert_eq!(packs.broken(), None);
    assert_eq!(recordings(&packs), [1, 3, 2]);
}

#[test]
fn append_for_several_packs_without_room_for_all_appends_nothing() {
    let sim = SimMedium::new(0);
    sim.set_room(2);
    let packs = open(&sim);
    append(&packs, 0, b"first");
    let used = packs.used(1);
    let payload = vec![9; 600_000];
    let frames: Vec<_> = (1..4).map(|recording| chunk(recording, &payload)).collect();
    assert!(matches!(packs.append(&frames), Err(PackError::Full { .. })));
    assert_eq!((packs.list(), packs.used(1), recordings(&packs)), (vec![1], used, vec![0]));
    // The pack that was made for it is used by the next append that needs one.
    packs.append(&frames[..2]).expect("an append");
    assert_eq!((packs.list(), sim.names()), (vec![1, 2], vec![file(1), file(2)]));
    assert_eq!(recordings(&packs), [0, 1, 2]);
}

#[test]
fn failed_removal_keeps_the_pack_and_the_writes() {
    let sim = SimMedium::new(0);
    let one = append(&open(&sim), 1, b"one");
    let packs = open(&sim);
    sim.fail_next(Call::Remove);
    assert!(matches!(packs.remove(1), Err(PackError::Io { .. })));
    assert_eq!(read(&packs, one), b"one");
    append(&packs, 2, b"two");
    packs.remove(1).expect("a removal");
    assert_eq!(packs.list(), [2]);
}
