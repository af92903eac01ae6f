//! The readers' view: the index, and over it the writes that are not in it yet.

use std::{
    cmp::Ordering,
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use twinbox_journal::Medium;

use crate::{
    DiskError, Pair,
    block::Write,
    both_ends::{BothEnds, Parts},
    index::{Index, Note},
    layers::Layers,
    range::{KeyRange, ReadFrom},
    rewrite::IndexSpace,
    runs::Runs,
    transaction::{Overlay, Stored},
};

/// Pairs of the first chunk of a scan; each later one has four times as many, up to [`LARGEST_CHUNK`].
const FIRST_CHUNK: usize = 16;

/// Maximum pairs of a chunk.
const LARGEST_CHUNK: usize = 256;

/// Bytes after which the first chunk ends: most callers take one or a few pairs of it.
const FIRST_CHUNK_BYTES: usize = 64 * 1024;

/// Bytes after which a later chunk ends.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Rows that are moved at a time when a store is converted.
const ADOPTED: usize = 4096;

/// All committed rows.
pub(crate) struct Rows<I, M: Medium> {
    pub(crate) index: I,
    /// The rows that are no part of the index.
    pub(crate) runs: Option<Runs<M>>,
    pub(crate) layers: Layers,
    /// The applier rewrites the index.
    pub(crate) rewriting: AtomicBool,
}

/// One part of a scan, in the order in which it is read.
struct Chunk {
    pairs: Vec<Pair>,
    /// The part of the range that is left.
    rest: Option<KeyRange>,
}

/// Pairs as they are read.
type Pairs<'a> = Box<dyn Iterator<Item = Result<Pair, DiskError>> + 'a>;

/// Writes in the order of their keys.
pub(crate) type Writes<'a> = Vec<Write<'a>>;

impl<I: Index, M: Medium> Rows<I, M> {
    pub(crate) fn new(index: I, runs: Option<Runs<M>>) -> Self {
        Self { index, runs, layers: Layers::default(), rewriting: AtomicBool::new(false) }
    }

    /// Space of the index; `None` while its rows are not counted.
    pub(crate) fn space(&self) -> Option<IndexSpace> {
        let (file, rows) = self.index.space()?;
        let runs = self.runs.as_ref().map_or(0, Runs::length);
        Some(IndexSpace { file, rows: rows?, runs, rewriting: self.rewriting.load(Relaxed) })
    }

    /// The part of the writes that goes into the runs, and that of the index.
    pub(crate) fn split<'a>(&self, writes: &'a Overlay) -> (Writes<'a>, Writes<'a>) {
        let writes = writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
        writes.partition(|(key, _)| self.runs_of(key).is_some())
    }

    /// Writes rows that go into the runs; their bytes.
    pub(crate) fn append(&self, rows: &Writes<'_>) -> Result<usize, DiskError> {
        self.runs.as_ref().map_or(Ok(()), |runs| runs.append(rows))?;
        Ok(size(rows))
    }

    /// As [`Self::append`], but only those that are not there.
    pub(crate) fn append_new(&self, rows: &Writes<'_>) -> Result<usize, DiskError> {
        self.runs.as_ref().map_or(Ok(()), |runs| runs.append_new(rows))?;
        Ok(size(rows))
    }

    /// Writes everything to its place, past the layers: only during the opening.
    pub(crate) fn write_all(&self, writes: &Overlay) -> Result<(), DiskError> {
        let (appended, others) = self.split(writes);
        self.append_new(&appended)?;
        self.index.write(&others)
    }

    /// Moves the rows of an earlier release, which had all of them in the index, to the runs. A start that is cut in the middle
    /// does it again.
    pub(crate) fn adopt(&self) -> Result<(), DiskError> {
        let Some(runs) = &self.runs else { return Ok(()) };
        let all = KeyRange::prefix(runs.prefix());
        let mut pairs = self.index.ascending(&all).peekable();
        if pairs.peek().is_none() {
            return Ok(());
        }
        tracing::info!(prefix = %runs.prefix().escape_ascii(), "rows of an earlier release move out of the index");
        loop {
            let part: Vec<Pair> = pairs.by_ref().take(ADOPTED).collect::<Result<_, _>>()?;
            if part.is_empty() {
                break;
            }
            let part: Writes<'_> = part.iter().map(|(key, value)| (&key[..], Some(&value[..]))).collect();
            runs.append(&part)?;
        }
        // Durable there before they go here.
        self.index.note(&Note { held: None, runs: runs.sync()? })?;
        self.index.flush()?;
        loop {
            let part: Vec<Pair> = self.index.ascending(&all).take(ADOPTED).collect::<Result<_, _>>()?;
            if part.is_empty() {
                return Ok(());
            }
            self.index.write(&part.iter().map(|(key, _)| (&key[..], None)).collect::<Writes<'_>>())?;
        }
    }

    /// The runs, if a key is one of theirs.
    fn runs_of(&self, key: &[u8]) -> Option<&Runs<M>> {
        self.runs.as_ref().filter(|runs| runs.takes(key))
    }

    /// The pairs of a range in the index and in the runs, in the order in which they are read.
    fn stored<'a>(&'a self, range: &KeyRange, from: ReadFrom) -> Pairs<'a> {
        let of_index = |part: &KeyRange| -> Pairs<'a> {
            match from {
                ReadFrom::Start => Box::new(self.index.ascending(part)),
                ReadFrom::End => Box::new(self.index.descending(part)),
            }
        };
        let Some(runs) = &self.runs else { return of_index(range) };
        let (before, within, after) = range.around(runs.prefix());
        let within = within.map(|part| from.read(runs.range(part)));
        let parts = [before.as_ref().map(of_index), within, after.as_ref().map(of_index)];
        Box::new(from.read(parts.into_iter()).flatten().flatten())
    }

    /// The next pairs of a range from one of its ends, about `limit` of them.
    ///
    /// The layers are copied before the index is read: a write leaves the layers only once it is in the index, so
    /// each row committed before this call is found in one of them.
    fn chunk(&self, range: &KeyRange, from: ReadFrom, limit: usize) -> Result<Chunk, DiskError> {
        let (written, more) = self.layers.range(range, from, limit);
        // Of the rest of the range, the layers' part is not known yet.
        let beyond = written.last().filter(|_| more).map(|(key, _)| key.clone());
        let known = beyond.as_ref().map(|key| range.as_far_as(from, key));
        let mut stored = self.stored(known.as_ref().unwrap_or(range), from);
        let mut written = written.into_iter().peekable();
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        let most = if limit <= FIRST_CHUNK { FIRST_CHUNK_BYTES } else { CHUNK_BYTES };
        let mut next = stored.next().transpose()?;
        while pairs.len() < limit && bytes < most {
            let order = match (written.peek(), &next) {
                (None, None) => {
                    let rest = beyond.map(|key| range.rest(from, &key));
                    return Ok(Chunk { pairs, rest });
                }
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((key, _)), Some((stored, _))) => from.compare(key, stored),
            };
            let mut found = None;
            if order != Ordering::Less {
                // If a layer has the key too, the stored pair is overwritten or removed.
                found = next.take().filter(|_| order == Ordering::Greater);
                next = stored.next().transpose()?;
            }
            if order != Ordering::Greater {
                found = written.next().and_then(|(key, value)| value.map(|value| (key, value)));
            }
            if let Some((key, value)) = found {
                bytes += key.len() + value.len();
                pairs.push((key, value));
            }
        }
        let rest = pairs.last().map(|(key, _)| range.rest(from, key));
        Ok(Chunk { pairs, rest })
    }
}

