//! Places of frames, changes of packs, reading, numbers.

use proptest::prelude::*;
use twinbox_packs::{BLOCK, Config, Extent, Frame, Kind, MAX_PAYLOAD, MIN_PACK, PackError, Packs};

use crate::{CONFIG, append, chunk, file, open, read, recordings, scan_all, sim::SimMedium};

/// Bytes of a frame before its payload.
const FRAME_HEADER: u32 = 48;

#[test]
fn first_frame_begins_behind_the_header_of_pack_one() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    assert_eq!(
        (packs.list(), packs.active(), sim.names().len()),
        (Vec::new(), None, 0),
        "no file before an append"
    );
    let extent = append(&packs, 1, b"hello");
    assert_eq!(extent, Extent { pack: 1, offset: BLOCK as u32 + FRAME_HEADER, length: 5 });
    assert_eq!(packs.used(1), BLOCK + 64);
    let next = append(&packs, 2, b"");
    assert_eq!((next.offset, next.length), (extent.offset + 64, 0));
    assert_eq!((packs.list(), packs.active(), packs.used(1), packs.used(2)), (vec![1], Some(1), BLOCK + 112, 0));
    assert_eq!(
        (packs.append(&[]), sim.writes()),
        (Ok(Vec::new()), 3),
        "header, two frames, and nothing for nothing"
    );
}

#[test]
fn frame_is_read_and_found_as_soon_as_it_is_appended() {
    let packs = open(&SimMedium::new(0));
    let frames = [
        Frame { kind: Kind::Chunk, recording: u128::MAX, take: 7, offset: 1 << 40, payload: b"one" },
        Frame { kind: Kind::Ended, recording: 1, take: 0, offset: 0, payload: b"" },
        Frame { kind: Kind::Blob, recording: 2, take: 3, offset: 4, payload: &[5; 100] },
    ];
    let extents = packs.append(&frames).expect("an append");
    for ((frame, extent), found) in frames.iter().zip(&extents).zip(packs.scan(1).expect("a scan")) {
        assert_eq!(read(&packs, *extent), frame.payload);
        let expected = (frame.kind, frame.recording, frame.take, frame.offset, *extent);
        assert_eq!((found.kind, found.recording, found.take, found.offset, found.extent), expected);
    }
    assert_eq!(packs.scan(1).expect("a scan").len(), 3);
}

#[test]
fn part_of_an_extent_is_read_and_more_than_it_is_refused() {
    let packs = open(&SimMedium::new(0));
    let extent = append(&packs, 1, b"hello");
    for (range, expected) in [(0..5, &b"hello"[..]), (1..3, &b"el"[..]), (5..5, &b""[..]), (4..5, &b"o"[..])] {
        assert_eq!(packs.read(extent, range.clone()).as_deref(), Ok(expected), "{range:?}");
    }
    let cut = Extent { length: 2, ..extent };
    assert_eq!(packs.read(cut, 0..2).as_deref(), Ok(&b"he"[..]));
    assert_eq!(packs.read(cut, 0..3), Err(PackError::Range { start: 0, end: 3, length: 2 }));
    let (start, end) = (3, 2);
    assert_eq!(packs.read(extent, start..end), Err(PackError::Range { start, end, length: 5 }));
}

#[test]
fn append_that_exceeds_the_pack_goes_on_in_the_next_ones() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    let payload = vec![9; 400_000];
    let frames: Vec<Frame<'_>> = (0..6).map(|recording| chunk(recording, &payload)).collect();
    let extents = packs.append(&frames).expect("an append");
    assert_eq!(extents.iter().map(|extent| extent.pack).collect::<Vec<_>>(), [1, 1, 2, 2, 3, 3]);
    assert_eq!((packs.list(), packs.active()), (vec![1, 2, 3], Some(3)));
    assert_eq!(recordings(&packs), [0, 1, 2, 3, 4, 5]);
    assert!(extents.iter().all(|extent| read(&packs, *extent) == payload));
}

