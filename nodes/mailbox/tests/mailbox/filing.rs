//! Several filings of one recording merge to one message (rules C1, C2).

use proptest::prelude::*;
use twinbox_ids::{CallId, Incarnation, RecordingId, Timestamp};
use twinbox_mailbox::{
    Codec, Filing, Folder, Mark, MessageCounts, Quota, Recording, RecordingState, discarded, filed, has_uid,
    is_purged, next_take, purge, schema,
};
use twinbox_replication_core::{BlobRef, Field, Record};

use crate::common::{MAILBOX, MESSAGE, NUMBERS, Replica, blob, read};

fn recording(state: RecordingState, take: u32) -> Recording {
    Recording {
        id: RecordingId(MESSAGE.0),
        mailbox: MAILBOX,
        owner: "a".parse().unwrap(),
        incarnation: Incarnation(5),
        call: CallId(6),
        caller: None,
        caller_name: None,
        codec: Codec::Pcma,
        began: Timestamp(1_700_000_000_000),
        call_began: None,
        state,
        take,
    }
}

/// Filed by another node, of the first take.
const P1: Filing = Filing::Partial { take: 1 };

/// The blob that counts after both filings, and whether it is partial.
fn outcome(one: (Filing, BlobRef), other: (Filing, BlobRef)) -> (u8, bool) {
    let (mut a, mut b) = (Replica::new("a", 100), Replica::new("b", 200));
    a.file(one.0, one.1);
    b.file(other.0, other.1);
    assert_eq!(a.merged_with(&b), b.merged_with(&a));
    let audio = read(&a.merged_with(&b), None).audio.expect("audio");
    (audio.blob.hash.0[0], audio.partial)
}

#[test]
fn complete_filing_wins_and_of_partial_ones_the_longest() {
    use Filing::*;
    for (one, other, expected) in [
        ((Complete, blob(1, 9)), (P1, blob(2, 8)), (1, false)),
        // The owner decides the end; another node's bytes beyond it are not part of the message.
        ((Complete, blob(1, 5)), (P1, blob(2, 8)), (1, false)),
        ((Complete, blob(1, 5)), (Recovered, blob(2, 8)), (1, false)),
        ((Recovered, blob(1, 9)), (P1, blob(2, 8)), (1, true)),
        ((Recovered, blob(1, 7)), (P1, blob(2, 8)), (2, true)),
        ((P1, blob(2, 8)), (Recovered, blob(1, 9)), (1, true)),
    ] {
        assert_eq!(outcome(one, other), expected, "{one:?} {other:?}");
    }
}

#[test]
fn filing_again_adds_only_what_is_longer_or_complete() {
    let mut a = Replica::new("a", 100);
    assert!(P1.adds_to(&a.record, 1));
    a.file(P1, blob(1, 4));
    for (filing, seconds, adds) in [
        (P1, 4, false),
        (P1, 5, true),
        (Filing::Recovered, 3, false),
        (Filing::Recovered, 5, true),
        (Filing::Complete, 1, true),
    ] {
        assert_eq!(filing.adds_to(&a.record, seconds * 8_000), adds, "{filing:?} {seconds}");
    }
    a.file(Filing::Complete, blob(2, 6));
    for filing in [Filing::Complete, P1, Filing::Recovered] {
        assert!(!filing.adds_to(&a.record, 99 * 8_000), "{filing:?}");
    }
    let message = read(&a.record, None);
    assert_eq!((message.length_ms, message.uid, message.is_partial()), (6_000, Some(1), false));
}

#[test]
fn filing_of_a_discarded_or_earlier_take_counts_only_if_kept() {
    let mut b = Replica::new("b", 100);
    b.file(P1, blob(1, 30));
    for (what, present) in [
        (recording(RecordingState::Recording, 1), true),
        (recording(RecordingState::Filed, 1), true),
        (recording(RecordingState::Discarded, 1), false),
        (recording(RecordingState::Recording, 2), false),
    ] {
        assert_eq!(read(&b.record, Some(what.clone())).is_present(), present, "{what:?}");
    }
    // The recovery of the second take counts, although another node has more of the first.
    let mut a = b.fork("a", 200);
    a.file(Filing::Recovered, blob(2, 3));
    let audio = read(&a.record, Some(recording(RecordingState::Filed, 2))).audio.unwrap();
    assert_eq!(audio.blob, blob(2, 3));

    let edits = Mark::Saved.edits(&b.record, NUMBERS);
    b.write(edits);
    assert!(read(&b.record, Some(recording(RecordingState::Discarded, 1))).is_present());
}

