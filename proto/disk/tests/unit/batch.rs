//! Batches of writes in the journal.

use proptest::prelude::*;

use super::*;

fn batches(writes: &Overlay, largest: usize) -> Vec<Vec<u8>> {
    let encoded = encode(writes);
    split(&encoded, largest).map(|(header, part)| [&header[..], part].concat()).collect()
}

proptest! {
    #[test]
    fn a_group_is_read_back_from_batches_of_any_size(
        writes in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 0..20),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..50)), 1..20),
        largest in 3..200usize,
    ) {
        let batches = batches(&writes, largest);
        prop_assert!(batches.iter().all(|batch| batch.len() <= largest));
        let mut reader = Reader::default();
        for (n, batch) in batches.iter().enumerate() {
            let whole = (n + 1 == batches.len()).then(|| writes.clone());
            prop_assert_eq!(reader.read(batch), Ok(whole));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(batch in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = Reader::default().read(&[&[VERSION, BEGINS | ENDS], &batch[..]].concat());
        let _ = Reader::default().read(&batch);
    }
}

#[test]
fn groups_without_end_or_beginning_are_left_out() {
    let group = |n: u8| Overlay::from([(vec![n; 20], Some(vec![n; 20]))]);
    let (old, cut, whole) = (batches(&group(1), 20), batches(&group(2), 20), batches(&group(3), 20));
    let mut reader = Reader::default();
    assert_eq!(reader.read(&old[1]), Ok(None), "the rest of a group that the index has");
    assert_eq!(reader.read(&old[2]), Ok(None));
    assert_eq!(reader.read(&cut[0]), Ok(None));
    let read: Vec<_> = whole.iter().map(|batch| reader.read(batch).expect("a batch")).collect();
    assert_eq!(read, [None, None, Some(group(3))], "the group before was never completed");
    assert_eq!(reader.read(&whole[1]), Err(Malformed::NotBegun));
    assert_eq!(reader.read(&[9, 3]), Err(Malformed::Version(9)));
}