/// Bytes of keys and values.
fn size(rows: &Writes<'_>) -> usize {
    rows.iter().map(|(key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum()
}

impl<I: Index, M: Medium> Stored for Rows<I, M> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        match self.layers.get(key) {
            Some(written) => Ok(written),
            None => self.runs_of(key).map_or_else(|| self.index.get(key), |runs| runs.get(key)),
        }
    }

    fn scan(&self, range: KeyRange) -> Box<dyn Iterator<Item = Result<Pair, DiskError>> + '_> {
        Box::new(Scan::new(self, range))
    }
}

/// The pairs of a range, read in chunks. Each chunk is as new as the moment in which it was read.
pub(crate) type Scan<R> = BothEnds<Chunks<R>>;

pub(crate) struct Chunks<R> {
    rows: R,
    /// The part that has not been read yet; `None` after the last chunk, or after an error.
    rest: Option<KeyRange>,
    limit: usize,
}

impl<I: Index, M: Medium, R: Deref<Target = Rows<I, M>>> Scan<R> {
    pub(crate) fn new(rows: R, range: KeyRange) -> Self {
        Self::of(Chunks { rows, rest: Some(range), limit: FIRST_CHUNK })
    }
}

impl<I: Index, M: Medium, R: Deref<Target = Rows<I, M>>> Parts for Chunks<R> {
    fn next_part(&mut self, from: ReadFrom) -> Result<Option<Vec<Pair>>, DiskError> {
        let Some(range) = self.rest.take() else { return Ok(None) };
        let chunk = self.rows.chunk(&range, from, self.limit)?;
        self.limit = (self.limit * 4).min(LARGEST_CHUNK);
        self.rest = chunk.rest;
        Ok(Some(chunk.pairs))
    }
}
