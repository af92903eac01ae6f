//! The places of all rows, in memory: for each stem the keys that are there, and the blocks that have them. Pure.
//!
//! The memory in use grows with the blocks, not with the rows: 256 rows of a bucket that were written together take about
//! 120 bytes.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeInclusive},
};

use super::block::{Entry, Head};

/// The place of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockPlace {
    /// Number of the file.
    pub(super) file: u32,
    pub(super) at: u32,
    pub(super) length: u32,
    /// The last bytes of its keys lie between these.
    first: u8,
    last: u8,
}

impl BlockPlace {
    pub(super) fn new(file: u32, at: u32, length: u32, entries: &[Entry]) -> Self {
        let byte = |entry: Option<&Entry>| entry.map_or(0, |(byte, _)| *byte);
        Self { file, at, length, first: byte(entries.first()), last: byte(entries.last()) }
    }

    /// The place of a block that was found; `None` if it is beyond the longest possible file.
    pub(super) fn of(file: u32, at: u64, head: &Head) -> Option<Self> {
        let (at, length) = (u32::try_from(at).ok()?, u32::try_from(head.block_length()).ok()?);
        Some(Self::new(file, at, length, &head.entries))
    }

    /// Whether it may have a key with one of these last bytes.
    pub(super) fn meets(&self, bytes: &RangeInclusive<u8>) -> bool {
        self.first <= *bytes.end() && self.last >= *bytes.start()
    }
}

/// The keys of one stem.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    live: ByteSet,
    /// Of several blocks with a key, the last one counts.
    pub(super) blocks: Vec<BlockPlace>,
}

impl Bucket {
    /// Whether the key with this last byte is there.
    pub(super) fn has(&self, byte: u8) -> bool {
        self.live.meets(&(byte..=byte))
    }

    /// Whether a key with one of these last bytes is there.
    pub(super) fn meets(&self, bytes: &RangeInclusive<u8>) -> bool {
        self.live.meets(bytes)
    }
}

/// A set of bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct ByteSet([u128; 2]);

impl ByteSet {
    fn set(&mut self, byte: u8, is_in: bool) {
        let bit = 1_u128 << (byte & 127);
        if let Some(half) = self.0.get_mut(usize::from(byte >> 7)) {
            *half = if is_in { *half | bit } else { *half & !bit };
        }
    }

    fn meets(&self, bytes: &RangeInclusive<u8>) -> bool {
        let [low, high] = self.0;
        bytes.clone().any(|byte| (if byte < 128 { low } else { high }) >> (byte & 127) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.0 == [0, 0]
    }
}

/// Space of a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Use {
    /// Bytes that it takes on the disk.
    pub(super) length: u64,
    /// Bytes of its blocks that a bucket has.
    pub(super) live: u64,
}

/// All buckets, and the use of the files.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    buckets: BTreeMap<Box<[u8]>, Bucket>,
    files: BTreeMap<u32, Use>,
}

impl Buckets {
    pub(super) fn get(&self, stem: &[u8]) -> Option<&Bucket> {
        self.buckets.get(stem)
    }

