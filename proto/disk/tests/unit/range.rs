//! Ranges of keys.

use std::ops::RangeBounds;

use super::KeyRange;

fn has(range: &KeyRange, key: &[u8]) -> bool {
    let (from, to) = range.bounds();
    RangeBounds::<[u8]>::contains(&(from, to), key)
}

#[test]
fn a_prefix_covers_its_keys_and_no_others() {
    for (prefix, inside, outside) in [
        (&b"ab"[..], vec![&b"ab"[..], b"ab\xff\xff\xff", b"abc"], vec![&b"aa"[..], b"ac", b"a", b"b"]),
        (&b"a\xff"[..], vec![&b"a\xff"[..], b"a\xff\xff"], vec![&b"a\xfe"[..], b"b"]),
        (&b"\xff\xff"[..], vec![&b"\xff\xff"[..], b"\xff\xff\xff"], vec![&b"\xff\xfe"[..], b"\xff"]),
        (&b""[..], vec![&b""[..], b"a", b"\xff"], vec![]),
    ] {
        let range = KeyRange::prefix(prefix);
        assert!(inside.iter().all(|key| has(&range, key)), "{prefix:?}");
        assert!(!outside.iter().any(|key| has(&range, key)), "{prefix:?}");
    }
}

#[test]
fn each_key_of_a_range_is_in_one_part_around_a_prefix() {
    let keys = [&b"k"[..], b"kz", b"l", b"l\0", b"la", b"l\xff\xff", b"m", b"z"];
    let between = |(from, to): (&[u8], &[u8])| KeyRange::between(from, to);
    let pairs = keys.iter().flat_map(|from| keys.iter().map(|to| (*from, *to)));
    let mut ranges: Vec<KeyRange> = pairs.map(between).collect();
    ranges.push(KeyRange::prefix(b""));
    ranges.extend(keys.iter().map(|key| KeyRange::prefix(b"").rest(super::ReadFrom::Start, key)));
    ranges.extend(keys.iter().map(|key| KeyRange::prefix(b"").rest(super::ReadFrom::End, key)));
    for range in ranges {
        let (before, within, after) = range.around(b"l");
        for key in keys {
            let is_in = |part: &Option<KeyRange>| part.as_ref().is_some_and(|part| has(part, key));
            let place = (is_in(&before), is_in(&within), is_in(&after));
            let is_prefixed = key.starts_with(b"l");
            let is_before = !is_prefixed && key < &b"l"[..];
            let expected = match has(&range, key) {
                true => (is_before, is_prefixed, !is_before && !is_prefixed),
                false => (false, false, false),
            };
            assert_eq!(place, expected, "{key:?} of {range:?}");
        }
    }
}

#[test]
fn a_range_that_would_end_before_it_begins_is_empty() {
    for range in [KeyRange::between(b"b", b"a"), KeyRange::prefix_from(b"a", b"b")] {
        assert!(![&b"a"[..], b"ab", b"b", b"c"].iter().any(|key| has(&range, key)), "{range:?}");
    }
}
