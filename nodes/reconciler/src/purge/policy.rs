//! Decides by table what of a deleted record may be removed once its deletion is stable on all members. Pure.
//!
//! A record may go as a whole only if no member writes its key again in knowledge of the deletion, and nothing asks
//! whether it ever was there. `replication/DESIGN.md` lists the tables that are not purged, with the reasons.

use twinbox_call_records::schema::CALL_RECORD;
use twinbox_ids::Timestamp;
use twinbox_locations::schema::OUTGOING;
use twinbox_mailbox::{
    came_by_mail,
    directory::schema::DIRECTORY_RUN,
    is_purged,
    schema::{MAILBOX, MESSAGE},
};
use twinbox_replication_core::{Key, Record, Table};
use twinbox_replication_store::Removal;

/// Tables whose deleted records are looked at.
pub(super) const TABLES: [Table; 5] = [MESSAGE, CALL_RECORD, DIRECTORY_RUN, OUTGOING, MAILBOX];

/// Tables of which records are removed as a whole: a record of another table is never missing because it was purged.
pub const PURGED_WHOLE: [Table; 3] = [MESSAGE, CALL_RECORD, DIRECTORY_RUN];

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
    let tombstone = record.tombstone().filter(|_| record.is_deleted())?;
    // The stamp may be of a clock that was wrong.
    let is_old = tombstone.stamp.wall.max(seen.0).saturating_add(grace_ms) <= now.0;
    match key.table {
        // It was marked as purged when its time was over, and no member undeletes it since. That writes a tombstone,
        // too, and its audio may still be late.
        MESSAGE if !is_purged(record) || !is_old => None,
        MESSAGE if was_recorded || came_by_mail(record) => Some(Removal::Whole),
        // An import may be repeated at any time, and must find that the message was there.
        MESSAGE => Some(Removal::Audio),
        CALL_RECORD | DIRECTORY_RUN if is_old => Some(Removal::Whole),
        // Late records name the mailbox of a former user; effects tell a removed message from one that is to come.
        OUTGOING | MAILBOX if is_old => Some(Removal::Audio),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use twinbox_ids::{Origin, Stamp};
    use twinbox_mailbox::schema::{NUMBER, message};
    use twinbox_replication_core::{Field, Tag, Tombstone, Value};

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
            (OUTGOING, vec![(1, 1)], false, audio, None),
            (MAILBOX, vec![(1, 1)], false, audio, None),
            (NUMBER, vec![(1, 1)], false, None, None),
        ] {
            let record = deleted(&registers);
            let key = Key::new(table, "row");
            for (now, expected) in [(100 + GRACE, late), (99 + GRACE, early)] {
                let found = removal(&key, &record, was_recorded, Timestamp(0), Timestamp(now), GRACE);
                assert_eq!(found, expected, "{table:?} {registers:?} at {now}");
                // However old the stamp says that it is.
                let seen = Timestamp(now - GRACE + 1);
                let found = removal(&key, &record, was_recorded, seen, Timestamp(now), GRACE);
                assert_eq!(found, None, "{table:?} {registers:?} seen at {seen:?}");
            }
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
            let key = Key::new(table, "row");
            let record = deleted(&[(message::PURGED, 1)]);
            let has_rule = removal(&key, &record, true, Timestamp(0), Timestamp(u64::MAX), GRACE).is_some();
            assert_eq!(TABLES.contains(&table), has_rule, "{table:?}");
            let goes =
                removal(&key, &record, true, Timestamp(0), Timestamp(u64::MAX), GRACE) == Some(Removal::Whole);
            assert_eq!(PURGED_WHOLE.contains(&table), goes, "{table:?}");
        }
    }
}
