//! Decides by table which part of a deleted record may be removed once its deletion is stable on all members. Pure.
//!
//! A record may be removed as a whole only if no member writes its key again in knowledge of the deletion, and no part of
//! the system asks whether it ever existed. `replication/DESIGN.md` lists the tables that are not purged, with the reasons.

use twinbox_call_records::schema::CALL_RECORD;
use twinbox_ids::Timestamp;
use twinbox_locations::schema::OUTGOING;
use twinbox_mailbox::{
    came_by_mail,
    directory::schema::DIRECTORY_RUN,
    is_outlived, is_purged,
    schema::{MAILBOX, MESSAGE, PIN_ATTEMPTS, RECORDING},
};
use twinbox_outbox::{outlived_cause, schema::OUTBOX};
use twinbox_replication_core::{Key, Record, Table};
use twinbox_replication_store::Removal;

/// Tables whose deleted records are examined.
pub(super) const TABLES: [Table; 8] =
    [MESSAGE, RECORDING, OUTBOX, CALL_RECORD, DIRECTORY_RUN, PIN_ATTEMPTS, OUTGOING, MAILBOX];

/// Tables of which records are removed as a whole: a record of another table is never missing because it was purged.
pub const PURGED_WHOLE: [Table; 6] = [MESSAGE, RECORDING, OUTBOX, CALL_RECORD, DIRECTORY_RUN, PIN_ATTEMPTS];

/// Whether the grace of a record's deletion has ended at `now`, even if a part of the record outlives the deletion.
pub(super) fn is_grace_over(record: &Record, seen: Timestamp, now: Timestamp, grace_ms: u64) -> bool {
    // The stamp may be of a clock that was wrong.
    let since = record.tombstone().map(|tombstone| tombstone.stamp.wall.max(seen.0));
    since.is_some_and(|since| since.saturating_add(grace_ms) <= now.0)
}