#[test]
fn pack_is_made_ahead_when_an_eighth_of_the_active_one_is_used_and_counts_only_when_it_is_used() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    append(&packs, 1, &vec![1; 100_000]);
    assert_eq!(sim.names(), [file(1)]);
    append(&packs, 2, &vec![2; 300_000]);
    sim.wait_for_files(2);
    assert_eq!((packs.list(), packs.remove(2)), (vec![1], Err(PackError::NoPack { pack: 2 })));
    assert_eq!(append(&packs, 3, &vec![3; 800_000]).pack, 2);
    assert_eq!(packs.list(), [1, 2]);
}

#[test]
fn largest_payload_fits_and_a_larger_one_is_refused_before_anything_is_written() {
    let sim = SimMedium::new(0);
    let packs = open(&sim);
    let payload = vec![7; MAX_PAYLOAD + 1];
    let frames = [chunk(1, b"first"), chunk(2, &payload)];
    let refusal = PackError::TooLarge { length: MAX_PAYLOAD + 1, largest: MAX_PAYLOAD };
    assert_eq!((packs.append(&frames), sim.writes()), (Err(refusal), 0));
    let extent = append(&packs, 1, &payload[1..]);
    assert_eq!(read(&packs, extent), payload[1..]);
    assert_eq!(scan_all(&packs)[0].extent, extent);
}

#[test]
fn unusable_lengths_of_packs_are_refused() {
    for pack_bytes in [0, BLOCK, MIN_PACK - BLOCK, MIN_PACK + 1, (1 << 31) + BLOCK, 1 << 32] {
        let refused = |config| Packs::open(SimMedium::new(0), config, 0).err();
        let error = Some(PackError::Config { pack_bytes, least: MIN_PACK });
        assert_eq!(refused(Config { pack_bytes, longest_bytes: 1 << 31, spare_bytes: 0 }), error);
        assert_eq!(refused(Config { pack_bytes: MIN_PACK, longest_bytes: pack_bytes, spare_bytes: 0 }), error);
    }
    for pack_bytes in [MIN_PACK, 1 << 31] {
        let config = Config { pack_bytes, longest_bytes: 1 << 31, spare_bytes: 0 };
        assert!(Packs::open(SimMedium::new(0), config, 0).is_ok());
    }
}

#[test]
fn packs_that_fill_fast_become_longer_and_are_read_as_others() {
    let config = Config { pack_bytes: MIN_PACK, longest_bytes: 4 * MIN_PACK, spare_bytes: 0 };
    let sim = SimMedium::new(0);
    let packs = Packs::open(sim.clone(), config, 0).expect("packs");
    let payload = vec![7; 500_000];
    // Some may not fill fast on a machine that is busy.
    let appended: Vec<_> = (1..1_000)
        .map(|recording| append(&packs, recording, &payload))
        .take_while(|extent| packs.used(extent.pack) < 3 * MIN_PACK)
        .collect();
    assert!(appended.len() < 900, "no pack became longer");
    packs.sync().expect("a sync");
    for extent in &appended {
        assert_eq!(read(&packs, *extent), payload);
    }
    drop(packs);
    let packs = Packs::open(sim, config, 0).expect("the same packs");
    assert!(scan_all(&packs).len() > appended.len());
    let lengths: Vec<_> = packs.list().into_iter().map(|pack| packs.used(pack)).collect();
    assert_eq!(
        (lengths.first(), lengths.last()),
        (Some(&MIN_PACK), Some(&(4 * MIN_PACK))),
        "of files: {lengths:?}"
    );
}

#[test]
fn disk_without_room_for_a_longer_pack_gets_a_short_one() {
    let config = Config { pack_bytes: MIN_PACK, longest_bytes: 1 << 31, spare_bytes: 0 };
    let sim = SimMedium::new(0);
    sim.set_longest(2 * MIN_PACK);
    let packs = Packs::open(sim, config, 0).expect("packs");
    // The third would be four times as long as the first.
    let all: Vec<u128> = (1..20).collect();
    for recording in &all {
        append(&packs, *recording, &vec![7; 500_000]);
    }
    assert_eq!(recordings(&packs), all);
}

