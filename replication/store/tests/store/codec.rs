//! The formats on disk and on the wire.

use proptest::prelude::*;
use prost::Message;
use twinbox_ids::{BlobHash, Origin, RecordingId, Stamp};
use twinbox_replication_core::{
    BlobRef, Change, CommitPart, Edit, Field, Part, PartPlace, Record, Unknown, Value, Vector,
};
use twinbox_replication_store::codec::{self, DecodeError};
use twinbox_wire::replication as wire;

use crate::{key, node};

/// A record with every kind of field in every state, and a delete.
fn everything() -> Record {
    let blob = BlobRef { hash: BlobHash([3; 32]), length: 77, recording: Some((RecordingId(9), 2)) };
    let edits = [
        Edit::Set(1, Value::Bytes(b"text".to_vec())),
        Edit::Set(2, Value::Blob(blob)),
        Edit::Set(3, Value::Blob(BlobRef { recording: None, ..blob })),
        Edit::Set(4, Value::Bytes(Vec::new())),
        Edit::Add(5, b"in".to_vec()),
        Edit::Add(5, b"out".to_vec()),
        Edit::Remove(5, b"out".to_vec()),
        Edit::Grant(6, b"in".to_vec()),
        Edit::Grant(6, b"out".to_vec()),
        Edit::Revoke(6, b"out".to_vec()),
        Edit::Count(7, 3),
        Edit::Claim(8, b"claimant".to_vec()),
        Edit::Delete,
        Edit::Set(u16::MAX, Value::Bytes(b"after".to_vec())),
        Edit::Claim(8, b"another".to_vec()),
    ];
    let mut record = Record::new();
    for (i, edit) in edits.iter().enumerate() {
        let stamp = Stamp { wall: 1000 + i as u64, counter: i as u32, origin: Origin(u128::MAX - i as u128 % 3) };
        record.merge(edit.delta(&record, stamp, &node("a")));
    }
    record
}

#[test]
fn records_survive_encoding() {
    let record = everything();
    assert_eq!(codec::decode_record(&codec::encode_record(&record)), Ok(record.clone()));
    let change = Change {
        origin: Origin(7),
        seq: u64::MAX,
        key: key("x"),
        delta: record,
        part: CommitPart { before: 7, after: 0 },
    };
    assert_eq!(codec::decode_change(&codec::encode_change(&change)), Ok(change));
    let vector = Vector::from_iter([(Origin(1), 5), (Origin(u128::MAX), u64::MAX)]);
    assert_eq!(codec::vector_from_wire(&codec::vector_to_wire(&vector)), Ok(vector));
}

/// The record with a part of a later release in each message, and of the change that brings it.
fn from_a_later_release() -> Record {
    let record = everything();
    let mut places = vec![PartPlace::Change, PartPlace::Record, PartPlace::Tombstone];
    for (tag, field) in record.fields() {
        places.push(PartPlace::Field(tag));
        match field {
            Field::Register { stamp, value } => {
                places.extend([PartPlace::Register(tag, *stamp), PartPlace::Value(tag, *stamp)]);
                places.extend(value.blob().map(|_| PartPlace::Blob(tag, *stamp)));
            }
            Field::AddWins(members) | Field::RemoveWins(members) | Field::Claim(members) => {
                places.push(PartPlace::Kind(tag));
                places.extend(members.iter().map(|(value, _)| PartPlace::Member(tag, value.to_vec())));
            }
            Field::Counter(cells) => {
                places.push(PartPlace::Kind(tag));
                places.extend(cells.keys().map(|(node, origin)| PartPlace::Cell(tag, node.clone(), *origin)));
            }
        }
    }
    let mut unknown = Unknown::new();
    for place in places {
        // Numbers 15 and 100: a varint, and bytes; two contents of the latter.
        unknown.insert(place.clone(), Part { number: 15, bytes: vec![0x78, 0x85, 0x01] });
        for content in [b'x', b'y'] {
            unknown.insert(place.clone(), Part { number: 100, bytes: vec![0xa2, 0x06, 1, content] });
        }
    }
    record.with_unknown(unknown)
}

