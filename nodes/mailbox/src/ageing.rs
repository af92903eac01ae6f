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

/// The action that is due for a message at `now`; `record` is its record. The time runs from its latest change: a
/// message that was marked as new again, saved or undeleted has its whole time again, and so has one that was imported.
pub fn ageing(message: &Message, record: &Record, rules: &Rules, now: Timestamp) -> Option<Ageing> {
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
    (now.0 >= ends).then_some(action)
}
