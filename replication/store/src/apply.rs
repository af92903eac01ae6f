//! Applying changes of other origins: those of a commit together, or none of them (rule D12).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_clock::wall;
use twinbox_disk::{DiskError, Reserve, Transaction, check_lengths};
use twinbox_ids::Origin;
use twinbox_replication_core::{Change, Key, Record};

use crate::{
    StoreError, codec,
    draft::{decode_record, decode_upto, need},
    index::Indexed,
    keys,
    store::{Shared, lock},
    sums::RowChange,
};

/// Maximum distance of a foreign stamp ahead of the wall clock at which it still moves this node's clock (rule D5).
pub(crate) const CLOCK_BOUND: Duration = Duration::from_secs(60);

/// Result of applying changes.
#[derive(Default)]
pub(crate) struct Applied {
    /// The changes that were not here.
    pub(crate) new: Vec<Change>,
    /// The rows that they changed.
    pub(crate) rows: Vec<RowChange>,
    /// Changes among `new` that were set aside.
    pub(crate) aside: BTreeSet<(Origin, u64)>,
}

/// Applies the `changes` that are not here yet. Leaves out a commit of which other changes are neither among them nor here.
pub(crate) fn apply(
    transaction: &mut Transaction<'_>,
    changes: Vec<Change>,
    shared: &Shared,
    reserve: &Reserve,
) -> Result<Applied, StoreError> {
    let (mut applied, mut clock) = (Applied::default(), lock(&shared.clock));
    let (mut origins, mut largest, mut bytes) = (BTreeSet::new(), 0, 0);
    for commit in commits(transaction, changes, shared)? {
        for change in &commit {
            let encoded = codec::encode_change(change);
            largest = largest.max(encoded.len());
            bytes += encoded.len();
            transaction.put(keys::change(change.origin, change.seq), encoded)?;
            if let Some(stamp) = change.delta.latest()
                && !clock.observe(stamp, wall(), CLOCK_BOUND)
            {
                tracing::warn!(origin = %change.origin, %stamp, "change has a stamp far in the future; check the clock of its node");
            }
            origins.insert(change.origin);
        }
        match Merged::read(transaction, &commit) {
            Ok(merged) => applied.rows.extend(merged.write(transaction)?),
            // A record that cannot be read or has grown too large must not stop the stream for all others. The changes are
            // in the log, so they are passed on to other nodes, and are retried.
            Err(error) if can_pass(&error) => {
                for Change { origin, seq, key, .. } in &commit {
                    tracing::error!(%origin, seq, ?key, %error, "change set aside");
                    transaction.put(keys::set_aside(*origin, *seq), [codec::FORMAT])?;
                    applied.aside.insert((*origin, *seq));
                }
            }
            Err(error) => return Err(error),
        }
        applied.new.extend(commit);
    }
    if !applied.new.is_empty() {
        reserve.check(need(largest, bytes))?;
        origins.into_iter().try_for_each(|origin| raise_prefix(transaction, origin))?;
        transaction.put(keys::CLOCK, codec::encode_stamp(clock.reading()))?;
    }
    Ok(applied)
}

/// The changes that are not here, by commit, in the order of their first ones; incomplete commits are left out.
fn commits(
    transaction: &Transaction<'_>,
    changes: Vec<Change>,
    shared: &Shared,
) -> Result<Vec<Vec<Change>>, StoreError> {
    let mut commits: Vec<Vec<Change>> = Vec::new();
    let mut places: BTreeMap<(Origin, u64), usize> = BTreeMap::new();
    let mut named = BTreeSet::new();
    for change in changes {
        if !named.insert((change.origin, change.seq)) || has(transaction, change.origin, change.seq)? {
            continue;
        }
        let place = *places.entry((change.origin, *change.commit().start())).or_insert(commits.len());
        match commits.get_mut(place) {
            Some(commit) => commit.push(change),
            None => commits.push(vec![change]),
        }
    }
    let mut whole = Vec::with_capacity(commits.len());
    for commit in commits {
        if is_whole(transaction, &commit, &named, shared)? {
            whole.push(commit);
        } else if let Some(Change { origin, seq, .. }) = commit.first() {
            tracing::warn!(%origin, seq, "changes left out: others of their commit are missing");
        }
    }
    Ok(whole)
}

