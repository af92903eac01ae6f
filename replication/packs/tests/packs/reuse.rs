//! Files of removed packs become new packs.

use twinbox_packs::{Extent, MAX_PAYLOAD, PackError, Packs};

use crate::{
    REUSING, append, append_checked, file, read, recordings,
    sim::{Call, SimMedium},
};

/// Packs with this many frames, each of which fills a pack: numbers 1 and on, and the frames' places.
fn filled(sim: &SimMedium, count: u128) -> (Packs<SimMedium>, Vec<Extent>) {
    let packs = Packs::open(sim.clone(), REUSING, 0).expect("packs");
    let extents = (1..=count).map(|number| append(&packs, number, &vec![number as u8; MAX_PAYLOAD])).collect();
    (packs, extents)
}

/// Packs whose next full pack is to begin in the file of pack 1, which was removed.
fn with_a_kept_file(sim: &SimMedium) -> Packs<SimMedium> {
    let (packs, _) = filled(sim, 3);
    sim.wait_for_files(4);
    packs.sync().expect("a sync");
    packs.remove(1).expect("a removal");
    append(&packs, 4, b"it begins the pack that was made ahead");
    packs
}

#[test]
fn file_of_a_removed_pack_becomes_a_new_one_without_its_frames() {
    let sim = SimMedium::new(0);
    let (packs, extents) = filled(&sim, 3);
    packs.sync().expect("a sync");
    // The next one was made ahead already.
    sim.wait_for_files(4);
    let made = sim.created();
    packs.remove(1).expect("a removal");
    assert_eq!(packs.read(extents[0], 0..1), Err(PackError::NoPack { pack: 1 }));
    assert_eq!(packs.list(), [2, 3]);
    for number in 4..=5 {
        append(&packs, number, &[number as u8; 10]);
        append(&packs, number + 100, &vec![number as u8; MAX_PAYLOAD]);
    }
    assert!(!sim.names().contains(&file(1)), "{:?}", sim.names());
    packs.sync().expect("a sync");
    sim.power_cut(0.0);
    drop(packs);
    let packs = Packs::open(sim.clone(), REUSING, 0).expect("packs");
    assert_eq!(recordings(&packs), [2, 3, 4, 104, 5, 105]);
    assert!(read(&packs, extents[2]).iter().all(|byte| *byte == 3));
    // Of the packs 4, 5, 6 and the one ahead of them, one is the file of pack 1.
    assert!(sim.created() < made + 3, "{} {made}", sim.created());
}

#[test]
fn kept_files_go_with_the_process() {
    let sim = SimMedium::new(0);
    let (packs, _) = filled(&sim, 3);
    packs.remove(1).expect("a removal");
    assert!(sim.names().contains(&file(1)));
    drop(packs);
    assert!(!sim.names().contains(&file(1)));
}

#[test]
fn packs_go_on_in_the_files_of_removed_ones_on_a_full_disk() {
    let sim = SimMedium::new(0);
    let (packs, mut extents) = filled(&sim, 3);
    sim.wait_for_files(4);
    sim.set_room(4);
    packs.remove(1).expect("a removal");
    for number in 4..20 {
        extents.push(append(&packs, number, &vec![0; MAX_PAYLOAD]));
        packs.sync().expect("a sync");
        packs.remove(extents[extents.len() - 3].pack).expect("a removal");
    }
    assert_eq!(packs.list().len(), 2);
    assert!(sim.created() < 10, "{} files for 19 packs", sim.created());
}

#[test]
fn failed_call_while_a_file_is_used_again_stops_all_further_writes() {
    for call in [Call::Write, Call::Sync, Call::Rename] {
        let sim = SimMedium::new(0);
        let packs = with_a_kept_file(&sim);
        sim.fail_next(call);
        let failed = (5..8).find_map(|number| append_checked(&packs, number, &vec![0; MAX_PAYLOAD]).err());
        assert!(matches!(failed, Some(PackError::Broken { .. })), "{call:?}: {failed:?}");
    }
}

#[test]
fn too_many_open_files_while_a_file_is_used_again_cost_that_file_and_no_more() {
    let sim = SimMedium::new(0);
    let packs = with_a_kept_file(&sim);
    sim.refuse_next_rename();
    for number in 5..8 {
        append(&packs, number, &vec![number as u8; MAX_PAYLOAD]);
        packs.sync().expect("a sync");
    }
    assert!(!sim.is_to_refuse_rename());
    assert_eq!(packs.broken(), None);
    assert!(!sim.names().contains(&file(1)), "{:?}", sim.names());
    drop(packs);
    sim.power_cut(1.0);
    let packs = Packs::open(sim.clone(), REUSING, 0).expect("packs");
    assert_eq!(recordings(&packs), [2, 3, 4, 5, 6, 7]);
}
