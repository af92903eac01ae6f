//! A commit being written.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_clock::wall;
use twinbox_disk::{Disk, Need, Reserve, Transaction, Urgency};
use twinbox_ids::{NodeName, Origin};
use twinbox_replication_core::{Change, Clock, CommitPart, Edit, Key, Record, Table, make_edits};

use crate::{
    CommitError, Store, StoreError, codec,
    index::{Access, Indexed},
    keys,
    store::lock,
    sums::RowChange,
};

/// A commit is small if none of its changes is larger than this, in bytes: it is accepted down to a lower floor of free
/// space than new data.
const SMALL: usize = 16 * 1024;

impl Store {
    /// Commits the draft of `f`; durable here when it resolves. `f` runs on the committer thread, one commit after the other, so that it
    /// can compare and set; it must be short. With `Err` nothing is written. Dropping the future does not undo the commit.
    pub async fn commit<R, E, F>(&self, f: F) -> Result<(R, Committed), CommitError<E>>
    where
        F: FnOnce(&mut Draft<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        self.commit_on(self.disk(), f).await
    }

    /// As [`Self::commit`], with another urgency.
    pub async fn commit_with<R, E, F>(&self, urgency: Urgency, f: F) -> Result<(R, Committed), CommitError<E>>
    where
        F: FnOnce(&mut Draft<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        self.commit_on(&self.disk().at(urgency), f).await
    }

    async fn commit_on<R, E, F>(&self, disk: &Disk, f: F) -> Result<(R, Committed), CommitError<E>>
    where
        F: FnOnce(&mut Draft<'_>) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let (audio, written) = (self.blobs().clone(), self.blobs().clone());
        let (node, origin, reserve) = (self.node().clone(), self.origin(), self.reserve().clone());
        let (before, after) = (self.shared(), self.shared());
        let run = move |transaction: &mut Transaction<'_>| {
            let mut clock = lock(&before.clock);
            let mut draft = Draft::new(transaction, &mut clock, &node);
            let result = f(&mut draft).map_err(CommitError::Refused)?;
            let (committed, changes, rows) = draft.finish(origin, &reserve).map_err(CommitError::Store)?;
            audio.write_rows(transaction, &changes).map_err(|error| CommitError::Store(error.into()))?;
            Ok((result, committed, changes, rows))
        };
        let then = move |(result, committed, changes, rows): (R, Committed, Vec<Change>, _)| {
            written.rows_written(&changes);
            after.sums.follow(rows);
            after.announce(changes, BTreeSet::new());
            (result, committed)
        };
        Ok(disk.transact_then(run, then).await?)
    }
}

/// The changes that a commit made: those of `origin` numbered `first..=last`. An empty commit has `first > last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// This incarnation of the store.
    pub origin: Origin,
    /// The number of the first change.
    pub first: u64,
    /// The number of the last change.
    pub last: u64,
}

impl Committed {
    /// True when the commit changed nothing.
    pub fn is_empty(&self) -> bool {
        self.first > self.last
    }
}

/// A commit being written. Commits run one after the other, so the values that a draft reads are unchanged when the
/// draft is written: compare-and-set is reading, deciding, editing. A draft sees its own edits.
pub struct Draft<'a> {
    transaction: &'a mut (dyn Access + 'a),
    clock: &'a mut Clock,
    node: &'a NodeName,
    /// The changed records as they are now. Each is written once, at the end.
    rows: BTreeMap<Key, Row>,
}

/// A record in a draft.
struct Row {
    /// Its place in the order of first touch.
    turn: usize,
    /// As it was before the draft.
    before: Indexed,
    record: Record,
    /// The edits of the draft.
    delta: Record,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(transaction: &'a mut Transaction<'_>, clock: &'a mut Clock, node: &'a NodeName) -> Self {
        Self { transaction, clock, node, rows: BTreeMap::new() }
    }

