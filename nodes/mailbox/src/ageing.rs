//! Ageing: messages whose time by the rules of a class of service is over.

use twinbox_ids::Timestamp;
use twinbox_replication_core::Record;

use crate::{
    Folder, Message, Rule, Rules,
    schema::message::{KEPT, RECEIVED, STATE},
};

/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Action on a message whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ageing {
    /// Delete it, as its owner does: it can be undeleted.
    Delete,
    /// Mark the content of a deleted message as removed: it cannot be undeleted any more.
    Purge,
}

/// End of a message's time by the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageTime {
    /// The action at its end.
    pub action: Ageing,
    /// Time of the latest change of the message, from which its time runs.
    pub since: Timestamp,
    /// Its end.
    pub ends: Timestamp,
}

/// The action that is due for a message at `now`; `record` is its record.
pub fn ageing(message: &Message, record: &Record, rules: &Rules, now: Timestamp) -> Option<Ageing> {
    message_time(message, record, rules).filter(|time| now >= time.ends).map(|time| time.action)
}

/// The time of a message; `None`: it stays. The time runs from its latest change: a message that was marked as new again,
/// saved or undeleted has its whole time again, and so has one that was imported.
pub fn message_time(message: &Message, record: &Record, rules: &Rules) -> Option<MessageTime> {
    let (rule, action) = match message.folder {
        _ if message.purged => return None,
        _ if message.deleted => (Rule::DeletedDays, Ageing::Purge),
        Folder::New => (Rule::NewDays, Ageing::Delete),
        Folder::Heard => (Rule::RetentionDays, Ageing::Delete),
        Folder::Saved => (Rule::SavedDays, Ageing::Delete),
    };
    let days = rules.get(rule)?;
    let changed = [RECEIVED, STATE, KEPT].into_iter().filter_map(|tag| Some(record.register(tag)?.1.wall));
    let deleted = record.tombstone().map(|tombstone| tombstone.stamp.wall);
    let since = changed.chain(deleted).chain([message.received.0]).max()?;
    let ends = since.saturating_add(days.saturating_mul(DAY_MS));
    Some(MessageTime { action, since: Timestamp(since), ends: Timestamp(ends) })
}

/// Whether a deleted message is to be purged at `now`: the time in which it can be undeleted is over, which is that of its
/// class of service, else `grace_ms`, in milliseconds. It does not begin before this node has `seen` the deletion: the
/// stamps in the record are by the clocks of other nodes.
pub fn is_purge_due(
    message: &Message,
    record: &Record,
    rules: &Rules,
    seen: Timestamp,
    now: Timestamp,
    grace_ms: u64,
) -> bool {
    // A new UID that the purge did not see outlives the purge: then the purge is repeated.
    let is_purged = message.purged && record.is_deleted();
    let Some(tombstone) = record.tombstone().filter(|_| message.deleted && !is_purged) else { return false };
    let (since, lasts) = match message_time(message, record, rules) {
        Some(time) => (time.since.0, time.ends.0.saturating_sub(time.since.0)),
        None => (tombstone.stamp.wall, grace_ms),
    };
    since.max(seen.0).saturating_add(lasts) <= now.0
}
