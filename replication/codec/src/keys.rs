//! The keys of a store's one ordered index: a letter for the table, then fields that sort in reading order.

use twinbox_ids::{BlobHash, Origin};
use twinbox_replication_core::{Key, Table};

/// The name of the node whose data this is.
pub const NODE: &[u8] = b"m/node";
/// The cluster that the data belongs to.
pub const CLUSTER: &[u8] = b"m/cluster";
/// The reading of the hybrid clock.
pub const CLOCK: &[u8] = b"m/clock";
/// The share of the cluster's data that is here (whole, records only, or in part).
pub const FILLED: &[u8] = b"m/filled";
/// The members that the first fill went without.
pub const FILL_MISSED: &[u8] = b"m/missed";
/// Prefix of records.
pub const RECORDS: &[u8] = b"r";
/// The first key behind all records.
pub const RECORDS_END: &[u8] = b"s";
/// The mark of the indexes: the number of this store's openings, if all of them wrote the indexes.
pub const INDEXED: &[u8] = b"m/indexed";
/// The time up to which records age.
pub const PURGE_CLOCK: &[u8] = b"m/purge";
/// Prefix of references: hash of a blob, and the record that names it.
pub const REFERENCES: &[u8] = b"b";
/// The table with an index of its present records: messages of mailboxes (`twinbox_mailbox::schema::MESSAGE`). Its deleted records
/// stay for weeks, and callers and message lights must not wait until they are read.
pub const LISTED: Table = Table(2);
/// Prefix of the index of present records.
pub const PRESENT: &[u8] = b"i";
/// The mark of that index, as [`INDEXED`].
pub const PRESENT_INDEXED: &[u8] = b"m/present";
/// Prefix of deleted records, each with the time at which this store first saw the tombstone.
pub const DELETED: &[u8] = b"t";
/// Prefix of blobs that lost their last reference, with the time of that.
pub const UNREFERENCED: &[u8] = b"u";
/// The first key behind all of these.
pub const UNREFERENCED_END: &[u8] = b"v";
/// Prefix of blobs, each with the places of its bytes in the packs.
pub const BLOBS: &[u8] = b"p";
/// The first key behind all blobs.
pub const BLOBS_END: &[u8] = b"q";
/// Prefix of packs that the places of blobs name.
pub const PACKS: &[u8] = b"q";
/// The first key behind all packs.
pub const PACKS_END: &[u8] = b"r";
/// The first pack that may have bytes of a take in progress.
pub const TAKES: &[u8] = b"m/takes";
/// The value that a probe of the disk writes.
pub const PROBE: &[u8] = b"m/probe";
/// Prefix of the origins that were this store's own, one for each of its incarnations.
pub const OWN: &[u8] = b"o";
/// Prefix of gap-free prefixes by origin.
pub const VECTOR: &[u8] = b"v";
/// Prefix of the log of changes.
pub const LOG: &[u8] = b"l";
/// Bytes of the key of a change.
pub const CHANGE_LENGTH: usize = LOG.len() + 16 + 8;
/// Prefix of the numbers after which the log begins, by origin.
pub const LOG_BEGINS: &[u8] = b"c";
/// Prefix of the changes that rows of an interrupted scan may show, by origin.
pub const SCANNED: &[u8] = b"w";
/// The members that can fill by state.
pub const STATE_FILLERS: &[u8] = b"m/fillers";
/// Prefix of blobs that a change was applied without.
pub const LOST: &[u8] = b"a";
/// Prefix of changes that did not apply, by origin and number.
pub const SET_ASIDE: &[u8] = b"x";

/// A record.
pub fn record(key: &Key) -> Vec<u8> {
    [b"r", &key.table.0.to_be_bytes()[..], &key.id].concat()
}

/// The records of a table whose id begins with `prefix`.
pub fn records(table: Table, prefix: &[u8]) -> Vec<u8> {
    [b"r", &table.0.to_be_bytes()[..], prefix].concat()
}

/// The key of a record from the key of the index.
pub fn record_key(key: &[u8]) -> Option<Key> {
    let (table, id) = key.strip_prefix(b"r")?.split_first_chunk::<2>()?;
    Some(Key::new(Table(u16::from_be_bytes(*table)), id))
}

/// A reference to a blob: the record names it.
pub fn reference(hash: &BlobHash, key: &Key) -> Vec<u8> {
    [REFERENCES, &hash.0, &key.table.0.to_be_bytes(), &key.id].concat()
}

/// The references to a blob.
pub fn references(hash: &BlobHash) -> Vec<u8> {
    [REFERENCES, &hash.0].concat()
}

/// The record of a reference to a blob.
pub fn referring(key: &[u8]) -> Option<Key> {
    let (_, row) = key.strip_prefix(REFERENCES)?.split_first_chunk::<32>()?;
    let (table, id) = row.split_first_chunk::<2>()?;
    Some(Key::new(Table(u16::from_be_bytes(*table)), id))
}

/// The entry of a present record in the index of present records.
pub fn present(key: &Key) -> Vec<u8> {
    [PRESENT, &key.table.0.to_be_bytes(), &key.id].concat()
}

/// The record from the key of its entry.
pub fn present_key(entry: &[u8]) -> Option<Key> {
    let (table, id) = entry.strip_prefix(PRESENT)?.split_first_chunk::<2>()?;
    Some(Key::new(Table(u16::from_be_bytes(*table)), id))
}

