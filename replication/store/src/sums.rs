//! Sums of the hashes of all present rows, for the comparison of stores.
//!
//! They are in memory only, and change with each commit: the commit brings the row before and after it, in order, on the committer
//! thread. A scan in steps ([`Store::sum_step`]) counts the rows that were here at the start, and again when rows that were damaged since
//! are to show ([`Store::recount`]). A deleted record is left out, since one node may have purged it before another.

use std::sync::Mutex;

use twinbox_replication_core::{
    Key, Record,
    buckets::{Buckets, RowHash},
    range_sums::RangeList,
    row_sums::{CountedRow, RowSums},
};

use crate::{
    Store, StoreError,
    blobs::blocking,
    codec::hashes::{ContentHash, content_hash, row_hash_of},
    draft::decode_record,
    index, keys,
    store::lock,
};

/// Rows of one step.
const STEP: usize = 2_048;

/// A row before and after a commit.
#[derive(Debug, Clone)]
#[must_use = "the sums of the comparison follow each written row"]
pub(crate) struct RowChange {
    row: Vec<u8>,
    before: Option<RowHash>,
    after: Option<RowHash>,
}

impl RowChange {
    pub(crate) fn new(key: &Key, before: Option<ContentHash>, after: Option<ContentHash>) -> Self {
        let row = keys::record(key);
        let [before, after] = [before, after].map(|content| content.map(|content| row_hash_of(&row, &content)));
        Self { row, before, after }
    }

    /// A row that was removed.
    pub(crate) fn removed(key: &Key, record: &Record) -> Self {
        Self::new(key, content_hash(record), None)
    }
}

/// The sums of one store.
#[derive(Default)]
pub(crate) struct Sums(Mutex<RowSums>);

impl Sums {
    /// Takes the rows of a durable commit; called on the committer thread, in the order of the commits.
    pub(crate) fn follow(&self, changes: Vec<RowChange>) {
        let mut sums = lock(&self.0);
        changes.into_iter().for_each(|change| sums.follow(change.row, change.before, change.after));
    }

    fn read<R>(&self, read: impl FnOnce(&Buckets) -> R) -> Option<R> {
        lock(&self.0).buckets().map(read)
    }
}

impl Store {
    /// Counts the next rows; true when all are counted and the store can be compared. One caller at a time.
    pub async fn sum_step(&self) -> Result<bool, StoreError> {
        let Some((step, from)) = lock(&self.sums().0).begin(keys::RECORDS) else { return Ok(true) };
        let disk = self.disk().clone();
        let (wrongly_listed, read) = blocking(move || {
            let mut read = Vec::new();
            for entry in disk.scan_range(&from, keys::RECORDS_END).take(STEP) {
                let (key, value) = entry?;
                let record = decode_record(&value);
                let hash = record.as_ref().ok().and_then(content_hash).map(|content| row_hash_of(&key, &content));
                read.push(CountedRow { key, hash, is_readable: record.is_ok() });
            }
            Ok((index::wrongly_listed(&disk, &read)?, read))
        })
        .await?;
        if !wrongly_listed.is_empty() {
            self.mend_entries(wrongly_listed).await?;
        }
        let next = read.last().filter(|_| read.len() == STEP).map(|last| [&last.key[..], &[0]].concat());
        let shared = self.shared();
        // Behind every commit that the reading may have shown: all are among the changes of this step by then.
        let wait = |_: &mut twinbox_disk::Transaction<'_>| Ok::<_, StoreError>(());
        Ok(self.disk().transact_then(wait, move |()| lock(&shared.sums.0).end(step, read, next)).await?)
    }

    /// Counts all rows again from the next step on: the sums follow the writes, and do not show rows that the disk has
    /// lost since they were counted. Until then the store cannot be compared.
    pub fn recount(&self) {
        lock(&self.sums().0).restart();
    }

    /// Resolves when every change that a reader could see before the call is in [`Store::holdings`]: readers see a commit
    /// before its changes are announced.
    pub async fn announced(&self) -> Result<(), StoreError> {
        // Behind every commit that is published.
        let wait = |_: &mut twinbox_disk::Transaction<'_>| Ok::<_, StoreError>(());
        Ok(self.disk().transact(wait).await?)
    }

    /// The sum of each group of buckets, and the number of present rows; `None` until all rows are counted.
    pub fn group_sums(&self) -> Option<(Vec<u128>, u64)> {
        self.sums().read(|buckets| (buckets.groups(), buckets.rows()))
    }

    /// The sums of the buckets of one group; `None` until all rows are counted.
    pub fn bucket_sums(&self, group: u8) -> Option<Vec<u128>> {
        self.sums().read(|buckets| buckets.of_group(group).to_vec())
    }

    /// The sums of the ranges of keys behind this end of one, at most `most`; `None` until all rows are counted.
    pub fn range_sums(&self, after: Option<&Key>, most: usize) -> Option<RangeList<Key>> {
        let sums = lock(&self.sums().0);
        let RangeList { ends, rest } = sums.ranges()?.list(after.map(keys::record).as_deref(), most);
        let ends = ends.into_iter().filter_map(|(end, sum)| Some((keys::record_key(end)?, sum))).collect();
        Some(RangeList { ends, rest })
    }

    /// The rows that could not be read when they were last counted, 10,000 at most, without those that were replaced since.
    pub fn unreadable_rows(&self) -> Vec<Key> {
        lock(&self.sums().0).unreadable().filter_map(keys::record_key).collect()
    }
}
