//! Recordings of a dead node become messages, once (rules C1, C2).

use tempfile::TempDir;
use twinbox_ids::RecordingId;
use twinbox_mailstore::{LiveRecording, Mark};
use twinbox_store_kit::{Node, audio, eventually, name, pair, speak, speak_in_vain};

fn recording(live: &LiveRecording) -> RecordingId {
    RecordingId(live.message().0)
}

/// Two nodes that share only a mailbox so far.
async fn apart(dir: &TempDir) -> (Node, Node, twinbox_ids::MailboxId) {
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let id = a.mailbox().await.id;
    a.hand_over(&b).await;
    (a, b, id)
}

/// The other node gets these bytes of a recording, as chunks of the stream.
async fn chunks_reach(live: &LiveRecording, other: &Node, range: std::ops::Range<usize>) {
    let bytes = live.audio().await.unwrap().bytes.slice(range.clone());
    other.store.recordings().insert(recording(live), 1, range.start as u64, bytes).unwrap();
    let end = range.end as u64;
    eventually("the chunks are there", async || {
        other.store.recordings().coverage(recording(live), 1).is_some_and(|there| there.end() >= end)
    })
    .await;
}

#[tokio::test]
async fn recording_of_an_earlier_incarnation_is_filed_once_as_partial() {
    let dir = TempDir::new().unwrap();
    let spoken = audio(3_000);
    let (mailbox, message) = {
        let node = Node::alone(dir.path(), "a");
        let mailbox = node.mailbox().await.id;
        let (live, short) = (node.begin(mailbox).await, node.begin(mailbox).await);
        speak(&live, 0, &spoken);
        speak(&short, 0, &audio(500));
        assert_eq!(live.audio().await.unwrap().bytes, spoken);
        short.audio().await.unwrap();
        // A recording of this incarnation is in progress, not a leftover.
        assert!(node.mailstore.file_own_leftovers().await.unwrap().is_empty());
        (mailbox, live.message())
    };
    for restart in 0..3 {
        let node = Node::alone(dir.path(), "a");
        let filed = node.mailstore.file_own_leftovers().await.unwrap();
        assert_eq!(
            filed.iter().map(|f| f.message).collect::<Vec<_>>(),
            if restart == 0 { vec![message] } else { vec![] }
        );
        let messages = node.mailstore.messages(mailbox).await.unwrap();
        let [found] = messages.as_slice() else { panic!("{messages:?}") };
        assert!(found.id == message && found.is_partial());
        assert_eq!(node.mailstore.audio(found).await.unwrap().bytes, spoken);
    }
}

#[tokio::test]
async fn orphan_is_filed_by_a_peer_and_completed_when_its_node_returns() {
    let dir = TempDir::new().unwrap();
    let (a, b, mailbox) = apart(&dir).await;
    let spoken = audio(4_000);
    let live = a.begin(mailbox).await;
    speak(&live, 0, &spoken);
    a.hand_over(&b).await;

    chunks_reach(&live, &b, 0..16_000).await;
    let filed = b.mailstore.file_orphans_of(&name("a"), None).await.unwrap();
    assert_eq!(filed.len(), 1);
    assert_eq!(filed[0].message, live.message());
    assert!(b.mailstore.file_orphans_of(&name("a"), None).await.unwrap().is_empty(), "once");
    assert!(b.mailstore.file_orphans_of(&name("c"), None).await.unwrap().is_empty());
    let message = b.mailstore.message(mailbox, live.message()).await.unwrap().unwrap();
    assert!(message.is_partial());
    assert_eq!(b.mailstore.audio(&message).await.unwrap().bytes, spoken[..16_000]);

    // More chunks arrived: the same message grows; the hole between is silence.
    chunks_reach(&live, &b, 20_000..28_000).await;
    assert_eq!(b.mailstore.file_orphans_of(&name("a"), None).await.unwrap().len(), 1);
    let message = b.mailstore.message(mailbox, live.message()).await.unwrap().unwrap();
    let heard = b.mailstore.audio(&message).await.unwrap().bytes;
    assert_eq!(heard[16_000..20_000], [0xd5; 4_000], "A-law silence");
    assert_eq!(heard[20_000..], spoken[20_000..28_000]);
    b.mailstore.mark(mailbox, message.id, Mark::Heard).await.unwrap();

    // It was not dead: it files the whole, and both see one message, complete, heard.
    live.file().await.unwrap();
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        let messages = node.mailstore.messages(mailbox).await.unwrap();
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        assert!(!message.is_partial() && message.uid.is_some());
        assert_eq!(message.folder, twinbox_mailstore::Folder::Heard);
        assert_eq!(node.mailstore.audio(message).await.unwrap().bytes, spoken);
    }
    // The rest of the chunks is removed.
    assert!(b.mailstore.file_orphans_of(&name("a"), None).await.unwrap().is_empty());
    assert!(b.store.recordings().open().is_empty());
}

