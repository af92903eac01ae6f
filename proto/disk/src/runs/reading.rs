//! The readers' view of the runs.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeInclusive},
    sync::Arc,
};

use twinbox_journal::Medium;

use super::{
    Runs, State, block,
    buckets::{BlockPlace, Bucket},
    split,
};
use crate::{
    DiskError, Pair,
    both_ends::{BothEnds, Parts},
    range::{KeyRange, ReadFrom},
};

/// Blocks with the file of each: it can be read also when it was removed meanwhile.
pub(super) type Found<F> = Vec<(BlockPlace, Arc<F>)>;

impl<F> State<F> {
    /// The blocks of a bucket that may have keys with these last bytes.
    pub(super) fn blocks(&self, bucket: &Bucket, bytes: &RangeInclusive<u8>) -> Found<F> {
        let places = bucket.blocks.iter().filter(|place| place.meets(bytes));
        places.filter_map(|place| Some((*place, Arc::clone(self.files.get(&place.file)?)))).collect()
    }
}

impl<M: Medium> Runs<M> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let Some((stem, byte)) = split(key) else { return Ok(None) };
        let blocks = {
            let state = self.state();
            match state.buckets.get(stem).filter(|bucket| bucket.has(byte)) {
                Some(bucket) => state.blocks(bucket, &(byte..=byte)),
                None => return Ok(None),
            }
        };
        for block in blocks.iter().rev() {
            if let Some((_, value)) = self.read_block(block)?.into_iter().find(|(last, _)| *last == byte) {
                return Ok(value);
            }
        }
        Err(self.damaged("a row is in none of its blocks"))
    }

    /// The pairs of a range, ascending. Not a snapshot.
    pub(crate) fn range(&self, range: KeyRange) -> BothEnds<InBuckets<'_, M>> {
        BothEnds::of(InBuckets { runs: self, rest: Some(range) })
    }

    /// Reads everything: each block has checksums.
    pub(crate) fn verify(&self) -> Result<(), DiskError> {
        self.range(KeyRange::prefix(self.prefix)).try_for_each(|pair| pair.map(drop))
    }

    /// All blocks of a bucket.
    pub(super) fn blocks_of(&self, stem: &[u8]) -> Found<M::File> {
        let state = self.state();
        state.buckets.get(stem).map(|bucket| state.blocks(bucket, &(0..=u8::MAX))).unwrap_or_default()
    }

    /// The rows with these last bytes in the blocks of a bucket.
    pub(super) fn read_rows(
        &self,
        blocks: &Found<M::File>,
        bytes: &RangeInclusive<u8>,
    ) -> Result<BTreeMap<u8, Vec<u8>>, DiskError> {
        let mut rows = BTreeMap::new();
        for block in blocks {
            for (last, value) in self.read_block(block)? {
                match value {
                    Some(value) if bytes.contains(&last) => rows.insert(last, value),
                    _ => rows.remove(&last),
                };
            }
        }
        Ok(rows)
    }

    fn read_block(&self, (place, file): &(BlockPlace, Arc<M::File>)) -> Result<block::Rows, DiskError> {
        let read = block::read(&**file, place.at.into(), place.length as usize);
        let rows = read.map_err(|error| self.failed("read", place.file, &error))?;
        rows.ok_or_else(|| {
            let path = self.path(place.file);
            self.damaged(&format!("the block at byte {} of '{}' is damaged", place.at, path.display()))
        })
    }

    /// The last bytes of the keys of a stem that are in a range.
    fn bytes_within(stem: &[u8], range: &KeyRange) -> Option<RangeInclusive<u8>> {
        let mut key = [stem, &[0]].concat();
        let mut is_within = |byte: u8| {
            if let Some(last) = key.last_mut() {
                *last = byte;
            }
            range.contains(&key)
        };
        let first = (0..=u8::MAX).find(|byte| is_within(*byte))?;
        let last = (first..=u8::MAX).rfind(|byte| is_within(*byte))?;
        Some(first..=last)
    }
}

/// A range that is read bucket by bucket.
pub(crate) struct InBuckets<'a, M: Medium> {
    runs: &'a Runs<M>,
    /// The part that has not been read yet.
    rest: Option<KeyRange>,
}

/// A bucket that is to be read.
struct Next<F> {
    stem: Vec<u8>,
    bytes: RangeInclusive<u8>,
    blocks: Found<F>,
}

impl<M: Medium> Parts for InBuckets<'_, M> {
    fn next_part(&mut self, from: ReadFrom) -> Result<Option<Vec<Pair>>, DiskError> {
        let Some(rest) = self.rest.take() else { return Ok(None) };
        let Some(Next { stem, bytes, blocks }) = self.next_bucket(&rest, from) else { return Ok(None) };
        let rows = self.runs.read_rows(&blocks, &bytes)?;
        let key = |byte: u8| [&stem[..], &[byte]].concat();
        let read_up_to = if from == ReadFrom::Start { *bytes.end() } else { *bytes.start() };
        self.rest = Some(rest.rest(from, &key(read_up_to)));
        Ok(Some(from.read(rows.into_iter().map(|(byte, value)| (key(byte), value))).collect()))
    }
}

impl<M: Medium> InBuckets<'_, M> {
    /// The first bucket from this end that has a key in the range.
    fn next_bucket(&self, range: &KeyRange, from: ReadFrom) -> Option<Next<M::File>> {
        let (lower, upper) = range.bounds();
        // A key that is cut to the length of a stem stays at or before those that it was before.
        let stem = |bound: Bound<&'_ [u8]>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => {
                Bound::Included(key.get(..self.runs.stem_length).unwrap_or(key).to_vec())
            }
            Bound::Unbounded => Bound::Unbounded,
        };
        let (lower, upper) = (stem(lower), stem(upper));
        let state = self.runs.state();
        let buckets = state.buckets.range(lower.as_ref().map(Vec::as_slice), upper.as_ref().map(Vec::as_slice));
        from.read(buckets).find_map(|(stem, bucket)| {
            let bytes = Runs::<M>::bytes_within(stem, range).filter(|bytes| bucket.meets(bytes))?;
            let blocks = state.blocks(bucket, &bytes);
            Some(Next { stem: stem.to_vec(), bytes, blocks })
        })
    }
}