#[test]
fn parts_of_a_later_release_survive_at_their_places() {
    let record = from_a_later_release();
    let change = Change {
        origin: Origin(7),
        seq: 1,
        key: key("x"),
        delta: record.clone(),
        part: CommitPart { before: 0, after: 9 },
    };
    let bytes = codec::change_to_bytes(&change);
    let read = codec::change_from_bytes(&bytes).expect("a change");
    assert_eq!(read, change);
    assert_eq!(codec::change_to_bytes(&read), bytes, "it is forwarded as it came");
    assert_eq!(codec::decode_change(&codec::encode_change(&change)), Ok(change.clone()));
    // A release that knows none of them reads the rest, and this one reads it without them.
    let known = wire::Record::decode(&codec::record_to_bytes(&record)[..]).expect("a record").encode_to_vec();
    assert_eq!(codec::record_from_bytes(&known), Ok(everything()));
    // A row has what the change has, apart from what belongs to the change itself.
    let mut row = Record::new();
    row.merge(record.clone());
    assert_eq!(row.unknown().at(&PartPlace::Change).count(), 0);
    assert_eq!(row.unknown().at(&PartPlace::Record).count(), 3);
    assert_eq!(codec::decode_record(&codec::encode_record(&row)), Ok(row));
    // As a later release writes it: behind the fields that are known here.
    let simple = [codec::record_to_bytes(&everything()), vec![0x78, 0x85, 0x01]].concat();
    let read = codec::record_from_bytes(&simple).expect("a record");
    assert_eq!(read.unknown().at(&PartPlace::Record).count(), 1);
    assert_eq!(codec::record_to_bytes(&read), simple);
}

/// Records and changes are written as the schema has them.
#[test]
fn messages_are_those_of_the_schema() {
    let record = everything();
    let bytes = codec::record_to_bytes(&record);
    let message = wire::Record::decode(&bytes[..]).expect("a message of the schema");
    assert_eq!(message.encode_to_vec(), bytes);
    let stamps: std::collections::BTreeSet<_> =
        message.stamp.iter().map(|stamp| (stamp.wall, stamp.counter, stamp.origin)).collect();
    assert_eq!((stamps.len(), message.origin.len()), (message.stamp.len(), 3), "each stamp and origin stands once");
    let change = Change { origin: Origin(7), seq: 300, key: key("x"), delta: record, part: CommitPart::default() };
    let bytes = codec::change_to_bytes(&change);
    assert_eq!(wire::Change::decode(&bytes[..]).expect("a message of the schema").encode_to_vec(), bytes);
}

/// Each stamp and each origin stands once, however many there are: the deletion names those of all fields again.
#[test]
fn many_stamps_stand_once() {
    for count in [1, 7, 8, 9, 10, 40] {
        let stamp = |n: u16| Stamp { wall: 1000 + u64::from(n), counter: 0, origin: Origin(u128::from(n)) };
        let set = |n: u16| Edit::Set(n, Value::Bytes(b"text".to_vec())).delta(&Record::new(), stamp(n), &node("a"));
        let mut record = Record::new();
        (1..=count).for_each(|n| record.merge(set(n)));
        record.merge(Edit::Delete.delta(&record, stamp(count), &node("a")));
        let bytes = codec::record_to_bytes(&record);
        assert_eq!(codec::record_from_bytes(&bytes), Ok(record));
        let message = wire::Record::decode(&bytes[..]).expect("a message of the schema");
        assert_eq!((message.stamp.len(), message.origin.len()), (count.into(), count.into()));
    }
}

/// The bytes of a small record, as every release from the first on reads and writes them.
#[test]
fn format_on_disk_does_not_change() {
    let stamp = Stamp { wall: 0x0102, counter: 3, origin: Origin(4) };
    let record = Edit::Set(5, Value::Bytes(b"hi".to_vec())).delta(&Record::new(), stamp, &node("a"));
    let hex: String = codec::encode_record(&record).iter().map(|b| format!("{b:02x}")).collect();
    let (field, stamp) = ("0a0a0805120612040a026869", "1a0508820210".to_owned() + "03");
    let origin = "221000000000000000000000000000000004";
    assert_eq!(hex, format!("03{field}{stamp}{origin}"));
}

