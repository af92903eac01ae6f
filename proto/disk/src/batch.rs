//! The writes of a group as bytes in the journal.
//!
//! A group is one sequence of writes, each `key length (4) key, value length + 1 (4) value`, where a value length of 0
//! is a removal; lengths have the most significant byte first. The sequence goes into one batch of the journal, or into
//! several when it is larger than one may be. A batch begins with the format version and its flags: [`BEGINS`] in the
//! first batch of a group, [`ENDS`] in the last. The journal has the checksums.

use crate::transaction::Overlay;

/// Version of this format. The earlier ones are the same: the release that wrote 1 knows of no rows beside the index, and the release
/// that wrote 2 of no blocks in it. Neither may open a store that has them.
const VERSION: u8 = 3;
const FIRST_VERSION: u8 = 1;

/// The first batch of a group.
const BEGINS: u8 = 1;

/// The last batch of a group.
const ENDS: u8 = 2;

/// Bytes in front of each batch.
pub(crate) const HEADER: usize = 2;

/// A group without writes. An earlier release refuses its version.
pub(crate) const EMPTY: [u8; HEADER] = [VERSION, BEGINS | ENDS];

/// A batch of the journal is not what this crate writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("format {0}, this release knows {VERSION}: start the release that wrote it")]
    Version(u8),
    #[error("a continuation without its beginning")]
    NotBegun,
    #[error("its writes end in the middle")]
    CutShort,
}

impl Malformed {
    /// True when no release wrote this.
    pub(crate) fn is_damage(self) -> bool {
        !matches!(self, Self::Version(_))
    }
}

/// The bytes of a group.
pub(crate) fn encode(writes: &Overlay) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let size = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| 8 + key.len() + value.as_ref().map_or(0, Vec::len);
    let mut encoded = Vec::with_capacity(writes.iter().map(size).sum());
    for (key, value) in writes {
        encoded.extend_from_slice(&length(key).to_be_bytes());
        encoded.extend_from_slice(key);
        let value_length = value.as_deref().map_or(0, |value| length(value).saturating_add(1));
        encoded.extend_from_slice(&value_length.to_be_bytes());
        encoded.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    encoded
}

/// The batches of a group, none larger than `largest` bytes: a header and a part of the group's bytes.
pub(crate) fn split(encoded: &[u8], largest: usize) -> impl Iterator<Item = ([u8; HEADER], &[u8])> {
    let mut parts = encoded.chunks(largest.saturating_sub(HEADER).max(1)).peekable();
    let mut begins = BEGINS;
    std::iter::from_fn(move || {
        let part = parts.next()?;
        let ends = if parts.peek().is_none() { ENDS } else { 0 };
        let header = [VERSION, begins | ends];
        begins = 0;
        Some((header, part))
    })
}

/// Joins the batches of a journal to groups, in order.
#[derive(Default)]
pub(crate) struct Reader {
    /// The bytes of a group that has begun and not ended.
    open: Option<Vec<u8>>,
    begun: bool,
}

impl Reader {
    /// Takes the next batch; the writes of a group once all of it has been read.
    ///
    /// A group that is followed by the beginning of another was never completed, hence never acknowledged. A group
    /// whose beginning is not in the journal any more is in the index: the journal releases whole groups only.
    pub(crate) fn read(&mut self, batch: &[u8]) -> Result<Option<Overlay>, Malformed> {
        let Some((&[version, flags], part)) = batch.split_first_chunk::<HEADER>() else {
            return Err(Malformed::CutShort);
        };
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            return Err(Malformed::Version(version));
        }
        if flags & BEGINS != 0 {
            (self.open, self.begun) = (Some(Vec::new()), true);
        }
        match &mut self.open {
            Some(open) => open.extend(part),
            None if self.begun => return Err(Malformed::NotBegun),
            None => return Ok(None),
        }
        if flags & ENDS == 0 {
            return Ok(None);
        }
        self.open.take().map(|encoded| decode(&encoded)).transpose()
    }
}

fn decode(mut encoded: &[u8]) -> Result<Overlay, Malformed> {
    let mut writes = Overlay::new();
    while !encoded.is_empty() {
        let key_length = length(&mut encoded)?;
        let key = bytes(&mut encoded, key_length)?.to_vec();
        let value = match length(&mut encoded)?.checked_sub(1) {
            Some(value_length) => Some(bytes(&mut encoded, value_length)?.to_vec()),
            None => None,
        };
        writes.insert(key, value);
    }
    Ok(writes)
}

fn length(encoded: &mut &[u8]) -> Result<usize, Malformed> {
    let (number, rest) = encoded.split_first_chunk::<4>().ok_or(Malformed::CutShort)?;
    *encoded = rest;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| Malformed::CutShort)
}

fn bytes<'a>(encoded: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (bytes, rest) = encoded.split_at_checked(length).ok_or(Malformed::CutShort)?;
    *encoded = rest;
    Ok(bytes)
}

#[cfg(test)]
#[path = "../tests/unit/batch.rs"]
mod tests;
