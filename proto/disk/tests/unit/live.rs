//! Bytes of rows.

use super::*;

#[test]
fn count_follows_the_writes() {
    let mut rows = RowBytes::All(0);
    for (key, before, after, bytes) in [
        ("ab", None, Some(10), 12),
        ("ab", Some(10), Some(3), 5),
        ("c", None, Some(0), 6),
        ("d", None, None, 6),
        ("ab", Some(3), None, 1),
    ] {
        rows.replaced(key.as_bytes(), before, after);
        assert_eq!(rows.all(), Some(bytes), "{key} {before:?} {after:?}");
    }
}

#[test]
fn writes_while_it_is_counted_count_once() {
    let mut rows = RowBytes::none();
    rows.replaced(b"m", None, Some(9));
    rows.counted(30, Some(b"m\0".to_vec()));
    assert_eq!(rows.all(), None);
    // Before the place that was reached, and behind it: the latter will be read.
    rows.replaced(b"a", None, Some(4));
    rows.replaced(b"m", Some(9), None);
    rows.replaced(b"n", None, Some(7));
    rows.counted(8, None);
    assert_eq!(rows.all(), Some(30 + 5 - 10 + 8));
}
