//! The places of a take's audio.

use std::ops::Range;

use proptest::prelude::*;
use twinbox_packs::{Extent, Pieces};

fn piece(pack: u32, offset: u32, length: u32) -> Extent {
    Extent { pack, offset, length }
}

#[test]
fn pieces_that_overlap_are_cut_and_found_by_range() {
    let mut pieces = Pieces::default();
    pieces.add(10, piece(1, 100, 10));
    pieces.add(0, piece(2, 500, 30));
    pieces.add(5, piece(3, 900, 10));
    assert!(pieces.ranges().eq(std::iter::once(0..30)));
    assert_eq!(pieces.places(0..30), [piece(2, 500, 10), piece(1, 100, 10), piece(2, 520, 10)]);
    assert_eq!(pieces.places(8..12), [piece(2, 508, 2), piece(1, 100, 2)]);
    assert_eq!(pieces.places(20..20), []);
    assert_eq!(pieces.places(25..99), [piece(2, 525, 5)]);
    assert_eq!((pieces.first_pack(), pieces.bytes_in(2), pieces.bytes_in(3)), (Some(1), 20, 0));
    assert!(pieces.replace(10, piece(1, 100, 10), piece(7, 1, 10)));
    assert!(!pieces.replace(10, piece(1, 100, 10), piece(8, 1, 10)), "it is there no more");
    assert_eq!((pieces.first_pack(), pieces.bytes_in(7), pieces.bytes_in(1)), (Some(2), 10, 0));
    assert!(pieces.replace(0, piece(2, 500, 10), piece(7, 20, 10)));
    assert_eq!((pieces.first_pack(), pieces.bytes_in(7), pieces.bytes_in(2)), (Some(2), 20, 10));
}

#[test]
fn take_that_grows_at_its_end_has_its_pieces_in_order() {
    let mut pieces = Pieces::default();
    for n in 0..40 {
        pieces.add(u64::from(n) * 2_000, piece(n / 30, n * 2_064, 2_000));
    }
    pieces.add(90_000, piece(2, 0, 10));
    assert!(pieces.ranges().eq([0..80_000, 90_000..90_010]));
    assert_eq!(pieces.places(0..90_010).len(), 41);
    assert_eq!(pieces.places(1_999..2_001), [piece(0, 1_999, 1), piece(0, 2_064, 1)]);
    assert_eq!((pieces.bytes_in(0), pieces.bytes_in(1), pieces.bytes_in(2)), (60_000, 20_000, 10));
}

/// Longest take of the property.
const MOST: u64 = 120;

/// The place of a byte of a take, if it is here: a pack, and an offset in it.
type Byte = Option<(u32, u32)>;

/// The bytes of these pieces in order.
fn bytes_of(places: &[Extent]) -> Vec<(u32, u32)> {
    places.iter().flat_map(|place| (0..place.length).map(move |at| (place.pack, place.offset + at))).collect()
}

/// The offsets in `range` whose byte is, or is not, here.
fn offsets(bytes: &[Byte], range: Range<u64>, here: bool) -> Vec<u64> {
    range.filter(|at| bytes.get(*at as usize).copied().flatten().is_some() == here).collect()
}

#[derive(Debug, Clone)]
enum Change {
    /// An extent of this length, and its pack, at this offset.
    Add(u64, u32, u32),
    /// The piece with this number, of all that are there, moves to this pack.
    Move(usize, u32),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let add =
        (0..MOST - 20, 0..20_u32, 0..3_u32).prop_map(|(offset, length, pack)| Change::Add(offset, length, pack));
    let moved = (0..100_usize, 0..3_u32).prop_map(|(piece, pack)| Change::Move(piece, pack));
    prop::collection::vec(prop_oneof![3 => add, 1 => moved], 1..60)
}

proptest! {
    /// Whatever was added and moved in whatever order, each byte is where it was put first, or was moved to.
    #[test]
    fn each_byte_of_a_take_is_found_where_it_was_put(changes in changes(), start in 0..MOST, length in 0..MOST) {
        let (mut pieces, mut bytes) = (Pieces::default(), vec![Byte::None; MOST as usize]);
        for (n, change) in changes.into_iter().enumerate() {
            // Each extent has its own place.
            let place = n as u32 * 1_000;
            match change {
                Change::Add(offset, length, pack) => {
                    pieces.add(offset, piece(pack, place, length));
                    for (at, byte) in bytes.iter_mut().skip(offset as usize).take(length as usize).enumerate() {
                        byte.get_or_insert((pack, place + at as u32));
                    }
                }
                Change::Move(number, pack) => {
                    let all: Vec<_> = pieces.iter().collect();
                    let Some((offset, old)) = all.get(number % all.len().max(1)).copied() else { continue };
                    let (new, elsewhere) = (piece(pack, place, old.length), piece(old.pack, old.offset + 1, old.length));
                    prop_assert!(!pieces.replace(offset, elsewhere, new));
                    prop_assert!(!pieces.replace(offset + 1, old, new));
                    prop_assert!(pieces.replace(offset, old, new));
                    for (at, byte) in bytes.iter_mut().skip(offset as usize).take(old.length as usize).enumerate() {
                        *byte = Some((pack, place + at as u32));
                    }
                }
            }
        }
        let end = offsets(&bytes, 0..MOST, true).last().map_or(0, |last| last + 1);
        prop_assert_eq!(pieces.end(), end);
        let ranges: Vec<_> = pieces.ranges().collect();
        prop_assert!(ranges.windows(2).all(|two| two[0].end < two[1].start), "{:?}", ranges);
        prop_assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), offsets(&bytes, 0..MOST, true));

        let range = start..(start + length).min(MOST);
        let gaps = offsets(&bytes, range.clone(), false);
        prop_assert_eq!(pieces.covers(range.clone()), gaps.is_empty());
        prop_assert_eq!(pieces.gaps(range.clone()).into_iter().flatten().collect::<Vec<_>>(), gaps);
        prop_assert_eq!(pieces.run_end(start), offsets(&bytes, start..MOST + 1, false)[0]);
        let here: Vec<_> = bytes[start as usize..range.end as usize].iter().flatten().copied().collect();
        prop_assert_eq!(bytes_of(&pieces.places(range)), here);

        let all: Vec<_> = bytes.iter().flatten().copied().collect();
        prop_assert_eq!(bytes_of(&pieces.iter().map(|(_, place)| place).collect::<Vec<_>>()), &all[..]);
        prop_assert!(pieces.iter().all(|(offset, place)| bytes[offset as usize] == Some((place.pack, place.offset))));
        prop_assert_eq!(pieces.first_pack(), all.iter().map(|(pack, _)| *pack).min());
        for pack in 0..3 {
            prop_assert_eq!(pieces.bytes_in(pack), all.iter().filter(|(here, _)| *here == pack).count() as u64);
        }
    }
}
