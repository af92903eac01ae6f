//! A block of a run: rows whose keys differ in their last byte only, the *stem* being their common beginning.
//!
//! | bytes | content |
//! | --- | --- |
//! | 1 | format version |
//! | 4 | CRC-32 of the rest of the head |
//! | 8 | number of the block, counted through all files |
//! | 2 | length of the stem |
//! | 2 | number of entries |
//! | 4 | length of the values as they are stored |
//! | 4 | CRC-32 of the values as they are stored |
//! | | stem |
//! | 5 each | entries in ascending order: last byte of the key, length of the value + 1; 0: the key is removed |
//! | | values, in the order of the entries: compressed (an LZ4 block) if that is shorter than their lengths together |
//!
//! Numbers have the most significant byte first. The head is all before the values.

use std::{borrow::Cow, io};

use twinbox_journal::MediumFile;

/// Version of this format. An unwritten part of a file has 0 in its place.
const VERSION: u8 = 1;

/// Bytes before the stem, and the first of them, which the checksum does not cover.
const FIXED: usize = 25;
const UNCHECKED: usize = 5;

/// Bytes of an entry.
const ENTRY: usize = 5;

/// Maximum entries of a block, and the longest stem that a writer makes.
const MOST_ENTRIES: usize = 256;
const LONGEST_STEM: usize = crate::MAX_KEY;

/// Maximum bytes of a block's values: those of a usual block, and one more value.
const MOST_BYTES: usize = super::Sizes::USUAL.block + crate::MAX_VALUE;

/// Fewer bytes of values are not compressed.
const LEAST_COMPRESSED: usize = 64;

/// Bytes that hold the head of nearly all blocks: one read suffices for those.
const USUAL_HEAD: usize = 1536;

/// An entry: last byte of the key, and length of the value; `None` removes the key.
pub(super) type Entry = (u8, Option<usize>);

/// The rows of a block: the last byte of each key, and its value; `None` removes the key.
pub(super) type Rows = Vec<(u8, Option<Vec<u8>>)>;

/// A block without its values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) stem: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    /// Length of the values in bytes.
    bytes: usize,
    /// Length of the same as they are stored.
    stored: usize,
    crc: u32,
}

impl Head {
    /// Length of the block in bytes.
    pub(super) fn block_length(&self) -> usize {
        self.length() + self.stored
    }

    fn length(&self) -> usize {
        FIXED + self.stem.len() + ENTRY * self.entries.len()
    }

    /// The head at the beginning of these bytes; the error is the number of bytes that it needs at least, 0 if it is none.
    fn decode(bytes: &[u8]) -> Result<Self, usize> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>().ok_or(FIXED)?;
        let mut at = 0;
        let mut number = |length: usize| {
            let part = fixed.get(at..at + length).unwrap_or_default();
            at += length;
            part.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        if number(1) != u64::from(VERSION) {
            return Err(0);
        }
        let (crc, block, stem, entries) = (number(4), number(8), number(2) as usize, number(2) as usize);
        let (stored, stored_crc) = (number(4) as usize, number(4) as u32);
        if entries > MOST_ENTRIES || stem > LONGEST_STEM {
            return Err(0);
        }
        let length = FIXED + stem + ENTRY * entries;
        let checked = bytes.get(UNCHECKED..length).ok_or(length)?;
        if u64::from(crc32fast::hash(checked)) != crc {
            return Err(0);
        }
        let (stem, table) = rest.split_at(stem);
        let entry = |entry: &[u8; ENTRY]| {
            let [last, length @ ..] = *entry;
            (last, usize::try_from(u32::from_be_bytes(length)).ok().and_then(|length| length.checked_sub(1)))
        };
        let entries: Vec<Entry> = table.as_chunks().0.iter().take(entries).map(entry).collect();
        let bytes = entries.iter().filter_map(|(_, length)| *length).fold(0, usize::saturating_add);
        // No release writes such a block.
        if stored > bytes || bytes > MOST_BYTES || !entries.is_sorted_by(|(left, _), (right, _)| left < right) {
            return Err(0);
        }
        Ok(Self { number: block, stem: stem.to_vec(), entries, bytes, stored, crc: stored_crc })
    }
}

/// Appends a block; the entries ascend.
pub(super) fn encode(into: &mut Vec<u8>, number: u64, stem: &[u8], rows: &[(u8, Option<&[u8]>)]) {
    let begin = into.len();
    let values: Vec<&[u8]> = rows.iter().filter_map(|(_, value)| *value).collect();
    let values = values.concat();
    let compressed = (values.len() >= LEAST_COMPRESSED).then(|| lz4_flex::block::compress(&values));
    let stored = compressed.filter(|compressed| compressed.len() < values.len()).unwrap_or(values);
    into.extend([VERSION, 0, 0, 0, 0]);
    into.extend(number.to_be_bytes());
    into.extend((stem.len() as u16).to_be_bytes());
    into.extend((rows.len() as u16).to_be_bytes());
    into.extend((stored.len() as u32).to_be_bytes());
    into.extend(crc32fast::hash(&stored).to_be_bytes());
    into.extend(stem);
    for (last, value) in rows {
        into.push(*last);
        into.extend(value.map_or(0, |value| value.len() as u32 + 1).to_be_bytes());
    }
    let checked = into.get(begin + UNCHECKED..).map_or(0, crc32fast::hash);
    if let Some(place) = into.get_mut(begin + 1..begin + UNCHECKED) {
        place.copy_from_slice(&checked.to_be_bytes());
    }
    into.extend(stored);
}

/// The head at this place; `None` when no block is there, or its head is damaged.
pub(super) fn read_head(file: &impl MediumFile, at: u64) -> io::Result<Option<Head>> {
    let mut wanted = USUAL_HEAD;
    loop {
        let bytes = file.read_new(wanted, at)?;
        match Head::decode(&bytes) {
            Ok(head) => return Ok(Some(head)),
            // Short of the end of the file, or no head.
            Err(needed) if needed <= bytes.len() || bytes.len() < wanted => return Ok(None),
            Err(needed) => wanted = needed,
        }
    }
}

/// The first head in these bytes at or after `at`, with its place; heads that are damaged are passed over.
pub(super) fn find_head(bytes: &[u8], at: usize) -> Option<(usize, Head)> {
    (at..bytes.len()).find_map(|at| Some((at, Head::decode(bytes.get(at..)?).ok()?)))
}

/// The rows of the block at this place, each with the last byte of its key and its value; `None` when it is damaged.
pub(super) fn read(file: &impl MediumFile, at: u64, length: usize) -> io::Result<Option<Rows>> {
    let bytes = file.read_new(length, at)?;
    Ok(Head::decode(&bytes).ok().and_then(|head| rows(&head, &bytes)))
}

fn rows(head: &Head, block: &[u8]) -> Option<Rows> {
    let stored = block.get(head.length()..head.block_length())?;
    if crc32fast::hash(stored) != head.crc {
        return None;
    }
    let values = match head.stored == head.bytes {
        true => Cow::Borrowed(stored),
        false => Cow::Owned(lz4_flex::block::decompress(stored, head.bytes).ok()?),
    };
    let mut values = &*values;
    let mut rows = Vec::with_capacity(head.entries.len());
    for (last, length) in &head.entries {
        let value = match length {
            Some(length) => {
                let (value, rest) = values.split_at_checked(*length)?;
                values = rest;
                Some(value.to_vec())
            }
            None => None,
        };
        rows.push((*last, value));
    }
    Some(rows)
}

#[cfg(test)]
#[path = "../../tests/unit/runs_block.rs"]
mod tests;
