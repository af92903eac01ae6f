//! Parts of messages that a later release wrote: found beside what this release knows, and written back to their places.
//!
//! Messages without such parts, which are all but a few, are as long as this release would write them.

use bytes::Buf;
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};
use twinbox_ids::Stamp;
use twinbox_replication_core::{Part, PartPlace, Record, Tag, Unknown};
use twinbox_wire::replication as wire;

use super::{DecodeError, origin_from_wire, record_to_wire, stamp_from_wire, tag_from_wire};

/// A field of a message.
struct Raw<'a> {
    number: u32,
    /// Number and content.
    bytes: &'a [u8],
    /// The content of one that is a message or bytes.
    payload: &'a [u8],
}

fn fields(mut message: &[u8]) -> Result<Vec<Raw<'_>>, DecodeError> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let mut rest = message;
        let (number, kind) = decode_key(&mut rest)?;
        let mut payload: &[u8] = &[];
        if kind == WireType::LengthDelimited {
            let length = decode_varint(&mut rest)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
            payload = &rest[..length.ok_or(DecodeError::Invalid("length"))?];
            rest.advance(payload.len());
        } else {
            skip_field(kind, number, &mut rest, DecodeContext::default())?;
        }
        fields.push(Raw { number, bytes: &message[..message.len() - rest.len()], payload });
        message = rest;
    }
    Ok(fields)
}

/// The unknown parts of a change, apart from those of its record.
pub(super) fn of_change(message: &[u8]) -> Result<Vec<Part>, DecodeError> {
    let unknown = fields(message)?.into_iter().filter(|field| field.number > LAST_OF_CHANGE);
    Ok(unknown.map(|field| part(&field)).collect())
}

/// The last number of a field of a change.
const LAST_OF_CHANGE: u32 = 6;

fn part(raw: &Raw<'_>) -> Part {
    Part { number: raw.number, bytes: raw.bytes.to_vec() }
}

/// The unknown parts of a record.
pub(super) fn of_record(message: &[u8]) -> Result<Unknown, DecodeError> {
    let mut found = Unknown::new();
    for raw in fields(message)? {
        match raw.number {
            1 => field(raw.payload, &mut found)?,
            2 => beside(raw.payload, 2, &PartPlace::Tombstone, &mut found)?,
            _ => found.insert(PartPlace::Record, part(&raw)),
        }
    }
    Ok(found)
}

/// Finds the parts of a message after the last known field; it does not search within them.
fn beside(message: &[u8], last: u32, place: &PartPlace, found: &mut Unknown) -> Result<(), DecodeError> {
    let unknown = fields(message)?.into_iter().filter(|raw| raw.number > last);
    unknown.for_each(|raw| found.insert(place.clone(), part(&raw)));
    Ok(())
}

fn field(message: &[u8], found: &mut Unknown) -> Result<(), DecodeError> {
    let tag = tag_from_wire(wire::Field::decode(message)?.tag)?;
    for raw in fields(message)? {
        match raw.number {
            1 => {}
            2 => register(tag, raw.payload, found)?,
            3 | 4 | 6 => {
                beside(raw.payload, 1, &PartPlace::Kind(tag), found)?;
                for raw in fields(raw.payload)?.into_iter().filter(|raw| raw.number == 1) {
                    let member = wire::Member::decode(raw.payload)?;
                    beside(raw.payload, 4, &PartPlace::Member(tag, member.value.into()), found)?;
                }
            }
            5 => {
                beside(raw.payload, 1, &PartPlace::Kind(tag), found)?;
                for raw in fields(raw.payload)?.into_iter().filter(|raw| raw.number == 1) {
                    let cell = wire::Cell::decode(raw.payload)?;
                    let node = cell.node.parse().map_err(|_| DecodeError::Invalid("node name"))?;
                    let place = PartPlace::Cell(tag, node, origin_from_wire(&cell.origin)?);
                    beside(raw.payload, 3, &place, found)?;
                }
            }
            _ => found.insert(PartPlace::Field(tag), part(&raw)),
        }
    }
    Ok(())
}

