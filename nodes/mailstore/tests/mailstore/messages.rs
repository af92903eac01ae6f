//! One node: mailboxes, messages, greetings, MWI counts.

use bytes::Bytes;
use tempfile::TempDir;
use twinbox_ids::{MailboxId, MessageId};
use twinbox_mailstore::{
    Acknowledgement, Audio, Codec, CountsChange, CreateError, FileError, Folder, GreetingKind, MailError,
    MailboxChange, Mark, MessageCounts, NewMailbox, PinError, Quota, Rule,
};
use twinbox_store_kit::{Away, Node, audio, meta, speak, speak_in_vain};

fn counts(new: u32, saved: u32) -> MessageCounts {
    MessageCounts { new, saved }
}

#[tokio::test]
async fn heard_message_survives_a_restart() {
    let dir = TempDir::new().unwrap();
    let spoken = audio(2_000);
    let (mailbox, filed) = {
        let node = Node::alone(dir.path(), "a");
        let mailbox = node.mailbox().await;
        let filed = node.leave(mailbox.id, &spoken).await;
        assert_eq!(filed.acknowledgement, Acknowledgement::Alone);
        assert_eq!(node.mailstore.message_counts(mailbox.id).await.unwrap(), counts(1, 0));
        (mailbox, filed)
    };
    let node = Node::alone(dir.path(), "a");
    let messages = node.mailstore.messages(mailbox.id).await.unwrap();
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((message.id, message.folder, message.length_ms), (filed.message, Folder::New, 2_000));
    assert_eq!(message.caller.as_ref().map(|caller| caller.reveal().as_str()), Some("5550100"));
    assert!(!message.is_partial() && !message.deleted);
    let heard = node.mailstore.audio(message).await.unwrap();
    assert_eq!((heard.codec, heard.length_ms()), (Codec::Pcma, 2_000));
    assert_eq!(heard.bytes, spoken);
    let wav = node.mailstore.wav(message).await.unwrap();
    assert_eq!(twinbox_rtp::wav::Wav::read(&wav).unwrap().to_g711(Codec::Pcma), spoken);
}

#[tokio::test]
async fn ids_of_messages_sort_by_the_time_of_their_calls() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let mut left = Vec::new();
    for _ in 0..4 {
        let now = twinbox_clock::wall();
        while twinbox_clock::wall() == now {
            tokio::task::yield_now().await;
        }
        left.push(node.leave(mailbox, &audio(1_000)).await.message);
    }
    assert!(left.is_sorted_by(|a, b| a < b), "{left:?}");
    let listed: Vec<MessageId> = node.mailstore.messages(mailbox).await.unwrap().iter().map(|m| m.id).collect();
    assert_eq!(listed, left);
}

#[tokio::test]
async fn marks_change_folder_and_counts() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let first = node.leave(mailbox, &audio(1_500)).await.message;
    node.leave(mailbox, &audio(1_600)).await;
    for (mark, expected, folder, deleted) in [
        (Mark::Heard, counts(1, 1), Folder::Heard, false),
        (Mark::Saved, counts(1, 1), Folder::Saved, false),
        (Mark::Deleted, counts(1, 0), Folder::Saved, true),
        (Mark::Undeleted, counts(1, 1), Folder::Saved, false),
        (Mark::New, counts(2, 0), Folder::New, false),
        (Mark::Deleted, counts(1, 0), Folder::New, true),
    ] {
        node.mailstore.mark(mailbox, first, mark).await.unwrap();
        let message = node.mailstore.message(mailbox, first).await.unwrap().unwrap();
        assert_eq!((message.folder, message.deleted), (folder, deleted), "{mark:?}");
        assert_eq!(node.mailstore.message_counts(mailbox).await.unwrap(), expected, "{mark:?}");
    }
    let uids: Vec<_> = node.mailstore.messages(mailbox).await.unwrap().iter().map(|m| m.uid).collect();
    assert_eq!(uids, [Some(1), Some(2)]);
    let error = node.mailstore.mark(mailbox, MessageId(9), Mark::Heard).await.unwrap_err();
    assert!(matches!(error, MailError::NoMessage(MessageId(9))), "{error}");
}

