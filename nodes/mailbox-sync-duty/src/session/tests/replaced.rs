//! Partial messages whose audio arrives later: the complete mail replaces that of the part.

use twinbox_ids::RecordingId;
use twinbox_mailbox_sync::{LocalState, MailState};
use twinbox_mailstore::LiveRecording;
use twinbox_store_kit::{eventually, speak};

use super::*;

/// A node that died during a recording, of which the other has a part, and filed it.
struct Orphan {
    live: LiveRecording,
    recorder: Node,
    _dir: TempDir,
}

impl Orphan {
    async fn leave(world: &World) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let recorder = Node::alone(dir.path(), "b");
        world.node.hand_over(&recorder).await;
        let live = recorder.begin(world.mailbox).await;
        speak(&live, 0, &audio(3_000));
        recorder.hand_over(&world.node).await;
        let recording = RecordingId(live.message().0);
        let bytes = live.audio().await.expect("audio").bytes.slice(0..12_000);
        world.node.store.recordings().insert(recording, 1, 0, bytes).expect("taken");
        eventually("the chunks are there", async || {
            let coverage = world.node.store.recordings().coverage(recording, 1);
            coverage.is_some_and(|there| there.end() >= 12_000)
        })
        .await;
        world.node.mailstore.file_orphans_of(&name("b"), None).await.expect("filed");
        let orphan = Self { live, recorder, _dir: dir };
        assert!(world.message(orphan.id()).await.is_partial());
        // Its pause before the first APPEND is over: it was deleted and undeleted.
        let local = LocalState { folder: MailFolder::New, deleted: true };
        let row = MessageState { local, link: Link::Gone, mail: MailState::default() };
        let (account, _) = world.account();
        let lease = world.lease.clone();
        let rows = vec![(orphan.id(), Some(row))];
        world.store.write(&account, rows, None, &lease.epoch, || lease.permit()).await.expect("written");
        orphan
    }

    fn id(&self) -> MessageId {
        self.live.message()
    }

    /// The node was not dead: it files the whole.
    async fn complete(self, world: &World) -> MessageId {
        let id = self.id();
        world.node.hand_over(&self.recorder).await;
        self.live.file().await.expect("filed");
        self.recorder.hand_over(&world.node).await;
        assert!(!world.message(id).await.is_partial());
        id
    }
}

/// The part is in the folder; returns its UID.
async fn part(world: &mut World, orphan: &Orphan) -> u32 {
    world.settle().await;
    assert!(world.folder.uids_of(orphan.id()).is_empty());
    let [uid] = world.folder.uids_of_part(orphan.id())[..] else { panic!("no part: {:?}", world.folder) };
    uid
}

#[tokio::test]
async fn complete_message_replaces_its_part_with_the_state_of_the_owner() {
    for folder in folders() {
        let mut world = World::with(&[], folder).await;
        let orphan = Orphan::leave(&world).await;
        let uid = part(&mut world, &orphan).await;
        world.folder.set(uid, |flags| flags.seen = true);
        let id = orphan.complete(&world).await;
        world.settle().await;
        assert!(world.folder.uids_of_part(id).is_empty(), "{:?}", world.folder);
        world.agree(id).await;
        assert_eq!(world.message(id).await.folder, MailFolder::Heard);
        // From now on a deletion there is one of the message.
        let uid = world.folder.uids_of(id)[0];
        world.folder.take(uid);
        world.settle().await;
        assert!(world.message(id).await.deleted);
    }
}

#[tokio::test]
async fn deletion_of_the_part_does_not_delete_the_complete_message() {
    let cases = [(false, false), (false, true), (true, false), (true, true)];
    for (variant, (is_flagged, is_seen_before)) in (0..3).flat_map(|variant| cases.map(|case| (variant, case))) {
        let folder = folders().into_iter().nth(variant).expect("a variant");
        let mut world = World::with(&[], folder).await;
        let orphan = Orphan::leave(&world).await;
        let uid = part(&mut world, &orphan).await;
        if is_flagged {
            world.folder.set(uid, |flags| flags.deleted = true);
        } else {
            world.folder.take(uid);
        }
        if is_seen_before {
            world.settle().await;
            assert!(world.message(orphan.id()).await.deleted);
        }
        let id = orphan.complete(&world).await;
        world.settle().await;
        assert!(!world.message(id).await.deleted, "{variant} {is_flagged} {is_seen_before}");
        assert!(world.folder.uids_of_part(id).is_empty());
        world.agree(id).await;
    }
}

#[tokio::test]
async fn replacement_that_is_cut_at_any_call_leaves_one_complete_mail() {
    for cut in [Cut::Before, Cut::After] {
        let mut call = 1;
        loop {
            let mut world = World::new().await;
            let orphan = Orphan::leave(&world).await;
            part(&mut world, &orphan).await;
            let id = orphan.complete(&world).await;
            let mut was_cut = false;
            // The round that appends, and the one that removes the part.
            for _ in 0..2 {
                let (_, end) = world.round_cut(Some((call, cut)), LookOptions::default()).await;
                was_cut |= end.is_err();
                assert!(!(world.folder.uids_of(id).is_empty() && world.folder.uids_of_part(id).is_empty()));
            }
            world.settle().await;
            assert!(world.folder.uids_of_part(id).is_empty());
            world.agree(id).await;
            if !was_cut {
                break;
            }
            call += 1;
            assert!(call < 50, "the round does not end");
        }
    }
}
