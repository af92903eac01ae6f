//! The messages of a comparison, to and from the types of the store. What a peer says is checked here.

use bytes::Bytes;
use twinbox_replication_core::{
    Holdings, Key, Lack, Table, Tag,
    buckets::{BucketSet, GROUP, GROUPS},
};
use twinbox_replication_store::{RepairedRow, RowFault, RowPage, Store, StoredRow, codec};
use twinbox_wire::replication as wire;

use crate::{config::limits, error::StreamError, frames::bad};

/// Rows in one message of a list.
pub(super) const LIST: usize = 4_096;
/// Rows in one request for rows.
pub(crate) const ROWS: usize = 32;

pub(super) fn key_to_wire(key: &Key) -> wire::Key {
    wire::Key { table: key.table.0.into(), id: Bytes::copy_from_slice(&key.id) }
}

pub(super) fn read_key(key: wire::Key) -> Result<Key, StreamError> {
    let table = u16::try_from(key.table).map_err(|_| bad("a key of an unknown table"))?;
    Ok(Key::new(Table(table), key.id))
}

pub(super) fn read_keys(keys: Vec<wire::Key>, limit: usize) -> Result<Vec<Key>, StreamError> {
    if keys.len() > limit {
        return Err(bad("too many keys"));
    }
    keys.into_iter().map(read_key).collect()
}

pub(super) fn sums_to_wire(sums: impl IntoIterator<Item = u128>) -> Bytes {
    sums.into_iter().flat_map(u128::to_be_bytes).collect()
}

/// Reads exactly `count` sums.
pub(super) fn read_sums(bytes: &[u8], count: usize) -> Result<Vec<u128>, StreamError> {
    let (sums, rest) = bytes.as_chunks::<16>();
    if sums.len() != count || !rest.is_empty() {
        return Err(bad("sums of another number of buckets"));
    }
    Ok(sums.iter().map(|sum| u128::from_be_bytes(*sum)).collect())
}

pub(super) fn read_group_sums(reply: &wire::GroupSums) -> Result<Vec<u128>, StreamError> {
    read_sums(&reply.sums, GROUPS)
}

pub(super) fn read_bucket_sums(reply: &wire::BucketSums, groups: usize) -> Result<Vec<u128>, StreamError> {
    read_sums(&reply.sums, groups * GROUP)
}

pub(super) fn read_buckets(bytes: &[u8]) -> Result<BucketSet, StreamError> {
    BucketSet::from_bytes(bytes).ok_or_else(|| bad("a set of another number of buckets"))
}

pub(super) fn list_to_wire(page: RowPage) -> wire::RowList {
    let row = |(key, hash): (Key, u128)| wire::HashedRow {
        key: Some(key_to_wire(&key)),
        hash: Bytes::copy_from_slice(&hash.to_be_bytes()),
    };
    wire::RowList { upto: page.upto.as_ref().map(key_to_wire), row: page.rows.into_iter().map(row).collect() }
}

/// Reads a list of rows behind `after` and up to `upto`: ascending, within that range, and of bounded length; it gets on,
/// so that an endless list ends.
pub(super) fn read_list(
    list: wire::RowList,
    after: Option<&Key>,
    upto: Option<&Key>,
) -> Result<RowPage, StreamError> {
    if list.row.len() > LIST {
        return Err(bad("a list of rows that is too long"));
    }
    let mut rows: Vec<(Key, u128)> = Vec::with_capacity(list.row.len());
    for row in list.row {
        let key = read_key(row.key.ok_or_else(|| bad("a row without a key"))?)?;
        let hash = <[u8; 16]>::try_from(&row.hash[..]).map_err(|_| bad("a row hash of another length"))?;
        let last = rows.last().map(|(key, _)| key).or(after);
        if last.is_some_and(|last| key <= *last) {
            return Err(bad("a list of rows that does not ascend"));
        }
        rows.push((key, u128::from_be_bytes(hash)));
    }
    let reached = list.upto.map(read_key).transpose()?;
    let reached = match (reached, upto) {
        (Some(reached), Some(upto)) => Some(reached.min(upto.clone())),
        (reached, upto) => reached.or_else(|| upto.cloned()),
    };
    let (gets_on, within) = (
        reached.as_ref().is_none_or(|reached| after.is_none_or(|after| reached > after)),
        reached.as_ref().is_none_or(|reached| rows.last().is_none_or(|(last, _)| last <= reached)),
    );
    if !gets_on || !within {
        return Err(bad("a list of rows outside of its range"));
    }
    Ok(RowPage { rows, upto: reached })
}

/// All changes that are durable here; `None` when there are too many gaps for one message. In contrast to a report of
/// stability it has those that were set aside: the comparison is to repair their rows.
pub(super) fn report(store: &Store) -> Option<wire::Report> {
    let holdings = Holdings::from(store.holdings());
    let vector = holdings.vector();
    let beyond = holdings.iter().filter(|(origin, seqs)| *seqs.start() > vector.get(*origin));
    let run = |(origin, seqs): (_, std::ops::RangeInclusive<u64>)| wire::Run {
        origin: codec::origin_to_wire(origin),
        first: *seqs.start(),
        last: *seqs.end(),
    };
    let beyond: Vec<_> = beyond.map(run).take(limits::REPORTED_RUNS + 1).collect();
    (beyond.len() <= limits::REPORTED_RUNS).then(|| wire::Report {
        vector: Some(codec::vector_to_wire(&vector)),
        beyond,
        ..wire::Report::default()
    })
}

pub(super) fn row_to_wire(row: &StoredRow) -> wire::Row {
    match row {
        StoredRow::Absent => wire::Row::default(),
        StoredRow::Unreadable => wire::Row { record: None, unreadable: true },
        StoredRow::Record(record) => {
            wire::Row { record: Some(codec::record_to_bytes(record).into()), unreadable: false }
        }
    }
}

/// A row of a peer; one that this release cannot read counts as unreadable there.
pub(super) fn read_row(row: wire::Row) -> StoredRow {
    match row.record.map(|record| codec::record_from_bytes(&record)) {
        Some(Ok(record)) => StoredRow::Record(record),
        Some(Err(_)) => StoredRow::Unreadable,
        None if row.unreadable => StoredRow::Unreadable,
        None => StoredRow::Absent,
    }
}

pub(super) fn repaired_to_wire(row: &RepairedRow) -> wire::RepairedRow {
    let fault = match row.fault {
        RowFault::Missing => 1,
        RowFault::Unreadable => 2,
        RowFault::Incomplete => 3,
    };
    let field = row.added.fields.iter().map(|tag| u32::from(*tag)).collect();
    wire::RepairedRow { key: Some(key_to_wire(&row.key)), fault, field, deletion: row.added.deletion }
}

pub(super) fn read_repaired(row: wire::RepairedRow) -> Result<RepairedRow, StreamError> {
    let fault = match row.fault {
        1 => RowFault::Missing,
        2 => RowFault::Unreadable,
        _ => RowFault::Incomplete,
    };
    let fields = row.field.into_iter().filter_map(|tag| Tag::try_from(tag).ok()).collect();
    let key = read_key(row.key.ok_or_else(|| bad("a repaired row without a key"))?)?;
    Ok(RepairedRow { key, fault, added: Lack { fields, deletion: row.deletion } })
}

#[cfg(test)]
#[path = "../../tests/unit/frames.rs"]
mod tests;