/// A delete that saw the filing `seen`, and the filing `filed` of a node that knows of the delete or not: returns
/// whether the message is present and unheard.
fn after_delete(seen: (Filing, BlobRef), filed: (Filing, BlobRef), knows: bool, wall: u64) -> bool {
    let (mut owner, mut other) = (Replica::new("b", 1_000), Replica::new("a", wall));
    owner.file(seen.0, seen.1);
    for mark in [Mark::Heard, Mark::Saved, Mark::Deleted] {
        let edits = mark.edits(&owner.record, NUMBERS);
        owner.write(edits);
    }
    assert!(read(&owner.record, None).deleted);
    if knows {
        other = owner.fork("a", wall);
    }
    other.file(filed.0, filed.1);
    let merged = owner.merged_with(&other);
    assert_eq!(merged, other.merged_with(&owner));
    let message = read(&merged, None);
    if message.deleted {
        return false;
    }
    assert_eq!(message.folder, Folder::New, "{seen:?} {filed:?} {knows}");
    assert_eq!(message.audio.as_ref().map(|audio| audio.blob), Some(filed.1), "{seen:?} {filed:?} {knows}");
    // From here on it is like any other message.
    owner.record = merged;
    for (mark, folder) in [(Mark::Heard, Folder::Heard), (Mark::Saved, Folder::Saved), (Mark::New, Folder::New)] {
        let edits = mark.edits(&owner.record, NUMBERS);
        owner.write(edits);
        let message = read(&owner.record, None);
        assert_eq!((message.folder, message.deleted), (folder, false), "{seen:?} {filed:?} {mark:?}");
    }
    let edits = Mark::Deleted.edits(&owner.record, NUMBERS);
    owner.write(edits);
    let edits = purge(&owner.record);
    owner.write(edits);
    assert!(read(&owner.record, None).purged);
    true
}

/// Rule D4.
#[test]
fn audio_not_seen_by_a_delete_survives_as_new() {
    use Filing::*;
    for (seen, filed, there) in [
        // The owner deletes another node's filing; then the node that recorded it files it to its end.
        ((P1, blob(1, 4)), (Complete, blob(2, 9)), true),
        ((P1, blob(1, 4)), (Recovered, blob(2, 9)), true),
        ((Recovered, blob(1, 4)), (P1, blob(2, 9)), true),
        ((P1, blob(1, 4)), (P1, blob(2, 9)), true),
        // No new audio: the owner heard all of it.
        ((P1, blob(1, 4)), (Complete, blob(1, 4)), false),
        ((Complete, blob(1, 9)), (P1, blob(2, 4)), false),
        ((Complete, blob(1, 9)), (Recovered, blob(2, 4)), false),
        ((Recovered, blob(1, 9)), (P1, blob(2, 4)), false),
        // The node that recorded it decides the end.
        ((Complete, blob(1, 4)), (P1, blob(2, 9)), false),
        ((P1, blob(1, 9)), (Complete, blob(2, 4)), true),
    ] {
        for (knows, wall) in [(false, 100), (false, 3_000), (true, 3_000)] {
            // Of two filings of one kind that do not know of each other the later counts, as usual.
            if seen.0 != filed.0 || wall > 1_000 {
                assert_eq!(after_delete(seen, filed, knows, wall), there, "{seen:?} {filed:?} {knows} {wall}");
            }
        }
    }
}

#[test]
fn recording_is_read_back_and_ended_by_its_node() {
    let key = schema::recording_key(RecordingId(MESSAGE.0));
    let mut a = Replica::new("a", 100);
    a.write(recording(RecordingState::Recording, 1).edits());
    let back = Recording::read(&key, &a.record).unwrap();
    assert_eq!((back.mailbox, back.owner.as_str(), back.take), (MAILBOX, "a", 1));
    a.write(next_take(2));
    a.write(discarded());
    let back = Recording::read(&key, &a.record).unwrap();
    assert_eq!((back.state, back.take), (RecordingState::Discarded, 2));
    a.write(filed());
    assert_eq!(Recording::read(&key, &a.record).unwrap().state, RecordingState::Filed);
    assert!(Recording::read(&key, &Record::new()).is_err());
    for (hours, settled) in [(0, false), (23, false), (25, true)] {
        assert_eq!(back.is_settled(Timestamp(back.began.0 + hours * 3_600_000)), settled, "{hours}");
    }
    assert!(!back.is_settled(Timestamp(0)), "a clock that went back");
}

