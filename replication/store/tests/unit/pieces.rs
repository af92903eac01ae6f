use super::*;

fn row() -> Row {
    let piece = |pack, offset, length| Extent { pack, offset, length };
    Row::new(vec![piece(3, 4_144, 10), piece(3, 9_000, 5), piece(u32::MAX, 4_144, 1)], 77)
}

#[test]
fn row_survives_the_disk_and_damage_is_no_row() {
    let bytes = row().encode();
    assert_eq!(Row::decode(&bytes), Ok(row()));
    let empty = Row::new(vec![], 1);
    assert_eq!(Row::decode(&empty.encode()), Ok(empty));
    for length in 0..bytes.len() {
        assert!(Row::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    let later = [&[FORMAT + 1], &bytes[1..]].concat();
    assert!(matches!(Row::decode(&later), Err(StoreError::Format { .. })));
}

#[test]
fn range_is_cut_from_the_pieces_that_have_it() {
    let row = row();
    let parts = |range: Range<u64>| {
        let parts = row.parts(&range).into_iter().map(|(piece, part)| (piece.pack, piece.offset, part));
        parts.collect::<Vec<_>>()
    };
    assert_eq!((row.length, row.packs()), (16, BTreeSet::from([3, u32::MAX])));
    assert_eq!(parts(0..16), [(3, 4_144, 0..10), (3, 9_000, 0..5), (u32::MAX, 4_144, 0..1)]);
    assert_eq!(parts(9..11), [(3, 4_144, 9..10), (3, 9_000, 0..1)]);
    assert_eq!(parts(10..15), [(3, 9_000, 0..5)]);
    assert_eq!(parts(5..5), []);
}
