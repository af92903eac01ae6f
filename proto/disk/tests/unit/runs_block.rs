//! Rows in a block of the runs.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Rows whose values have these bytes: any bytes cannot be compressed, few different ones can.
fn rows_of(bytes: impl Strategy<Value = u8>) -> impl Strategy<Value = BTreeMap<u8, Option<Vec<u8>>>> {
    let value = prop::collection::vec(bytes, 0..50);
    prop::collection::btree_map(any::<u8>(), prop::option::of(value), 1..30)
}

proptest! {
    #[test]
    fn block_is_read_back_and_a_flipped_bit_is_found(
        stem in prop::collection::vec(any::<u8>(), 0..40),
        rows in prop_oneof![rows_of(any::<u8>()), rows_of(0..3_u8)],
        flipped in any::<prop::sample::Index>(),
    ) {
        let written: Vec<_> = rows.iter().map(|(last, value)| (*last, value.as_deref())).collect();
        let mut bytes = Vec::new();
        encode(&mut bytes, 7, &stem, &written);
        let head = Head::decode(&bytes).expect("a head");
        prop_assert_eq!((head.number, &head.stem, head.block_length()), (7, &stem, bytes.len()));
        prop_assert_eq!(super::rows(&head, &bytes), Some(rows.into_iter().collect()));
        let bit = flipped.index(8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read = Head::decode(&bytes).ok().and_then(|head| super::rows(&head, &bytes));
        prop_assert_eq!(read, None);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Head::decode(&bytes);
        let _ = Head::decode(&[&[VERSION], &bytes[..]].concat());
        // Values that no compression made.
        let (stored, crc) = (bytes.len(), crc32fast::hash(&bytes));
        let head = Head { number: 1, stem: Vec::new(), entries: vec![(0, Some(200))], bytes: 200, stored, crc };
        let _ = super::rows(&head, &[&vec![0; head.length()][..], &bytes].concat());
    }
}
