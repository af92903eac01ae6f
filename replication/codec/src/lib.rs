//! Converts between the values of `twinbox-replication-core` and the protobuf messages of `twinbox-wire`: the disk and
//! the peers get the same messages. On disk a format-version byte stands before each.
//!
//! Decoding takes bytes from anywhere: a part that is incomplete, or of an unknown kind, is an error, never a panic. Fields of
//! messages that this release does not know are kept. Nothing is dropped silently, since a record that lost a field would
//! forget a write.

pub mod keys;
mod unknown;

use bytes::Bytes;
use prost::Message;
use twinbox_ids::{BlobHash, NodeName, Origin, RecordingId, Stamp};
use twinbox_replication_core::{
    BlobRef, Change, CommitPart, Dots, Field, Key, Member, Members, Place, Record, Table, Tag, Tombstone, Unknown,
    Value, Vector,
};
use twinbox_wire::replication as wire;

/// The version of the disk format, before each value.
pub const FORMAT: u8 = 2;

/// Bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a release with another format.
    #[error("format version {found} is not that of this release, {FORMAT}: {}", remedy(*found))]
    Version {
        /// The version.
        found: u8,
    },
    /// There are no bytes.
    #[error("no data")]
    Empty,
    /// The bytes are no protobuf message.
    #[error("not a protobuf message: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A required part is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A part has an invalid value.
    #[error("{0} is not valid")]
    Invalid(&'static str),
}

fn remedy(found: u8) -> &'static str {
    match found < FORMAT {
        true => {
            "use the release that wrote it, or move the data folder to another place and start with an empty one, \
             which the other nodes fill"
        }
        false => "use the release that wrote it",
    }
}

/// A record as it lies on disk.
pub fn encode_record(record: &Record) -> Vec<u8> {
    after_version(&record_to_bytes(record))
}

/// The inverse of [`encode_record`].
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    record_from_bytes(message(bytes)?)
}

/// A change as it lies on disk.
pub fn encode_change(change: &Change) -> Vec<u8> {
    after_version(&change_to_bytes(change))
}

/// The inverse of [`encode_change`].
pub fn decode_change(bytes: &[u8]) -> Result<Change, DecodeError> {
    change_from_bytes(message(bytes)?)
}

/// The name of a blob as it lies on disk.
pub fn encode_blob(blob: &BlobRef) -> Vec<u8> {
    versioned(&blob_to_wire(blob))
}

/// The inverse of [`encode_blob`].
pub fn decode_blob(bytes: &[u8]) -> Result<BlobRef, DecodeError> {
    blob_from_wire(&unversioned(bytes)?)
}

/// A stamp as it lies on disk.
pub fn encode_stamp(stamp: Stamp) -> Vec<u8> {
    versioned(&stamp_to_wire(stamp))
}

/// The inverse of [`encode_stamp`].
pub fn decode_stamp(bytes: &[u8]) -> Result<Stamp, DecodeError> {
    stamp_from_wire(Some(unversioned(bytes)?), "stamp")
}

/// Encodes the number up to which changes of an origin are present, for storage.
pub fn encode_upto(upto: u64) -> Vec<u8> {
    [&[FORMAT][..], &upto.to_be_bytes()].concat()
}

/// Decodes what [`encode_upto`] made; 0 when nothing is stored.
pub fn decode_upto(bytes: Option<&[u8]>) -> Result<u64, DecodeError> {
    match bytes {
        None => Ok(0),
        Some([FORMAT, upto @ ..]) => {
            Ok(u64::from_be_bytes(upto.try_into().map_err(|_| DecodeError::Invalid("length"))?))
        }
        Some([found, ..]) => Err(DecodeError::Version { found: *found }),
        Some([]) => Err(DecodeError::Empty),
    }
}

fn versioned(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(FORMAT);
    message.encode_raw(&mut bytes);
    bytes
}

fn after_version(message: &[u8]) -> Vec<u8> {
    [&[FORMAT], message].concat()
}

fn unversioned<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    Ok(M::decode(message(bytes)?)?)
}

/// The message behind the format version.
fn message(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&FORMAT, message)) => Ok(message),
        Some((&found, _)) => Err(DecodeError::Version { found }),
    }
}

/// A change for the wire, with the parts that this release does not know.
pub fn change_to_bytes(change: &Change) -> Vec<u8> {
    unknown::with(change_to_wire(change).encode_to_vec(), change.delta.unknown(), &Place::Change)
}

/// A change from the wire, with the parts that this release does not know.
pub fn change_from_bytes(bytes: &[u8]) -> Result<Change, DecodeError> {
    let message = wire::Change::decode(bytes)?;
    let has_unknown = message.encoded_len() != bytes.len();
    let mut change = change_from_wire(message)?;
    if has_unknown {
        let mut found = Unknown::new();
        unknown::of_change(bytes)?.into_iter().for_each(|part| found.insert(Place::Change, part));
        change.delta = change.delta.with_unknown(found);
    }
    Ok(change)
}