/// Another node assumed this one dead and filed its chunks; now the owner files, with more, less or the same.
#[tokio::test]
async fn owner_files_a_recording_filed_by_a_peer_before() {
    for (what, lost, partial, expected) in [("all", false, false, 32_000), ("less", true, true, 30_000)] {
        let dir = TempDir::new().unwrap();
        let (a, b, mailbox) = apart(&dir).await;
        let spoken = audio(4_000);
        let live = a.begin(mailbox).await;
        speak(&live, 0, &spoken[..30_000]);
        a.hand_over(&b).await;
        chunks_reach(&live, &b, 0..30_000).await;
        assert_eq!(b.mailstore.file_orphans_of(&name("a"), None).await.unwrap().len(), 1);
        b.hand_over(&a).await;
        match lost {
            false => speak(&live, 30_000, &spoken[30_000..]),
            true => speak_in_vain(&a, &dir.path().join("a"), &live, 30_000, &spoken[30_000..]).await,
        }
        let filed = live.file().await.unwrap();
        assert_eq!((filed.message, filed.whole), (live.message(), !lost), "{what}");
        let messages = a.mailstore.messages(mailbox).await.unwrap();
        let [message] = messages.as_slice() else { panic!("{what}: {messages:?}") };
        assert_eq!(message.is_partial(), partial, "{what}");
        assert_eq!(a.mailstore.audio(message).await.unwrap().bytes, spoken[..expected], "{what}");
    }
}

#[tokio::test]
async fn discarded_recording_is_no_message_even_if_a_peer_filed_it() {
    let dir = TempDir::new().unwrap();
    let (a, b, mailbox) = apart(&dir).await;
    let live = a.begin(mailbox).await;
    speak(&live, 0, &audio(9_000));
    a.hand_over(&b).await;
    chunks_reach(&live, &b, 0..72_000).await;
    assert_eq!(b.mailstore.file_orphans_of(&name("a"), None).await.unwrap().len(), 1);
    assert_eq!(b.mailstore.message_counts(mailbox).await.unwrap().new, 1);
    let mut watch = b.mailstore.watch_counts();

    live.discard().await.unwrap();
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        assert!(node.mailstore.messages(mailbox).await.unwrap().is_empty());
    }
    assert_eq!(watch.next().await, Some(twinbox_mailstore::CountsChange::Mailbox(mailbox)));
    b.mailstore.file_orphans_of(&name("a"), None).await.unwrap();
    assert!(b.store.recordings().open().is_empty());
}

#[tokio::test]
async fn replaced_longer_take_does_not_return() {
    let dir = TempDir::new().unwrap();
    let (a, b, mailbox) = apart(&dir).await;
    let live = a.begin(mailbox).await;
    speak(&live, 0, &audio(9_000));
    a.hand_over(&b).await;
    chunks_reach(&live, &b, 0..72_000).await;
    b.mailstore.file_orphans_of(&name("a"), None).await.unwrap();

    live.retake().await.unwrap();
    let second = audio(2_000);
    speak(&live, 0, &second);
    a.hand_over(&b).await;
    assert!(b.mailstore.messages(mailbox).await.unwrap().is_empty(), "the take that counts is not there yet");
    live.file().await.unwrap();
    a.hand_over(&b).await;
    let messages = b.mailstore.messages(mailbox).await.unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(b.mailstore.audio(&messages[0]).await.unwrap().bytes, second);
}

#[tokio::test]
async fn peer_files_the_audio_of_a_failed_node() {
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let mailbox = a.mailbox().await.id;
    let live = a.begin(mailbox).await;
    let spoken = audio(3_000);
    speak(&live, 0, &spoken);
    eventually("the chunks are with the peer", async || {
        b.store.recordings().coverage(recording(&live), 1).is_some_and(|there| there.end() == 24_000)
    })
    .await;
    a.peers.shutdown().await;
    let filed = b.mailstore.file_orphans_of(&name("a"), None).await.unwrap();
    assert_eq!(filed.iter().map(|f| f.message).collect::<Vec<_>>(), [live.message()]);
    let message = b.mailstore.message(mailbox, live.message()).await.unwrap().unwrap();
    assert!(message.is_partial());
    assert_eq!(b.mailstore.audio(&message).await.unwrap().bytes, spoken);
}
