//! Two nodes: data acknowledged on two is readable on both; separate changes merge.

use tempfile::TempDir;
use tokio::sync::oneshot;
use twinbox_ids::{MailboxId, MessageId, Timestamp};
use twinbox_mailbox::{purge, schema::message_key};
use twinbox_mailstore::{
    Acknowledgement, Audio, Codec, ImportOutcome, MailError, MailedMessage, Mark, NewMailbox, NewMessage,
    rows::note_purged,
};
use twinbox_store_kit::{Node, audio, eventually, name, pair, patient_pair, speak};

#[tokio::test]
async fn a_message_acknowledged_on_two_is_readable_on_the_other_node() {
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let mailbox = a.mailbox().await;
    let spoken = audio(2_500);
    let filed = a.leave(mailbox.id, &spoken).await;
    assert_eq!(filed.acknowledgement, Acknowledgement::OnTwo { peer: name("b") });
    // Immediately: the acknowledgement guarantees it.
    assert_eq!(b.mailstore.find_by_number("1001").await.unwrap().map(|m| m.id), Some(mailbox.id));
    let message = b.mailstore.message(mailbox.id, filed.message).await.unwrap().unwrap();
    assert_eq!(b.mailstore.audio(&message).await.unwrap().bytes, spoken);

    let heard = b.mailstore.mark(mailbox.id, filed.message, Mark::Saved).await.unwrap();
    assert_eq!(heard, Acknowledgement::OnTwo { peer: name("a") });
    let counts = a.mailstore.message_counts(mailbox.id).await.unwrap();
    assert_eq!((counts.new, counts.saved), (0, 1));
}

#[tokio::test]
async fn message_is_acknowledged_alone_without_a_peer() {
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let mailbox = a.mailbox().await.id;
    b.peers.shutdown().await;
    drop(b);
    eventually("a knows that it is alone", async || a.peers.counting() == 0).await;
    assert_eq!(a.leave(mailbox, &audio(1_500)).await.acknowledgement, Acknowledgement::Alone);
}

/// Two nodes that met after each had given the number 1001 to a mailbox.
struct Clash {
    a: Node,
    b: Node,
    /// The mailbox of `a`, made first.
    first: MailboxId,
    /// The mailbox of `b`.
    second: MailboxId,
    /// A message in the second mailbox.
    message: MessageId,
}

async fn clash(dir: &TempDir) -> Clash {
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let first = a.mailbox().await.id;
    a.wait_past_stamps().await;
    let second = b.mailbox().await.id;
    let message = b.leave(second, &audio(1_500)).await.message;
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    Clash { a, b, first, second, message }
}

#[tokio::test]
async fn earlier_of_two_mailboxes_keeps_the_number() {
    let dir = TempDir::new().unwrap();
    let Clash { a, b, first, second, message } = clash(&dir).await;
    for node in [&a, &b] {
        assert_eq!(node.mailstore.find_by_number("1001").await.unwrap().map(|m| m.id), Some(first));
        assert!(!node.mailstore.get(first).await.unwrap().unwrap().number_lost);
        assert!(node.mailstore.get(second).await.unwrap().unwrap().number_lost);
        assert!(node.mailstore.message(second, message).await.unwrap().is_some());
        assert!(node.mailstore.create(NewMailbox::new("1001", "2580")).await.is_err());
    }
    // When the holder of the number is removed, the other mailbox gets it.
    a.mailstore.remove(first).await.unwrap();
    assert_eq!(a.mailstore.find_by_number("1001").await.unwrap().map(|m| m.id), Some(second));
    assert!(!a.mailstore.get(second).await.unwrap().unwrap().number_lost);
}

#[tokio::test]
async fn a_mailbox_that_lost_its_number_gets_another_and_keeps_its_messages() {
    let dir = TempDir::new().unwrap();
    let Clash { a, b, first, second, message } = clash(&dir).await;
    let taken = a.mailstore.renumber(second, "1001").await.expect_err("the first has it");
    assert!(taken.to_string().contains("1001 is in use"), "{taken}");
    let wrong = a.mailstore.renumber(second, "10o2").await.expect_err("no number");
    assert!(wrong.to_string().contains("10o2"), "{wrong}");
    a.mailstore.renumber(second, "+1002").await.unwrap();
    a.hand_over(&b).await;
    for node in [&a, &b] {
        let with = async |number| node.mailstore.find_by_number(number).await.unwrap().map(|m| m.id);
        assert_eq!((with("1001").await, with("1002").await), (Some(first), Some(second)));
        assert!(!node.mailstore.get(second).await.unwrap().unwrap().number_lost);
        assert!(node.mailstore.message(second, message).await.unwrap().is_some());
    }
    // A number that was given up is free, and the same number again changes nothing.
    b.mailstore.renumber(first, "1003").await.unwrap();
    b.mailstore.renumber(first, "1003").await.unwrap();
    assert!(b.mailstore.find_by_number("1001").await.unwrap().is_none());
    b.mailstore.renumber(second, "1001").await.unwrap();
    assert_eq!(b.mailstore.find_by_number("1001").await.unwrap().map(|m| m.id), Some(second));
    let gone = b.mailstore.renumber(MailboxId(7), "1009").await.expect_err("no such mailbox");
    assert!(gone.to_string().contains("does not exist"), "{gone}");
    assert!(b.mailstore.find_by_number("1009").await.unwrap().is_none());
}

