//! Values that are ordered by epoch before time: each node writes a register of its own, and the reader takes the one of
//! the highest (epoch, time); the reason is in [`crate::directory`].

use twinbox_ids::{Epoch, NodeName, Timestamp};
use twinbox_replication_core::{Edit, Field, Record, Tag, Value};

use crate::{schema::BY_EPOCH, value::set_bytes};

/// Author of a value by epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// The holder of the duty, in this epoch.
    Duty(Epoch),
    /// An administrator or an inbound service, on this node: in the epoch of the value that is replaced.
    Local(NodeName),
}

/// The row has a value of a newer epoch: the duty has another holder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("epoch {own} of the duty is over: epoch {newer} has written this row")]
pub struct StaleEpoch {
    /// Epoch of the refused write.
    pub own: Epoch,
    /// Epoch of the row.
    pub newer: Epoch,
}

/// One value of a row with the time of its write. Ordered by epoch before time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version<'a> {
    /// Epoch of its author; `None`: written before the duty wrote anything.
    pub epoch: Option<Epoch>,
    /// Time of the write.
    pub at: Timestamp,
    /// The value; empty: it was removed.
    pub value: &'a [u8],
}

/// All values of a row, of all nodes. Registers that this release cannot read are left out.
pub fn versions(record: &Record) -> impl Iterator<Item = Version<'_>> {
    record.fields().filter(|(tag, _)| *tag >= BY_EPOCH).filter_map(move |(tag, _)| read(record.bytes(tag)?))
}

/// The value that counts; its bytes are empty when the value was removed.
pub fn newest(record: &Record) -> Option<Version<'_>> {
    versions(record).max()
}

/// The edit that writes a value above all that the row has.
pub fn put(record: &Record, author: &Author, at: Timestamp, value: &[u8]) -> Result<Edit, StaleEpoch> {
    let newest = newest(record);
    let seen = newest.as_ref().and_then(|version| version.epoch.clone());
    let (epoch, node) = match author {
        Author::Duty(own) => match seen {
            Some(newer) if newer > *own => return Err(StaleEpoch { own: own.clone(), newer }),
            _ => (Some(own.clone()), own.node.clone()),
        },
        Author::Local(node) => (seen, node.clone()),
    };
    let above = newest.filter(|version| version.epoch == epoch).map_or(0, |version| version.at.0.saturating_add(1));
    let at = at.0.max(above);
    let name = epoch.as_ref().map_or("", |epoch| epoch.node.as_str());
    let (generation, number) = epoch.as_ref().map_or((0, 0), |epoch| (epoch.generation, epoch.number));
    // A node's name has at most 63 bytes.
    let length = u8::try_from(name.len()).unwrap_or_default();
    let mut bytes = [generation.to_be_bytes(), number.to_be_bytes()].concat();
    bytes.push(length);
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&at.to_be_bytes());
    bytes.extend_from_slice(value);
    Ok(set_bytes(tag_of(&node), bytes))
}

/// The record for another cluster, whose epochs begin again: all values become ones that were written before the duty
/// wrote anything. The value that counts keeps its time, the others are older than it: readers look into them too, such as
/// [`crate::Binding::read`]. A record without values that this release can read stays as it is.
pub fn without_epoch(record: &Record) -> Record {
    let tags = record.fields().map(|(tag, _)| tag).filter(|tag| *tag >= BY_EPOCH);
    let values: Vec<_> = tags.filter_map(|tag| Some((read(record.bytes(tag)?)?, tag))).collect();
    let Some((_, newest)) = values.iter().max() else { return record.clone() };
    let values = values.iter().filter_map(|(version, tag)| {
        let (_, stamp) = record.register(*tag)?;
        // Above 0, the time of all others.
        let at = if tag == newest { version.at.0.max(1) } else { 0 };
        // Generation, number and length of a node's name: no epoch.
        let mut bytes = vec![0; 17];
        bytes.extend_from_slice(&at.to_be_bytes());
        bytes.extend_from_slice(version.value);
        Some((*tag, Field::Register { stamp, value: Value::Bytes(bytes) }))
    });
    let others = record.fields().filter(|(tag, _)| *tag < BY_EPOCH).map(|(tag, field)| (tag, field.clone()));
    Record::from_parts(others.chain(values), record.tombstone().cloned())
}

fn tag_of(node: &NodeName) -> Tag {
    let hash = blake3::hash(node.as_str().as_bytes());
    let [high, low, ..] = *hash.as_bytes();
    BY_EPOCH | u16::from_be_bytes([high, low])
}

fn read(bytes: &[u8]) -> Option<Version<'_>> {
    let (generation, rest) = bytes.split_first_chunk::<8>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (at, value) = rest.split_first_chunk::<8>()?;
    let epoch = match name {
        [] => None,
        name => Some(Epoch {
            generation: u64::from_be_bytes(*generation),
            number: u64::from_be_bytes(*number),
            node: std::str::from_utf8(name).ok()?.parse().ok()?,
        }),
    };
    Some(Version { epoch, at: Timestamp(u64::from_be_bytes(*at)), value })
}
