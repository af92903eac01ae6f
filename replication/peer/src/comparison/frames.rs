//! The messages of a comparison, to and from the types of the store. Input from a peer is checked here.

use bytes::Bytes;
use twinbox_replication_core::{
    Holdings, Key, Lack, Tag,
    buckets::{BucketSet, GROUP, GROUPS},
    range_sums::RangeList,
};
use twinbox_replication_store::{RepairedRow, RowFault, RowPage, Store, StoredRow, codec};
use twinbox_wire::replication as wire;

use crate::{
    error::StreamError,
    frames::{bad, report_of},
};
pub(super) use crate::{state_fill::read_key, state_scan::key_to_wire};

/// Rows or ranges of keys in one message of a list.
pub(super) const LIST: usize = 4_096;
/// Rows in one request for rows.
pub(crate) const ROWS: usize = 32;

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

fn read_sum(bytes: &[u8]) -> Result<u128, StreamError> {
    let sum = <[u8; 16]>::try_from(bytes).map_err(|_| bad("a sum or a row hash of another length"))?;
    Ok(u128::from_be_bytes(sum))
}

pub(super) fn read_group_sums(reply: &wire::GroupSums) -> Result<Vec<u128>, StreamError> {
    read_sums(&reply.sums, GROUPS)
}

pub(super) fn read_bucket_sums(reply: &wire::BucketSums, groups: usize) -> Result<Vec<u128>, StreamError> {
    read_sums(&reply.sums, groups * GROUP)
}

pub(super) fn ranges_to_wire(list: RangeList<Key>) -> wire::RangeSums {
    let range =
        |(end, sum): (Key, u128)| wire::RangeSum { upto: Some(key_to_wire(&end)), sum: sums_to_wire([sum]) };
    wire::RangeSums {
        range: list.ends.into_iter().map(range).collect(),
        rest: list.rest.map(|sum| sums_to_wire([sum])),
    }
}

/// Adds ranges of a peer to those before. Each message brings some, or the end: no list is endless.
pub(super) fn read_ranges(reply: wire::RangeSums, list: &mut RangeList<Key>) -> Result<(), StreamError> {
    if reply.range.len() > LIST || (reply.range.is_empty() && reply.rest.is_none()) {
        return Err(bad("a list of ranges that is too long, or does not end"));
    }
    for range in reply.range {
        let end = read_key(range.upto.ok_or_else(|| bad("a range without an end"))?)?;
        if list.ends.last().is_some_and(|(last, _)| end <= *last) {
            return Err(bad("a list of ranges that does not ascend"));
        }
        list.ends.push((end, read_sum(&range.sum)?));
    }
    list.rest = reply.rest.map(|sum| read_sum(&sum)).transpose()?;
    Ok(())
}

pub(super) fn read_buckets(bytes: &[u8]) -> Result<BucketSet, StreamError> {
    BucketSet::from_bytes(bytes).ok_or_else(|| bad("a set of another number of buckets"))
}

pub(super) fn list_to_wire(page: RowPage) -> wire::RowList {
    let row =
        |(key, hash): (Key, u128)| wire::HashedRow { key: Some(key_to_wire(&key)), hash: sums_to_wire([hash]) };
    wire::RowList { upto: page.upto.as_ref().map(key_to_wire), row: page.rows.into_iter().map(row).collect() }
}

/// Reads a list of rows behind `after` and up to `upto`: ascending, within that range, and of bounded length. Each list
/// advances, so that no list is endless.
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
        let hash = read_sum(&row.hash)?;
        let last = rows.last().map(|(key, _)| key).or(after);
        if last.is_some_and(|last| key <= *last) {
            return Err(bad("a list of rows that does not ascend"));
        }
        rows.push((key, hash));
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
/// stability it includes changes that were set aside: the comparison is to repair their rows.
pub(super) fn report(store: &Store) -> Option<wire::Report> {
    report_of(&Holdings::from(store.holdings()), false)
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
