//! Appends batches: one write and one sync each.

use std::sync::Arc;

use crate::{
    AppendError, BLOCK, Medium, MediumFile, Position,
    format::{BatchHeader, padding, span},
    segments::{Segment, Segments},
};

/// The one writer of a journal. It blocks: it belongs to a thread.
pub struct Writer<M: Medium> {
    segments: Arc<Segments<M>>,
    /// The segment that is written, from the first append on: every start begins a new one.
    active: Option<Segment<M::File>>,
    end: Position,
    /// Number of the next batch.
    next: u64,
}

impl<M: Medium> Writer<M> {
    pub(crate) fn new(segments: Arc<Segments<M>>, next: u64) -> Self {
        let end = segments.end();
        Self { segments, active: None, end, next }
    }

    /// Appends one batch, the concatenation of `parts`, and makes it durable. Returns the position after it. After a
    /// failed write or sync every further append fails (rule A4). [`AppendError::Full`] and [`AppendError::TooLarge`]
    /// mean that nothing was written, and later appends may succeed.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<Position, AppendError> {
        self.segments.check()?;
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let largest = self.largest();
        let span = span(length).filter(|_| length <= largest).ok_or(AppendError::TooLarge { length, largest })?;
        let room = self.segments.segment_bytes().saturating_sub(self.end.offset);
        let segment = match &self.active {
            Some(active) if span <= room => active,
            _ => {
                let next = self.segments.take()?;
                self.end = Position { segment: next.id, offset: BLOCK };
                &*self.active.insert(next)
            }
        };
        let header = BatchHeader { nonce: segment.nonce, position: self.end, number: self.next, length };
        let header = header.encode(parts);
        let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 2);
        all.push(&header);
        all.extend(parts);
        all.push(padding(length));
        let written = segment.file.write_at(&all, self.end.offset).map_err(|error| ("write", error));
        if let Err((what, error)) = written.and_then(|()| segment.file.sync().map_err(|error| ("sync", error))) {
            return Err(self.segments.fail(what, &segment.name, &error).into());
        }
        self.end.offset += span;
        self.next += 1;
        self.segments.advance(self.end);
        Ok(self.end)
    }

    /// The position after the last batch.
    pub fn position(&self) -> Position {
        self.segments.end()
    }

    /// Maximum length of a batch in bytes.
    pub fn largest(&self) -> u64 {
        self.segments.largest()
    }
}
