//! Reads records and changes, with the parts that this release does not know.

use twinbox_ids::{NodeName, Origin, RecordingId, Stamp};
use twinbox_replication_core::{
    BlobRef, Change, CommitPart, Dots, Field, Key, Member, Members, PartPlace, Record, Table, Tag, Tombstone,
    Unknown, Value,
};

use crate::{
    DecodeError, ORIGINS, STAMPS, hash_from_wire,
    message::{Fields, Raw, packed},
    origin_from_wire,
    stamps::Read,
};

/// Fields of a record for which room is made at once.
const MANY: usize = 64;

struct Reading {
    stamps: Read,
    unknown: Unknown,
}

pub(crate) fn change(message: &[u8]) -> Result<Change, DecodeError> {
    let (mut origin, mut seq, mut key, mut delta) = (None, 0, None, None);
    let (mut part, mut unknown) = (CommitPart::default(), Unknown::new());
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => origin = Some(origin_from_wire(field.bytes()?)?),
            2 => seq = field.number()?,
            3 => key = Some(read_key(field.bytes()?)?),
            4 => delta = Some(field.bytes()?),
            5 => part.before = field.small()?,
            6 => part.after = field.small()?,
            _ => unknown.insert(PartPlace::Change, field.part()),
        }
    }
    if seq == 0 {
        return Err(DecodeError::Missing("sequence number"));
    }
    if u64::from(part.before) >= seq || seq.checked_add(part.after.into()).is_none() {
        return Err(DecodeError::Invalid("place in its commit"));
    }
    let delta = record(delta.ok_or(DecodeError::Missing("delta"))?)?;
    Ok(Change {
        part,
        origin: origin.ok_or(DecodeError::Missing("origin"))?,
        seq,
        key: key.ok_or(DecodeError::Missing("key"))?,
        delta: if unknown.is_empty() { delta } else { delta.with_unknown(unknown) },
    })
}

fn read_key(message: &[u8]) -> Result<Key, DecodeError> {
    let (mut table, mut id) = (0, &[][..]);
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => table = u16::try_from(field.number()?).map_err(|_| DecodeError::Invalid("table"))?,
            2 => id = field.bytes()?,
            _ => {}
        }
    }
    Ok(Key::new(Table(table), id))
}

pub(crate) fn record(message: &[u8]) -> Result<Record, DecodeError> {
    let mut reading = Reading { stamps: Read::of(message, (STAMPS, ORIGINS))?, unknown: Unknown::new() };
    // A hostile message may have millions of empty parts.
    let (mut fields, mut tombstone) = (Vec::with_capacity(reading.stamps.others.min(MANY)), None);
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => fields.push(reading.field(field.bytes()?)?),
            2 => tombstone = Some(reading.tombstone(field.bytes()?)?),
            STAMPS | ORIGINS => {}
            _ => reading.unknown.insert(PartPlace::Record, field.part()),
        }
    }
    let record = Record::from_parts(fields, tombstone);
    Ok(if reading.unknown.is_empty() { record } else { record.with_unknown(reading.unknown) })
}

/// The fields of a message that this release does not know.
#[derive(Default)]
pub(crate) struct Others<'a>(Vec<Raw<'a>>);

impl<'a> Others<'a> {
    fn add(&mut self, field: Raw<'a>) {
        self.0.push(field);
    }

    fn keep(self, place: &PartPlace, unknown: &mut Unknown) {
        self.0.iter().for_each(|field| unknown.insert(place.clone(), field.part()));
    }
}

