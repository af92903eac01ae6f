//! Messages whose audio is not on this node yet, or lost.

use twinbox_ids::BlobHash;
use twinbox_mailbox_sync::LocalState;
use twinbox_store_kit::eventually;

use super::*;

/// A message of another node that came without its audio; also that audio.
async fn leave_without_audio(world: &World) -> (MessageId, BlobHash, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a folder");
    let recorder = Node::alone(dir.path(), "b");
    world.node.hand_over(&recorder).await;
    let spoken = audio(2_000);
    let id = recorder.leave(world.mailbox, &spoken).await.message;
    let changes = recorder.store.changes_after(&world.node.store.vector(), usize::MAX).expect("changes");
    let blobs: Vec<_> = changes.iter().flat_map(|change| change.delta.blobs()).copied().collect();
    let hash = blobs.first().expect("audio").hash;
    world.node.store.apply_without(changes, blobs).await.expect("applied");
    (id, hash, spoken)
}

const RETRY: LookOptions = LookOptions { watched: false, accepted: false, retry: true };

#[tokio::test]
async fn message_whose_audio_is_lost_is_no_failure_of_its_account() {
    let mut world = World::new().await;
    let (lost, ..) = leave_without_audio(&world).await;
    world.node.peers.start();
    let is_lost = async || world.node.mailstore.is_audio_lost(&world.message(lost).await);
    eventually("the note was read", is_lost).await;
    let other = world.leave().await;
    // No round says that something was refused, and in the end none writes anything.
    world.settle().await;
    world.agree(other).await;
    let before = world.node.store.vector();
    assert_eq!(world.round().await, RoundCounts::default());
    assert_eq!(world.node.store.vector(), before);
    assert!(world.folder.uids_of(lost).is_empty());
}

#[tokio::test]
async fn message_whose_audio_is_not_here_yet_is_appended_when_it_is() {
    for strips in [false, true] {
        let mut world =
            World::with(&[], MemoryFolder { rewrites: strips, strips, ..MemoryFolder::default() }).await;
        let first = world.leave().await;
        world.settle().await;
        let (late, hash, spoken) = leave_without_audio(&world).await;
        let other = world.leave().await;
        for _ in 0..3 {
            let (_, end) = world.round_cut(None, LookOptions::default()).await;
            let end = end.expect("a round on a connection that goes on");
            assert!(matches!(end.refused, Some(SyncError::StepsWait(1))), "{end:?}");
            assert_eq!((world.folder.mails.len(), end.held_back), (2, 0), "the others are there");
        }
        world.node.store.blobs().put_as(hash, spoken.into()).await.expect("put");
        let (counts, end) = world.round_cut(None, RETRY).await;
        assert_eq!((counts.appended, end.expect("a round").refused.is_none()), (1, true));
        world.settle().await;
        for id in [first, late, other] {
            assert!(!world.message(id).await.deleted);
        }
        assert_eq!(world.folder.mails.len(), 3);
    }
}

#[tokio::test]
async fn row_of_a_mail_without_names_stays_while_the_audio_of_its_message_is_missing() {
    let mut world =
        World::with(&[], MemoryFolder { rewrites: true, strips: true, ..MemoryFolder::default() }).await;
    world.leave().await;
    world.settle().await;
    let (late, ..) = leave_without_audio(&world).await;
    // Its mail left the folder while the message changed here, which outlives that.
    let gone = world.folder.add(Some("<1@server.example>".to_owned()), ImapFlags::default());
    world.folder.take(gone);
    let link = Link::Bound { uid_validity: 5, uid: gone, remote: RemoteFlags::default() };
    let local = LocalState { folder: MailFolder::New, deleted: false };
    let row = MessageState { local, link, mail: MailState { alias: 7, ..MailState::default() } };
    let (account, lease) = (world.account().0, world.lease.clone());
    let rows = vec![(late, Some(row))];
    world.store.write(&account, rows, None, &lease.epoch, || lease.permit()).await.expect("written");
    world.mark(late, Mark::Saved).await;
    let (_, end) = world.round_cut(None, RETRY).await;
    assert!(matches!(end.expect("a round").refused, Some(SyncError::StepsWait(1))));
    let rows = world.store.rows(world.mailbox).await.expect("readable");
    let kept = *rows.get(&late).expect("a row");
    assert_eq!(MessageState { mail: MailState { refusal: None, ..kept.mail }, ..kept }, row);
    assert!(kept.mail.refusal.is_some());
}

#[tokio::test]
async fn attempt_of_a_message_whose_audio_is_lost_is_renewed() {
    let mut world = World::new().await;
    let first = world.leave().await;
    world.settle().await;
    let (lost, ..) = leave_without_audio(&world).await;
    let (_, end) = world.round_cut(None, LookOptions::default()).await;
    assert!(matches!(end.expect("a round").refused, Some(SyncError::StepsWait(1))), "it may come yet");
    let attempt = async |world: &World| match world.store.rows(world.mailbox).await.expect("readable")[&lost].link {
        Link::Appending { from_uid, .. } => from_uid,
        ref other => panic!("{other:?}"),
    };
    let before = attempt(&world).await;
    world.node.peers.start();
    let is_lost = async || world.node.mailstore.is_audio_lost(&world.message(lost).await);
    eventually("the note was read", is_lost).await;
    for n in 0..=twinbox_mailbox_sync::RENEWED_AFTER {
        world.folder.add(Some(format!("<{n}@server.example>")), ImapFlags::default());
    }
    world.settle().await;
    assert!(attempt(&world).await > before, "looks begin further and further back");
    world.agree(first).await;
    assert!(world.folder.uids_of(lost).is_empty());
}