/// A record for the wire, with the parts that this release does not know.
pub fn record_to_bytes(record: &Record) -> Vec<u8> {
    match record.unknown().is_empty() {
        true => record_to_wire(record).encode_to_vec(),
        false => unknown::record_with(record),
    }
}

/// A record from the wire, with the parts that this release does not know.
pub fn record_from_bytes(bytes: &[u8]) -> Result<Record, DecodeError> {
    let message = wire::Record::decode(bytes)?;
    let has_unknown = message.encoded_len() != bytes.len();
    let record = record_from_wire(message)?;
    Ok(if has_unknown { record.with_unknown(unknown::of_record(bytes)?) } else { record })
}

fn change_to_wire(change: &Change) -> wire::Change {
    wire::Change {
        origin: origin_to_wire(change.origin),
        seq: change.seq,
        key: Some(wire::Key { table: change.key.table.0.into(), id: change.key.id.clone().into() }),
        delta: Some(record_to_bytes(&change.delta).into()),
        before: change.part.before,
        after: change.part.after,
    }
}

fn change_from_wire(change: wire::Change) -> Result<Change, DecodeError> {
    let key = change.key.ok_or(DecodeError::Missing("key"))?;
    let table = u16::try_from(key.table).map_err(|_| DecodeError::Invalid("table"))?;
    if change.seq == 0 {
        return Err(DecodeError::Missing("sequence number"));
    }
    let part = CommitPart { before: change.before, after: change.after };
    if u64::from(part.before) >= change.seq || change.seq.checked_add(part.after.into()).is_none() {
        return Err(DecodeError::Invalid("place in its commit"));
    }
    Ok(Change {
        part,
        origin: origin_from_wire(&change.origin)?,
        seq: change.seq,
        key: Key::new(Table(table), key.id),
        delta: record_from_bytes(&change.delta.ok_or(DecodeError::Missing("delta"))?)?,
    })
}

/// A vector for the wire.
pub fn vector_to_wire(vector: &Vector) -> wire::Vector {
    let prefix = |(origin, upto)| wire::Prefix { origin: origin_to_wire(origin), upto };
    wire::Vector { prefix: vector.iter().map(prefix).collect() }
}

/// A vector from the wire.
pub fn vector_from_wire(vector: &wire::Vector) -> Result<Vector, DecodeError> {
    vector.prefix.iter().map(|prefix| Ok((origin_from_wire(&prefix.origin)?, prefix.upto))).collect()
}

fn record_to_wire(record: &Record) -> wire::Record {
    let field = |(tag, field): (Tag, &Field)| wire::Field { tag: tag.into(), merge: Some(field_to_wire(field)) };
    wire::Record {
        field: record.fields().map(field).collect(),
        tombstone: record.tombstone().map(tombstone_to_wire),
    }
}

fn record_from_wire(record: wire::Record) -> Result<Record, DecodeError> {
    let fields: Vec<(Tag, Field)> = record
        .field
        .into_iter()
        .map(|field| {
            // An unknown kind of merge arrives as none at all.
            let merge = field.merge.ok_or(DecodeError::Missing("kind of merge"))?;
            Ok((tag_from_wire(field.tag)?, field_from_wire(merge)?))
        })
        .collect::<Result<_, DecodeError>>()?;
    Ok(Record::from_parts(fields, record.tombstone.map(tombstone_from_wire).transpose()?))
}

fn field_to_wire(field: &Field) -> wire::field::Merge {
    use wire::field::Merge;
    match field {
        Field::Register { stamp, value } => Merge::Register(wire::Register {
            stamp: Some(stamp_to_wire(*stamp)),
            value: Some(value_to_wire(value)),
        }),
        Field::AddWins(members) => Merge::AddWins(members_to_wire(members)),
        Field::RemoveWins(members) => Merge::RemoveWins(members_to_wire(members)),
        Field::Claim(members) => Merge::Claim(members_to_wire(members)),
        Field::Counter(cells) => {
            let cell = |((node, origin), count): (&(NodeName, Origin), &u64)| wire::Cell {
                node: node.to_string(),
                count: *count,
                origin: origin_to_wire(*origin),
            };
            Merge::Counter(wire::Counter { cell: cells.iter().map(cell).collect() })
        }
    }
}

fn field_from_wire(merge: wire::field::Merge) -> Result<Field, DecodeError> {
    use wire::field::Merge;
    Ok(match merge {
        Merge::Register(register) => Field::Register {
            stamp: stamp_from_wire(register.stamp, "stamp")?,
            value: value_from_wire(register.value)?,
        },
        Merge::AddWins(members) => Field::AddWins(members_from_wire(members)?),
        Merge::RemoveWins(members) => Field::RemoveWins(members_from_wire(members)?),
        Merge::Claim(members) => Field::Claim(members_from_wire(members)?),
        Merge::Counter(counter) => Field::Counter(
            counter
                .cell
                .into_iter()
                .map(|cell| {
                    let node = cell.node.parse().map_err(|_| DecodeError::Invalid("node name"))?;
                    Ok(((node, origin_from_wire(&cell.origin)?), cell.count))
                })
                .collect::<Result<_, DecodeError>>()?,
        ),
    })
}