#[test]
fn next_process_begins_a_new_pack_above_every_file_and_every_row() {
    let sim = SimMedium::new(0);
    append(&open(&sim), 1, b"one");
    let packs = open(&sim);
    assert_eq!((packs.list(), packs.active(), packs.used(1)), (vec![1], None, MIN_PACK));
    assert_eq!(append(&packs, 2, b"two").pack, 2);
    drop(packs);
    let packs = Packs::open(sim.clone(), CONFIG, 9).expect("packs");
    assert_eq!(append(&packs, 3, b"three").pack, 10);
    assert_eq!(recordings(&packs), [1, 2, 3]);
    drop(packs);
    let packs = Packs::open(sim, CONFIG, u32::MAX).expect("packs");
    assert_eq!(packs.append(&[chunk(4, b"four")]), Err(PackError::Exhausted));
}

#[test]
fn removed_pack_is_missing_and_the_active_one_stays() {
    let sim = SimMedium::new(0);
    let one = append(&open(&sim), 1, b"one");
    let packs = open(&sim);
    let two = append(&packs, 2, b"two");
    assert_eq!(packs.remove(2), Err(PackError::Active { pack: 2 }));
    assert_eq!((packs.remove(1), packs.remove(1)), (Ok(()), Err(PackError::NoPack { pack: 1 })));
    assert_eq!(packs.read(one, 0..3), Err(PackError::NoPack { pack: 1 }));
    assert_eq!(packs.scan(1), Err(PackError::NoPack { pack: 1 }));
    assert_eq!((packs.list(), sim.names()), (vec![2], vec![file(2)]));
    assert_eq!(read(&packs, two), b"two");
}

#[test]
fn at_most_64_files_stay_open() {
    let sim = SimMedium::new(0);
    let extents: Vec<Extent> = (0..70).map(|number| append(&open(&sim), number, b"audio")).collect();
    let packs = open(&sim);
    let opened = |extents: &[Extent]| {
        let before = sim.opened();
        assert!(extents.iter().all(|extent| read(&packs, *extent) == b"audio"));
        sim.opened() - before
    };
    assert_eq!(opened(&extents), 70);
    assert_eq!(opened(&extents[6..]), 0, "the last 64 are open");
    assert_eq!(opened(&extents[..6]), 6, "the first were closed");
    assert_eq!(opened(&extents[6..12]), 6, "the oldest use decides");
}

/// Lengths of payloads: most are short.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![8 => 0..2_000_usize, 1 => 0..=MAX_PAYLOAD], 0..12)
}

/// Compares all frames with the places and payloads that are expected, in order.
fn compare(packs: &Packs<SimMedium>, expected: &[(Extent, Vec<u8>)]) {
    let found = scan_all(packs);
    assert_eq!(found.len(), expected.len());
    for ((found, number), (extent, payload)) in found.iter().zip(0..).zip(expected) {
        assert_eq!((found.recording, found.extent, extent.length as usize), (number, *extent, payload.len()));
        assert!(read(packs, *extent) == *payload, "frame {number} differs");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_comes_back_in_order_and_no_two_overlap(appends in prop::collection::vec(lengths(), 0..12)) {
        let sim = SimMedium::new(0);
        let packs = open(&sim);
        let mut expected: Vec<(Extent, Vec<u8>)> = Vec::new();
        for lengths in appends {
            let payloads: Vec<Vec<u8>> = lengths.iter().map(|length| vec![*length as u8; *length]).collect();
            let numbered = payloads.iter().zip(expected.len() as u128..);
            let frames: Vec<Frame<'_>> = numbered.map(|(payload, number)| chunk(number, payload)).collect();
            let extents = packs.append(&frames).expect("an append");
            expected.extend(extents.into_iter().zip(payloads));
        }
        compare(&packs, &expected);
        drop(packs);
        compare(&open(&sim), &expected);
        let ends = expected.iter().map(|(extent, _)| (extent.pack, extent.offset + extent.length));
        for (end, (next, _)) in ends.zip(expected.iter().skip(1)) {
            prop_assert!(end <= (next.pack, next.offset - FRAME_HEADER), "{next:?} begins within the one before");
        }
    }
}