#[tokio::test]
async fn modseq_increases_with_every_change_only() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let message = node.leave(mailbox, &audio(1_500)).await.message;
    let mut seen = vec![];
    for mark in [Mark::New, Mark::Heard, Mark::Heard, Mark::Deleted] {
        node.mailstore.mark(mailbox, message, mark).await.unwrap();
        seen.push(node.mailstore.message(mailbox, message).await.unwrap().unwrap().modseq);
    }
    assert_eq!(seen, [1, 2, 2, 3]);
}

#[tokio::test]
async fn short_or_discarded_recording_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;

    let live = node.begin(mailbox).await;
    speak(&live, 0, &audio(900));
    let error = live.file().await.unwrap_err();
    assert!(matches!(error, FileError::TooShort { length_ms: 900, min_ms: 1_000 }), "{error}");

    let live = node.begin(mailbox).await;
    speak(&live, 0, &audio(3_000));
    live.discard().await.unwrap();
    // The recording has ended: every further call is refused.
    assert!(matches!(live.file().await, Err(FileError::Closed)));
    assert!(matches!(live.clone().discard().await, Err(FileError::Closed)));

    assert!(node.mailstore.messages(mailbox).await.unwrap().is_empty());
    assert!(node.store.recordings().open().is_empty());
}

#[tokio::test]
async fn message_of_the_maximum_length_of_its_class_is_never_too_short() {
    let dir = TempDir::new().unwrap();
    let node = Node::with(dir.path(), "a", 1, 0, |settings| settings.min_message_ms = 2_000);
    let mailbox = node.mailbox().await.id;
    let file = async |ms: usize| {
        let live = node.begin(mailbox).await;
        speak(&live, 0, &audio(ms));
        live.file().await
    };
    assert!(matches!(file(1_000).await, Err(FileError::TooShort { length_ms: 1_000, min_ms: 2_000 })));
    node.mailstore.change_class("default", vec![(Rule::MessageSeconds, Some(1))]).await.unwrap();
    assert!(matches!(file(900).await, Err(FileError::TooShort { length_ms: 900, min_ms: 1_000 })));
    file(1_000).await.unwrap();
}

#[tokio::test]
async fn recording_can_be_played_and_replaced() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let live = node.begin(mailbox).await;
    speak(&live, 0, &audio(5_000));
    live.retake().await.unwrap();
    assert_eq!(live.length_ms(), 0);
    let second = audio(1_250);
    speak(&live, 0, &second);
    assert_eq!(live.length_ms(), 1_250);
    let filed = live.file().await.unwrap();
    assert_eq!(filed.message, live.message());
    let message = node.mailstore.message(mailbox, filed.message).await.unwrap().unwrap();
    assert_eq!(node.mailstore.audio(&message).await.unwrap().bytes, second);
    assert!(node.store.recordings().open().is_empty());
}

#[tokio::test]
async fn the_last_take_can_be_played_back_before_it_is_filed() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let live = node.begin(mailbox).await;
    let spoken = audio(1_500);
    speak(&live, 0, &spoken);
    assert_eq!(live.audio().await.unwrap().bytes, spoken);
}

#[tokio::test]
async fn numbers_belong_to_one_mailbox_at_a_time() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let store = &node.mailstore;
    let mailbox = node.mailbox().await;
    assert_eq!(store.find_by_number("1001").await.unwrap().map(|m| m.id), Some(mailbox.id));
    assert_eq!(store.find_by_number("+10-01").await.unwrap().map(|m| m.id), Some(mailbox.id));
    for stranger in ["1002", "", "alice", "1001x"] {
        assert!(store.find_by_number(stranger).await.unwrap().is_none(), "{stranger:?}");
    }
    let error = store.create(NewMailbox::new("1001", "2580")).await.unwrap_err();
    assert!(matches!(&error, CreateError::Taken { number } if number == "1001"), "{error}");

    let message = node.leave(mailbox.id, &audio(1_500)).await.message;
    store.remove(mailbox.id).await.unwrap();
    assert!(store.find_by_number("1001").await.unwrap().is_none());
    assert!(store.get(mailbox.id).await.unwrap().is_none());
    assert!(store.mailboxes().await.unwrap().is_empty());
    assert_eq!(store.message_counts(mailbox.id).await.unwrap(), counts(0, 0));
    // Only flagged: the content is removed when every member has the delete.
    assert!(store.message(mailbox.id, message).await.unwrap().unwrap().deleted);
    assert!(matches!(store.remove(mailbox.id).await, Err(MailError::NoMailbox(_))));
    assert!(matches!(store.begin_recording(meta(mailbox.id)).await, Err(MailError::NoMailbox(_))));

    let next = store.create(NewMailbox::new("1001", "2580")).await.unwrap().0;
    assert_ne!(next.id, mailbox.id);
    assert_eq!(store.find_by_number("1001").await.unwrap().map(|m| m.id), Some(next.id));
}