    /// A record, deleted or not.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        if let Some(row) = self.rows.get(key) {
            return Ok(Some(row.record.clone()));
        }
        self.transaction.get(&keys::record(key))?.map(|bytes| decode_record(&bytes)).transpose()
    }

    /// The records of a table whose id begins with `prefix`, in order, deleted ones included.
    pub fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Key, Record)>, StoreError> {
        let pairs = self.transaction.scan(&keys::records(table, prefix))?;
        let mut rows = pairs
            .into_iter()
            .map(|(key, value)| decode_row(&key, &value))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let own = self.rows.range(Key::new(table, prefix)..);
        let own = own.take_while(|(key, _)| key.table == table && key.id.starts_with(prefix));
        rows.extend(own.map(|(key, row)| (key.clone(), row.record.clone())));
        Ok(rows.into_iter().collect())
    }

    /// Edits a record, which need not exist yet. All edits of one record in one commit are one change.
    pub fn edit(&mut self, key: Key, edits: Vec<Edit>) -> Result<(), StoreError> {
        let mut row = self.take(&key)?;
        row.delta.merge(make_edits(&mut row.record, edits, self.clock, wall(), self.node));
        self.put_back(key, row);
        Ok(())
    }

    /// Merges in a record of another cluster's store, with its stamps: the change is the record as a whole. No change if the
    /// record here has all of it already. The clock does not move: later edits stamp above what their record holds.
    pub fn adopt(&mut self, key: Key, other: Record) -> Result<(), StoreError> {
        let mut row = self.take(&key)?;
        let mut record = row.record.clone();
        record.merge(other.clone());
        if record != row.record {
            row.record = record;
            row.delta.merge(other);
        }
        self.put_back(key, row);
        Ok(())
    }

    /// The record as the draft sees it, out of the draft.
    fn take(&mut self, key: &Key) -> Result<Row, StoreError> {
        if let Some(row) = self.rows.remove(key) {
            return Ok(row);
        }
        let record = self.get(key)?.unwrap_or_default();
        Ok(Row { turn: self.rows.len(), before: Indexed::of(&record), record, delta: Record::new() })
    }

    fn put_back(&mut self, key: Key, row: Row) {
        if !row.delta.is_empty() {
            self.rows.insert(key, row);
        }
    }

    /// Writes the records and their indexes, and the changes, numbered, to the log, with the vector and the clock. Returns the
    /// changed rows too.
    pub(crate) fn finish(
        mut self,
        origin: Origin,
        reserve: &Reserve,
    ) -> Result<(Committed, Vec<Change>, Vec<RowChange>), StoreError> {
        let prefix = keys::prefix(origin);
        let before = decode_upto(self.transaction.get(&prefix)?.as_deref())?;
        let mut edited: Vec<_> = std::mem::take(&mut self.rows).into_iter().collect();
        edited.sort_unstable_by_key(|(_, row)| row.turn);
        let (mut changes, mut rows) = (Vec::with_capacity(edited.len()), Vec::with_capacity(edited.len()));
        let (mut last, mut largest, mut bytes) = (before, 0, 0);
        let mut part = CommitPart { before: 0, after: u32::try_from(edited.len()).unwrap_or(u32::MAX) };
        for (key, Row { before, record, delta, .. }) in edited {
            let row = codec::encode_record(&record);
            rows.push(before.update(&mut *self.transaction, &key, &record, &row)?);
            self.transaction.put(keys::record(&key), row)?;
            last += 1;
            part.after = part.after.saturating_sub(1);
            let change = Change { origin, seq: last, key, delta, part };
            part.before = part.before.saturating_add(1);
            let encoded = codec::encode_change(&change);
            let delete_only = change.delta.tombstone().is_some();
            largest = largest.max(if delete_only { 0 } else { encoded.len() });
            bytes += encoded.len();
            self.transaction.put(keys::change(origin, last), encoded)?;
            changes.push(change);
        }
        if !changes.is_empty() {
            reserve.check(need(largest, bytes))?;
            self.transaction.put(prefix, codec::encode_upto(last))?;
            self.transaction.put(keys::CLOCK.to_vec(), codec::encode_stamp(self.clock.reading()))?;
        }
        Ok((Committed { origin, first: before + 1, last }, changes, rows))
    }
}

/// The file-system space that a write needs, by its largest change and all changes together.
pub(crate) fn need(largest: usize, bytes: usize) -> Need {
    if largest <= SMALL { Need::Small } else { Need::Data(bytes as u64) }
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<Record, StoreError> {
    codec::decode_record(bytes).map_err(|source| StoreError::Format { what: "a record", source })
}

pub(crate) fn decode_row(key: &[u8], value: &[u8]) -> Result<(Key, Record), StoreError> {
    let source = codec::DecodeError::Invalid("key");
    let key = keys::record_key(key).ok_or(StoreError::Format { what: "a record", source })?;
    Ok((key, decode_record(value)?))
}

/// The number up to which changes are present; 0 when nothing is written.
pub(crate) fn decode_upto(bytes: Option<&[u8]>) -> Result<u64, StoreError> {
    codec::decode_upto(bytes).map_err(|source| StoreError::Format { what: "an entry of the vector", source })
}
