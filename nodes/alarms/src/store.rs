//! Reading alarms and events from the store.

use std::collections::BTreeSet;

use twinbox_ids::NodeName;
use twinbox_replication_core::{Change, Record};
use twinbox_replication_store::{Store, StoreError};

use crate::{
    alarm::Alarm,
    event::{Event, OriginSummary, read_origins},
    history::History,
    schema,
};

/// Maximum number of changes beyond the gap-free prefixes that are examined; with more, every origin counts as
/// unsettled.
const MAX_EXAMINED: usize = 4_096;

/// Alarms of all nodes, or of one node.
pub fn alarms(store: &Store, of: Option<&NodeName>) -> Result<Vec<Alarm>, StoreError> {
    let prefix = of.map(schema::prefix).unwrap_or_default();
    let rows = store.scan(schema::ALARM, &prefix)?;
    Ok(rows.iter().filter_map(|(key, record)| Alarm::read(key, record)).collect())
}

/// Events of one node.
pub fn events(store: &Store, node: &NodeName) -> Result<Vec<Event>, StoreError> {
    let rows = store.scan(schema::EVENT, &schema::prefix(node))?;
    Ok(rows.iter().filter_map(|(key, record)| Event::read(key, record)).collect())
}

/// Origins of one node's store.
pub fn origins(store: &Store, node: &NodeName) -> Result<Vec<OriginSummary>, StoreError> {
    Ok(store.get(&schema::origins_key(node))?.as_ref().map(read_origins).unwrap_or_default())
}

/// All stored events.
pub fn history(store: &Store) -> Result<History, StoreError> {
    let mut history = History::default();
    for (key, record) in store.scan(schema::ORIGINS, &[])? {
        if let Some(node) = schema::node_of_origins(&key) {
            history.put_origins(&node, read_origins(&record));
        }
    }
    for (key, record) in store.scan(schema::EVENT, &[])? {
        if let Some((node, slot)) = schema::slot_of(&key) {
            history.put(&node, slot, Event::read(&key, &record));
        }
    }
    Ok(history)
}

/// Applies a change to the history; false if the change concerns neither events nor origins. The current record is
/// read, not the change, because a later change may have overtaken it.
pub fn update(history: &mut History, store: &Store, change: &Change) -> Result<bool, StoreError> {
    let record = || Ok::<Record, StoreError>(store.get(&change.key)?.unwrap_or_default());
    match change.key.table {
        schema::EVENT => {
            if let Some((node, slot)) = schema::slot_of(&change.key) {
                history.put(&node, slot, Event::read(&change.key, &record()?));
            }
        }
        schema::ORIGINS => {
            if let Some(node) = schema::node_of_origins(&change.key) {
                history.put_origins(&node, read_origins(&record()?));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Origins with changes here that are not yet connected to the gap-free prefix; `None`: too many changes to
/// examine.
pub fn unsettled(store: &Store) -> Result<Option<BTreeSet<twinbox_ids::Origin>>, StoreError> {
    let beyond = store.changes_after(&store.log_ends(), MAX_EXAMINED)?;
    Ok((beyond.len() < MAX_EXAMINED).then(|| beyond.iter().map(|change| change.origin).collect()))
}
