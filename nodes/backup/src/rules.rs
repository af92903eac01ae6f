//! The way of each record into another cluster, table by table (rule D8; the table is in DESIGN.md).

use twinbox_ids::Timestamp;
use twinbox_mailbox::{
    by_epoch,
    directory::schema::{BINDING, DIRECTORY},
    schema::{ADDRESS, MAILBOX, NUMBER, PIN_ATTEMPTS},
};
use twinbox_mailbox_sync::schema::{SYNC_ACCOUNT, SYNC_MESSAGE};
use twinbox_outbox::schema::{self as outbox, OUTBOX};
use twinbox_replication_core::{Key, Record, Table};
use twinbox_replication_store::{Draft, StoreError, codec};
use twinbox_timetable::{JobRun, RunState, schema::JOB_RUN};

/// Alarms, events and origins of nodes (`nodes/alarms/src/schema.rs`).
const ALARMS: std::ops::RangeInclusive<u16> = 256..=258;
/// Above this many bytes a record becomes several changes: a change has more around it than a row, and the same limit.
const LARGE: usize = 40 * 1024;
/// Reason of the end of effects and runs that were under way.
const RESTORED: &str = "expired: the cluster was restored from a backup";

/// The way of a record into another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As it is.
    Whole,
    /// Its value by epoch as one of no epoch: those of the old cluster would win over all that the new one writes.
    WithoutEpoch,
    /// An effect: given up, unless it ended.
    Expired,
    /// A run of a job: failed, unless it ended.
    Ended,
    /// Not at all: it tells of nodes of the old cluster, or of minutes long gone.
    Left,
}

fn way(table: Table) -> Way {
    match table {
        MAILBOX | DIRECTORY | BINDING | SYNC_ACCOUNT | SYNC_MESSAGE => Way::WithoutEpoch,
        OUTBOX => Way::Expired,
        JOB_RUN => Way::Ended,
        PIN_ATTEMPTS => Way::Left,
        Table(number) if ALARMS.contains(&number) => Way::Left,
        _ => Way::Whole,
    }
}

/// True when records of a table are restored.
pub(crate) fn is_restored(table: Table) -> bool {
    way(table) != Way::Left
}

/// True when records of a table are restored after all others: by a number or a mail address, a node that runs already
/// reaches a mailbox, and that needs its other records before.
pub(crate) fn is_last(table: Table) -> bool {
    matches!(table, NUMBER | ADDRESS)
}

/// The parts of a record that are written one by one: itself, unless it is large.
pub(crate) fn parts(record: Record) -> Vec<Record> {
    if codec::encode_record(&record).len() <= LARGE {
        return vec![record];
    }
    let mut parts = vec![Record::from_parts([], record.tombstone().cloned())];
    let mut size = 0;
    for (tag, field) in record.fields() {
        let part = Record::from_parts([(tag, field.clone())], None);
        let length = codec::encode_record(&part).len();
        match parts.last_mut() {
            Some(last) if size + length <= LARGE => {
                last.merge(part);
                size += length;
            }
            _ => {
                parts.push(part);
                size = length;
            }
        }
    }
    parts
}

/// The record as it comes into another cluster, before [`adopt`].
pub(crate) fn prepared(table: Table, record: Record) -> Record {
    match way(table) {
        Way::WithoutEpoch => by_epoch::without_epoch(&record),
        Way::Whole | Way::Expired | Way::Ended | Way::Left => record,
    }
}

/// Merges a record into the store. Repeated, it changes nothing. True when it ended an effect or a run.
pub(crate) fn adopt(draft: &mut Draft<'_>, key: Key, record: Record, now: Timestamp) -> Result<bool, StoreError> {
    let way = way(key.table);
    draft.adopt(key.clone(), record)?;
    let current = draft.get(&key)?.unwrap_or_default();
    let edits = match way {
        Way::Expired if is_open(&current) => twinbox_outbox::dead(now, RESTORED),
        Way::Ended => match JobRun::read(&key, &current) {
            Ok(Some(run)) if matches!(run.state, RunState::Running | RunState::Interrupted) => {
                run.ended(RunState::Failed, RESTORED, now).edits()
            }
            _ => return Ok(false),
        },
        _ => return Ok(false),
    };
    draft.edit(key, edits)?;
    Ok(true)
}

/// True when an effect could still be attempted, also one of a newer release.
fn is_open(effect: &Record) -> bool {
    effect.tombstone().is_none()
        && effect.register(outbox::DONE).is_none()
        && effect.register(outbox::DEAD).is_none()
}
