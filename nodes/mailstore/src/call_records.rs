//! Records of calls. A call never waits for its record: a background task takes the records of ended calls from a
//! bounded queue and writes many in one commit.
//!
//! A record is written at the end of its call. So a killed process loses the records of the last second, and those of
//! its calls in progress; a call that was recording gets its record from the node that files the orphan recording. That
//! one has the key of the call's own record, which takes precedence if the node lived after all.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    pin::pin,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use twinbox_call_records::{CallOutcome, CallProgress, CallRecord, Purpose, ReportRange, schema};
use twinbox_clock::wall;
use twinbox_ids::{CallId, Pii, Timestamp};
use twinbox_mailbox::Recording;
use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::{Draft, StoreError};

use crate::{MailError, Mailstore, lock, mailboxes::mailbox_in, work::blocking};

/// Maximum number of records that wait for the disk; further ones are left out and counted.
const QUEUE: usize = 4_096;
/// Maximum number of records in one commit: messages wait no longer for it than for each other.
const GROUP: usize = 256;
/// Wait for further records that share a commit.
const GROUP_WITHIN: Duration = Duration::from_secs(1);
/// Maximum number of rows that one step of the removal reads, and of records that it removes.
const STEP: usize = 256;
/// Pause between steps of the removal, and after the last one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Records of another node are removed this much later than its own by that node, so that the nodes do not all remove
/// the same ones, and the records of a removed node go too.
const GRACE_MS: u64 = 86_400_000;

/// The queue of records, and the calls in progress.
pub(crate) struct CallRecords {
    queue: mpsc::Sender<CallRecord>,
    /// End of the queue, until [`Mailstore::write_call_records`] takes it.
    waiting: Mutex<Option<mpsc::Receiver<CallRecord>>>,
    left_out: AtomicU64,
    /// Time for which records stay, in milliseconds; 0 until [`Mailstore::keep_call_records`] runs.
    keep_ms: AtomicU64,
    /// Begin of each call in progress.
    calls: Mutex<HashMap<CallId, Timestamp>>,
}

impl Default for CallRecords {
    fn default() -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (left_out, keep_ms, calls) = Default::default();
        Self { queue, waiting: Mutex::new(Some(waiting)), left_out, keep_ms, calls }
    }
}

impl CallRecords {
    /// Begin of a call in progress.
    pub(crate) fn began(&self, call: CallId) -> Option<Timestamp> {
        lock(&self.calls).get(&call).copied()
    }

    fn note(&self, record: CallRecord) {
        if self.queue.try_send(record).is_err() {
            self.left_out.fetch_add(1, Relaxed);
        }
    }
}

/// A call in progress; its record is queued when this is dropped, however the call ends.
pub struct CallNote {
    progress: CallProgress,
    mailstore: Mailstore,
}

impl Deref for CallNote {
    type Target = CallProgress;

    fn deref(&self) -> &CallProgress {
        &self.progress
    }
}

impl DerefMut for CallNote {
    fn deref_mut(&mut self) -> &mut CallProgress {
        &mut self.progress
    }
}

impl Drop for CallNote {
    fn drop(&mut self) {
        let records = &self.mailstore.inner.calls;
        lock(&records.calls).remove(&self.progress.call());
        records.note(self.progress.record(wall()));
    }
}

impl Mailstore {
    /// Begins to follow a call that was received now. Writes nothing.
    pub fn call_note(&self, call: CallId, caller: Option<Pii<String>>) -> CallNote {
        let began = wall();
        lock(&self.inner.calls.calls).insert(call, began);
        let progress = CallProgress::new(self.settings().node.clone(), call, began, caller);
        CallNote { progress, mailstore: self.clone() }
    }

    /// Queues a record. Never waits: when the queue is full, the record is left out and counted.
    pub fn note_call(&self, record: CallRecord) {
        self.inner.calls.note(record);
    }

    /// Number of records that were left out since the start.
    pub fn call_records_left_out(&self) -> u64 {
        self.inner.calls.left_out.load(Relaxed)
    }

    /// Queues the record of a call whose recording was found after its node had died, with `bytes` of audio.
    pub(crate) fn note_died(&self, recording: &Recording, bytes: u64) {
        let own = recording.owner == self.settings().node;
        if own && recording.incarnation == self.settings().incarnation {
            return;
        }
        let message_ms = bytes / u64::from(twinbox_rtp::SAMPLES_PER_MS);
        self.note_call(CallRecord {
            call: recording.call,
            began: recording.call_began.unwrap_or(recording.began),
            ended: Timestamp(recording.began.0.saturating_add(message_ms)),
            node: recording.owner.clone(),
            purpose: Purpose::Leave,
            mailbox: Some(recording.mailbox),
            number: None,
            caller: recording.caller.clone(),
            outcome: CallOutcome::NodeDied,
            message_ms,
        });
    }

    /// Writes queued records until stopped, then those that are still queued. Call it once; until then records wait.
    pub async fn write_call_records(&self, stop: impl Future<Output = ()>) {
        let Some(mut waiting) = lock(&self.inner.calls.waiting).take() else { return };
        let mut stop = pin!(stop);
        let (mut stopped, mut reported) = (false, 0);
        let mut group = Vec::with_capacity(GROUP);
        loop {
            if !stopped {
                tokio::select! {
                    received = waiting.recv() => group.extend(received),
                    () = &mut stop => stopped = true,
                }
            }
            if !stopped && waiting.len() < GROUP {
                tokio::select! {
                    () = tokio::time::sleep(GROUP_WITHIN) => {}
                    () = &mut stop => stopped = true,
                }
            }
            while group.len() < GROUP
                && let Ok(record) = waiting.try_recv()
            {
                group.push(record);
            }
            if group.is_empty() && stopped {
                return;
            }
            self.write_records(std::mem::take(&mut group)).await;
            let left_out = self.call_records_left_out();
            if left_out > reported {
                let count = left_out - reported;
                tracing::warn!(count, "call records were left out: the disk does not keep up");
                reported = left_out;
            }
        }
    }

