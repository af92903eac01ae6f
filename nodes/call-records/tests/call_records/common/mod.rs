//! Call records of tests.
#![allow(unused, reason = "each test file uses its part")]

use proptest::prelude::*;
use twinbox_call_records::{CallOutcome, CallRecord, Purpose};
use twinbox_ids::{CallId, MailboxId, Origin, Pii, Stamp, Timestamp};
use twinbox_replication_core::{Edit, Record};

pub const HOUR: u64 = 3_600_000;
/// 2026-10-24 22:00 UTC: midnight in Berlin before the night in which the hour from 2 to 3 o'clock is repeated.
pub const NIGHT: Timestamp = Timestamp(1_792_879_200_000);

/// A call of ten seconds that left a message of 2.5 s in mailbox 1001.
pub fn call(number: u128, began: Timestamp) -> CallRecord {
    CallRecord {
        call: CallId(number),
        began,
        ended: Timestamp(began.0 + 10_000),
        node: "a".parse().expect("a name"),
        purpose: Purpose::Leave,
        mailbox: Some(MailboxId(1)),
        number: Some("1001".to_owned()),
        caller: Some(Pii::new("2001".to_owned())),
        outcome: CallOutcome::MessageLeft,
        message_ms: 2_500,
    }
}

/// A record after these edits, the first by stamp `wall`.
pub fn edited(mut record: Record, edits: Vec<Edit>, wall: u64) -> Record {
    for (wall, edit) in (wall..).zip(edits) {
        let stamp = Stamp { wall, counter: 0, origin: Origin(1) };
        record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
    }
    record
}

/// Any record whose texts are short enough to be stored as they are.
pub fn any_record() -> impl Strategy<Value = CallRecord> {
    let purpose = (0..Purpose::ALL.len()).prop_map(|n| Purpose::ALL[n]);
    let outcome = (0..CallOutcome::ALL.len()).prop_map(|n| CallOutcome::ALL[n]);
    let times = (0..1_u64 << 42, 0..1_u64 << 24);
    let caller = proptest::option::of("\\PC{0,30}");
    let mailbox = (proptest::option::of(any::<u128>()), proptest::option::of("[0-9]{1,16}"));
    (any::<u128>(), times, 0..3_usize, purpose, mailbox, caller, outcome, 0..1_u64 << 32).prop_map(
        |(call, (began, length), node, purpose, (mailbox, number), caller, outcome, message_ms)| CallRecord {
            call: CallId(call),
            began: Timestamp(began),
            ended: Timestamp(began + length),
            node: ["a", "b", "c"][node].parse().expect("a name"),
            purpose,
            mailbox: mailbox.map(MailboxId),
            number,
            caller: caller.map(Pii::new),
            outcome,
            message_ms,
        },
    )
}
