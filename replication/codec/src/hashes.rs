//! Hashes of rows, for the comparison of stores: from the bytes that both nodes store.

use twinbox_replication_core::{Key, Record, buckets::RowHash};

use crate::{encode_record, keys};

/// Version of buckets and hashes: nodes compare only what they compute alike.
pub const VERSION: u32 = 1;

/// Domain-separation key of the row hashes.
const KEY: &[u8; 32] = b"twinbox hash of a row, version 1";

/// Hash of the content of a present record.
pub type ContentHash = [u8; 32];

/// The hash of a record's content, which is `encoded`; `None` for one that is deleted or empty. Equal records have equal bytes:
/// all their parts are ordered.
pub fn content_hash_of(record: &Record, encoded: &[u8]) -> Option<ContentHash> {
    is_present(record).then(|| hash_of(encoded))
}

/// As [`content_hash_of`], for a record that is not encoded yet.
pub fn content_hash(record: &Record) -> Option<ContentHash> {
    is_present(record).then(|| hash_of(&encode_record(record)))
}

fn is_present(record: &Record) -> bool {
    !record.is_deleted() && !record.is_empty()
}

fn hash_of(encoded: &[u8]) -> ContentHash {
    *blake3::keyed_hash(KEY, encoded).as_bytes()
}

/// Bucket and hash of a row; `None` for a deleted or empty record, which no comparison counts.
pub fn row_hash(key: &Key, record: &Record) -> Option<RowHash> {
    Some(row_hash_of(&keys::record(key), &content_hash(record)?))
}

/// The bucket of a row by its key in the index.
pub fn bucket(row: &[u8]) -> u16 {
    first_two(&blake3::keyed_hash(KEY, row))
}

/// Bucket and hash of a row, by its key in the index and the hash of its content.
pub fn row_hash_of(row: &[u8], content: &ContentHash) -> RowHash {
    let mut hasher = blake3::Hasher::new_keyed(KEY);
    hasher.update(row);
    let bucket = first_two(&hasher.finalize());
    hasher.update(content);
    let hash = hasher.finalize();
    let half = hash.as_bytes().iter().take(16);
    RowHash { bucket, hash: half.fold(0, |number, byte| (number << 8) | u128::from(*byte)) }
}

fn first_two(hash: &blake3::Hash) -> u16 {
    let [first, second, ..] = *hash.as_bytes();
    u16::from_be_bytes([first, second])
}