    async fn write_records(&self, group: Vec<CallRecord>) {
        let count = group.len();
        let oldest = match self.inner.calls.keep_ms.load(Relaxed) {
            0 => Timestamp(0),
            keep_ms => Timestamp(wall().0.saturating_sub(keep_ms)),
        };
        let all =
            move |draft: &mut Draft<'_>| group.into_iter().try_for_each(|record| write(draft, record, oldest));
        if let Err(error) = self.commit_here(all).await {
            self.inner.calls.left_out.fetch_add(count as u64, Relaxed);
            tracing::warn!(count, %error, "call records cannot be stored; they are left out");
        }
    }

    /// Records of the calls of a range, in order of their begin; `after` skips those up to this one. Reads one row at a
    /// time: not for a thread that serves calls. A record that this release cannot read is an error of its own.
    pub fn call_records(
        &self,
        range: ReportRange,
        after: Option<(Timestamp, CallId)>,
    ) -> impl Iterator<Item = Result<CallRecord, MailError>> + Send + use<> {
        let first = schema::first_id(range.from);
        let from = after.map_or(first.clone(), |(began, call)| schema::id_after(began, call).max(first));
        let rows = self.store().rows_between(schema::CALL_RECORD, &from, &schema::first_id(range.to));
        rows.filter_map(|row| match row {
            Ok((key, record)) => CallRecord::read(&key, &record).map_err(MailError::from).transpose(),
            Err(error) => Some(Err(error.into())),
        })
    }

    /// Removes records older than `keep`, a few at a time, until the future is dropped.
    pub async fn keep_call_records(&self, keep: impl Fn() -> Duration) {
        let mut from = schema::first_id(Timestamp(0));
        loop {
            let keep = keep();
            self.inner.calls.keep_ms.store(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX), Relaxed);
            let pause = match self.remove_old_call_records(keep, &mut from).await {
                Ok(true) => PAUSES.0,
                Ok(false) => PAUSES.1,
                Err(error) => {
                    tracing::warn!(%error, "old call records cannot be removed; retrying");
                    PAUSES.1
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One step of the removal of records older than `keep` by the clock of the purge: reads a few rows with an id of at least `from`, and moves
    /// `from` behind those that need no further visit. Returns whether there may be more.
    pub async fn remove_old_call_records(&self, keep: Duration, from: &mut Vec<u8>) -> Result<bool, MailError> {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        // By a clock that is ahead every record would be old, on all nodes.
        let Some(now) = self.store().purge_clock()? else { return Ok(false) };
        let own_until = now.0.min(wall().0).saturating_sub(keep_ms);
        let until = Timestamp(own_until.saturating_sub(GRACE_MS));
        let (store, begin) = (self.store().clone(), from.clone());
        let end = schema::first_id(Timestamp(own_until));
        let read = move || {
            let rows = store.rows_between(schema::CALL_RECORD, &begin, &end).take(STEP);
            rows.collect::<Result<Vec<(Key, Record)>, StoreError>>()
        };
        let rows = blocking(read).await??;
        let more = rows.len() == STEP;
        let (mut old, mut waits) = (Vec::new(), None);
        for (key, record) in &rows {
            let node = match CallRecord::read(key, record) {
                Ok(None) => continue,
                Ok(Some(record)) => Some(record.node),
                // Removed like that of another node, however it reads.
                Err(_) => None,
            };
            let in_grace = schema::call_of(key).is_some_and(|(began, _)| began >= until);
            match node == Some(self.settings().node.clone()) || !in_grace {
                true => old.push(key.clone()),
                false => waits = waits.or_else(|| Some(key.id.clone())),
            }
        }
        if !old.is_empty() {
            self.commit_here(move |draft| {
                for key in old {
                    let record = draft.get(&key)?.unwrap_or_default();
                    draft.edit(key, CallRecord::removal(&record))?;
                }
                Ok(())
            })
            .await?;
        }
        // Records of other nodes in their grace are the last ones: the next pass begins with the first of them.
        let end_of_rows = rows.last().map(|(key, _)| [&key.id[..], &[0]].concat());
        let past = waits.is_none();
        if let Some(next) = waits.or(end_of_rows) {
            *from = next;
        }
        Ok(more && past)
    }
}

/// Writes a record. That of a dead node's call gives way to one that is there, and gets the mailbox's number; one from
/// before `oldest` was removed, and is not made again.
fn write(draft: &mut Draft<'_>, mut record: CallRecord, oldest: Timestamp) -> Result<(), MailError> {
    let key = record.key();
    if record.outcome == CallOutcome::NodeDied {
        if record.began < oldest || draft.get(&key)?.is_some() {
            return Ok(());
        }
        let mailbox = record.mailbox.and_then(|mailbox| mailbox_in(draft, mailbox).ok());
        record.number = mailbox.map(|mailbox| mailbox.number);
    }
    Ok(draft.edit(key, record.edits())?)
}
