//! Repair of rows by the copies of another node.
//!
//! A repair makes no change that peers see: it has no number, and the vector stays (rule D1). It only merges in the
//! copies of another node: a row that is absent there deletes nothing, a deletion that was lost here is copied.

use std::collections::BTreeSet;

use twinbox_clock::wall;
use twinbox_disk::{Pair, Transaction, check_lengths};
use twinbox_ids::Origin;
use twinbox_replication_core::{Change, CommitPart, Key, Record, RepairedRow, RowFault, Vector};

use crate::{
    Store, StoreError,
    apply::CLOCK_BOUND,
    codec,
    draft::{decode_record, need},
    index::Indexed,
    keys,
    state::{behind, note_scanned},
    store::lock,
    sums::RowChange,
};

/// The writes of a repair, and its result.
#[derive(Default)]
struct Repair {
    repaired: Vec<RepairedRow>,
    rows: Vec<RowChange>,
    records: Vec<(Key, Record)>,
    cleared: Vec<(Origin, u64)>,
    /// The copies are rows of a scan: a deleted one that is not here is taken.
    is_state: bool,
    /// Rows that stayed as they were.
    too_large: u64,
}

impl Store {
    /// Merges in copies of rows that another node has, and replaces rows that cannot be read; durable when it resolves. The
    /// caller makes sure that both nodes have all changes of each other that the copies hold, except changes of interrupted
    /// scans, which they may show up to `seen`, and which are noted. Returns the rows that lacked data. A record that grows too large
    /// stays as it was. Call with a few rows: commits wait for it.
    pub async fn repair(&self, copies: Vec<(Key, Record)>, seen: Vector) -> Result<Vec<RepairedRow>, StoreError> {
        Ok(self.mend_all(copies, seen, false).await?.0)
    }

    /// Merges in rows of a scan, deleted ones too, and notes durably that they may show changes of the source up to `seen`.
    /// Returns the number of rows that have grown too large and stayed as they were. Call with a few rows.
    pub async fn merge_state(&self, rows: Vec<(Key, Record)>, seen: Vector) -> Result<u64, StoreError> {
        Ok(self.mend_all(rows, seen, true).await?.1)
    }

    async fn mend_all(
        &self,
        copies: Vec<(Key, Record)>,
        seen: Vector,
        is_state: bool,
    ) -> Result<(Vec<RepairedRow>, u64), StoreError> {
        let (before, after, reserve) = (self.shared(), self.shared(), self.reserve().clone());
        let (audio, written, origin) = (self.blobs().clone(), self.blobs().clone(), self.origin());
        let run = move |transaction: &mut Transaction<'_>| {
            let (mut repair, mut largest, mut bytes) = (Repair { is_state, ..Repair::default() }, 0, 0);
            let mut clock = lock(&before.clock);
            let marks = transaction.scan(keys::SET_ASIDE)?;
            let looked_at = copies.iter().filter(|_| !marks.is_empty()).map(|(key, _)| key.clone()).collect();
            note_scanned(transaction, &seen)?;
            if let [(first, _), .., (last, _)] = &copies[..] {
                // Of the pages that an empty store takes, hardly a row is there.
                transaction.look_ahead(&keys::record(first), &behind(Some(last)))?;
                transaction.look_ahead(keys::UNREFERENCED, keys::UNREFERENCED_END)?;
            }
            for (key, copy) in copies {
                let latest = copy.latest();
                let size = mend(transaction, &mut repair, key, copy.into_row())?;
                (largest, bytes) = (largest.max(size), bytes + size);
                if let Some(stamp) = latest.filter(|_| size > 0) {
                    // A stamp from the future does not move the clock (rule D5).
                    clock.observe(stamp, wall(), CLOCK_BOUND);
                }
            }
            if !repair.rows.is_empty() {
                reserve.check(need(largest, bytes))?;
                transaction.put(keys::CLOCK, codec::encode_stamp(clock.reading()))?;
            }
            repair.cleared = clear_set_aside(transaction, marks, &looked_at)?;
            // Without a number: it is no change of any origin.
            let note = |(key, delta)| Change { origin, seq: 0, key, delta, part: CommitPart::default() };
            let notes: Vec<Change> = std::mem::take(&mut repair.records).into_iter().map(note).collect();
            audio.write_rows(transaction, &notes)?;
            Ok::<_, StoreError>((repair, notes))
        };
        let then = move |(repair, notes): (Repair, Vec<Change>)| {
            let Repair { repaired, rows, cleared, too_large, .. } = repair;
            written.rows_written(&notes);
            after.sums.follow(rows);
            after.clear_set_aside(&cleared);
            after.tell(notes);
            (repaired, too_large)
        };
        Ok(self.disk().transact_then(run, then).await?)
    }
}

/// Repairs one row; returns the bytes written, 0 when the row was complete.
fn mend(
    transaction: &mut Transaction<'_>,
    repair: &mut Repair,
    key: Key,
    copy: Record,
) -> Result<usize, StoreError> {
    let row = keys::record(&key);
    let (here, fault) = match transaction.get(&row)?.map(|bytes| decode_record(&bytes)) {
        // A deleted record that is not here was purged.
        None if copy.is_deleted() && !repair.is_state => return Ok(0),
        None => (None, RowFault::Missing),
        Some(Err(_)) => (None, RowFault::Unreadable),
        Some(Ok(record)) => (Some(record), RowFault::Incomplete),
    };
    let (before, added, record, copy) = match here {
        // An empty record in place of one that cannot be read would hide the damage.
        None if copy.is_empty() => return Ok(0),
        None => (Indexed::default(), None, copy, None),
        Some(mut record) => {
            let Some(added) = record.lacks(&copy) else { return Ok(0) };
            let before = Indexed::of(&record);
            record.merge(copy.clone());
            (before, Some(added), record, Some(copy))
        }
    };
    let encoded = codec::encode_record(&record);
    let bytes = encoded.len();
    if let Err(error) = check_lengths(&row, &encoded) {
        tracing::error!(?key, %error, "row differs from that of another node and cannot be repaired");
        repair.too_large += 1;
        return Ok(0);
    }
    repair.rows.push(before.update(transaction, &key, &record, &encoded)?);
    transaction.put(row, encoded)?;
    if !repair.is_state {
        let added = added.unwrap_or_else(|| record.all_parts());
        repair.repaired.push(RepairedRow { key: key.clone(), fault, added });
    }
    repair.records.push((key, copy.unwrap_or(record)));
    Ok(bytes)
}

/// Clears those of the marks of changes of these rows that the rows hold now, and returns these changes.
fn clear_set_aside(
    transaction: &mut Transaction<'_>,
    marks: Vec<Pair>,
    rows: &BTreeSet<Key>,
) -> Result<Vec<(Origin, u64)>, StoreError> {
    let mut cleared = Vec::new();
    for (mark, _) in marks {
        let Some((origin, seq)) = keys::set_aside_change(&mark) else { continue };
        let Some(bytes) = transaction.get(&keys::change(origin, seq))? else { continue };
        let Ok(change) = codec::decode_change(&bytes) else { continue };
        if !rows.contains(&change.key) {
            continue;
        }
        let Some(bytes) = transaction.get(&keys::record(&change.key))? else { continue };
        if decode_record(&bytes).is_ok_and(|record| record.lacks(&change.delta).is_none()) {
            transaction.remove(mark);
            cleared.push((origin, seq));
        }
    }
    Ok(cleared)
}