#[tokio::test]
async fn invalid_mailboxes_are_refused_with_a_text() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let refuse = async |change: fn(&mut NewMailbox)| {
        let mut new = NewMailbox::new("1001", "2580");
        change(&mut new);
        node.mailstore.create(new).await.unwrap_err()
    };
    assert!(matches!(refuse(|new| new.number = "alice".into()).await, CreateError::Number { .. }));
    let trivial = refuse(|new| new.pin = Some("1234".to_owned().into())).await;
    assert!(matches!(trivial, CreateError::Pin(PinError::Refused(_))), "{trivial}");
    assert!(!trivial.to_string().contains("1234"));
    let zone = refuse(|new| new.timezone = "Mars/Olympus".into()).await.to_string();
    assert!(zone.contains("Mars/Olympus") && zone.contains("Europe/Berlin"), "{zone}");
    assert!(node.mailstore.mailboxes().await.unwrap().is_empty());
}

#[tokio::test]
async fn settings_of_a_mailbox_change_one_by_one() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let id = node.mailbox().await.id;
    for change in [
        MailboxChange::Name("Alice".to_owned().into()),
        MailboxChange::Timezone("Europe/Berlin".into()),
        MailboxChange::Operator(Some("100".into())),
        MailboxChange::Quota(Quota { max_messages: 1, max_message_ms: 9_000 }),
        MailboxChange::Language("de".into()),
    ] {
        node.mailstore.change(id, change).await.unwrap();
    }
    let mailbox = node.mailstore.get(id).await.unwrap().unwrap();
    assert_eq!(mailbox.name.reveal(), "Alice");
    assert_eq!((mailbox.timezone.as_str(), mailbox.language.as_str()), ("Europe/Berlin", "de"));
    assert_eq!((mailbox.operator.as_deref(), mailbox.quota.max_message_ms), (Some("100"), 9_000));
    assert!(!mailbox.number_lost);
    assert!(node.mailstore.change(id, MailboxChange::Timezone("Nowhere".into())).await.is_err());
    assert!(!node.mailstore.is_full(&mailbox).await.unwrap());
    node.leave(id, &audio(1_500)).await;
    assert!(node.mailstore.is_full(&mailbox).await.unwrap());
}

#[tokio::test]
async fn greetings_come_and_go() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let (id, store) = (node.mailbox().await.id, &node.mailstore);
    let greeting = |codec, ms| Audio { codec, bytes: Bytes::from(audio(ms)) };
    assert_eq!(store.greeting(id, GreetingKind::Standard).await.unwrap(), None);
    for said in [greeting(Codec::Pcmu, 700), greeting(Codec::Pcma, 800), greeting(Codec::Pcmu, 900)] {
        store.set_greeting(id, GreetingKind::Standard, Some(said.clone())).await.unwrap();
        assert_eq!(store.greeting(id, GreetingKind::Standard).await.unwrap(), Some(said));
    }
    assert_eq!(store.greeting(id, GreetingKind::Busy).await.unwrap(), None);
    assert_eq!(store.get(id).await.unwrap().unwrap().greetings.len(), 1);
    store.set_greeting(id, GreetingKind::Standard, None).await.unwrap();
    assert_eq!(store.greeting(id, GreetingKind::Standard).await.unwrap(), None);
    let nowhere = store.set_greeting(MailboxId(1), GreetingKind::Name, None).await;
    assert!(matches!(nowhere, Err(MailError::NoMailbox(_))));
}