/// The part of a record that may be removed at `now`, whose tombstone was `seen` here then. `was_recorded`: the record of its
/// recording, if it is a message that has one, remembers it.
pub(super) fn removal(
    key: &Key,
    record: &Record,
    was_recorded: bool,
    seen: Timestamp,
    now: Timestamp,
    grace_ms: u64,
) -> Option<Removal> {
    let is_old = record.is_deleted() && is_grace_over(record, seen, now, grace_ms);
    match key.table {
        // The message was marked as purged when its time had ended, and no member undeletes it since. The mark writes a
        // tombstone, too, and the audio may still be late.
        MESSAGE if !is_purged(record) || !is_old => None,
        MESSAGE if was_recorded || came_by_mail(record) => Some(Removal::Whole),
        // An import may be repeated at any time, and must find that the message was there.
        MESSAGE => Some(Removal::Audio),
        // The recording remembers a purged message for as long as late parts of it can arrive.
        RECORDING if is_old && is_outlived(key, record, now) => Some(Removal::Whole),
        // The id of an effect derives from its cause: evaluated again, it would be sent again.
        OUTBOX if is_old && outlived_cause(record, now).is_some() => Some(Removal::Whole),
        CALL_RECORD | DIRECTORY_RUN if is_old => Some(Removal::Whole),
        // The key of tries of PINs has their time window, which has ended. They need no grace: a record that an old disk
        // brings back is deleted again, and a mailbox or a source has the records of a few windows only.
        PIN_ATTEMPTS if record.is_deleted() => Some(Removal::Whole),
        // Late records name the mailbox of a former user; effects tell a removed message from one that is to come.
        OUTGOING | MAILBOX if is_old => Some(Removal::Audio),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use twinbox_ids::{CallId, DeviceId, Incarnation, MailboxId, MessageId, Origin, RecordingId, Stamp};
    use twinbox_mailbox::{
        Codec, Recording, RecordingState, discarded, filed, message_purged,
        schema::{self, NUMBER, message},
    };
    use twinbox_outbox::{Cause, Channel, NewEffect, Transition};
    use twinbox_replication_core::{Edit, Field, Tag, Tombstone, Value};

    use super::*;

    const GRACE: u64 = 1_000;

    fn stamp(wall: u64) -> Stamp {
        Stamp { wall, counter: 0, origin: Origin(1) }
    }

    /// A record with these registers, written at 10, and deleted at 100 by a writer that saw them.
    fn deleted(registers: &[(Tag, u8)]) -> Record {
        let register = |value: u8| Field::Register { stamp: stamp(10), value: Value::Bytes(vec![value]) };
        let saw: BTreeMap<Tag, Stamp> = registers.iter().map(|(tag, _)| (*tag, stamp(10))).collect();
        let fields: Vec<_> = registers.iter().map(|(tag, value)| (*tag, register(*value))).collect();
        Record::from_parts(fields, Some(Tombstone { stamp: stamp(100), saw }))
    }

    #[test]
    fn each_table_gives_up_what_nothing_asks_for_again() {
        const PURGED: (Tag, u8) = (message::PURGED, 1);
        let whole = Some(Removal::Whole);
        let audio = Some(Removal::Audio);
        for (table, registers, was_recorded, late, early) in [
            // A message that can still be undeleted stays, however old its deletion.
            (MESSAGE, vec![(message::UID, 1)], true, None, None),
            (MESSAGE, vec![PURGED], true, whole, None),
            (MESSAGE, vec![PURGED, (message::SENDER, 1)], false, whole, None),
            (MESSAGE, vec![PURGED], false, audio, None),
            (CALL_RECORD, vec![(1, 1)], false, whole, None),
            (DIRECTORY_RUN, vec![(1, 1)], false, whole, None),
            (PIN_ATTEMPTS, vec![(1, 1)], false, whole, whole),
            (OUTGOING, vec![(1, 1)], false, audio, None),
            (MAILBOX, vec![(1, 1)], false, audio, None),
            (NUMBER, vec![(1, 1)], false, None, None),
            (RECORDING, vec![(1, 1)], false, None, None),
        ] {
            let record = deleted(&registers);
            let key = Key::new(table, "row");
            for (now, expected) in [(100 + GRACE, late), (99 + GRACE, early)] {
                let found = removal(&key, &record, was_recorded, Timestamp(0), Timestamp(now), GRACE);
                assert_eq!(found, expected, "{table:?} {registers:?} at {now}");
                // However old the record is by its stamp.
                let seen = Timestamp(now - GRACE + 1);
                let found = removal(&key, &record, was_recorded, seen, Timestamp(now), GRACE);
                assert_eq!(found, early, "{table:?} {registers:?} seen at {seen:?}");
            }
        }
    }

    const DAY: u64 = 86_400_000;

    /// The deleted record of a recording that began at 0.
    fn deleted_recording(state: RecordingState, purged: bool) -> (Key, Record) {
        let id = RecordingId::at(Timestamp(0));
        let (owner, incarnation) = ("a".parse().expect("a name"), Incarnation::random());
        let (mailbox, call, began) = (MailboxId(1), CallId::random(), Timestamp(0));
        let (codec, take) = (Codec::Pcma, 1);
        let recording = Recording {
            id,
            mailbox,
            owner,
            incarnation,
            call,
            codec,
            began,
            state,
            take,
            caller: None,
            caller_name: None,
            call_began: None,
        };
        let mut record = Record::new();
        let edits = recording.edits().into_iter().chain(if state == RecordingState::Discarded {
            discarded()
        } else {
            filed()
        });
        let edits = edits.chain(if purged { message_purged() } else { Vec::new() }).chain([Edit::Delete]);
        for (wall, edit) in (1..).zip(edits) {
            record.merge(edit.delta(&record, stamp(wall), &recording.owner));
        }
        (schema::recording_key(id), record)
    }

    /// The removed record of a notification.
    fn deleted_effect() -> Record {
        let cause = Cause { mailbox: MailboxId(1), message: MessageId(2), transition: Transition::Filed };
        let (target, created) = (DeviceId(3), Timestamp(0));
        let new = NewEffect {
            cause,
            target,
            created,
            channel: Channel::Mail,
            repeat: 0,
            retry: 0,
            not_before: created,
            expires: created,
        };
        let mut record = Record::new();
        for (wall, edit) in (1..).zip(new.edits(None).into_iter().chain([Edit::Delete])) {
            record.merge(edit.delta(&record, stamp(wall), &"a".parse().expect("a name")));
        }
        record
    }

    #[test]
    fn recording_goes_when_nothing_can_come_of_it() {
        for (state, purged, age, goes) in [
            (RecordingState::Filed, true, 31 * DAY, true),
            (RecordingState::Filed, true, 30 * DAY, false),
            (RecordingState::Filed, false, 99 * DAY, false),
            (RecordingState::Discarded, false, 31 * DAY, true),
        ] {
            let (key, record) = deleted_recording(state, purged);
            let found = removal(&key, &record, true, Timestamp(0), Timestamp(age), GRACE);
            assert_eq!(found, goes.then_some(Removal::Whole), "{state:?} {purged} {age}");
            let found = removal(&key, &record, true, Timestamp(age), Timestamp(age), GRACE);
            assert_eq!(found, None, "its deletion was seen just now");
        }
    }

    #[test]
    fn record_that_outlives_its_deletion_stays() {
        let mut record = deleted(&[(1, 1)]);
        let key = Key::new(CALL_RECORD, "row");
        assert_eq!(removal(&key, &record, false, Timestamp(0), Timestamp(u64::MAX), GRACE), Some(Removal::Whole));
        let unseen = Field::Register { stamp: stamp(50), value: Value::Bytes(vec![2]) };
        record.merge(Record::from_parts([(1, unseen)], None));
        assert_eq!(removal(&key, &record, false, Timestamp(0), Timestamp(u64::MAX), GRACE), None);
        let never = Record::new();
        assert_eq!(removal(&key, &never, false, Timestamp(0), Timestamp(u64::MAX), GRACE), None, "never deleted");
    }

    #[test]
    fn tables_to_look_at_are_those_with_a_rule() {
        for table in (0..300).map(Table) {
            let key = match table {
                RECORDING => schema::recording_key(RecordingId(1)),
                _ => Key::new(table, "row"),
            };
            let record = match table {
                RECORDING => deleted_recording(RecordingState::Filed, true).1,
                OUTBOX => deleted_effect(),
                _ => deleted(&[(message::PURGED, 1)]),
            };
            let has_rule = removal(&key, &record, true, Timestamp(0), Timestamp(u64::MAX), GRACE).is_some();
            assert_eq!(TABLES.contains(&table), has_rule, "{table:?}");
            let goes =
                removal(&key, &record, true, Timestamp(0), Timestamp(u64::MAX), GRACE) == Some(Removal::Whole);
            assert_eq!(PURGED_WHOLE.contains(&table), goes, "{table:?}");
        }
    }
}