fn members_to_wire(members: &Members) -> wire::Members {
    let stamps = |dots: &Dots| dots.iter().map(|stamp| stamp_to_wire(*stamp)).collect();
    let member = |(value, member): (&[u8], &Member)| wire::Member {
        value: Bytes::copy_from_slice(value),
        marks: stamps(&member.marks),
        seen: stamps(&member.seen),
        added: member.added,
    };
    wire::Members { member: members.iter().map(member).collect() }
}

fn members_from_wire(members: wire::Members) -> Result<Members, DecodeError> {
    let dots = |stamps: Vec<wire::Stamp>| -> Result<Dots, DecodeError> {
        stamps.into_iter().map(|stamp| stamp_from_wire(Some(stamp), "stamp")).collect()
    };
    let member = |member: wire::Member| {
        Ok((member.value.into(), Member::new(dots(member.marks)?, dots(member.seen)?, member.added)))
    };
    members.member.into_iter().map(member).collect()
}

fn tombstone_to_wire(tombstone: &Tombstone) -> wire::Tombstone {
    let seen = |(tag, stamp): (&Tag, &Stamp)| wire::Seen { tag: (*tag).into(), stamp: Some(stamp_to_wire(*stamp)) };
    wire::Tombstone { stamp: Some(stamp_to_wire(tombstone.stamp)), saw: tombstone.saw.iter().map(seen).collect() }
}

fn tombstone_from_wire(tombstone: wire::Tombstone) -> Result<Tombstone, DecodeError> {
    let seen = |seen: wire::Seen| Ok((tag_from_wire(seen.tag)?, stamp_from_wire(seen.stamp, "seen stamp")?));
    Ok(Tombstone {
        stamp: stamp_from_wire(tombstone.stamp, "stamp of its delete")?,
        saw: tombstone.saw.into_iter().map(seen).collect::<Result<_, DecodeError>>()?,
    })
}

fn value_to_wire(value: &Value) -> wire::Value {
    let value = match value {
        Value::Bytes(bytes) => wire::value::Value::Bytes(Bytes::copy_from_slice(bytes)),
        Value::Blob(blob) => wire::value::Value::Blob(blob_to_wire(blob)),
    };
    wire::Value { value: Some(value) }
}

fn value_from_wire(value: Option<wire::Value>) -> Result<Value, DecodeError> {
    match value.and_then(|value| value.value).ok_or(DecodeError::Missing("value"))? {
        wire::value::Value::Bytes(bytes) => Ok(Value::Bytes(bytes.into())),
        wire::value::Value::Blob(blob) => Ok(Value::Blob(blob_from_wire(&blob)?)),
    }
}

/// The name of a blob for the wire.
pub fn blob_to_wire(blob: &BlobRef) -> wire::BlobRef {
    wire::BlobRef {
        hash: Bytes::copy_from_slice(&blob.hash.0),
        length: blob.length,
        recording: blob.recording.map(|(id, _)| Bytes::copy_from_slice(&id.to_bytes())).unwrap_or_default(),
        take: blob.recording.map_or(0, |(_, take)| take),
    }
}

/// The name of a blob from the wire.
pub fn blob_from_wire(blob: &wire::BlobRef) -> Result<BlobRef, DecodeError> {
    let recording = match blob.recording.as_ref() {
        [] => None,
        id => Some((RecordingId::from_slice(id).ok_or(DecodeError::Invalid("recording id"))?, blob.take)),
    };
    Ok(BlobRef { hash: hash_from_wire(&blob.hash)?, length: blob.length, recording })
}

/// A blob's hash from the wire.
pub fn hash_from_wire(hash: &[u8]) -> Result<BlobHash, DecodeError> {
    hash.try_into().map(BlobHash).map_err(|_| DecodeError::Invalid("blob hash"))
}

/// An origin for the wire.
pub fn origin_to_wire(origin: Origin) -> Bytes {
    Bytes::copy_from_slice(&origin.to_bytes())
}

/// An origin from the wire.
pub fn origin_from_wire(origin: &[u8]) -> Result<Origin, DecodeError> {
    Origin::from_slice(origin).ok_or(DecodeError::Invalid("origin"))
}

fn tag_from_wire(tag: u32) -> Result<Tag, DecodeError> {
    Tag::try_from(tag).map_err(|_| DecodeError::Invalid("tag"))
}

fn stamp_to_wire(stamp: Stamp) -> wire::Stamp {
    wire::Stamp { wall: stamp.wall, counter: stamp.counter, origin: origin_to_wire(stamp.origin) }
}

fn stamp_from_wire(stamp: Option<wire::Stamp>, what: &'static str) -> Result<Stamp, DecodeError> {
    let stamp = stamp.ok_or(DecodeError::Missing(what))?;
    Ok(Stamp { wall: stamp.wall, counter: stamp.counter, origin: origin_from_wire(&stamp.origin)? })
}
