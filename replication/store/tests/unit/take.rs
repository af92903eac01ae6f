use super::*;

fn piece(pack: u32, offset: u32, length: u32) -> Extent {
    Extent { pack, offset, length }
}

#[test]
fn pieces_that_overlap_are_cut_and_found_by_range() {
    let mut pieces = Pieces::default();
    pieces.add(10, piece(1, 100, 10));
    pieces.add(0, piece(2, 500, 30));
    pieces.add(5, piece(3, 900, 10));
    assert!(pieces.covered().iter().eq(std::iter::once(0..30)));
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
    assert!(pieces.covered().iter().eq([0..80_000, 90_000..90_010]));
    assert_eq!(pieces.places(0..90_010).len(), 41);
    assert_eq!(pieces.places(1_999..2_001), [piece(0, 1_999, 1), piece(0, 2_064, 1)]);
    assert_eq!((pieces.bytes_in(0), pieces.bytes_in(1), pieces.bytes_in(2)), (60_000, 20_000, 10));
}