/// True when each change of a commit is `named` or here. Runs of durable changes are passed over: a lying peer may claim
/// that its commit has very many.
fn is_whole(
    transaction: &Transaction<'_>,
    commit: &[Change],
    named: &BTreeSet<(Origin, u64)>,
    shared: &Shared,
) -> Result<bool, StoreError> {
    let Some(first) = commit.first() else { return Ok(true) };
    let (origin, seqs) = (first.origin, first.commit());
    let first_missing = |from| shared.have().first_missing(origin, from);
    let prefix = decode_upto(transaction.get(&keys::prefix(origin))?.as_deref())?;
    let mut seq = first_missing(prefix.saturating_add(1).max(*seqs.start()));
    while seq < seqs.end().saturating_add(1) {
        // The change may be of an earlier transaction that is not durable yet.
        if !named.contains(&(origin, seq)) && transaction.get(&keys::change(origin, seq))?.is_none() {
            return Ok(false);
        }
        seq = first_missing(seq + 1);
    }
    Ok(true)
}

/// True for an error of a change's own record, which a repair or a later change may end: it cannot be read, also because
/// the disk has changed it, or would grow too large.
pub(crate) fn can_pass(error: &StoreError) -> bool {
    match error {
        StoreError::Format { .. } | StoreError::Disk(DiskError::TooLarge { .. }) => true,
        StoreError::Disk(error) => error.is_damage(),
        _ => false,
    }
}

/// The have-check (rule D1): within the gap-free prefix, or in the log beyond it.
fn has(transaction: &Transaction<'_>, origin: Origin, seq: u64) -> Result<bool, StoreError> {
    let upto = decode_upto(transaction.get(&keys::prefix(origin))?.as_deref())?;
    Ok(seq <= upto || transaction.get(&keys::change(origin, seq))?.is_some())
}

/// The rows of a commit with its changes, not written yet.
pub(crate) struct Merged(Vec<MergedRow>);

struct MergedRow {
    key: Key,
    row: Vec<u8>,
    value: Vec<u8>,
    before: Indexed,
    record: Record,
}

impl Merged {
    /// Merges the changes of a commit into their rows. An error of this part, unlike one of the writing, leaves nothing half done.
    pub(crate) fn read(transaction: &Transaction<'_>, commit: &[Change]) -> Result<Self, StoreError> {
        let mut rows: BTreeMap<Key, (Indexed, Record)> = BTreeMap::new();
        for change in commit {
            if !rows.contains_key(&change.key) {
                let record = match transaction.get(&keys::record(&change.key))? {
                    Some(bytes) => decode_record(&bytes)?,
                    None => Record::new(),
                };
                rows.insert(change.key.clone(), (Indexed::of(&record), record));
            }
            if let Some((_, record)) = rows.get_mut(&change.key) {
                record.merge(change.delta.clone());
            }
        }
        let mut writes = Vec::with_capacity(rows.len());
        for (key, (before, record)) in rows {
            let (row, value) = (keys::record(&key), codec::encode_record(&record));
            check_lengths(&row, &value)?;
            writes.push(MergedRow { key, row, value, before, record });
        }
        Ok(Self(writes))
    }

    /// Writes the rows and their indexes.
    pub(crate) fn write(self, transaction: &mut Transaction<'_>) -> Result<Vec<RowChange>, StoreError> {
        let mut changed = Vec::with_capacity(self.0.len());
        for MergedRow { key, row, value, before, record } in self.0 {
            changed.push(before.update(transaction, &key, &record, &value)?);
            transaction.put(row, value)?;
        }
        Ok(changed)
    }
}

/// Raises the prefix over the changes in the log that now adjoin it.
pub(crate) fn raise_prefix(transaction: &mut Transaction<'_>, origin: Origin) -> Result<(), StoreError> {
    const STEP: usize = 256;
    let key = keys::prefix(origin);
    let before = decode_upto(transaction.get(&key)?.as_deref())?;
    let mut upto = before;
    // Behind a gap there may be very many, and a commit is near.
    if transaction.get(&keys::change(origin, upto + 1))?.is_none() {
        return Ok(());
    }
    'log: loop {
        let next = transaction.scan_from(&keys::changes(origin), &keys::change(origin, upto + 1), STEP)?;
        let full = next.len() == STEP;
        for (key, _) in next {
            if keys::change_seq(&key) != Some(upto + 1) {
                break 'log;
            }
            upto += 1;
        }
        if !full {
            break;
        }
    }
    if upto > before {
        transaction.put(key, codec::encode_upto(upto))?;
    }
    Ok(())
}
