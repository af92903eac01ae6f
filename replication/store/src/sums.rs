//! Sums of the hashes of all present rows, for the comparison of stores.
//!
//! They are in memory only, and change with each commit: the commit brings the row before and after it, in order, on the
//! committer thread. A scan in steps ([`Store::sum_step`]) counts the rows that were here at the start, and again when rows
//! that were damaged since are to show ([`Store::recount`]). A deleted record is left out, since one node may have purged it
//! before another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use twinbox_replication_core::{
    Key, Record,
    buckets::{Buckets, RowHash},
};

use crate::{Store, StoreError, blobs::blocking, codec, draft::decode_record, keys, store::lock};

/// Version of buckets and hashes: nodes compare only what they compute alike.
pub const HASHES: u32 = 1;

/// Rows of one step.
const STEP: usize = 2_048;

/// Maximum number of unreadable rows that are remembered.
const UNREADABLE: usize = 10_000;

/// Key of the hashes: they are those of no other purpose.
const KEY: &[u8; 32] = b"twinbox hash of a row, version 1";

/// Hash of what a present record holds.
pub(crate) type Content = [u8; 32];

/// The hash of a record's content, which is `encoded`; `None` for one that is deleted or empty. Equal records have equal bytes:
/// all their parts are ordered.
pub(crate) fn content_of(record: &Record, encoded: &[u8]) -> Option<Content> {
    let present = !record.is_deleted() && !record.is_empty();
    present.then(|| *blake3::keyed_hash(KEY, encoded).as_bytes())
}

fn content(record: &Record) -> Option<Content> {
    content_of(record, &codec::encode_record(record))
}

/// Bucket and hash of a row; `None` for a deleted or empty record, which no comparison counts.
pub fn row_hash(key: &Key, record: &Record) -> Option<RowHash> {
    Some(of_content(&keys::record(key), &content(record)?))
}

/// The bucket of a row by its key in the index.
pub(crate) fn bucket(row: &[u8]) -> u16 {
    first_two(&blake3::keyed_hash(KEY, row))
}

fn of_content(row: &[u8], content: &Content) -> RowHash {
    let mut hasher = blake3::Hasher::new_keyed(KEY);
    hasher.update(row);
    let bucket = first_two(&hasher.finalize());
    hasher.update(content);
    let hash = hasher.finalize();
    let half = hash.as_bytes().iter().take(16);
    RowHash { bucket, hash: half.fold(0, |number, byte| (number << 8) | u128::from(*byte)) }
}

fn first_two(hash: &blake3::Hash) -> u16 {
    let [first, second, ..] = *hash.as_bytes();
    u16::from_be_bytes([first, second])
}

/// A row before and after a commit.
#[derive(Debug, Clone)]
#[must_use = "the sums of the comparison follow each written row"]
pub(crate) struct RowChange {
    row: Vec<u8>,
    before: Option<RowHash>,
    after: Option<RowHash>,
}

impl RowChange {
    pub(crate) fn new(key: &Key, before: Option<Content>, after: Option<Content>) -> Self {
        let row = keys::record(key);
        let [before, after] = [before, after].map(|content| content.map(|content| of_content(&row, &content)));
        Self { row, before, after }
    }

    /// A row that was removed.
    pub(crate) fn removed(key: &Key, record: &Record) -> Self {
        Self::new(key, content(record), None)
    }
}

/// The sums of one store.
#[derive(Default)]
pub(crate) struct Sums(Mutex<State>);

#[derive(Default)]
struct State {
    buckets: Buckets,
    progress: Progress,
    /// Number of the latest step.
    step: u64,
    /// Rows that the scan could not read and that nothing has replaced since.
    unreadable: BTreeSet<Key>,
}

/// Progress of the scan that counts the rows.
#[derive(Default)]
enum Progress {
    /// Rows below this key are counted. During a step, the rows at or above it that change meanwhile, as they are after the
    /// latest change.
    Below {
        key: Vec<u8>,
        changed: Option<BTreeMap<Vec<u8>, Option<RowHash>>>,
    },
    #[default]
    NotBegun,
    Done,
}

impl State {
    fn count(&mut self, before: Option<RowHash>, after: Option<RowHash>) {
        before.into_iter().for_each(|row| self.buckets.remove(row));
        after.into_iter().for_each(|row| self.buckets.add(row));
    }
}

