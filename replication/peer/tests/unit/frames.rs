//! Messages of a comparison as a peer may send them.

use twinbox_replication_core::Table;

use super::*;

fn key(id: u8) -> Key {
    Key::new(Table(1), vec![id])
}

fn list(ids: &[u8], upto: Option<u8>) -> wire::RowList {
    let rows = ids.iter().map(|id| (key(*id), 7)).collect();
    list_to_wire(RowPage { rows, upto: upto.map(key) })
}

#[test]
fn list_that_does_not_get_on_or_leaves_its_range_is_refused() {
    let (after, upto) = (key(10), key(20));
    for (what, ids, reached, is_read) in [
        ("a part", &[11, 13][..], Some(13), true),
        ("the rest", &[11, 20][..], None, true),
        ("nothing, but further on", &[][..], Some(12), true),
        ("nothing at all", &[][..], None, true),
        ("the same again", &[][..], Some(10), false),
        ("a step back", &[][..], Some(9), false),
        ("before the range", &[10][..], None, false),
        ("behind the range", &[21][..], None, false),
        ("behind what it reached", &[15][..], Some(14), false),
        ("not in order", &[13, 12][..], None, false),
        ("twice", &[13, 13][..], None, false),
    ] {
        let read = read_list(list(ids, reached), Some(&after), Some(&upto));
        assert_eq!(read.is_ok(), is_read, "{what}: {read:?}");
        if let Ok(page) = read {
            assert_eq!((page.rows.len(), page.upto), (ids.len(), Some(key(reached.unwrap_or(20)))), "{what}");
        }
    }
    // Without an end, the list may have one.
    assert_eq!(read_list(list(&[200], None), None, None).unwrap().upto, None);
    let short = wire::HashedRow { key: Some(key_to_wire(&key(1))), hash: Bytes::from_static(&[1; 15]) };
    assert!(read_list(wire::RowList { row: vec![short], upto: None }, None, None).is_err());
    let long = wire::RowList { row: vec![wire::HashedRow::default(); LIST + 1], upto: None };
    assert!(read_list(long, None, None).is_err());
}

#[test]
fn sums_of_another_number_of_buckets_are_refused() {
    let sums = sums_to_wire([1, u128::MAX]);
    assert_eq!(read_sums(&sums, 2).unwrap(), [1, u128::MAX]);
    for (bytes, count) in [(&sums[..], 1), (&sums[..], 3), (&sums[1..], 2), (&sums[..31], 1)] {
        assert!(read_sums(bytes, count).is_err());
    }
}

#[test]
fn list_of_ranges_that_is_not_in_order_too_long_or_without_an_end_is_refused() {
    let range = |end: Key| wire::RangeSum { upto: Some(key_to_wire(&end)), sum: sums_to_wire([5]) };
    let ends = |ids: &[u8]| ids.iter().map(|id| range(key(*id))).collect::<Vec<_>>();
    let long = |bytes| vec![range(Key::new(Table(1), vec![7_u8; bytes]))];
    let rest = || Some(sums_to_wire([9]));
    for (what, range, rest, is_read) in [
        ("a part", ends(&[4, 5]), None, true),
        ("the end", ends(&[]), rest(), true),
        ("nothing", ends(&[]), None, false),
        ("the same again", ends(&[3]), rest(), false),
        ("twice", ends(&[4, 4]), rest(), false),
        ("the longest key", long(1_024), None, true),
        ("one that no row has", long(1_025), None, false),
        ("too many", vec![range(key(4)); LIST + 1], None, false),
        ("a short sum", ends(&[4]), Some(Bytes::from_static(&[1; 15])), false),
    ] {
        let mut list = RangeList { ends: vec![(key(3), 5)], rest: None };
        let read = read_ranges(wire::RangeSums { range, rest }, &mut list);
        assert_eq!(read.is_ok(), is_read, "{what}: {read:?}");
    }
}
