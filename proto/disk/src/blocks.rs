//! The rows of an index in blocks: the place of each row, and reading while the writer writes.
//!
//! A block has an entry of its own in an ordered map, sled's tree. Its key is its *beginning*: the block has the rows from there up to the
//! beginning of the next one. The first block begins with the empty key.
//!
//! One thread writes, entry by entry; readers and power cuts come between any two. A block that grows is split: the later part is
//! written before the block is written without it. In between its rows are there twice, and those in the later block count:
//! rows behind the beginning of the next block are *left over*. A reader that finds a block without such rows thus finds the later
//! block too, if it looks for that one after it has read the block.

use std::ops::{Bound, Range};

use crate::{
    DiskError, Pair,
    block::{self, Malformed, Row, Write},
    block_cache::{BlockCache, CachedBlock, End, WriteCount},
    insertion_order::coarse_to_fine,
    range::KeyRange,
};

/// Bounds of keys.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// An ordered map on disk. Its writes become durable in their order: after a power cut a first part of them is there.
pub(crate) trait Entries: Clone {
    type Bytes: AsRef<[u8]> + Clone + for<'a> From<&'a [u8]>;

    /// The blocks of this map in memory.
    fn cache(&self) -> &BlockCache<Self::Bytes>;

    /// The entries in these bounds, ascending. Not a snapshot: the map finds each entry when it has read the one before, or later.
    fn ascending(&self, bounds: Bounds<'_>) -> impl Iterator<Item = Found<Self::Bytes>> + use<Self>;

    /// The last entry in these bounds.
    fn last(&self, bounds: Bounds<'_>) -> Result<Option<Entry<Self::Bytes>>, DiskError>;

    /// Writes an entry; `None` removes it.
    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError>;

    /// The error about a malformed block.
    fn damaged(&self, reason: Malformed) -> DiskError;
}

/// The key and the value of an entry.
pub(crate) type Entry<B> = (B, B);

/// An entry, or the error that ended the reading.
pub(crate) type Found<B> = Result<Entry<B>, DiskError>;

/// The value of a key.
pub(crate) fn get<E: Entries>(entries: &E, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
    let value_in = |block: &E::Bytes| {
        let found = block::find(block.as_ref(), key).map_err(|reason| entries.damaged(reason))?;
        Ok(found.map(<[u8]>::to_vec))
    };
    loop {
        let seen = match entries.cache().find(key) {
            Ok(known) => return value_in(&known.block),
            Err(seen) => seen,
        };
        let found = entries.last((Bound::Unbounded, Bound::Included(key)))?;
        let mut after = Bound::Unbounded;
        if let Some((begins, block)) = &found {
            if let Some(value) = value_in(block)? {
                entries.cache().keep(seen, cached(begins, End::up_to(Bound::Included(key)), block));
                return Ok(Some(value));
            }
            after = Bound::Excluded(begins.as_ref());
        }
        // The block may have been split, or removed after that, between the search for it and its reading.
        let next = entries.ascending((after, Bound::Unbounded)).next().transpose()?;
        if next.as_ref().is_none_or(|(next, _)| next.as_ref() > key) {
            if let Some((begins, block)) = &found {
                entries.cache().keep(seen, cached(begins, end_at(next.as_ref()), block));
            }
            return Ok(None);
        }
    }
}

fn cached<B: AsRef<[u8]> + Clone>(begins: &B, end: End, block: &B) -> CachedBlock<B> {
    CachedBlock { begins: begins.as_ref().into(), end, block: block.clone() }
}

/// The end of a block before this entry.
fn end_at<B: AsRef<[u8]>>(next: Option<&Entry<B>>) -> End {
    next.map_or(End::Last, |(next, _)| End::Next(next.as_ref().into()))
}

/// Writes rows, in the order of their keys. For `replaced` see [`block::merge`].
pub(crate) fn write<E: Entries>(
    entries: &E,
    mut writes: &[Write<'_>],
    mut replaced: impl FnMut(&[u8], Option<usize>, Option<usize>),
) -> Result<(), DiskError> {
    while let Some((key, _)) = writes.first() {
        let found = block_of(entries, key)?;
        let (begins, end, had) = match &found {
            Ok(CachedBlock { begins, end, block }) => (&**begins, end, Some(block)),
            Err(end) => (&[][..], end, None),
        };
        let is_here = |key: &[u8]| end.is_after(key);
        let (here, rest) = writes.split_at(writes.partition_point(|(key, _)| is_here(key)));
        let mut rows = match had {
            Some(block) => block::rows(block.as_ref()).map_err(|reason| entries.damaged(reason))?,
            None => Vec::new(),
        };
        rows.truncate(rows.partition_point(|(key, _)| is_here(key)));
        let (merged, is_changed) = block::merge(&rows, here, &mut replaced);
        if is_changed {
            let last = rows.last().map(|(key, _)| *key);
            match merged.is_empty() {
                true => remove(entries, begins)?,
                false => put_parts(entries, begins, &merged, last)?,
            }
        }
        writes = rest;
    }
    Ok(())
}

/// The block with a key and its exact end, for the writer; without a block before the key, the end of those keys.
fn block_of<E: Entries>(entries: &E, key: &[u8]) -> Result<Result<CachedBlock<E::Bytes>, End>, DiskError> {
    let cache = entries.cache();
    if let Ok(known) = cache.find(key)
        && known.end.is_exact()
    {
        return Ok(Ok(known));
    }
    let found = entries.last((Bound::Unbounded, Bound::Included(key)))?;
    let after = found.as_ref().map_or(Bound::Unbounded, |(begins, _)| Bound::Excluded(begins.as_ref()));
    let end = end_at(entries.ascending((after, Bound::Unbounded)).next().transpose()?.as_ref());
    let Some((begins, block)) = &found else { return Ok(Err(end)) };
    let known = cached(begins, end, block);
    cache.keep(cache.writes(), known.clone());
    Ok(Ok(known))
}

fn put<E: Entries>(entries: &E, key: &[u8], block: Option<&[u8]>) -> Result<(), DiskError> {
    entries.put(key, block)?;
    entries.cache().wrote(key, block);
    Ok(())
}

/// Writes the rows of a block, in parts if they are too many. `last` is the last key that it had.
fn put_parts<E: Entries>(
    entries: &E,
    begins: &[u8],
    rows: &[Row<'_>],
    last: Option<&[u8]>,
) -> Result<(), DiskError> {
    let parts = block::split(rows, last);
    let first_key = |part: &Range<usize>| rows[part.start].0;
    // The parts behind all rows that were there may come in any order, and this one makes pages full.
    let (among, behind) =
        parts.split_at(parts.iter().skip(1).take_while(|part| Some(first_key(part)) <= last).count() + 1);
    for part in coarse_to_fine(behind).chain(among.iter().skip(1).rev()) {
        put(entries, first_key(part), Some(&block::encode(&rows[part.clone()])))?;
    }
    let first = among.first().cloned().unwrap_or_default();
    put(entries, begins, Some(&block::encode(&rows[first])))
}

/// Removes a block that has no rows. The one before it takes its place, so rows left over there, which a process that was ended
/// in the middle of a split has left, go first; the empty block then stays, since a reader may have that one as it was.
fn remove<E: Entries>(entries: &E, begins: &[u8]) -> Result<(), DiskError> {
    if let Some((before, block)) = entries.last((Bound::Unbounded, Bound::Excluded(begins)))? {
        let rows = block::rows(block.as_ref()).map_err(|reason| entries.damaged(reason))?;
        let (its, left_over) = rows.split_at(rows.partition_point(|(key, _)| *key < begins));
        if !left_over.is_empty() {
            put(entries, before.as_ref(), Some(&block::encode(its)))?;
            return put(entries, begins, Some(&block::encode(&[])));
        }
    }
    put(entries, begins, None)
}

/// The pairs of a range, ascending; an error is the last item. Not a snapshot.
pub(crate) fn ascending<E: Entries>(
    entries: &E,
    range: &KeyRange,
) -> impl Iterator<Item = Result<Pair, DiskError>> + use<E> {
    let (entries, range) = (entries.clone(), range.clone());
    let (from, to) = range.bounds();
    // The block with the beginning of the range is read before those after it.
    let mut first = match from {
        Bound::Included(from) | Bound::Excluded(from) => first_block(&entries, from).transpose(),
        Bound::Unbounded => None,
    };
    let after = match &first {
        Some(Ok((known, _))) => Bound::Excluded(&*known.begins),
        Some(Err(_)) | None => Bound::Unbounded,
    };
    let has_all = matches!(&first, Some(Ok((known, None))) if known.end.is_behind(to));
    let later = (!has_all).then(|| entries.ascending((after, to)));
    let mut later = later.into_iter().flatten().peekable();
    let blocks = std::iter::from_fn(move || {
        let (block, to_keep) = match first.take() {
            Some(Ok((known, _))) if has_all => {
                return Some(pairs_of(&entries, &known.block, &range, &known.end));
            }
            Some(Ok((known, seen))) => (known.block.clone(), seen.map(|seen| (seen, known))),
            Some(Err(error)) => return Some(Err(error)),
            None => match later.next()? {
                Ok((_, block)) => (block, None),
                Err(error) => return Some(Err(error)),
            },
        };
        let end = match later.peek() {
            Some(Ok(next)) => end_at(Some(next)),
            Some(Err(_)) => return later.next().map(|failed| failed.map(|_| Vec::new())),
            None => End::up_to(range.bounds().1),
        };
        if let Some((seen, known)) = to_keep {
            entries.cache().keep(seen, CachedBlock { end: end.clone(), ..known });
        }
        Some(pairs_of(&entries, &block, &range, &end))
    });
    flat(blocks)
}

/// A block, and, if it was not in memory, what had been written before it was looked for.
type First<B> = (CachedBlock<B>, Option<WriteCount>);

/// The block with a key.
fn first_block<E: Entries>(entries: &E, key: &[u8]) -> Result<Option<First<E::Bytes>>, DiskError> {
    let seen = match entries.cache().find(key) {
        Ok(known) => return Ok(Some((known, None))),
        Err(seen) => seen,
    };
    let found = entries.last((Bound::Unbounded, Bound::Included(key)))?;
    Ok(found.map(|(begins, block)| (cached(&begins, End::up_to(Bound::Included(key)), &block), Some(seen))))
}

/// The pairs of a range, descending; an error is the last item. Not a snapshot.
pub(crate) fn descending<E: Entries>(
    entries: &E,
    range: &KeyRange,
) -> impl Iterator<Item = Result<Pair, DiskError>> + use<E> {
    let (entries, range) = (entries.clone(), range.clone());
    let mut end = Some(range.bounds().1.map(<[u8]>::to_vec));
    let blocks = std::iter::from_fn(move || {
        let before = end.take()?;
        let until = before.as_ref().map(Vec::as_slice);
        let (begins, block) = loop {
            match entries.last((Bound::Unbounded, until)) {
                Ok(Some((begins, block))) => {
                    // Read again if it was split between the search for it and its reading.
                    match entries.ascending((Bound::Excluded(begins.as_ref()), until)).next().transpose() {
                        Ok(None) => break (begins, block),
                        Ok(Some(_)) => {}
                        Err(error) => return Some(Err(error)),
                    }
                }
                Ok(None) => match entries.ascending((Bound::Unbounded, until)).next().transpose() {
                    Ok(None) => return None,
                    Ok(Some(_)) => {}
                    Err(error) => return Some(Err(error)),
                },
                Err(error) => return Some(Err(error)),
            }
        };
        let pairs = pairs_of(&entries, &block, &range, &End::up_to(until));
        let is_last = match range.bounds().0 {
            Bound::Included(from) | Bound::Excluded(from) => begins.as_ref() <= from,
            Bound::Unbounded => begins.as_ref().is_empty(),
        };
        if pairs.is_ok() && !is_last {
            end = Some(Bound::Excluded(begins.as_ref().to_vec()));
        }
        Some(pairs.map(|mut pairs| {
            pairs.reverse();
            pairs
        }))
    });
    flat(blocks)
}

/// The pairs of a block that are in the range and before the end of the block.
fn pairs_of<E: Entries>(
    entries: &E,
    block: &E::Bytes,
    range: &KeyRange,
    end: &End,
) -> Result<Vec<Pair>, DiskError> {
    let rows = block::rows(block.as_ref()).map_err(|reason| entries.damaged(reason))?;
    let is_in = |key: &[u8]| range.contains(key) && end.is_after(key);
    Ok(rows.into_iter().filter(|(key, _)| is_in(key)).map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
}

/// The pairs of all blocks; the first error is the last item.
fn flat(
    blocks: impl Iterator<Item = Result<Vec<Pair>, DiskError>>,
) -> impl Iterator<Item = Result<Pair, DiskError>> {
    let mut has_failed = false;
    let blocks = blocks.map_while(move |block| {
        let goes_on = !has_failed;
        has_failed |= block.is_err();
        goes_on.then_some(block)
    });
    blocks.flat_map(|block| {
        let (pairs, error) = match block {
            Ok(pairs) => (pairs, None),
            Err(error) => (vec![], Some(Err(error))),
        };
        pairs.into_iter().map(Ok).chain(error)
    })
}