#[tokio::test]
async fn watch_reports_mailboxes_whose_counts_may_have_changed() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let id = node.mailbox().await.id;
    let mut watch = node.mailstore.watch_counts();
    let live = node.begin(id).await;
    speak(&live, 0, &audio(1_500));
    assert_eq!(watch.try_next(), None, "a recording changes no count");
    let message = live.file().await.unwrap().message;
    assert_eq!(watch.next().await, Some(CountsChange::Mailbox(id)));
    node.mailstore.mark(id, message, Mark::Heard).await.unwrap();
    assert_eq!(watch.next().await, Some(CountsChange::Mailbox(id)));
    node.begin(id).await.discard().await.unwrap();
    assert_eq!(watch.next().await, Some(CountsChange::Mailbox(id)), "what another filed of it may vanish");
    node.mailstore.change(id, MailboxChange::Name("Alice".to_owned().into())).await.unwrap();
    assert_eq!(watch.next().await, Some(CountsChange::Mailbox(id)), "any change of its record");
    node.mailstore.remove(id).await.unwrap();
    assert_eq!(watch.next().await, Some(CountsChange::Everything), "its number is free");
}

#[tokio::test]
async fn full_disk_refuses_new_messages_and_keeps_stored_ones() {
    let dir = TempDir::new().unwrap();
    let spoken = audio(2_000);
    let (mailbox, message) = {
        let node = Node::alone(dir.path(), "a");
        let mailbox = node.mailbox().await.id;
        (mailbox, node.leave(mailbox, &spoken).await.message)
    };
    let node = Node::with(dir.path(), "a", 1, u64::MAX / 4, |_| {});
    let error = node.mailstore.begin_recording(meta(mailbox)).await.err().expect("no room");
    assert!(error.is_full(), "{error}");
    assert!(matches!(FileError::from(error), FileError::Full));
    let kept = node.mailstore.message(mailbox, message).await.unwrap().unwrap();
    assert_eq!(node.mailstore.audio(&kept).await.unwrap().bytes, spoken);
}

/// Rule A1: audio that the disk lost is not reported as stored.
#[tokio::test]
async fn recording_with_a_lost_chunk_is_filed_as_partial() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("a");
    let node = Node::alone(&home, "a");
    let mailbox = node.mailbox().await.id;
    let spoken = audio(3_000);
    for (what, lost, kept) in [("its end", 22_000..24_000, 22_000), ("its middle", 8_000..10_000, 24_000)] {
        let live = node.begin(mailbox).await;
        speak(&live, 0, &spoken[..lost.start]);
        assert!(live.whole().await, "{what}: not yet");
        speak_in_vain(&node, &home, &live, lost.start, &spoken[lost.clone()]).await;
        assert!(!live.whole().await, "{what}");
        speak(&live, lost.end, &spoken[lost.end..]);
        let filed = live.file().await.unwrap();
        assert!(!filed.whole, "{what}");
        let message = node.mailstore.message(mailbox, filed.message).await.unwrap().unwrap();
        assert!(message.is_partial(), "{what}");
        assert_eq!(node.mailstore.audio(&message).await.unwrap().bytes.len(), kept, "{what}");
    }
    assert!(node.leave(mailbox, &spoken).await.whole);

    // Too short because the rest was lost is reported differently from too short.
    let live = node.begin(mailbox).await;
    speak_in_vain(&node, &home, &live, 0, &spoken[..2_000]).await;
    let away = Away::take(&home).await;
    live.append(2_000, Bytes::from(audio(500))).unwrap_err();
    away.put_back();
    assert!(matches!(live.file().await, Err(FileError::Lost)));
}

