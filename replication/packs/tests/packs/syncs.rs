//! Syncs: shared by callers, complete, without a wait for appends and reads.

use std::thread;

use crate::{append, chunk, open, read, recordings, sim::SimMedium};

#[test]
fn callers_that_come_during_a_sync_share_the_next_one() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    append(&packs, 0, b"first");
    let before = sim.syncs();
    sim.hold_syncs(true);
    thread::scope(|scope| {
        let leader = scope.spawn(|| packs.sync());
        sim.wait_for_held_sync();
        let waiting: Vec<_> = (1..9)
            .map(|number| {
                // Appending and reading do not wait for the sync.
                let extent = append(&packs, number, b"more");
                assert_eq!(read(&packs, extent), b"more");
                scope.spawn(|| packs.sync())
            })
            .collect();
        sim.hold_syncs(false);
        assert_eq!(leader.join().expect("no panic"), Ok(()));
        for caller in waiting {
            assert_eq!(caller.join().expect("no panic"), Ok(()));
        }
    });
    assert_eq!(sim.syncs() - before, 2, "one before the other frames, one for all of them");
    drop(packs);
    // Mutant: a caller that shares the sync that runs already loses its frames.
    sim.power_cut(0.0);
    assert_eq!(recordings(&open(&sim)), (0..9).collect::<Vec<_>>());
}

#[test]
fn sync_without_new_frames_costs_nothing() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    assert_eq!((packs.sync(), sim.syncs()), (Ok(()), 0));
    append(&packs, 1, b"one");
    packs.sync().expect("a sync");
    let before = sim.syncs();
    assert_eq!((packs.sync(), sim.syncs()), (Ok(()), before));
}

// Mutant: a sync that leaves out the older pack.
#[test]
fn sync_covers_every_pack_with_unsynced_frames() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    let payload = vec![9; 700_000];
    let frames: Vec<_> = (0..3).map(|recording| chunk(recording, &payload)).collect();
    packs.append(&frames).expect("an append");
    packs.sync().expect("a sync");
    drop(packs);
    sim.power_cut(0.0);
    assert_eq!(recordings(&open(&sim)), [0, 1, 2]);
}

// Mutant: a scan that trusts the page cache.
#[test]
fn frames_that_a_killed_process_left_unsynced_are_durable_once_they_are_found() {
    let sim = SimMedium::new(0);
    append(&open(&sim), 1, b"one");
    assert_eq!(recordings(&open(&sim)), [1], "the process was killed, the kernel lives");
    sim.power_cut(0.0);
    assert_eq!(recordings(&open(&sim)), [1]);
}

#[test]
fn unsynced_frames_are_lost_in_a_power_cut() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    append(&packs, 1, b"one");
    packs.sync().expect("a sync");
    append(&packs, 2, b"two");
    drop(packs);
    sim.power_cut(0.0);
    assert_eq!(recordings(&open(&sim)), [1], "the simulated folder loses what was not synced");
}
