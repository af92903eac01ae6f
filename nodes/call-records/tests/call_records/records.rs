//! The form of call records in the store.

use proptest::prelude::*;
use twinbox_call_records::{CallOutcome, CallRecord, schema};
use twinbox_ids::{CallId, Pii, Timestamp};
use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Edit, Key, Record, Table, Value};

use crate::common::{NIGHT, any_record, call, edited};

fn stored(record: &CallRecord) -> Record {
    edited(Record::new(), record.edits(), 1)
}

proptest! {
    #[test]
    fn record_is_read_back_and_ids_sort_by_begin(one in any_record(), other in any_record()) {
        prop_assert_eq!(CallRecord::read(&one.key(), &stored(&one)), Ok(Some(one.clone())));
        if one.began < other.began {
            prop_assert!(one.key().id < other.key().id);
        }
        prop_assert!(schema::first_id(one.began) <= one.key().id);
        prop_assert!(one.key().id < schema::id_after(one.began, one.call));
        prop_assert_eq!(schema::call_of(&one.key()), Some((one.began, one.call)));
    }

    #[test]
    fn damaged_record_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 1..60)) {
        let record = edited(Record::new(), vec![Edit::Set(schema::call_record::ENDED, Value::Bytes(bytes))], 1);
        let _ = CallRecord::read(&call(1, NIGHT).key(), &record);
    }
}

#[test]
fn record_of_the_calls_own_node_precedes_that_of_its_death_in_any_order() {
    let ended = call(1, NIGHT);
    let died = CallRecord { outcome: CallOutcome::NodeDied, ended: Timestamp(NIGHT.0 + 5_000), ..ended.clone() };
    assert_eq!(CallRecord::read(&died.key(), &stored(&died)), Ok(Some(died.clone())));
    for (first, second) in [(&ended, &died), (&died, &ended)] {
        let both = edited(stored(first), second.edits(), 100);
        assert_eq!(CallRecord::read(&ended.key(), &both), Ok(Some(ended.clone())));
    }
}

#[test]
fn removed_record_is_none_and_holds_no_number_of_the_caller() {
    let record = CallRecord { caller: Some(Pii::new("+4930123456".to_owned())), ..call(1, NIGHT) };
    let before = stored(&record);
    let removed = edited(before.clone(), CallRecord::removal(&before), 100);
    assert_eq!(CallRecord::read(&record.key(), &removed), Ok(None));
    assert_eq!(removed.bytes(schema::call_record::ENDED), Some(&b""[..]));
    // Neither does the flag alone bring it back, nor the emptied register.
    let emptied = edited(before, vec![Edit::Set(schema::call_record::ENDED, Value::Bytes(Vec::new()))], 100);
    assert_eq!(CallRecord::read(&record.key(), &emptied), Ok(None));
}

#[test]
fn unreadable_records_have_an_error_each() {
    let record = call(1, NIGHT);
    let missing = CallRecord::read(&record.key(), &Record::new());
    assert!(matches!(missing, Err(ViewError::Missing { .. })), "{missing:?}");
    let cut = |bytes: &[u8]| {
        let edit = Edit::Set(schema::call_record::ENDED, Value::Bytes(bytes.to_vec()));
        CallRecord::read(&record.key(), &edited(Record::new(), vec![edit], 1))
    };
    let whole = stored(&record);
    let whole = whole.bytes(schema::call_record::ENDED).expect("bytes");
    for length in 1..whole.len() {
        let read = cut(&whole[..length]);
        // Without its last part, the length of the message, the record is whole.
        let expected = length == whole.len() - 10;
        assert_eq!(read.is_ok(), expected, "{length} of {}: {read:?}", whole.len());
    }
    // A part of a later release is skipped.
    let later = [&[200, 3, 1, 2, 3][..], whole].concat();
    assert_eq!(cut(&later), Ok(Some(record.clone())));
    for key in [Key::new(Table(20), record.key().id), Key::new(schema::CALL_RECORD, b"short".to_vec())] {
        assert!(matches!(CallRecord::read(&key, &stored(&record)), Err(ViewError::Key { .. })));
    }
}

#[test]
fn long_text_is_cut_at_a_letter_and_is_not_printed() {
    let long = "é".repeat(100);
    let record = CallRecord { caller: Some(Pii::new(format!("x{long}"))), ..call(1, NIGHT) };
    let read = CallRecord::read(&record.key(), &stored(&record)).expect("readable").expect("there");
    let caller = read.caller.clone().expect("a caller").into_revealed();
    assert_eq!(caller, format!("x{}", "é".repeat(63)));
    assert!(!format!("{read:?}").contains('é'));
}

#[test]
fn seconds_of_a_call_are_rounded_up_and_a_clock_set_back_gives_none() {
    for (ms, seconds) in [(0, 0), (1, 1), (1_000, 1), (1_001, 2)] {
        let record = CallRecord { ended: Timestamp(NIGHT.0 + ms), ..call(1, NIGHT) };
        assert_eq!(record.seconds(), seconds, "{ms}");
    }
    assert_eq!(CallRecord { ended: Timestamp(1), call: CallId(2), ..call(1, NIGHT) }.seconds(), 0);
}