/// Rule A1: it is filed as soon as possible, by this process or the next.
#[tokio::test]
async fn unfiled_recording_is_filed_when_the_disk_returns() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("a");
    let spoken = audio(3_000);
    let (mailbox, left) = {
        let node = Node::alone(&home, "a");
        let mailbox = node.mailbox().await.id;
        let live = node.begin(mailbox).await;
        speak(&live, 0, &spoken);
        assert!(live.whole().await);
        let away = Away::take(&home).await;
        let error = live.file().await.expect_err("the disk is away");
        assert!(matches!(error, FileError::Full | FileError::Mail(_)), "{error}");
        assert!(node.mailstore.file_again().await.error.is_some());
        assert_eq!(*node.mailstore.unfiled().borrow(), 1);
        away.put_back();
        let again = node.mailstore.file_again().await;
        assert!(again.error.is_none() && again.filed[0].whole, "{again:?}");
        assert_eq!(*node.mailstore.unfiled().borrow(), 0);
        assert!(node.mailstore.file_again().await.filed.is_empty());
        let message = node.mailstore.message(mailbox, again.filed[0].message).await.unwrap().unwrap();
        assert!(!message.is_partial());
        assert_eq!(node.mailstore.audio(&message).await.unwrap().bytes, spoken);

        let left = node.begin(mailbox).await;
        speak(&left, 0, &spoken);
        assert!(left.whole().await);
        (mailbox, left.message())
    };
    // The next incarnation finds the leftovers of this one, and the disk goes away again.
    let node = Node::alone(&home, "a");
    let away = Away::take(&home).await;
    node.mailstore.file_own_leftovers().await.expect_err("the disk is away");
    assert_eq!(*node.mailstore.unfiled().borrow(), 1);
    away.put_back();
    let again = node.mailstore.file_again().await;
    assert_eq!((again.filed.len(), *node.mailstore.unfiled().borrow()), (1, 0));
    let message = node.mailstore.message(mailbox, left).await.unwrap().unwrap();
    assert_eq!(node.mailstore.audio(&message).await.unwrap().bytes, spoken);
}

/// Rule A4.
#[tokio::test]
async fn broken_store_accepts_neither_messages_nor_calls() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    assert!(node.mailstore.accepts_calls() && node.mailstore.accepts_messages());
    node.store.mark_broken("a sync failed");
    assert!(!node.mailstore.accepts_calls() && !node.mailstore.accepts_messages());
}

#[tokio::test]
async fn with_require_two_messages_are_refused_without_a_peer() {
    let dir = TempDir::new().unwrap();
    let node = Node::with(dir.path(), "a", 2, 0, |settings| settings.require_two = true);
    assert!(!node.mailstore.accepts_messages());
    // A recording under way is filed all the same (rule A3).
    let mailbox = node.mailbox().await.id;
    assert_eq!(node.leave(mailbox, &audio(1_500)).await.acknowledgement, Acknowledgement::Alone);
}

/// The counts of mailbox, as reading all messages gives them.
async fn recounted(node: &Node, id: twinbox_ids::MailboxId) -> MessageCounts {
    MessageCounts::count(&node.mailstore.messages(id).await.unwrap())
}

#[tokio::test]
async fn cached_counts_follow_local_and_remote_changes() {
    let (dir, other_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, b) = (Node::alone(dir.path(), "a"), Node::alone(other_dir.path(), "b"));
    let id = a.mailbox().await.id;
    let first = a.leave(id, &audio(2_000)).await.message;
    let second = a.leave(id, &audio(2_000)).await.message;
    let check = async |new, saved| {
        a.hand_over(&b).await;
        for node in [&a, &b] {
            let counts = node.mailstore.message_counts(id).await.unwrap();
            assert_eq!(counts, MessageCounts { new, saved });
            assert_eq!(counts, recounted(node, id).await);
        }
    };
    check(2, 0).await;
    for (message, mark, new, saved) in [
        (first, Mark::Heard, 1, 1),
        (second, Mark::Saved, 0, 2),
        (first, Mark::Deleted, 0, 1),
        (first, Mark::Undeleted, 0, 2),
        (first, Mark::New, 1, 1),
    ] {
        a.mailstore.mark(id, message, mark).await.unwrap();
        check(new, saved).await;
    }
    // Repeated reads and lists read no message again.
    let read = a.mailstore.messages_counted();
    a.mailstore.count_all(|| false).unwrap();
    for _ in 0..10 {
        a.mailstore.message_counts(id).await.unwrap();
        a.mailstore.usage_now(id).unwrap();
        assert!(!a.mailstore.is_full(&a.mailstore.get(id).await.unwrap().unwrap()).await.unwrap());
    }
    assert_eq!(a.mailstore.messages_counted(), read);
    // After a change of one mailbox only that one is read again.
    let quiet = a.mailstore.create(NewMailbox::new("1002", "2580")).await.unwrap().0.id;
    a.leave(quiet, &audio(2_000)).await;
    a.mailstore.message_counts(quiet).await.unwrap();
    let read = a.mailstore.messages_counted();
    a.mailstore.mark(id, first, Mark::Heard).await.unwrap();
    a.mailstore.count_all(|| false).unwrap();
    assert_eq!(a.mailstore.messages_counted(), read + 2);
}
