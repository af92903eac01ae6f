//! Writes records and changes. Parts that this release does not know stand behind the known ones of their message.

use twinbox_replication_core::{
    BlobRef, Change, Dots, Field, Members, PartPlace, Record, Tag, Tombstone, Unknown, Value,
};

use crate::{ORIGINS, STAMPS, message::Writer, stamps::Used};

struct Writing<'a> {
    stamps: Used,
    unknown: &'a Unknown,
}

pub(crate) fn change(change: &Change, writer: &mut Writer) {
    writer.bytes(1, &change.origin.to_bytes());
    writer.number(2, change.seq);
    writer.nested(3, |writer| {
        writer.number(1, change.key.table.0.into());
        writer.bytes(2, &change.key.id);
    });
    writer.nested(4, |writer| record(&change.delta, writer));
    writer.number(5, change.part.before.into());
    writer.number(6, change.part.after.into());
    writer.parts(change.delta.unknown().at(&PartPlace::Change));
}

pub(crate) fn record(record: &Record, writer: &mut Writer) {
    let mut writing = Writing { stamps: Used::default(), unknown: record.unknown() };
    for (tag, field) in record.fields() {
        writer.nested(1, |writer| writing.field(tag, field, writer));
    }
    if let Some(tombstone) = record.tombstone() {
        writer.nested(2, |writer| writing.tombstone(tombstone, writer));
    }
    writing.stamps.write((STAMPS, ORIGINS), writer);
    writer.parts(writing.unknown.at(&PartPlace::Record));
}

impl Writing<'_> {
    fn parts(&self, place: impl FnOnce() -> PartPlace, writer: &mut Writer) {
        if !self.unknown.is_empty() {
            writer.parts(self.unknown.at(&place()));
        }
    }

    fn field(&mut self, tag: Tag, field: &Field, writer: &mut Writer) {
        writer.number(1, tag.into());
        match field {
            Field::Register { .. } => writer.nested(2, |writer| self.register(tag, field, writer)),
            Field::AddWins(members) => writer.nested(3, |writer| self.members(tag, members, writer)),
            Field::RemoveWins(members) => writer.nested(4, |writer| self.members(tag, members, writer)),
            Field::Counter(_) => writer.nested(5, |writer| self.counter(tag, field, writer)),
            Field::Claim(members) => writer.nested(6, |writer| self.members(tag, members, writer)),
        }
        self.parts(|| PartPlace::Field(tag), writer);
    }

    fn register(&mut self, tag: Tag, field: &Field, writer: &mut Writer) {
        let Field::Register { stamp, value } = field else { return };
        writer.number(1, self.stamps.stamp(*stamp).into());
        writer.nested(2, |writer| {
            match value {
                Value::Bytes(bytes) => writer.present_bytes(1, bytes),
                Value::Blob(named) => writer.nested(2, |writer| {
                    blob(named, writer);
                    self.parts(|| PartPlace::Blob(tag, *stamp), writer);
                }),
            }
            self.parts(|| PartPlace::Value(tag, *stamp), writer);
        });
        self.parts(|| PartPlace::Register(tag, *stamp), writer);
    }

    fn members(&mut self, tag: Tag, members: &Members, writer: &mut Writer) {
        for (value, member) in members.iter() {
            writer.nested(1, |writer| {
                writer.bytes(1, value);
                self.dots(2, &member.marks, writer);
                self.dots(3, &member.seen, writer);
                writer.number(4, member.added.into());
                self.parts(|| PartPlace::Member(tag, value.to_vec()), writer);
            });
        }
        self.parts(|| PartPlace::Kind(tag), writer);
    }

    fn dots(&mut self, number: u32, dots: &Dots, writer: &mut Writer) {
        writer.packed(number, dots.iter().map(|stamp| self.stamps.stamp(*stamp)));
    }

    fn counter(&mut self, tag: Tag, field: &Field, writer: &mut Writer) {
        let Field::Counter(cells) = field else { return };
        for ((node, origin), count) in cells {
            writer.nested(1, |writer| {
                writer.bytes(1, node.as_str().as_bytes());
                writer.number(2, *count);
                writer.number(3, self.stamps.origin(*origin).into());
                self.parts(|| PartPlace::Cell(tag, node.clone(), *origin), writer);
            });
        }
        self.parts(|| PartPlace::Kind(tag), writer);
    }

    fn tombstone(&mut self, tombstone: &Tombstone, writer: &mut Writer) {
        writer.number(1, self.stamps.stamp(tombstone.stamp).into());
        for (tag, stamp) in &tombstone.saw {
            writer.nested(2, |writer| {
                writer.number(1, (*tag).into());
                writer.number(2, self.stamps.stamp(*stamp).into());
            });
        }
        self.parts(|| PartPlace::Tombstone, writer);
    }
}

pub(crate) fn blob(blob: &BlobRef, writer: &mut Writer) {
    writer.bytes(1, &blob.hash.0);
    writer.number(2, blob.length);
    if let Some((recording, take)) = blob.recording {
        writer.bytes(3, &recording.to_bytes());
        writer.number(4, take.into());
    }
}
