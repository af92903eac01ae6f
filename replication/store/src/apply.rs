//! Applying changes of other origins.

use std::{collections::BTreeSet, time::Duration};

use twinbox_clock::wall;
use twinbox_disk::{DiskError, Reserve, Transaction};
use twinbox_ids::Origin;
use twinbox_replication_core::{Change, Clock};

use crate::{
    StoreError, codec,
    draft::{decode_record, decode_upto, encode_upto, need},
    index::Indexed,
    keys,
    sums::RowChange,
};

/// Maximum distance of a foreign stamp ahead of the wall clock at which it still moves this node's clock (rule D5).
pub(crate) const CLOCK_BOUND: Duration = Duration::from_secs(60);

/// What came of applying changes.
#[derive(Default)]
pub(crate) struct Applied {
    /// The changes that were not here.
    pub(crate) new: Vec<Change>,
    /// The rows that they changed.
    pub(crate) rows: Vec<RowChange>,
    /// Those of them that were set aside.
    pub(crate) aside: BTreeSet<(Origin, u64)>,
}

/// Applies those of `changes` that are not here yet.
pub(crate) fn apply(
    transaction: &mut Transaction<'_>,
    changes: Vec<Change>,
    clock: &mut Clock,
    reserve: &Reserve,
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    let mut origins = BTreeSet::new();
    let (mut largest, mut bytes) = (0, 0);
    for change in changes {
        if has(transaction, change.origin, change.seq)? {
            continue;
        }
        let encoded = codec::encode_change(&change);
        largest = largest.max(encoded.len());
        bytes += encoded.len();
        transaction.put(keys::change(change.origin, change.seq), encoded)?;
        match merge(transaction, &change) {
            Ok(row) => applied.rows.push(row),
            // A record that cannot be read or has grown too large must not stop the stream for all others. The change is
            // in the log, so it goes on to other nodes, and is tried again.
            Err(error) if can_pass(&error) => {
                tracing::error!(origin = %change.origin, seq = change.seq, key = ?change.key, %error, "change set aside");
                transaction.put(keys::set_aside(change.origin, change.seq), [codec::FORMAT])?;
                applied.aside.insert((change.origin, change.seq));
            }
            Err(error) => return Err(error),
        }
        if let Some(stamp) = change.delta.latest()
            && !clock.observe(stamp, wall(), CLOCK_BOUND)
        {
            tracing::warn!(origin = %change.origin, %stamp, "change has a stamp far in the future; check the clock of its node");
        }
        origins.insert(change.origin);
        applied.new.push(change);
    }
    if !applied.new.is_empty() {
        reserve.check(need(largest, bytes))?;
        origins.into_iter().try_for_each(|origin| raise_prefix(transaction, origin))?;
        transaction.put(keys::CLOCK, codec::encode_stamp(clock.reading()))?;
    }
    Ok(applied)
}

/// True for an error of a change's own record, which a repair or a later change may end.
pub(crate) fn can_pass(error: &StoreError) -> bool {
    matches!(error, StoreError::Format { .. } | StoreError::Disk(DiskError::TooLarge { .. }))
}

/// The have-check (rule D1): within the gap-free prefix, or in the log beyond it.
fn has(transaction: &Transaction<'_>, origin: Origin, seq: u64) -> Result<bool, StoreError> {
    let upto = decode_upto(transaction.get(&keys::prefix(origin))?.as_deref())?;
    Ok(seq <= upto || transaction.get(&keys::change(origin, seq))?.is_some())
}

/// Merges a change into its row; with an error nothing is written.
pub(crate) fn merge(transaction: &mut Transaction<'_>, change: &Change) -> Result<RowChange, StoreError> {
    let key = keys::record(&change.key);
    let mut record = match transaction.get(&key)? {
        Some(bytes) => decode_record(&bytes)?,
        None => Default::default(),
    };
    let before = Indexed::of(&record);
    record.merge(change.delta.clone());
    transaction.put(key, codec::encode_record(&record))?;
    Ok(before.update(transaction, &change.key, &record)?)
}

/// Raises the prefix over the changes in the log that now adjoin it.
pub(crate) fn raise_prefix(transaction: &mut Transaction<'_>, origin: Origin) -> Result<(), StoreError> {
    const STEP: usize = 256;
    let key = keys::prefix(origin);
    let before = decode_upto(transaction.get(&key)?.as_deref())?;
    let mut upto = before;
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
        transaction.put(key, encode_upto(upto))?;
    }
    Ok(())
}