/// The mark of a deleted record.
pub fn deleted(key: &Key) -> Vec<u8> {
    [DELETED, &key.table.0.to_be_bytes(), &key.id].concat()
}

/// The first key behind the marks of a table's deleted records.
pub fn deleted_end(table: Table) -> Vec<u8> {
    match table.0.checked_add(1) {
        Some(next) => [DELETED, &next.to_be_bytes()].concat(),
        None => UNREFERENCED.to_vec(),
    }
}

/// The record from the key of its mark.
pub fn deleted_key(key: &[u8]) -> Option<Key> {
    let (table, id) = key.strip_prefix(DELETED)?.split_first_chunk::<2>()?;
    Some(Key::new(Table(u16::from_be_bytes(*table)), id))
}

/// The note that a blob lost its last reference.
pub fn unreferenced(hash: &BlobHash) -> Vec<u8> {
    [UNREFERENCED, &hash.0].concat()
}

/// The blob from the key of that note.
pub fn unreferenced_hash(key: &[u8]) -> Option<BlobHash> {
    key.strip_prefix(UNREFERENCED)?.try_into().ok().map(BlobHash)
}

/// A blob that a change was applied without.
pub fn lost(hash: &BlobHash) -> Vec<u8> {
    [LOST, &hash.0].concat()
}

/// A blob: the places of its bytes.
pub fn blob(hash: &BlobHash) -> Vec<u8> {
    [BLOBS, &hash.0].concat()
}

/// The blobs whose hash begins with `start`.
pub fn blobs(start: &[u8]) -> Vec<u8> {
    [BLOBS, start].concat()
}

/// The blob from the key of its places.
pub fn blob_hash(key: &[u8]) -> Option<BlobHash> {
    key.strip_prefix(BLOBS)?.try_into().ok().map(BlobHash)
}

/// A pack that the places of a blob name, or named.
pub fn pack(pack: u32) -> Vec<u8> {
    [PACKS, &pack.to_be_bytes()].concat()
}

/// The pack from that key. In stores of version 3 the hash of a blob stood behind it, and each blob in the pack had a key.
pub fn pack_of(key: &[u8]) -> Option<u32> {
    let (pack, _) = key.strip_prefix(PACKS)?.split_first_chunk::<4>()?;
    Some(u32::from_be_bytes(*pack))
}

/// A change in the log.
pub fn change(origin: Origin, seq: u64) -> Vec<u8> {
    numbered(b"l", origin, seq)
}

/// The changes of an origin in the log.
pub fn changes(origin: Origin) -> Vec<u8> {
    [b"l", &origin.to_bytes()[..]].concat()
}

/// Number of a change from its key.
pub fn change_seq(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|seq| u64::from_be_bytes(*seq))
}

/// Origin of a change from its key.
pub fn change_origin(key: &[u8]) -> Option<Origin> {
    let (origin, _) = key.strip_prefix(b"l")?.split_last_chunk::<8>()?;
    Origin::from_slice(origin)
}

/// A change that did not apply.
pub fn set_aside(origin: Origin, seq: u64) -> Vec<u8> {
    numbered(SET_ASIDE, origin, seq)
}

/// Origin and number from the key of a change that did not apply.
pub fn set_aside_change(key: &[u8]) -> Option<(Origin, u64)> {
    let (origin, seq) = key.strip_prefix(SET_ASIDE)?.split_last_chunk::<8>()?;
    Some((Origin::from_slice(origin)?, u64::from_be_bytes(*seq)))
}

/// The changes of an origin that did not apply.
pub fn set_aside_of(origin: Origin) -> Vec<u8> {
    [SET_ASIDE, &origin.to_bytes()].concat()
}

/// The number after which the log of an origin begins.
pub fn log_begins(origin: Origin) -> Vec<u8> {
    [LOG_BEGINS, &origin.to_bytes()].concat()
}

/// The origin from the key of that number.
pub fn log_begins_origin(key: &[u8]) -> Option<Origin> {
    Origin::from_slice(key.strip_prefix(LOG_BEGINS)?)
}

/// The changes of an origin that rows of an interrupted scan may show.
pub fn scanned(origin: Origin) -> Vec<u8> {
    [SCANNED, &origin.to_bytes()].concat()
}

/// The origin from the key of those.
pub fn scanned_origin(key: &[u8]) -> Option<Origin> {
    Origin::from_slice(key.strip_prefix(SCANNED)?)
}

/// One of this store's own origins.
pub fn own(origin: Origin) -> Vec<u8> {
    [OWN, &origin.to_bytes()].concat()
}

/// The origin from the key that marks it as our own.
pub fn own_origin(key: &[u8]) -> Option<Origin> {
    Origin::from_slice(key.strip_prefix(OWN)?)
}

/// The gap-free prefix of an origin.
pub fn prefix(origin: Origin) -> Vec<u8> {
    [VECTOR, &origin.to_bytes()].concat()
}

/// The origin from the key of its prefix.
pub fn prefix_origin(key: &[u8]) -> Option<Origin> {
    Origin::from_slice(key.strip_prefix(VECTOR)?)
}

fn numbered(table: &[u8], origin: Origin, seq: u64) -> Vec<u8> {
    [table, &origin.to_bytes(), &seq.to_be_bytes()].concat()
}
