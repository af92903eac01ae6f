//! The index in sled: room for its copy, and the index of an earlier release.

use std::ops::Bound;

use twinbox_journal::Position;

use super::*;
use crate::tree::SEGMENT;

#[test]
fn copy_leaves_the_space_free_that_it_must() {
    let dir = tempfile::tempdir().expect("a directory");
    let free = Reserve::new(dir.path(), 0).space().expect("the space").free;
    for (left_free, copies) in [(0, true), (free.saturating_mul(2), false), (u64::MAX, false)] {
        let store = dir.path().join(left_free.to_string());
        file::create_dir_durably(&store).expect("a folder");
        let index = SledIndex::open(&store, left_free).expect("an index");
        index.count().expect("a count");
        let begun = index.begin_copy();
        assert_eq!(begun.is_ok(), copies, "{left_free}: {begun:?}");
    }
}

#[test]
fn index_of_an_earlier_release_has_its_rows_in_blocks_afterwards() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = replacement::index(dir.path());
    let key = |number: u32| [b"row ", &number.to_be_bytes()[..]].concat();
    let held = Position { segment: 3, offset: 4_096 };
    {
        let db = sled::Config::new().path(&folder).segment_size(SEGMENT).open().expect("sled");
        for number in 0..10_000 {
            db.insert(key(number), vec![number as u8; 50]).expect("a row");
        }
        let notes = db.open_tree("notes").expect("a tree");
        notes.insert("held", [3_u64, 4_096].map(u64::to_be_bytes).concat()).expect("a note");
    }
    let as_it_is = AsItIs::open(dir.path()).expect("an index");
    let range = KeyRange::between(&key(7), &key(9_000));
    let up: Vec<_> = as_it_is.ascending(&range).map(|row| row.expect("a row").0).collect();
    let mut down: Vec<_> = as_it_is.descending(&range).map(|row| row.expect("a row").0).collect();
    down.reverse();
    assert!(up.iter().eq(&down) && up.into_iter().eq((7..9_000).map(key)), "it is not converted for this");
    drop(as_it_is);
    for (opening, is_converted) in [("the first", true), ("a later one", false)] {
        let index = SledIndex::open(dir.path(), 0).expect("an index");
        assert_eq!(index.is_converted(), is_converted);
        assert_eq!(index.held(), Ok(IndexCoverage::UpTo(held)), "{opening}");
        for number in [0, 1, 4_095, 4_096, 9_999] {
            assert_eq!(index.get(&key(number)), Ok(Some(vec![number as u8; 50])), "{number}: {opening}");
        }
        let rows = index.ascending(&KeyRange::prefix(b"")).map(|row| row.expect("a row").0);
        assert!(rows.eq((0..10_000).map(key)), "{opening}");
        let entries = index.blocks().entries((Bound::Unbounded, Bound::Unbounded)).count();
        assert!((500..1_000).contains(&entries), "{entries} blocks: {opening}");
        assert!(!replacement::next(dir.path()).exists(), "{opening}");
    }
}