/// Two nodes that both know the mailbox 1001, and then are separated.
async fn split(dir: &TempDir) -> (Node, Node, MailboxId) {
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let mailbox = a.mailbox().await.id;
    a.hand_over(&b).await;
    (a, b, mailbox)
}

#[tokio::test]
async fn number_that_a_removed_mailbox_got_on_the_other_side_of_a_split_is_free() {
    let dir = TempDir::new().unwrap();
    let (a, b, removed) = split(&dir).await;
    a.mailstore.remove(removed).await.unwrap();
    b.mailstore.renumber(removed, "1002").await.unwrap();
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    assert!(b.mailstore.get(removed).await.unwrap().is_none());
    let new = a.mailstore.create(NewMailbox::new("1002", "2580")).await.unwrap().0.id;
    a.hand_over(&b).await;
    for node in [&a, &b] {
        assert_eq!(node.mailstore.find_by_number("1002").await.unwrap().map(|m| m.id), Some(new));
        assert!(!node.mailstore.get(new).await.unwrap().unwrap().number_lost);
        let taken = node.mailstore.create(NewMailbox::new("1002", "2580")).await.expect_err("the new one has it");
        assert!(taken.to_string().contains("1002 is in use"), "{taken}");
    }
}

#[tokio::test]
async fn number_that_a_mailbox_gave_up_in_a_split_leads_to_the_one_that_got_it() {
    let dir = TempDir::new().unwrap();
    let (a, b, moved) = split(&dir).await;
    a.mailstore.renumber(moved, "1002").await.unwrap();
    // The later of two changes counts.
    a.wait_past_stamps().await;
    b.mailstore.renumber(moved, "1003").await.unwrap();
    let new = b.mailstore.create(NewMailbox::new("1002", "2580")).await.unwrap().0.id;
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        let with = async |number| node.mailstore.find_by_number(number).await.unwrap().map(|m| m.id);
        let found = (with("1001").await, with("1002").await, with("1003").await);
        assert_eq!(found, (None, Some(new), Some(moved)));
        for id in [new, moved] {
            assert!(!node.mailstore.get(id).await.unwrap().unwrap().number_lost);
        }
    }
    // The other number of that mailbox is refused to a third.
    assert!(a.mailstore.create(NewMailbox::new("1003", "2580")).await.is_err());
}

#[tokio::test]
async fn save_on_one_side_of_a_split_survives_a_delete_on_the_other() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let mailbox = a.mailbox().await.id;
    let saved = a.leave(mailbox, &audio(1_500)).await.message;
    let heard = a.leave(mailbox, &audio(1_600)).await.message;
    a.hand_over(&b).await;
    a.mailstore.mark(mailbox, saved, Mark::Saved).await.unwrap();
    a.mailstore.mark(mailbox, heard, Mark::Heard).await.unwrap();
    b.mailstore.mark(mailbox, saved, Mark::Deleted).await.unwrap();
    b.mailstore.mark(mailbox, heard, Mark::Deleted).await.unwrap();
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        assert!(!node.mailstore.message(mailbox, saved).await.unwrap().unwrap().deleted);
        assert!(node.mailstore.message(mailbox, heard).await.unwrap().unwrap().deleted);
    }
}

