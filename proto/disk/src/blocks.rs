//! The rows of an index in blocks: what is written where, and how rows are found while others write.
//!
//! A block has an entry of its own in an ordered map, sled's tree. Its key is its *beginning*: the block has the rows from there up to the
//! beginning of the next one. The first block begins with the empty key.
//!
//! One thread writes, entry by entry; readers and power cuts come between any two. A block that grows is split: the later part is
//! written before the block is written without it. In between its rows are there twice, and those in the later block count:
//! rows behind the beginning of the next block are *left over*. A reader that finds a block without such rows thus finds the later
//! block too, if it looks for that one after it has read the block.

use std::ops::{Bound, Range, RangeBounds};

use crate::{
    DiskError, Pair,
    block::{self, Malformed, Row, Write},
    insertion_order::coarse_to_fine,
    range::KeyRange,
};

/// Bounds of keys.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// An ordered map on disk. Its writes become durable in their order: after a power cut a first part of them is there.
pub(crate) trait Entries: Clone {
    type Bytes: AsRef<[u8]>;

    /// The entries in these bounds, ascending. Not a snapshot: the map finds each entry when it has read the one before, or later.
    fn ascending(&self, bounds: Bounds<'_>) -> impl Iterator<Item = Found<Self::Bytes>> + use<Self>;

    /// The last entry in these bounds.
    fn last(&self, bounds: Bounds<'_>) -> Result<Option<Entry<Self::Bytes>>, DiskError>;

    /// Writes an entry; `None` removes it.
    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError>;

    /// The error about a block that has no sense.
    fn damaged(&self, reason: Malformed) -> DiskError;
}

/// The key and the value of an entry.
pub(crate) type Entry<B> = (B, B);

/// An entry, or the error that ended the reading.
pub(crate) type Found<B> = Result<Entry<B>, DiskError>;

/// The value of a key.
pub(crate) fn get<E: Entries>(entries: &E, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
    loop {
        let found = entries.last((Bound::Unbounded, Bound::Included(key)))?;
        let mut after = Bound::Unbounded;
        if let Some((begins, block)) = &found {
            if let Some(value) = block::find(block.as_ref(), key).map_err(|reason| entries.damaged(reason))? {
                return Ok(Some(value.to_vec()));
            }
            after = Bound::Excluded(begins.as_ref());
        }
        // The block may have been split, or removed after that, between the search for it and its reading.
        let later = (after, Bound::Included(key));
        if entries.ascending(later).next().transpose()?.is_none() {
            return Ok(None);
        }
    }
}

/// Writes rows, in the order of their keys. For `replaced` see [`block::merge`].
pub(crate) fn write<E: Entries>(
    entries: &E,
    mut writes: &[Write<'_>],
    mut replaced: impl FnMut(&[u8], Option<usize>, Option<usize>),
) -> Result<(), DiskError> {
    while let Some((key, _)) = writes.first() {
        let found = entries.last((Bound::Unbounded, Bound::Included(*key)))?;
        let (begins, had) =
            found.as_ref().map_or((&[][..], None), |(begins, block)| (begins.as_ref(), Some(block)));
        let after = if found.is_some() { Bound::Excluded(begins) } else { Bound::Unbounded };
        let next = entries.ascending((after, Bound::Unbounded)).next().transpose()?;
        let is_here = |key: &[u8]| next.as_ref().is_none_or(|(next, _)| key < next.as_ref());
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
        entries.put(first_key(part), Some(&block::encode(&rows[part.clone()])))?;
    }
    let first = among.first().cloned().unwrap_or_default();
    entries.put(begins, Some(&block::encode(&rows[first])))
}

/// Removes a block that has no rows. The one before it takes its place, so rows left over there, which a process that was ended
/// in the middle of a split has left, go first; the empty block then stays, since a reader may have that one as it was.
fn remove<E: Entries>(entries: &E, begins: &[u8]) -> Result<(), DiskError> {
    if let Some((before, block)) = entries.last((Bound::Unbounded, Bound::Excluded(begins)))? {
        let rows = block::rows(block.as_ref()).map_err(|reason| entries.damaged(reason))?;
        let (its, left_over) = rows.split_at(rows.partition_point(|(key, _)| *key < begins));
        if !left_over.is_empty() {
            entries.put(before.as_ref(), Some(&block::encode(its)))?;
            return entries.put(begins, Some(&block::encode(&[])));
        }
    }
    entries.put(begins, None)
}

/// The pairs of a range, ascending; an error is the last item. Not a snapshot.
pub(crate) fn ascending<E: Entries>(
    entries: &E,
    range: &KeyRange,
) -> impl Iterator<Item = Result<Pair, DiskError>> + use<E> {
    let (entries, range) = (entries.clone(), range.clone());
    // The block with the beginning of the range is read before those after it.
    let first = match range.bounds().0 {
        Bound::Included(from) | Bound::Excluded(from) => entries.last((Bound::Unbounded, Bound::Included(from))),
        Bound::Unbounded => Ok(None),
    };
    let after = match &first {
        Ok(Some((begins, _))) => Bound::Excluded(begins.as_ref()),
        Ok(None) | Err(_) => Bound::Unbounded,
    };
    let later = entries.ascending((after, range.bounds().1));
    let mut found = first.transpose().into_iter().chain(later).peekable();
    let blocks = std::iter::from_fn(move || {
        let block = match found.next()? {
            Ok((_, block)) => block,
            Err(error) => return Some(Err(error)),
        };
        let end = match found.peek() {
            Some(Ok((next, _))) => Bound::Excluded(next.as_ref()),
            Some(Err(_)) | None => Bound::Unbounded,
        };
        Some(pairs_of(&entries, block.as_ref(), &range, end))
    });
    flat(blocks)
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
        let pairs = pairs_of(&entries, block.as_ref(), &range, until);
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
    block: &[u8],
    range: &KeyRange,
    end: Bound<&[u8]>,
) -> Result<Vec<Pair>, DiskError> {
    let rows = block::rows(block).map_err(|reason| entries.damaged(reason))?;
    let is_in = |key: &[u8]| {
        RangeBounds::<[u8]>::contains(&range.bounds(), key)
            && RangeBounds::<[u8]>::contains(&(Bound::Unbounded, end), key)
    };
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
