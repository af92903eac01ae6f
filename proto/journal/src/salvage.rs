//! Reading a journal that is refused: every valid batch, in order.
//!
//! Nothing is written. The result is no state of the store: batches may be missing anywhere, also before others that are
//! here. A caller takes from it only what stands on its own.

use std::collections::BTreeMap;

use crate::{
    BLOCK, Medium, MediumFile,
    format::{FirstBlock, SEGMENT_HEADER, batch_at, first_block, span},
    replay::read,
    segments::file_number,
};

/// Findings of [`salvage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Batches that were passed on.
    pub batches: u64,
    /// Places between them at which batches are missing.
    pub gaps: u64,
    /// Files of which nothing could be read; the folder counts as one if it could not be listed.
    pub unreadable: u64,
}

/// Passes each batch that is as it was written to `take`, in the order of their numbers; the flag is true when batches
/// are missing directly before it. A batch counts when its checksum is right and it has the nonce of its segment:
/// that of the header, or, where the header is damaged, that of the first batch. Content cannot pass for a batch, since
/// the nonce is not known outside.
pub fn salvage<M: Medium>(medium: &M, mut take: impl FnMut(&[u8], bool)) -> Salvaged {
    let mut salvaged = Salvaged::default();
    // Place of each batch, by its number.
    let mut places: BTreeMap<u64, (String, u64)> = BTreeMap::new();
    let names = medium.list().unwrap_or_else(|_| {
        salvaged.unreadable = 1;
        Vec::new()
    });
    for name in names {
        if file_number(&name).is_none() {
            continue;
        }
        match batches(medium, &name) {
            Some(found) => places.extend(found.into_iter().map(|(number, at)| (number, (name.clone(), at)))),
            None => salvaged.unreadable += 1,
        }
    }
    let mut last: Option<u64> = None;
    let mut open: Option<(String, Vec<u8>)> = None;
    for (number, (name, at)) in places {
        if open.as_ref().is_none_or(|(opened, _)| *opened != name) {
            open = bytes(medium, &name).map(|bytes| (name, bytes));
        }
        let content = open.as_ref().and_then(|(_, bytes)| batch_at(bytes, at, |batch| batch.number == number));
        let Some((_, content)) = content else { continue };
        let gap = last.is_some_and(|last| last.checked_add(1) != Some(number));
        take(content, gap);
        salvaged.gaps += u64::from(gap);
        salvaged.batches += 1;
        last = Some(number);
    }
    salvaged
}

/// Numbers and offsets of the valid batches of a file; `None` when nothing in it can be read.
fn batches<M: Medium>(medium: &M, name: &str) -> Option<Vec<(u64, u64)>> {
    let bytes = bytes(medium, name)?;
    let (nonce, segment) = match first_block(bytes.get(..SEGMENT_HEADER)?) {
        FirstBlock::Header(header) => (header.nonce, header.id),
        // A batch always begins there, never content.
        FirstBlock::Invalid => {
            batch_at(&bytes, BLOCK, |_| true).map(|(batch, _)| (batch.nonce, batch.position.segment))?
        }
        FirstBlock::Foreign { .. } => return None,
    };
    let (mut found, mut at) = (Vec::new(), BLOCK);
    while at < bytes.len() as u64 {
        let batch = batch_at(&bytes, at, |batch| batch.nonce == nonce && batch.position.segment == segment);
        found.extend(batch.map(|(header, _)| (header.number, at)));
        let length = batch.and_then(|(header, _)| span(header.length)).unwrap_or(BLOCK);
        at = at.saturating_add(length);
    }
    Some(found)
}

/// All bytes of a file, as far as they can be read.
fn bytes<M: Medium>(medium: &M, name: &str) -> Option<Vec<u8>> {
    let file = medium.open(name).ok()?;
    let length = file.length().ok()?;
    read::<()>(&file, name, length).ok()
}