/// Rule D4: an acknowledged message is not deleted unheard.
#[tokio::test]
async fn message_deleted_while_partial_is_new_once_it_is_complete() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let mailbox = a.mailbox().await.id;
    let spoken = audio(4_000);
    let live = a.begin(mailbox).await;
    speak(&live, 0, &spoken[..16_000]);
    a.hand_over(&b).await;
    // The chunks came during the recording; then the split.
    let (id, take, _) = a.store.recordings().open()[0];
    b.store.recordings().insert(id, take, 0, spoken[..16_000].to_vec().into()).unwrap();
    b.store.recordings().written().await.unwrap();
    let filed = b.mailstore.file_orphans_of(&name("a"), None).await.unwrap();
    assert_eq!(filed.len(), 1);
    b.mailstore.mark(mailbox, filed[0].message, Mark::Heard).await.unwrap();
    b.mailstore.mark(mailbox, filed[0].message, Mark::Deleted).await.unwrap();

    speak(&live, 16_000, &spoken[16_000..]);
    assert!(live.file().await.unwrap().whole, "the caller is told that it is kept");
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        let message = node.mailstore.message(mailbox, filed[0].message).await.unwrap().unwrap();
        assert!(!message.deleted && !message.is_partial());
        assert_eq!(node.mailstore.audio(&message).await.unwrap().bytes, spoken);
        assert_eq!(node.mailstore.message_counts(mailbox).await.unwrap().new, 1);
    }
}

/// A message that came by mail.
pub fn mail(mailbox: MailboxId, id: MessageId) -> MailedMessage {
    let new = NewMessage {
        received: Timestamp(1),
        caller: None,
        caller_name: None,
        codec: Codec::Pcma,
        urgent: false,
        private: false,
        mail: None,
    };
    let audio = Audio { codec: Codec::Pcma, bytes: audio(1_500).into() };
    MailedMessage { id, mailbox, new, audio, is_automatic: false }
}

/// Rule A1: the answer to a repeated mail is as good as that to the first.
#[tokio::test]
async fn repeated_mail_is_known_only_once_the_first_is_on_two() {
    let dir = TempDir::new().unwrap();
    let (a, b) = patient_pair(dir.path()).await;
    let (mailbox, id) = (a.mailbox().await.id, MessageId(7));
    let mail = mail(mailbox, id);
    let deliver = || {
        let (mailstore, mail) = (a.mailstore.clone(), mail.clone());
        tokio::spawn(async move { mailstore.receive_mail(mail).await.unwrap() })
    };
    // Until it is released, node b makes nothing durable.
    let (holds, held) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let store = b.store.clone();
    let hold = tokio::spawn(async move {
        let held_up = store.commit(move |_| {
            let _ = holds.send(());
            let _ = released.recv();
            Ok::<_, MailError>(())
        });
        held_up.await.map(drop)
    });
    held.await.unwrap();

    let first = deliver();
    eventually("the message is here", async || a.mailstore.message(mailbox, id).await.unwrap().is_some()).await;
    let repeated = deliver();
    // Each takes as long as a commit here: without a wait for node b, both would end meanwhile.
    for _ in 0..10 {
        a.store.probe().await.unwrap();
    }
    assert!(!first.is_finished(), "node b does not have it");
    assert!(!repeated.is_finished(), "answered before node b has the message");
    release.send(()).unwrap();
    hold.await.unwrap().unwrap();
    assert_eq!(first.await.unwrap(), ImportOutcome::Taken(Acknowledgement::OnTwo { peer: name("b") }));
    assert_eq!(repeated.await.unwrap(), ImportOutcome::Known);
    assert!(b.mailstore.message(mailbox, id).await.unwrap().is_some());
}

/// A sender whose answer was lost repeats the mail, at whichever node, whatever became of the message since.
#[tokio::test]
async fn repeated_mail_makes_no_second_message_after_the_first_was_deleted_and_purged() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, b) = (Node::alone(dirs[0].path(), "a"), Node::alone(dirs[1].path(), "b"));
    let (mailbox, id) = (a.mailbox().await.id, MessageId(7));
    let taken = a.mailstore.receive_mail(mail(mailbox, id)).await.unwrap();
    assert!(matches!(taken, ImportOutcome::Taken(_)), "{taken:?}");
    let is_known = async || {
        a.hand_over(&b).await;
        for node in [&a, &b] {
            assert_eq!(node.mailstore.receive_mail(mail(mailbox, id)).await.unwrap(), ImportOutcome::Known);
            assert_eq!(node.mailstore.message_counts(mailbox).await.unwrap().new, 0);
        }
    };
    a.mailstore.mark(mailbox, id, Mark::Deleted).await.unwrap();
    is_known().await;
    let purged = a.store.commit(move |draft| {
        let key = message_key(mailbox, id);
        let record = draft.get(&key)?.unwrap_or_default();
        note_purged(draft, id)?;
        draft.edit(key, purge(&record))?;
        Ok::<_, MailError>(())
    });
    purged.await.unwrap();
    is_known().await;
}