/// A record of twelve registers that were written together has their values, 10 bytes for each, and one stamp.
#[test]
fn a_stamp_that_many_fields_have_costs_little() {
    let stamp = Stamp { wall: 1_800_000_000_000, counter: 7, origin: Origin(u128::MAX) };
    let mut record = Record::new();
    for tag in 0..12 {
        record.merge(Edit::Set(tag, Value::Bytes(b"12345678".to_vec())).delta(&record, stamp, &node("a")));
    }
    let deleted = Edit::Delete.delta(&record, stamp, &node("a"));
    assert!(codec::record_to_bytes(&record).len() < 12 * (8 + 11) + 32);
    record.merge(deleted);
    assert!(codec::record_to_bytes(&record).len() < 12 * (8 + 15) + 40);
}

#[test]
fn incomplete_or_later_formats_are_errors() {
    assert_eq!(codec::decode_record(&[]), Err(DecodeError::Empty));
    let later = codec::decode_record(&[codec::FORMAT + 1, 0]);
    assert_eq!(later, Err(DecodeError::Version { found: codec::FORMAT + 1 }));
    let earlier = codec::decode_record(&[2, 0]).expect_err("an earlier format");
    assert!(earlier.to_string().contains("start with an empty one"), "{earlier}");
    let change =
        Change { origin: Origin(7), seq: 1, key: key("x"), delta: everything(), part: CommitPart::default() };
    let whole = wire::Change::decode(&codec::change_to_bytes(&change)[..]).expect("a change");
    let mut broken = vec![];
    let mut case = |what: &'static str, spoil: &dyn Fn(&mut wire::Change)| {
        let mut change = whole.clone();
        spoil(&mut change);
        broken.push((what, codec::change_from_bytes(&change.encode_to_vec())));
    };
    let of_record = |spoil: &'static dyn Fn(&mut wire::Record)| {
        move |change: &mut wire::Change| {
            let mut record = wire::Record::decode(&change.delta.take().expect("a delta")[..]).expect("a record");
            spoil(&mut record);
            change.delta = Some(record.encode_to_vec().into());
        }
    };
    case("no key", &|c| c.key = None);
    case("before the first", &|c| c.before = 1);
    case("no delta", &|c| c.delta = None);
    case("number 0", &|c| c.seq = 0);
    case("short origin", &|c| c.origin = vec![1, 2].into());
    case("large table", &|c| c.key.as_mut().expect("a key").table = 65_536);
    // A kind of merge of a later release arrives as none.
    case("unknown kind", &of_record(&|record| record.field[0].merge = None));
    case("large tag", &of_record(&|record| record.field[0].tag = 65_536));
    case(
        "no stamp of that number",
        &of_record(&|record| record.tombstone.as_mut().expect("a tombstone").stamp = 99),
    );
    case("no stamps", &of_record(&|record| record.stamp.clear()));
    case("no origins", &of_record(&|record| record.origin.clear()));
    case("short origin in the list", &of_record(&|record| record.origin[0] = vec![1, 2].into()));
    for (what, result) in broken {
        assert!(result.is_err(), "{what} was taken");
    }
}

proptest! {
    #[test]
    fn bytes_from_anywhere_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode_record(&bytes);
        let _ = codec::decode_change(&[&[codec::FORMAT], &bytes[..]].concat());
    }

    #[test]
    fn spoiled_records_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = codec::record_to_bytes(&everything());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        let spoiled = [&[codec::FORMAT], &bytes[..]].concat();
        if let Ok(record) = codec::decode_record(&spoiled) {
            prop_assert_eq!(codec::decode_record(&codec::encode_record(&record)), Ok(record));
        }
    }
}