#[test]
fn message_counts_include_messages_with_audio_only() {
    let make = |marks: &[Mark]| {
        let mut a = Replica::new("a", 100);
        a.file(Filing::Complete, blob(1, 4));
        for mark in marks {
            let edits = mark.edits(&a.record, NUMBERS);
            a.write(edits);
        }
        read(&a.record, None)
    };
    let messages = [
        make(&[]),
        make(&[Mark::Heard]),
        make(&[Mark::Saved]),
        make(&[Mark::Deleted]),
        make(&[Mark::Deleted, Mark::Undeleted]),
    ];
    let counts = MessageCounts::count(&messages);
    assert_eq!(counts, MessageCounts { new: 2, saved: 2 });
    assert!(counts.has_new() && !MessageCounts { new: 0, saved: 9 }.has_new());
    let quota = |max_messages| Quota { max_messages, ..Quota::default() };
    assert!(quota(4).is_full(counts) && !quota(5).is_full(counts));
}

proptest! {
    /// Three nodes make any marks, unseen by each other; merged in any order, they have the same state.
    #[test]
    fn any_marks_on_three_nodes_converge(acts in proptest::collection::vec((0usize..3, 0usize..6), 0..20)) {
        let mut first = Replica::new("a", 100);
        first.file(P1, blob(1, 4));
        let mut nodes = [first.fork("a", 1_000), first.fork("b", 900), first.fork("c", 1_100)];
        for (node, act) in acts {
            let node = &mut nodes[node];
            let marks = [Mark::New, Mark::Heard, Mark::Saved, Mark::Deleted, Mark::Undeleted];
            match marks.get(act) {
                Some(mark) => { let edits = mark.edits(&node.record, NUMBERS); node.write(edits) }
                None => node.file(Filing::Complete, blob(2, 5)),
            }
        }
        let join = |order: [usize; 3]| {
            let mut record = nodes[order[0]].record.clone();
            record.merge(nodes[order[1]].record.clone());
            record.merge(nodes[order[2]].record.clone());
            record
        };
        let expected = join([0, 1, 2]);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            prop_assert_eq!(&join(order), &expected);
        }
        prop_assert!(read(&expected, None).audio.is_some());
    }
}

/// Other nodes may have removed the record: the filing must be a whole message without it.
#[test]
fn audio_that_comes_after_the_purge_is_a_whole_message_by_itself() {
    let mut a = Replica::new("a", 100);
    a.file(Filing::Partial { take: 1 }, blob(1, 4));
    let edits = Mark::Deleted.edits(&a.record, NUMBERS);
    a.write(edits);
    assert!(!is_purged(&a.record) && has_uid(&a.record));
    let edits = purge(&a.record);
    a.write(edits);
    assert!(is_purged(&a.record) && !has_uid(&a.record));

    let before = a.record.latest();
    a.file(Filing::Complete, blob(2, 6));
    let is_new = |field: &Field| field.latest() > before;
    let new = a.record.fields().filter(|(_, field)| is_new(field)).map(|(tag, field)| (tag, field.clone()));
    let alone = Record::from_parts(new, None);
    for record in [&a.record, &alone] {
        let message = read(record, None);
        let state = (message.folder, message.deleted, message.purged, message.length_ms, message.uid);
        assert_eq!(state, (Folder::New, false, false, 6_000, Some(1)));
    }
}

#[test]
fn part_of_the_same_take_is_offered_while_the_complete_audio_is_lost() {
    let of_take = |name, seconds| BlobRef { recording: Some((RecordingId(MESSAGE.0), 2)), ..blob(name, seconds) };
    let offered = |parts: &[(Filing, BlobRef)], here: &[u8]| {
        let mut a = Replica::new("a", 100);
        parts.iter().for_each(|(filing, blob)| a.file(*filing, *blob));
        let mut message = read(&a.record, None);
        message.offer_part(&a.record, |blob| here.contains(&blob.hash.0[0]));
        let audio = message.audio.expect("audio");
        (audio.blob.hash.0[0], audio.partial, message.length_ms)
    };
    let (whole, part) = ((Filing::Complete, of_take(9, 10)), (Filing::Partial { take: 2 }, blob(1, 4)));
    assert_eq!(offered(&[part, whole], &[1]), (1, true, 4_000));
    assert_eq!(offered(&[part, whole], &[]), (9, false, 10_000), "it is not here either");
    let earlier = (Filing::Partial { take: 1 }, blob(1, 4));
    assert_eq!(offered(&[earlier, whole], &[1]), (9, false, 10_000), "the caller recorded again since");
    assert_eq!(offered(&[earlier, (Filing::Recovered, blob(2, 3)), whole], &[1, 2]), (2, true, 3_000));
}