fn register(tag: Tag, message: &[u8], found: &mut Unknown) -> Result<(), DecodeError> {
    let stamp: Stamp = stamp_from_wire(wire::Register::decode(message)?.stamp, "stamp")?;
    beside(message, 2, &PartPlace::Register(tag, stamp), found)?;
    for value in fields(message)?.into_iter().filter(|raw| raw.number == 2) {
        beside(value.payload, 2, &PartPlace::Value(tag, stamp), found)?;
        for blob in fields(value.payload)?.into_iter().filter(|raw| raw.number == 2) {
            beside(blob.payload, 4, &PartPlace::Blob(tag, stamp), found)?;
        }
    }
    Ok(())
}

/// A record with its unknown parts, each behind the known ones of its message.
pub(super) fn record_with(record: &Record) -> Vec<u8> {
    let unknown = record.unknown();
    let wire::Record { field, tombstone } = record_to_wire(record);
    let mut bytes = Vec::new();
    for field in field {
        nested(1, field_with(field, unknown), &mut bytes);
    }
    if let Some(tombstone) = tombstone {
        nested(2, with(tombstone.encode_to_vec(), unknown, &PartPlace::Tombstone), &mut bytes);
    }
    with(bytes, unknown, &PartPlace::Record)
}

fn field_with(field: wire::Field, unknown: &Unknown) -> Vec<u8> {
    use wire::field::Merge;
    let number = field.tag;
    let mut bytes = wire::Field { tag: number, merge: None }.encode_to_vec();
    // Tags of records are within the range.
    let Ok(tag) = Tag::try_from(number) else { return bytes };
    match field.merge {
        Some(Merge::Register(register)) => nested(2, register_with(tag, register, unknown), &mut bytes),
        Some(Merge::AddWins(members)) => nested(3, members_with(tag, members, unknown), &mut bytes),
        Some(Merge::RemoveWins(members)) => nested(4, members_with(tag, members, unknown), &mut bytes),
        Some(Merge::Counter(counter)) => nested(5, counter_with(tag, counter, unknown), &mut bytes),
        Some(Merge::Claim(members)) => nested(6, members_with(tag, members, unknown), &mut bytes),
        None => {}
    }
    with(bytes, unknown, &PartPlace::Field(tag))
}

fn register_with(tag: Tag, register: wire::Register, unknown: &Unknown) -> Vec<u8> {
    use wire::value::Value;
    let wire::Register { stamp, value } = register;
    let Ok(written) = stamp_from_wire(stamp.clone(), "stamp") else { return Vec::new() };
    let mut bytes = wire::Register { stamp, value: None }.encode_to_vec();
    if let Some(value) = value {
        let known = match &value.value {
            Some(Value::Blob(blob)) => {
                let mut known = Vec::new();
                nested(2, with(blob.encode_to_vec(), unknown, &PartPlace::Blob(tag, written)), &mut known);
                known
            }
            _ => value.encode_to_vec(),
        };
        nested(2, with(known, unknown, &PartPlace::Value(tag, written)), &mut bytes);
    }
    with(bytes, unknown, &PartPlace::Register(tag, written))
}

fn members_with(tag: Tag, members: wire::Members, unknown: &Unknown) -> Vec<u8> {
    let mut bytes = Vec::new();
    for member in members.member {
        let place = PartPlace::Member(tag, member.value.to_vec());
        nested(1, with(member.encode_to_vec(), unknown, &place), &mut bytes);
    }
    with(bytes, unknown, &PartPlace::Kind(tag))
}

fn counter_with(tag: Tag, counter: wire::Counter, unknown: &Unknown) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cell in counter.cell {
        let known = cell.encode_to_vec();
        let owner = cell.node.parse().ok().zip(origin_from_wire(&cell.origin).ok());
        let known = match owner {
            Some((node, origin)) => with(known, unknown, &PartPlace::Cell(tag, node, origin)),
            None => known,
        };
        nested(1, known, &mut bytes);
    }
    with(bytes, unknown, &PartPlace::Kind(tag))
}

/// Adds the parts at a place.
pub(super) fn with(mut bytes: Vec<u8>, unknown: &Unknown, place: &PartPlace) -> Vec<u8> {
    unknown.at(place).for_each(|part| bytes.extend_from_slice(&part.bytes));
    bytes
}

fn nested(number: u32, message: Vec<u8>, into: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, into);
    encode_varint(message.len() as u64, into);
    into.extend_from_slice(&message);
}
