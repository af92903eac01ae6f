//! Blocks in memory: what readers keep and what writes change.

use super::*;

fn cached(begins: &str, end: End, block: &str) -> CachedBlock<Vec<u8>> {
    CachedBlock { begins: begins.as_bytes().into(), end, block: block.into() }
}

fn next(key: &str) -> End {
    End::Next(key.as_bytes().into())
}

fn before(key: &str) -> End {
    End::Before(key.as_bytes().into())
}

/// The block with a key, and what is known of its end.
fn found(cache: &BlockCache<Vec<u8>>, key: &str) -> Option<(String, End)> {
    let known = cache.find(key.as_bytes()).ok()?;
    Some((String::from_utf8(known.block).expect("text"), known.end))
}

fn cache() -> BlockCache<Vec<u8>> {
    let cache = BlockCache::new(1024 * 1024);
    let seen = cache.writes();
    cache.keep(seen, cached("b", next("f"), "1"));
    cache.keep(seen, cached("m", End::Last, "2"));
    cache
}

#[test]
fn block_is_found_by_the_keys_that_are_known_to_be_in_it() {
    let cache = cache();
    for (key, expected) in
        [("a", None), ("b", Some("1")), ("e", Some("1")), ("f", None), ("m", Some("2")), ("z", Some("2"))]
    {
        assert_eq!(found(&cache, key).map(|(block, _)| block).as_deref(), expected, "{key}");
    }
    cache.keep(cache.writes(), cached("f", End::up_to(Bound::Included(b"g")), "3"));
    assert!(found(&cache, "g").is_some() && found(&cache, "g1").is_none());
    cache.keep(cache.writes(), cached("f", before("g"), "3"));
    assert_eq!(
        found(&cache, "g"),
        Some(("3".to_owned(), End::up_to(Bound::Included(b"g")))),
        "the later end stays"
    );
    cache.keep(cache.writes(), cached("f", next("m"), "3"));
    cache.keep(cache.writes(), cached("f", before("z"), "3"));
    assert_eq!(found(&cache, "h"), Some(("3".to_owned(), next("m"))), "the exact end stays");
}

#[test]
fn write_since_the_reader_looked_keeps_its_block_away() {
    let cache = cache();
    let seen = cache.find(b"g").expect_err("no block");
    cache.wrote(b"b", Some(b"new"));
    cache.keep(seen, cached("f", next("m"), "old"));
    assert_eq!(found(&cache, "g"), None);
    assert_eq!(found(&cache, "c"), Some(("new".to_owned(), next("f"))));
}

#[test]
fn split_and_removal_move_the_ends() {
    let cache = cache();
    cache.wrote(b"d", Some(b"later"));
    assert_eq!(found(&cache, "c"), Some(("1".to_owned(), next("d"))), "the earlier part, not written yet");
    assert_eq!(found(&cache, "d"), Some(("later".to_owned(), next("f"))));
    cache.wrote(b"d", None);
    assert_eq!(found(&cache, "d"), None, "it is not known where the block before it ends now");
    assert_eq!(found(&cache, "c"), Some(("1".to_owned(), before("d"))));
    cache.wrote(b"g", Some(b"of no known block"));
    assert_eq!(found(&cache, "g"), None);
    cache.wrote(b"p", Some(b"last"));
    assert_eq!(found(&cache, "n"), Some(("2".to_owned(), next("p"))));
    assert_eq!(found(&cache, "q"), Some(("last".to_owned(), End::Last)));
}

#[test]
fn blocks_not_used_for_long_go() {
    let cache = BlockCache::new(20 * (BLOCK_BYTES + 100));
    let key = |number: usize| format!("{number:03}");
    for number in 0..100 {
        cache.keep(cache.writes(), cached(&key(number), next(&key(number + 1)), &"x".repeat(90)));
        assert!(found(&cache, &key(0)).is_some(), "used all the time: {number}");
    }
    let here = (0..100).filter(|number| found(&cache, &key(*number)).is_some()).count();
    assert!((10..=24).contains(&here), "{here}");
    cache.wrote(&key(0).into_bytes(), Some(b"y"));
    assert_eq!(found(&cache, "000").map(|(block, _)| block).as_deref(), Some("y"));
}

#[test]
fn end_is_behind_a_bound() {
    let cases = [
        (next("d"), Bound::Included(&b"c"[..]), true),
        (next("d"), Bound::Included(b"d"), false),
        (next("d"), Bound::Excluded(b"d"), true),
        (before("d"), Bound::Excluded(b"d0"), false),
        (End::up_to(Bound::Included(b"d")), Bound::Included(b"d"), true),
        (next("d"), Bound::Unbounded, false),
        (End::Last, Bound::Unbounded, true),
    ];
    for (end, to, expected) in cases {
        assert_eq!(end.is_behind(to), expected, "{end:?} {to:?}");
    }
}
