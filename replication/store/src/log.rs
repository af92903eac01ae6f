//! The log of changes, and its beginning: changes at the end of the gap-free prefixes stay, older ones are cut.
//!
//! The beginning of an origin's log is raised in memory before its changes are removed: a reader that finds its position at
//! or above the beginning after it read has missed no change.

use std::{
    collections::BTreeMap,
    ops::{Range, RangeInclusive},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use twinbox_disk::{Disk, Transaction, Urgency};
use twinbox_ids::{Origin, Timestamp};
use twinbox_replication_core::{Change, Key, Vector, state_fill::LogEntry};

use crate::{Store, StoreError, codec, draft::decode_upto, keys, store::lock};

/// Changes that one transaction removes: commits wait for it.
const STEP: usize = 64;

/// One transaction that cuts a log.
struct CutBatch {
    removed: usize,
    /// The number with which the next step begins; `None` when no further change can be cut.
    next: Option<u64>,
}

/// Approximate maximum of bytes that [`Store::changes_after`] returns.
const BATCH: usize = 1024 * 1024;

type Pins = Arc<Mutex<BTreeMap<u64, Vector>>>;

/// Beginning of the log and its pins.
pub(crate) struct Log {
    begins: RwLock<Vector>,
    pins: Pins,
}

/// While it lives, no change after its vector is cut.
#[derive(Debug)]
pub struct LogPin {
    pins: Pins,
    number: u64,
    vector: Vector,
}

impl LogPin {
    /// The prefixes whose changes are in their rows, as of the pinning.
    pub fn vector(&self) -> &Vector {
        &self.vector
    }
}

impl Drop for LogPin {
    fn drop(&mut self) {
        lock(&self.pins).remove(&self.number);
    }
}

impl Log {
    pub(crate) fn read(disk: &Disk) -> Result<Self, StoreError> {
        let mut begins = Vector::new();
        for entry in disk.scan(keys::LOG_BEGINS) {
            let (key, value) = entry?;
            if let Some(origin) = keys::log_begins_origin(&key) {
                begins.raise(origin, decode_upto(Some(&value))?);
            }
        }
        Ok(Self { begins: RwLock::new(begins), pins: Pins::default() })
    }

    fn begins(&self) -> Vector {
        self.begins.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Raises the beginning of an origin's log to after `upto`, if that is later than the present one.
    pub(crate) fn raise(&self, origin: Origin, upto: u64) {
        self.begins.write().unwrap_or_else(PoisonError::into_inner).raise(origin, upto);
    }
}

impl Store {
    /// For each origin the number after which its log begins: a peer with less of that origin cannot be served from the log.
    pub fn log_begins(&self) -> Vector {
        self.log().begins()
    }

    /// For each origin the number up to which every change is durable here, set aside or not.
    pub fn log_ends(&self) -> Vector {
        self.holdings().into_iter().map(|(origin, seqs)| (origin, seqs.run_end(1) - 1)).collect()
    }

    /// Changes that are durable here and that `theirs` does not cover, by origin in ascending order: at most
    /// `limit` and about a megabyte, but at least one if there is any.
    pub fn changes_after(&self, theirs: &Vector, limit: usize) -> Result<Vec<Change>, StoreError> {
        // Only durable changes: a peer must not know of a change that a power cut here could still undo.
        let have = self.holdings();
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for (origin, seqs) in have {
            let (start, end) = (theirs.get(origin).saturating_add(1), seqs.end());
            if start >= end {
                continue;
            }
            for entry in self.disk().scan_range(&keys::change(origin, start), &keys::change(origin, end)) {
                if changes.len() >= limit || (bytes >= BATCH && !changes.is_empty()) {
                    return Ok(changes);
                }
                let (key, value) = entry?;
                if keys::change_seq(&key).is_some_and(|seq| seqs.contains(seq)) {
                    bytes += value.len();
                    let format = |source| StoreError::Format { what: "a change in the log", source };
                    changes.push(codec::decode_change(&value).map_err(format)?);
                }
            }
        }
        Ok(changes)
    }

    /// Number of changes in the log. Changes that a fill has put behind the beginning, and that are still to be removed, are not counted.
    pub fn log_changes(&self) -> u64 {
        let (begins, have) = (self.log_begins(), self.holdings());
        have.iter()
            .fold(0, |sum, (origin, seqs)| sum.saturating_add(seqs.total().saturating_sub(begins.get(*origin))))
    }

    /// Pins the log from now on.
    pub fn pin_log(&self) -> LogPin {
        let pins = self.log().pins.clone();
        let mut pinned = lock(&pins);
        let vector = self.vector();
        let number = pinned.last_key_value().map_or(0, |(number, _)| number + 1);
        pinned.insert(number, vector.clone());
        drop(pinned);
        LogPin { pins, number, vector }
    }

    /// The oldest changes of an origin that are still in the log after number `after`, at most `limit`, as far as they can be
    /// cut: they are a part of the gap-free prefix, not pinned, and not set aside.
    pub fn oldest_changes(&self, origin: Origin, after: u64, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        let upto = self.cut_limit(origin, self.vector().get(origin))?;
        let mut entries = Vec::new();
        let range = keys::change(origin, after.saturating_add(1))..keys::change(origin, upto.saturating_add(1));
        if range.start >= range.end {
            return Ok(entries);
        }
        for entry in self.disk().scan_range(&range.start, &range.end).take(limit) {
            let (key, value) = entry?;
            let Some(seq) = keys::change_seq(&key) else { continue };
            // An unreadable change is no reason to keep the log.
            let latest = codec::decode_change(&value).ok().and_then(|change| change.delta.latest());
            let made = Timestamp(latest.map_or(0, |stamp| stamp.wall));
            entries.push(LogEntry { seq, made, bytes: (key.len() + value.len()) as u64 });
        }
        Ok(entries)
    }

    /// Cuts the changes in `range` from the log of an origin, as far as that can be: in small transactions, as many as there are changes.
    /// Those before the range were cut earlier. Returns the number of removed changes. Peers with less of this origin fill by state.
    pub async fn cut_log(&self, origin: Origin, range: RangeInclusive<u64>) -> Result<u64, StoreError> {
        // Each step begins where the one before ended: the removals of that one may still be in memory, and would be passed over again.
        let (disk, mut removed, (mut from, upto)) = (self.disk().at(Urgency::Background), 0, range.into_inner());
        loop {
            let store = self.clone();
            let step = disk.transact(move |transaction| store.cut_step(transaction, origin, from, upto)).await?;
            removed += step.removed as u64;
            match step.next {
                Some(next) => from = next,
                None => return Ok(removed),
            }
        }
    }

    fn cut_step(
        &self,
        transaction: &mut Transaction<'_>,
        origin: Origin,
        from: u64,
        upto: u64,
    ) -> Result<CutBatch, StoreError> {
        let prefix = decode_upto(transaction.get(&keys::prefix(origin))?.as_deref())?;
        // Under the lock of the pins: a pin that comes later has all of the prefix.
        let pinned = lock(&self.log().pins);
        let upto = pinned.values().fold(upto.min(prefix), |upto, pin| upto.min(pin.get(origin)));
        let upto = match transaction.scan_from(&keys::set_aside_of(origin), &keys::set_aside(origin, 0), 1)?.first()
        {
            Some((mark, _)) => keys::set_aside_change(mark).map_or(0, |(_, seq)| upto.min(seq.saturating_sub(1))),
            None => upto,
        };
        let oldest = transaction.scan_from(&keys::changes(origin), &keys::change(origin, from), STEP)?;
        let step = oldest.into_iter().map(|(key, _)| key);
        let step: Vec<_> = step.filter(|key| keys::change_seq(key).is_some_and(|seq| seq <= upto)).collect();
        let Some(last) = step.last().and_then(|key| keys::change_seq(key)) else {
            return Ok(CutBatch { removed: 0, next: None });
        };
        let begins = self.log_begins().get(origin).max(last);
        self.log().raise(origin, begins);
        drop(pinned);
        transaction.put(keys::log_begins(origin), codec::encode_upto(begins))?;
        let removed = step.len();
        step.into_iter().for_each(|key| transaction.remove(key));
        // Saves the commit of a step that would find no change.
        let is_last = removed < STEP || last >= upto;
        Ok(CutBatch { removed, next: (!is_last).then(|| last.saturating_add(1)) })
    }

    /// The last change of an origin that can be cut now, `prefix` at most.
    fn cut_limit(&self, origin: Origin, prefix: u64) -> Result<u64, StoreError> {
        let pinned = lock(&self.log().pins).values().fold(prefix, |upto, pin| upto.min(pin.get(origin)));
        Ok(match self.disk().scan(&keys::set_aside_of(origin)).next().transpose()? {
            Some((mark, _)) => {
                keys::set_aside_change(&mark).map_or(0, |(_, seq)| pinned.min(seq.saturating_sub(1)))
            }
            None => pinned,
        })
    }

    /// The rows of these changes of an origin, as far as the log has them; at most about a thousand numbers per call.
    pub fn changed_rows(&self, origin: Origin, seqs: Range<u64>) -> Result<Vec<Key>, StoreError> {
        let mut rows = Vec::new();
        for entry in self.disk().scan_range(&keys::change(origin, seqs.start), &keys::change(origin, seqs.end)) {
            let source = |source| StoreError::Format { what: "a change in the log", source };
            rows.push(codec::decode_change(&entry?.1).map_err(source)?.key);
        }
        Ok(rows)
    }
}