impl Reading {
    fn field(&mut self, message: &[u8]) -> Result<(Tag, Field), DecodeError> {
        let (mut tag, mut kind, mut others) = (0, None, Others::default());
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => tag = tag_of(&field)?,
                number @ 2..=6 => kind = Some((number, field.bytes()?)),
                _ => others.add(field),
            }
        }
        // An unknown kind of merge arrives as none at all.
        let (number, content) = kind.ok_or(DecodeError::Missing("kind of merge"))?;
        others.keep(&PartPlace::Field(tag), &mut self.unknown);
        let field = match number {
            2 => self.register(tag, content)?,
            3 => Field::AddWins(self.members(tag, content)?),
            4 => Field::RemoveWins(self.members(tag, content)?),
            5 => self.counter(tag, content)?,
            _ => Field::Claim(self.members(tag, content)?),
        };
        Ok((tag, field))
    }

    fn register(&mut self, tag: Tag, message: &[u8]) -> Result<Field, DecodeError> {
        let (mut stamp, mut value, mut others) = (0, None, Others::default());
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => stamp = field.small()?,
                2 => value = Some(field.bytes()?),
                _ => others.add(field),
            }
        }
        let stamp = self.stamps.stamp(stamp)?;
        others.keep(&PartPlace::Register(tag, stamp), &mut self.unknown);
        Ok(Field::Register { stamp, value: self.value(tag, stamp, value.ok_or(DecodeError::Missing("value"))?)? })
    }

    fn value(&mut self, tag: Tag, stamp: Stamp, message: &[u8]) -> Result<Value, DecodeError> {
        let (mut value, mut others) = (None, Others::default());
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => value = Some(Value::Bytes(field.bytes()?.to_vec())),
                2 => {
                    let (blob, others) = blob(field.bytes()?)?;
                    others.keep(&PartPlace::Blob(tag, stamp), &mut self.unknown);
                    value = Some(Value::Blob(blob));
                }
                _ => others.add(field),
            }
        }
        others.keep(&PartPlace::Value(tag, stamp), &mut self.unknown);
        value.ok_or(DecodeError::Missing("value"))
    }

    fn members(&mut self, tag: Tag, message: &[u8]) -> Result<Members, DecodeError> {
        let (mut members, mut others) = (Vec::new(), Others::default());
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => members.push(self.member(tag, field.bytes()?)?),
                _ => others.add(field),
            }
        }
        others.keep(&PartPlace::Kind(tag), &mut self.unknown);
        Ok(members.into_iter().collect())
    }

    fn member(&mut self, tag: Tag, message: &[u8]) -> Result<(Vec<u8>, Member), DecodeError> {
        let (mut value, mut marks, mut seen, mut added) = (Vec::new(), Dots::new(), Dots::new(), false);
        let mut others = Others::default();
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => value = field.bytes()?.to_vec(),
                2 => marks = self.dots(field.bytes()?)?,
                3 => seen = self.dots(field.bytes()?)?,
                4 => added = field.number()? != 0,
                _ => others.add(field),
            }
        }
        others.keep(&PartPlace::Member(tag, value.clone()), &mut self.unknown);
        Ok((value, Member::new(marks, seen, added)))
    }

    fn dots(&self, numbers: &[u8]) -> Result<Dots, DecodeError> {
        packed(numbers).map(|number| self.stamps.stamp(number?)).collect()
    }

    fn counter(&mut self, tag: Tag, message: &[u8]) -> Result<Field, DecodeError> {
        let (mut cells, mut others) = (Vec::new(), Others::default());
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => cells.push(self.cell(tag, field.bytes()?)?),
                _ => others.add(field),
            }
        }
        others.keep(&PartPlace::Kind(tag), &mut self.unknown);
        Ok(Field::Counter(cells.into_iter().collect()))
    }

    fn cell(&mut self, tag: Tag, message: &[u8]) -> Result<((NodeName, Origin), u64), DecodeError> {
        let (mut node, mut count, mut origin, mut others) = (&[][..], 0, 0, Others::default());
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => node = field.bytes()?,
                2 => count = field.number()?,
                3 => origin = field.small()?,
                _ => others.add(field),
            }
        }
        let name = std::str::from_utf8(node).ok().and_then(|name| name.parse::<NodeName>().ok());
        let owner = (name.ok_or(DecodeError::Invalid("node name"))?, self.stamps.origin(origin)?);
        others.keep(&PartPlace::Cell(tag, owner.0.clone(), owner.1), &mut self.unknown);
        Ok((owner, count))
    }

    fn tombstone(&mut self, message: &[u8]) -> Result<Tombstone, DecodeError> {
        let (mut stamp, mut saw, mut others) = (0, Vec::new(), Others::default());
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => stamp = field.small()?,
                2 => saw.push(self.seen(field.bytes()?)?),
                _ => others.add(field),
            }
        }
        others.keep(&PartPlace::Tombstone, &mut self.unknown);
        Ok(Tombstone { stamp: self.stamps.stamp(stamp)?, saw: saw.into_iter().collect() })
    }

    fn seen(&self, message: &[u8]) -> Result<(Tag, Stamp), DecodeError> {
        let (mut tag, mut stamp) = (0, 0);
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => tag = tag_of(&field)?,
                2 => stamp = field.small()?,
                _ => {}
            }
        }
        Ok((tag, self.stamps.stamp(stamp)?))
    }
}

/// The name of a blob, and what else its message has.
pub(crate) fn blob(message: &[u8]) -> Result<(BlobRef, Others<'_>), DecodeError> {
    let (mut hash, mut length, mut recording, mut take) = (&[][..], 0, &[][..], 0);
    let mut others = Others::default();
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => hash = field.bytes()?,
            2 => length = field.number()?,
            3 => recording = field.bytes()?,
            4 => take = field.small()?,
            _ => others.add(field),
        }
    }
    let recording = match recording {
        [] => None,
        id => Some((RecordingId::from_slice(id).ok_or(DecodeError::Invalid("recording id"))?, take)),
    };
    Ok((BlobRef { hash: hash_from_wire(hash)?, length, recording }, others))
}

fn tag_of(field: &Raw<'_>) -> Result<Tag, DecodeError> {
    Tag::try_from(field.number()?).map_err(|_| DecodeError::Invalid("tag"))
}
