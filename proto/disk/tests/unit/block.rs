//! Rows in a block.

use super::*;

fn owned(numbers: impl Iterator<Item = u32>, length: usize) -> Vec<([u8; 4], Vec<u8>)> {
    numbers.map(|n| (n.to_be_bytes(), vec![n as u8; length])).collect()
}

fn borrowed(rows: &[([u8; 4], Vec<u8>)]) -> Vec<Row<'_>> {
    rows.iter().map(|(key, value)| (&key[..], &value[..])).collect()
}

#[test]
fn rows_come_back_and_damage_is_found() {
    let some = owned(0..5, 7);
    let some = borrowed(&some);
    let block = encode(&some);
    assert_eq!(rows(&block), Ok(some.clone()));
    for number in 0..6 {
        let found = some.get(number as usize).map(|(_, value)| *value);
        assert_eq!(find(&block, &u32::to_be_bytes(number)), Ok(found), "{number}");
    }
    assert_eq!(rows(&encode(&[])), Ok(vec![]));
    for end in 0..block.len() {
        let whole = (end - usize::from(end > 0)).is_multiple_of(size(&some[0])) && end > 0;
        assert_eq!(rows(&block[..end]).is_ok(), whole, "{end}");
    }
    assert_eq!(rows(&[9]), Err(Malformed::Version(9)));
    assert_eq!(rows(&encode(&[some[1], some[0]])), Err(Malformed::Order));
    let (key, value) = ([1; 1024], vec![2; 48 * 1024]);
    assert_eq!(rows(&encode(&[(&key, &value)])), Ok(vec![(&key[..], &value[..])]), "the largest row");
}

#[test]
fn writes_are_merged_in_and_reported() {
    let before: Vec<Row<'_>> = vec![(b"b", b"1"), (b"d", b"22")];
    let cases: Vec<(Vec<Write<'_>>, Vec<Row<'_>>, bool)> = vec![
        (vec![], before.clone(), false),
        (vec![(b"a", None), (b"b", Some(b"1")), (b"z", None)], before.clone(), false),
        (vec![(b"a", Some(b""))], vec![(b"a", b""), (b"b", b"1"), (b"d", b"22")], true),
        (vec![(b"b", None), (b"c", Some(b"3"))], vec![(b"c", b"3"), (b"d", b"22")], true),
        (vec![(b"b", Some(b"2")), (b"d", None)], vec![(b"b", b"2")], true),
        (vec![(b"b", None), (b"d", None)], vec![], true),
    ];
    for (writes, after, is_changed) in cases {
        let mut bytes = 5_i64;
        let merged = merge(&before, &writes, |key, had, has| {
            let of = |value: Option<usize>| value.map_or(0, |length| (key.len() + length) as i64);
            bytes += of(has) - of(had);
        });
        assert_eq!(merged, (after.clone(), is_changed), "{writes:?}");
        assert_eq!(bytes, after.iter().map(|(key, value)| (key.len() + value.len()) as i64).sum::<i64>());
    }
}

#[test]
fn large_blocks_are_split_full_at_the_end_and_roomy_within() {
    let all = owned(0..40, 92);
    let all = borrowed(&all);
    let lengths = |rows: &[Row<'_>], last: Option<u32>| {
        let last = last.map(u32::to_be_bytes);
        let parts = split(rows, last.as_ref().map(|last| &last[..]));
        assert!(parts.iter().flat_map(Clone::clone).eq(0..rows.len()), "each row once");
        parts.into_iter().map(|part| part.len()).collect::<Vec<_>>()
    };
    assert_eq!(lengths(&[], None), Vec::<usize>::new());
    assert_eq!(lengths(&all[..10], Some(9)), [10]);
    assert_eq!(lengths(&all[..11], Some(9)), [10, 1], "behind the last one");
    assert_eq!(lengths(&all[..11], Some(10)), [7, 4], "between others");
    assert_eq!(lengths(&all, None), [10, 10, 10, 10]);
    let large = vec![0; 5_000];
    assert_eq!(lengths(&[all[0], (all[1].0, &large), all[2]], None), [1, 1, 1], "a row is never split");
}
