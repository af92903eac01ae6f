//! Damaged, moved and missing files.

use twinbox_packs::{BLOCK, MAX_PAYLOAD, MIN_PACK, PackError, Packs};

use crate::{CONFIG, append, file, open, read, recordings, sim::SimMedium};

/// A folder with one pack of three frames, and their places.
fn three() -> (SimMedium, Vec<twinbox_packs::Extent>) {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    let extents = (1..4).map(|number| append(&packs, number, &[number as u8; 1000])).collect();
    packs.sync().expect("a sync");
    (sim, extents)
}

#[test]
fn damaged_frame_is_left_out_and_those_behind_it_are_found() {
    for back in [48, 44, 36, 1] {
        let (sim, extents) = three();
        sim.flip(&file(1), u64::from(extents[1].offset) - back);
        assert_eq!(recordings(&open(&sim)), [1, 3], "{back} bytes before the payload");
    }
    let (sim, extents) = three();
    sim.flip(&file(1), u64::from(extents[1].offset) + 999);
    assert_eq!(recordings(&open(&sim)), [1, 3], "last byte of the payload");
}

#[test]
fn damaged_header_of_a_pack_does_not_lose_its_frames() {
    let (sim, extents) = three();
    sim.flip(&file(1), 20);
    let packs = open(&sim);
    assert_eq!(recordings(&packs), [1, 2, 3]);
    assert_eq!(read(&packs, extents[2]), [3; 1000]);
    assert_eq!(append(&packs, 4, b"four").pack, 2);
}

#[test]
fn frames_behind_damage_that_is_full_of_headers_are_found_without_the_header_of_the_pack() {
    // A header at every sixteenth byte, of a frame of half a MiB, with any nonce.
    let mut header = b"TwbA\0\0\0\0\x01\x01\0\0".to_vec();
    header.extend((MAX_PAYLOAD as u32 / 2).to_le_bytes());
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    let first = append(&packs, 1, &header.repeat(50_000));
    append(&packs, 2, b"two");
    packs.sync().expect("a sync");
    drop(packs);
    sim.flip(&file(1), 20);
    sim.flip(&file(1), u64::from(first.offset) - 40);
    assert_eq!(recordings(&open(&sim)), [2]);
}

// Mutant: a checksum without the number of the pack.
#[test]
fn copy_of_a_pack_holds_no_frames_and_is_kept() {
    let (sim, _) = three();
    sim.put(&file(5), sim.bytes(&file(1)));
    let packs = open(&sim);
    assert_eq!(recordings(&packs), [1, 2, 3], "each once");
    assert_eq!(append(&packs, 4, b"four").pack, 6);
    assert!(sim.names().contains(&file(5)));
    let (sim, _) = three();
    let mut copy = sim.bytes(&file(1));
    copy[20] ^= 1;
    sim.put(&file(5), copy);
    assert_eq!(recordings(&open(&sim)), [1, 2, 3], "with a damaged header too");
}

// Mutant: a checksum without the offset.
#[test]
fn frame_that_was_moved_within_its_pack_is_not_found() {
    let (sim, extents) = three();
    let mut bytes = sim.bytes(&file(1));
    let from = extents[2].offset as usize - 48;
    bytes.copy_within(from..from + 1056, from + 1056);
    bytes[from..from + 1056].fill(0);
    sim.put(&file(1), bytes);
    assert_eq!(recordings(&open(&sim)), [1, 2]);
}

#[test]
fn file_of_an_interrupted_creation_is_removed() {
    for length in [0, 100, BLOCK, MIN_PACK] {
        let (sim, _) = three();
        sim.put(&file(2), vec![0; length as usize]);
        let packs = open(&sim);
        assert_eq!(packs.list(), [1], "{length} bytes");
        assert_eq!(sim.names(), [file(1)], "{length} bytes");
        assert_eq!(append(&packs, 4, b"four").pack, 3, "{length} bytes");
    }
}

#[test]
fn pack_that_was_made_ahead_and_never_used_is_removed_unless_a_row_names_it() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    append(&packs, 1, &vec![1; 900_000]);
    drop(packs);
    assert_eq!(sim.names(), [file(1), file(2)], "dropping the packs waits for the one that is made");
    let named = Packs::open(sim.clone(), CONFIG, 2).expect("packs");
    assert_eq!(named.list(), [1, 2]);
    drop(named);
    assert_eq!((open(&sim).list(), sim.names()), (vec![1], vec![file(1)]));
}

#[test]
fn pack_of_another_release_is_refused() {
    let (sim, _) = three();
    let mut bytes = sim.bytes(&file(1));
    bytes[8] = 2;
    sim.put(&file(1), bytes);
    let refused = Packs::open(sim, CONFIG, 0).err();
    assert_eq!(refused, Some(PackError::Version { file: file(1), version: 2 }));
}

#[test]
fn missing_pack_is_named_and_a_short_one_too() {
    let (sim, extents) = three();
    let packs = open(&sim);
    sim.shorten(&file(1), u64::from(extents[2].offset) + 10);
    let end = u64::from(extents[2].offset) + 1000;
    assert_eq!(packs.read(extents[2], 0..1000), Err(PackError::Short { pack: 1, end }));
    assert_eq!(
        packs.read_all(&[(extents[1], 0..1), (extents[2], 0..1000)]),
        Err(PackError::Short { pack: 1, end })
    );
    assert_eq!(packs.read(extents[2], 0..10).as_deref(), Ok(&[3; 10][..]));
    assert_eq!(recordings(&packs), [1, 2]);
    drop(packs);
    let packs = open(&sim);
    sim.lose(&file(1));
    assert_eq!(packs.read(extents[0], 0..1), Err(PackError::NoPack { pack: 1 }));
    assert_eq!(packs.scan(1), Err(PackError::NoPack { pack: 1 }));
    assert_eq!(packs.remove(1), Ok(()), "its file is missing already");
}

#[test]
fn files_of_other_names_are_left_alone() {
    let (sim, _) = three();
    sim.put("7.pack", vec![0; 10]);
    sim.put("notes", vec![0; 10]);
    let packs = open(&sim);
    assert_eq!(packs.list(), [1]);
    assert_eq!(append(&packs, 4, b"four").pack, 2);
    assert!(sim.names().contains(&"7.pack".to_owned()) && sim.names().contains(&"notes".to_owned()));
}