    /// The buckets of a range of stems.
    pub(super) fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&[u8], &Bucket)> {
        self.buckets.range::<[u8], _>((from, to)).map(|(stem, bucket)| (&**stem, bucket))
    }

    /// Adds a file that was begun, or found.
    pub(super) fn add_file(&mut self, number: u32, length: u64) {
        self.files.insert(number, Use { length, live: 0 });
    }

    /// Adds a block that was written, or found, in the order of writing.
    pub(super) fn add_block(&mut self, stem: &[u8], entries: &[Entry], place: BlockPlace) {
        if !self.buckets.contains_key(stem) {
            self.buckets.insert(stem.into(), Bucket::default());
        }
        let Some(bucket) = self.buckets.get_mut(stem) else { return };
        entries.iter().for_each(|(byte, length)| bucket.live.set(*byte, length.is_some()));
        bucket.blocks.push(place);
        self.count(place, true);
        if bucket_is_dead(self.buckets.get(stem)) {
            self.drop_blocks(stem);
        }
    }

    /// Drops the blocks of a bucket: others that are about to be added supersede them.
    pub(super) fn drop_blocks(&mut self, stem: &[u8]) {
        let dropped = self.buckets.remove(stem).unwrap_or_default();
        dropped.blocks.into_iter().for_each(|place| self.count(place, false));
    }

    fn count(&mut self, place: BlockPlace, is_live: bool) {
        let length = u64::from(place.length);
        if let Some(file) = self.files.get_mut(&place.file) {
            file.live = if is_live { file.live + length } else { file.live.saturating_sub(length) };
        }
    }

    /// The first file that has a live block, or the last one if none has: all before it can be removed.
    pub(super) fn first_needed(&self) -> Option<u32> {
        let live = self.files.iter().find(|(_, file)| file.live > 0);
        live.or_else(|| self.files.last_key_value()).map(|(number, _)| *number)
    }

    /// Forgets the files before `first`, which are removed.
    pub(super) fn forget_before(&mut self, first: u32) {
        self.files = self.files.split_off(&first);
    }

    /// Bytes of all files, and those of their blocks that are live.
    pub(super) fn space(&self) -> Use {
        let add = |sum: Use, file: &Use| Use { length: sum.length + file.length, live: sum.live + file.live };
        self.files.values().fold(Use::default(), add)
    }

    /// Stems of the buckets that have a block in this file.
    pub(super) fn stems_in(&self, file: u32) -> Vec<Box<[u8]>> {
        let is_in = |bucket: &Bucket| bucket.blocks.iter().any(|place| place.file == file);
        self.buckets.iter().filter(|(_, bucket)| is_in(bucket)).map(|(stem, _)| stem.clone()).collect()
    }
}

fn bucket_is_dead(bucket: Option<&Bucket>) -> bool {
    bucket.is_some_and(|bucket| bucket.live.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(file: u32, entries: &[Entry]) -> BlockPlace {
        BlockPlace::new(file, 0, 100, entries)
    }

    #[test]
    fn set_of_bytes_has_what_was_put_in() {
        let mut set = ByteSet::default();
        for byte in [0, 127, 128, 255] {
            set.set(byte, true);
            assert!(set.meets(&(byte..=byte)), "{byte}");
        }
        assert!(!set.meets(&(1..=126)) && !set.meets(&(129..=254)) && set.meets(&(129..=255)));
        [0, 127, 128, 255].into_iter().for_each(|byte| set.set(byte, false));
        assert!(set.is_empty());
    }

    #[test]
    fn file_is_needed_until_all_keys_of_its_buckets_are_removed() {
        let mut buckets = Buckets::default();
        (1..=3).for_each(|file| buckets.add_file(file, 1000));
        let (both, one, other) = ([(1, Some(4)), (2, Some(4))], [(1, None)], [(2, None)]);
        buckets.add_block(b"a", &both, place(1, &both));
        buckets.add_block(b"b", &both, place(2, &both));
        assert_eq!((buckets.first_needed(), buckets.space().live), (Some(1), 200));
        buckets.add_block(b"a", &one, place(3, &one));
        assert_eq!((buckets.first_needed(), buckets.space().live), (Some(1), 300));
        buckets.add_block(b"a", &other, place(3, &other));
        assert_eq!((buckets.first_needed(), buckets.space()), (Some(2), Use { length: 3000, live: 100 }));
        buckets.forget_before(2);
        assert_eq!((buckets.stems_in(2), buckets.space().length), (vec![b"b"[..].into()], 2000));
        // Moved.
        buckets.drop_blocks(b"b");
        buckets.add_block(b"b", &both, place(3, &both));
        assert_eq!(buckets.first_needed(), Some(3));
    }
}
