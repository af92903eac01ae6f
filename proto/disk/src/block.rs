//! A block of the index: rows whose keys adjoin, as one value of sled, which is compressed on its way there. Pure.
//!
//! sled puts at most 16 values into a page, and keeps some hundred bytes of memory for each page of its file, read or not. With a
//! value for each row that was 165 MB for a million messages.

use std::ops::Range;

/// Bytes of a block with more than one row, at most.
const LARGEST: usize = 1024;

/// Bytes of each part of a block that is split where rows came between others: there is room for more. Where they came behind
/// the last one, the parts are full.
const ROOMY: usize = LARGEST / 4 * 3;

/// Version of the format: a byte in front of the rows. Each row is `key length (2) value length (2) key value`, with the most
/// significant byte first, in the order of the keys.
const VERSION: u8 = 1;
const LENGTHS: usize = 4;

/// A key with its value.
pub(crate) type Row<'a> = (&'a [u8], &'a [u8]);

/// A key with its new value; `None` removes it.
pub(crate) type Write<'a> = (&'a [u8], Option<&'a [u8]>);

/// A block is not what this module writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a block of format {0}, this release knows {VERSION}: start the release that wrote it")]
    Version(u8),
    #[error("a block ends in the middle of a row")]
    CutShort,
    #[error("the rows of a block are not in the order of their keys")]
    Order,
    #[error("a compressed block does not unpack to its length")]
    Compression,
}

/// The rows of a block, in the order of their keys.
pub(crate) fn rows(block: &[u8]) -> Result<Vec<Row<'_>>, Malformed> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut rest = rows_of(block)?;
    while let Some(row) = next(&mut rest)? {
        if rows.last().is_some_and(|(last, _)| *last >= row.0) {
            return Err(Malformed::Order);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The value of a key.
pub(crate) fn find<'a>(block: &'a [u8], key: &[u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let mut rest = rows_of(block)?;
    while let Some((other, value)) = next(&mut rest)? {
        if other >= key {
            return Ok((other == key).then_some(value));
        }
    }
    Ok(None)
}

/// The bytes of the rows.
fn rows_of(block: &[u8]) -> Result<&[u8], Malformed> {
    match block.split_first() {
        Some((&VERSION, rows)) => Ok(rows),
        Some((version, _)) => Err(Malformed::Version(*version)),
        None => Err(Malformed::CutShort),
    }
}

/// Takes the next row off the bytes.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Row<'a>>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let Some((&[a, b, c, d], rest)) = bytes.split_first_chunk::<LENGTHS>() else { return Err(Malformed::CutShort) };
    let (key, value) = (u16::from_be_bytes([a, b]).into(), usize::from(u16::from_be_bytes([c, d])));
    let Some((key, rest)) = rest.split_at_checked(key) else { return Err(Malformed::CutShort) };
    let Some((value, rest)) = rest.split_at_checked(value) else { return Err(Malformed::CutShort) };
    *bytes = rest;
    Ok(Some((key, value)))
}

/// The bytes of a block with these rows.
pub(crate) fn encode(rows: &[Row<'_>]) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let mut block = Vec::with_capacity(1 + rows.iter().map(size).sum::<usize>());
    block.push(VERSION);
    for (key, value) in rows {
        block.extend_from_slice(&length(key).to_be_bytes());
        block.extend_from_slice(&length(value).to_be_bytes());
        block.extend_from_slice(key);
        block.extend_from_slice(value);
    }
    block
}

fn size((key, value): &Row<'_>) -> usize {
    LENGTHS + key.len() + value.len()
}

/// The rows after the writes; both are in the order of their keys. `replaced` gets each key with the lengths of its value before
/// and after, `None` for no row. The second result is false if everything is as it was.
pub(crate) fn merge<'a>(
    before: &[Row<'a>],
    writes: &[Write<'a>],
    mut replaced: impl FnMut(&[u8], Option<usize>, Option<usize>),
) -> (Vec<Row<'a>>, bool) {
    let mut merged = Vec::with_capacity(before.len() + writes.len());
    let (mut before, mut is_changed) = (before.iter().copied().peekable(), false);
    for &(key, value) in writes {
        while let Some(row) = before.next_if(|(other, _)| *other < key) {
            merged.push(row);
        }
        let had = before.next_if(|(other, _)| *other == key).map(|(_, had)| had);
        is_changed |= had != value;
        replaced(key, had.map(<[u8]>::len), value.map(<[u8]>::len));
        merged.extend(value.map(|value| (key, value)));
    }
    merged.extend(before);
    (merged, is_changed)
}

/// The parts of these rows that are blocks. `last` is the last key that was there before.
pub(crate) fn split(rows: &[Row<'_>], last: Option<&[u8]>) -> Vec<Range<usize>> {
    let most = match rows.iter().map(size).sum::<usize>() {
        0..=LARGEST => LARGEST,
        _ if rows.last().map(|(key, _)| *key) > last => LARGEST,
        _ => ROOMY,
    };
    let (mut parts, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, row) in rows.iter().enumerate() {
        if at > begin && bytes + size(row) > most {
            parts.push(begin..at);
            (begin, bytes) = (at, 0);
        }
        bytes += size(row);
    }
    if begin < rows.len() {
        parts.push(begin..rows.len());
    }
    parts
}

#[cfg(test)]
#[path = "../tests/unit/block.rs"]
mod tests;
