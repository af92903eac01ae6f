//! A block as it is stored: compressed where that makes it shorter. Pure.
//!
//! The rows of a mailbox repeat its name, the node and the fields of their records, so that a block of them takes about half of its bytes.

use std::borrow::Cow;

use crate::block::Malformed;

/// First byte of a compressed block. [`crate::block`] begins the others with its version.
const COMPRESSED: u8 = 2;

/// Bytes of its length before it was compressed (4, most significant byte first), behind the first byte.
const LENGTH: usize = 4;

/// Shorter blocks are stored as they are.
const LEAST: usize = 128;

/// Bytes of a block at most, which is more than any row takes: the length of a damaged one is not allocated.
const MOST: usize = 256 * 1024;

/// The bytes to store for a block.
pub(crate) fn stored(block: &[u8]) -> Cow<'_, [u8]> {
    if !(LEAST..=MOST).contains(&block.len()) {
        return Cow::Borrowed(block);
    }
    let compressed = lz4_flex::block::compress(block);
    if 1 + LENGTH + compressed.len() >= block.len() {
        return Cow::Borrowed(block);
    }
    let length = u32::try_from(block.len()).unwrap_or(u32::MAX);
    Cow::Owned([&[COMPRESSED], &length.to_be_bytes()[..], &compressed].concat())
}

/// The block in stored bytes.
pub(crate) fn block_in(stored: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    let Some((&COMPRESSED, rest)) = stored.split_first() else { return Ok(Cow::Borrowed(stored)) };
    let Some((length, compressed)) = rest.split_first_chunk::<LENGTH>() else { return Err(Malformed::CutShort) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MOST {
        return Err(Malformed::Compression);
    }
    let block = lz4_flex::block::decompress(compressed, length).map_err(|_| Malformed::Compression)?;
    if block.len() == length { Ok(Cow::Owned(block)) } else { Err(Malformed::Compression) }
}

#[cfg(test)]
#[path = "../tests/unit/stored_block.rs"]
mod tests;
