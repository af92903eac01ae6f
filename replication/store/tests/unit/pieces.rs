use super::*;

fn row() -> Row {
    let piece = |pack, offset, length| Extent { pack, offset, length };
    Row::new(vec![piece(3, 4_144, 10), piece(3, 9_000, 5), piece(u32::MAX, 4_144, 1)], 77)
}

#[test]
fn row_survives_the_disk_and_damage_is_no_row() {
    let bytes = row().encode();
    assert_eq!((row().length, row().packs()), (16, BTreeSet::from([3, u32::MAX])));
    assert_eq!(Row::decode(&bytes), Ok(row()));
    let empty = Row::new(vec![], 1);
    assert_eq!(Row::decode(&empty.encode()), Ok(empty));
    for length in 0..bytes.len() {
        assert!(Row::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    let later = [&[FORMAT + 1], &bytes[1..]].concat();
    assert!(matches!(Row::decode(&later), Err(StoreError::Format { .. })));
}