impl Sums {
    /// A commit is durable; called on the committer thread, in the order of the commits.
    pub(crate) fn follow(&self, changes: Vec<RowChange>) {
        let mut guard = lock(&self.0);
        let state = &mut *guard;
        for RowChange { row, before, after } in changes {
            if !state.unreadable.is_empty()
                && let Some(key) = keys::record_key(&row)
            {
                state.unreadable.remove(&key);
            }
            match &mut state.progress {
                Progress::Below { key, changed } if row >= *key => {
                    if let Some(changed) = changed {
                        changed.insert(row, after);
                    }
                }
                Progress::NotBegun => {}
                Progress::Below { .. } | Progress::Done => state.count(before, after),
            }
        }
    }

    /// Begins a step, and returns its number and the first key to be read; `None` when all rows are counted.
    fn begin(&self) -> Option<(u64, Vec<u8>)> {
        let mut state = lock(&self.0);
        let from = match &state.progress {
            Progress::Done => return None,
            Progress::NotBegun => keys::RECORDS.to_vec(),
            Progress::Below { key, .. } => key.clone(),
        };
        state.progress = Progress::Below { key: from.clone(), changed: Some(BTreeMap::new()) };
        state.step += 1;
        Some((state.step, from))
    }

    /// Forgets all that was counted: the next step is the first one. A step under way has no effect.
    fn restart(&self) {
        let mut state = lock(&self.0);
        let step = state.step + 1;
        *state = State { step, ..State::default() };
    }

    /// Ends a step: counts the rows as they were read, or as they are after a change that came meanwhile. No effect if the
    /// step was given up and another has begun. True when all rows are counted.
    fn end(&self, step: u64, read: Vec<Read>, next: Option<Vec<u8>>) -> bool {
        let mut guard = lock(&self.0);
        let state = &mut *guard;
        if state.step != step {
            return false;
        }
        let Progress::Below { changed, .. } = &mut state.progress else { return false };
        let mut changed = changed.take().unwrap_or_default();
        for Read { row, hash, is_readable } in read {
            let after = changed.remove(&row);
            if !is_readable && after.is_none() && state.unreadable.len() < UNREADABLE {
                state.unreadable.extend(keys::record_key(&row));
            }
            state.count(None, after.unwrap_or(hash));
        }
        for (row, after) in changed {
            if next.as_ref().is_none_or(|next| row < *next) {
                state.count(None, after);
            }
        }
        state.progress = match next {
            Some(key) => Progress::Below { key, changed: None },
            None => Progress::Done,
        };
        matches!(state.progress, Progress::Done)
    }

    fn when_done<R>(&self, read: impl FnOnce(&Buckets) -> R) -> Option<R> {
        let state = lock(&self.0);
        matches!(state.progress, Progress::Done).then(|| read(&state.buckets))
    }
}

/// A row as a step read it.
struct Read {
    row: Vec<u8>,
    hash: Option<RowHash>,
    is_readable: bool,
}

impl Store {
    /// Counts the next rows; true when all are counted and the store can be compared. One caller at a time.
    pub async fn sum_step(&self) -> Result<bool, StoreError> {
        let Some((step, from)) = self.sums().begin() else { return Ok(true) };
        let disk = self.disk().clone();
        let read = blocking(move || {
            let mut read = Vec::new();
            for entry in disk.scan_range(&from, keys::RECORDS_END).take(STEP) {
                let (row, value) = entry?;
                let record = decode_record(&value);
                let hash = record.as_ref().ok().and_then(content).map(|content| of_content(&row, &content));
                read.push(Read { row, hash, is_readable: record.is_ok() });
            }
            Ok(read)
        })
        .await?;
        let next = read.last().filter(|_| read.len() == STEP).map(|last| [&last.row[..], &[0]].concat());
        let shared = self.shared();
        // Behind every commit that the reading may have shown: those are among the changes of this step by then.
        let wait = |_: &mut twinbox_disk::Transaction<'_>| Ok::<_, StoreError>(());
        Ok(self.disk().transact_then(wait, move |()| shared.sums.end(step, read, next)).await?)
    }

    /// Counts all rows again from the next step on: the sums follow what is written and do not show what the disk has lost
    /// since the rows were counted. Until then the store cannot be compared.
    pub fn recount(&self) {
        self.sums().restart();
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
        self.sums().when_done(|buckets| (buckets.groups(), buckets.rows()))
    }

    /// The sums of the buckets of one group; `None` until all rows are counted.
    pub fn bucket_sums(&self, group: u8) -> Option<Vec<u128>> {
        self.sums().when_done(|buckets| buckets.of_group(group).to_vec())
    }

    /// The rows that could not be read when they were last counted, 10,000 at most, without those that were replaced since.
    pub fn unreadable_rows(&self) -> Vec<Key> {
        lock(&self.sums().0).unreadable.iter().cloned().collect()
    }
}
