//! Rounds against a folder in memory, with a real store, and with cuts at every call.

mod lost_audio;
mod memory;
mod replaced;
mod restored;
mod servers;

use std::time::Duration;

use tempfile::TempDir;
use twinbox_clock::BootInstant;
use twinbox_gate::Gate;
use twinbox_ids::{Epoch, MailServerId, MailboxId, Timestamp};
use twinbox_imap::ImapFlags;
use twinbox_mailbox_sync::{StoredServer, message_id, server_change};
use twinbox_mailstore::{Folder as MailFolder, Mark, Message};
use twinbox_replication_store::Filled;
use twinbox_roles_core::Duty;
use twinbox_store_kit::{Node, audio, name};

use self::memory::{CLUSTER, Cut, MemoryFolder};
use super::*;

const SERVER: MailServerId = MailServerId(9);

/// A node that holds the duty, with a mailbox that has an account.
struct World {
    node: Node,
    store: MailboxSyncStore,
    mailbox: MailboxId,
    lease: DutyLease,
    cluster: ClusterId,
    folder: MemoryFolder,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with(&[], MemoryFolder::default()).await
    }

    async fn with(settings: &[&str], folder: MemoryFolder) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let node = Node::alone(dir.path(), "a");
        node.store.set_filled(Filled::Complete).await.expect("a mark");
        let mailbox = node.mailbox().await.id;
        let store = MailboxSyncStore::of(&node.mailstore);
        let usual = ["host=mail.example", "password-file=/nowhere", "account={number}@mail.example"];
        let changes = usual.iter().chain(settings).map(|text| server_change(text).expect(text));
        let settings = changes.filter_map(|(number, value)| Some((number, value?))).collect();
        let server = StoredServer { id: SERVER, name: "mail".to_owned(), created: Timestamp(1), settings };
        store.add_server(server).await.expect("added");
        store.set_account(mailbox, Some(SERVER), BTreeMap::new()).await.expect("an account");
        let gate = Gate::new(Duty::MailboxSync);
        let epoch = Epoch { generation: 0, number: 1, node: name("a") };
        gate.open(&epoch, BootInstant::now() + Duration::from_secs(3_600));
        Self { node, store, mailbox, lease: DutyLease { gate, epoch }, cluster: CLUSTER, folder, _dir: dir }
    }

    fn account(&self) -> (Account, AccountState) {
        match self.store.effective_of(self.mailbox).expect("readable") {
            Some(SyncedMailbox::Account(account, state)) => (account, state),
            other => panic!("no account: {other:?}"),
        }
    }

    async fn leave(&self) -> MessageId {
        self.node.leave(self.mailbox, &audio(1_000)).await.message
    }

    async fn message(&self, id: MessageId) -> Message {
        self.node.mailstore.message(self.mailbox, id).await.expect("readable").expect("a message")
    }

    async fn mark(&self, id: MessageId, mark: Mark) {
        self.node.mailstore.mark(self.mailbox, id, mark).await.expect("marked");
    }

    /// One round on a new connection, which is cut there.
    async fn round_cut(
        &mut self,
        cut: Option<(usize, Cut)>,
        options: LookOptions,
    ) -> (RoundCounts, Result<RoundEnd, SyncError>) {
        let (account, _) = self.account();
        let from = Address::parse("voicemail@vm.example").expect("an address");
        let appends = Semaphore::new(1);
        let session = Session {
            mailstore: &self.node.mailstore,
            store: &self.store,
            account: &account,
            lease: &self.lease,
            cluster: self.cluster,
            from: &from,
            appends: &appends,
        };
        self.folder.connect(cut);
        let mut counts = RoundCounts::default();
        let end = session.round(&mut self.folder, options, &mut counts).await;
        (counts, end)
    }

    async fn round(&mut self) -> RoundCounts {
        let (counts, end) = self.round_cut(None, LookOptions::default()).await;
        let end = end.expect("a round");
        assert!(end.refused.is_none(), "{end:?}");
        counts
    }

    /// Rounds until nothing changes.
    async fn settle(&mut self) {
        for _ in 0..8 {
            let before = self.account().1;
            let counts = self.round().await;
            if !counts.has_changes() && before == self.account().1 {
                return;
            }
        }
        panic!("the rounds do not end: {:?}", self.folder);
    }

    /// Both sides have the message once, in the same state.
    async fn agree(&self, id: MessageId) {
        let message = self.message(id).await;
        let uids = self.folder.uids_of(id);
        if message.deleted {
            assert!(uids.is_empty(), "{uids:?} of a message that is deleted here");
            return;
        }
        let [uid] = uids[..] else { panic!("{uids:?} are of one message: {:?}", self.folder) };
        let flags = self.folder.mails[&uid].flags;
        let place = match (flags.seen, flags.flagged) {
            (false, _) => MailFolder::New,
            (true, false) => MailFolder::Heard,
            (true, true) => MailFolder::Saved,
        };
        assert_eq!(place, message.folder, "{flags:?}");
    }
}

/// The variants of servers.
fn folders() -> [MemoryFolder; 3] {
    [
        MemoryFolder::default(),
        MemoryFolder { qresync: false, ..MemoryFolder::default() },
        MemoryFolder { qresync: false, uidplus: false, ..MemoryFolder::default() },
    ]
}

#[tokio::test]
async fn changes_of_each_side_reach_the_other() {
    for folder in folders() {
        let mut world = World::with(&[], folder).await;
        let mut ids = [MessageId(0); 5];
        for id in &mut ids {
            *id = world.leave().await;
        }
        let [heard, saved, deleted, there, moved] = ids;
        assert_eq!(world.round().await.appended, 5);
        world.mark(heard, Mark::Heard).await;
        world.mark(saved, Mark::Saved).await;
        world.mark(deleted, Mark::Deleted).await;
        let uid = world.folder.uids_of(there)[0];
        world.folder.set(uid, |flags| (flags.seen, flags.flagged) = (true, true));
        let uid = world.folder.uids_of(moved)[0];
        let mail = world.folder.take(uid);
        world.settle().await;
        for id in [heard, saved, deleted, there, moved] {
            world.agree(id).await;
        }
        assert_eq!(world.message(there).await.folder, MailFolder::Saved);
        assert!(world.message(deleted).await.deleted && world.message(moved).await.deleted);
        // Moved back there: it is here again.
        world.folder.add(mail.id, mail.flags);
        world.settle().await;
        assert!(!world.message(moved).await.deleted);
        world.agree(moved).await;
    }
}

#[tokio::test]
async fn round_without_changes_writes_nothing() {
    for folder in folders() {
        let mut world = World::with(&[], folder).await;
        world.leave().await;
        world.settle().await;
        let before = world.node.store.vector();
        world.round().await;
        assert_eq!(world.node.store.vector(), before);
    }
}

#[tokio::test]
async fn other_mails_of_the_folder_are_left_alone() {
    let mut world = World::new().await;
    world.folder.add(Some("<a@b>".to_owned()), ImapFlags::default());
    world.folder.add(None, ImapFlags { deleted: true, ..ImapFlags::default() });
    let other = message_id(MessageId(1), Extent::Whole, ClusterId(8));
    world.folder.add(Some(other), ImapFlags::default());
    let id = world.leave().await;
    world.settle().await;
    world.mark(id, Mark::Deleted).await;
    world.settle().await;
    assert_eq!(world.folder.mails.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn removed_message_goes_to_the_trash_folder_if_there_is_one() {
    let mut world = World::with(&["trash=Trash"], MemoryFolder::default()).await;
    let id = world.leave().await;
    world.settle().await;
    world.mark(id, Mark::Deleted).await;
    assert_eq!(world.round().await.removed_there, 1);
    assert_eq!(world.folder.trash.len(), 1);
    world.agree(id).await;
}

#[tokio::test]
async fn new_uidvalidity_deletes_nothing_and_repeats_nothing() {
    for folder in folders() {
        let mut world = World::with(&[], folder).await;
        let ids = [world.leave().await, world.leave().await];
        world.settle().await;
        world.folder.renumber();
        world.settle().await;
        for id in ids {
            assert!(!world.message(id).await.deleted);
            world.agree(id).await;
        }
    }
}

#[tokio::test]
async fn empty_folder_deletes_nothing_until_an_administrator_accepts() {
    for folder in folders() {
        let mut world = World::with(&[], folder).await;
        let ids = [world.leave().await, world.leave().await];
        world.settle().await;
        for uid in [1, 2] {
            world.folder.take(uid);
        }
        for _ in 0..3 {
            let (_, end) = world.round_cut(None, LookOptions::default()).await;
            assert_eq!(end.expect("a round").held_back, 2);
        }
        for id in ids {
            assert!(!world.message(id).await.deleted, "held back");
        }
        let options = LookOptions { accepted: true, ..LookOptions::default() };
        let (counts, end) = world.round_cut(None, options).await;
        assert_eq!((counts.marked_here, end.expect("a round").held_back), (2, 0));
        for id in ids {
            world.agree(id).await;
        }
    }
}

#[tokio::test]
async fn full_account_holds_up_no_flags_and_is_tried_again() {
    let mut world = World::new().await;
    let first = world.leave().await;
    world.settle().await;
    let second = world.leave().await;
    world.mark(first, Mark::Heard).await;
    world.folder.full = true;
    let (counts, end) = world.round_cut(None, LookOptions::default()).await;
    let refused = end.expect("a round").refused.expect("refused");
    assert!(refused.is_permanent(), "{refused}");
    assert_eq!((counts.flagged_there, counts.appended), (1, 0));
    world.folder.full = false;
    world.settle().await;
    for id in [first, second] {
        world.agree(id).await;
    }
}

#[tokio::test]
async fn mail_that_is_read_before_the_answer_to_its_append_is_looked_at_again() {
    let mut world = World::new().await;
    let id = world.leave().await;
    world.folder.reads_at_once = true;
    let (counts, end) = world.round_cut(None, LookOptions::default()).await;
    assert_eq!((counts.appended, end.expect("a round").again), (1, true));
    let (counts, end) = world.round_cut(None, LookOptions::default()).await;
    assert_eq!((counts.marked_here, end.expect("a round").again), (1, false));
    world.agree(id).await;
}

#[tokio::test]
async fn mail_that_is_not_shown_holds_up_no_other_step_and_is_not_sent_again() {
    let mut world = World::new().await;
    let first = world.leave().await;
    world.settle().await;
    let others = [world.leave().await, world.leave().await];
    world.mark(first, Mark::Heard).await;
    world.folder.hides = true;
    let (counts, end) = world.round_cut(None, LookOptions::default()).await;
    let refused = end.expect("a round").refused;
    assert!(matches!(refused, Some(SyncError::NotShown)), "{refused:?}");
    assert_eq!((counts.flagged_there, counts.appended, world.folder.hidden), (1, 0, 2));
    for id in others {
        let rows = world.store.rows(world.mailbox).await.expect("readable");
        assert!(matches!(rows.get(&id).map(|row| row.link), Some(Link::Gone)), "{rows:?}");
    }
    world.settle().await;
    assert_eq!(world.folder.hidden, 2, "no copy at each attempt");
    // A mark here is no reason for another copy, and counts when the mail is shown later.
    world.folder.hides = false;
    world.mark(others[1], Mark::Saved).await;
    world.settle().await;
    assert_eq!((world.folder.mails.len(), world.folder.hidden), (1, 2));
    for id in others {
        world.folder.add(Some(message_id(id, Extent::Whole, CLUSTER)), ImapFlags::default());
    }
    world.settle().await;
    assert_eq!(world.message(others[1]).await.folder, MailFolder::Saved);
    for id in others.into_iter().chain([first]) {
        world.agree(id).await;
    }
}

#[tokio::test]
async fn uids_that_were_given_again_touch_no_foreign_mail_and_delete_nothing_here() {
    for folder in folders() {
        let mut world = World::with(&[], folder).await;
        let ids = [world.leave().await, world.leave().await];
        world.settle().await;
        let [first, last] = ids.map(|id| world.folder.uids_of(id)[0]);
        // An old copy without the second mail was restored; other mails have its UID and later ones since.
        let deleted = ImapFlags { deleted: true, ..ImapFlags::default() };
        world.folder.take(last);
        world.folder.put(last, Some("<other@mail.example>".to_owned()), deleted);
        world.folder.add(None, ImapFlags::default());
        world.mark(ids[1], Mark::Saved).await;
        world.settle().await;
        assert!(world.folder.mails[&last].flags.deleted, "nobody else's mail is touched");
        assert_eq!(world.folder.uids_of(ids[0]), [first]);
        for id in ids {
            world.agree(id).await;
        }
        // The same, found only when the message is to be removed there.
        let [_, last] = ids.map(|id| world.folder.uids_of(id)[0]);
        world.folder.take(last);
        world.folder.put(last, Some("<third@mail.example>".to_owned()), ImapFlags::default());
        world.mark(ids[1], Mark::Deleted).await;
        world.settle().await;
        assert!(world.folder.mails.contains_key(&last), "nobody else's mail is removed");
    }
}

#[tokio::test]
async fn account_that_is_removed_and_added_again_has_no_message_twice() {
    for folder in folders() {
        let mut world = World::with(&[], folder).await;
        let ids = [world.leave().await, world.leave().await];
        world.settle().await;
        world.store.remove_account(world.mailbox).await.expect("removed");
        world.store.set_account(world.mailbox, Some(SERVER), BTreeMap::new()).await.expect("an account");
        // A round that was under way had stored its position after that.
        let (account, _) = world.account();
        let position = AccountState {
            uid_validity: 5,
            uid_next: world.folder.uid_next,
            modseq: world.folder.modseq,
            ..AccountState::default()
        };
        let lease = world.lease.clone();
        world
            .store
            .write(&account, vec![], Some(position), &lease.epoch, || lease.permit())
            .await
            .expect("written");
        world.settle().await;
        for id in ids {
            world.agree(id).await;
        }
    }
}

#[tokio::test]
async fn node_that_lost_the_duty_writes_nothing() {
    let mut world = World::new().await;
    let id = world.leave().await;
    world.lease.gate.close();
    let (_, end) = world.round_cut(None, LookOptions::default()).await;
    assert!(matches!(end, Err(SyncError::DutyLost)), "{end:?}");
    assert!(world.folder.uids_of(id).is_empty());
    assert!(world.store.rows(world.mailbox).await.expect("readable").is_empty());
}

#[tokio::test]
async fn account_that_changed_meanwhile_ends_the_round() {
    let mut world = World::new().await;
    let (account, _) = world.account();
    world.leave().await;
    let changes = BTreeMap::from([server_change("folder=Voice").expect("a setting")]);
    world.store.change_server(SERVER, changes).await.expect("changed");
    let from = Address::parse("voicemail@vm.example").expect("an address");
    let appends = Semaphore::new(1);
    let session = Session {
        mailstore: &world.node.mailstore,
        store: &world.store,
        account: &account,
        lease: &world.lease,
        cluster: CLUSTER,
        from: &from,
        appends: &appends,
    };
    let end = session.round(&mut world.folder, LookOptions::default(), &mut RoundCounts::default()).await;
    assert!(matches!(end, Err(SyncError::AccountChanged)), "{end:?}");
}

/// A world in which every kind of step is due.
async fn busy(folder: MemoryFolder) -> (World, Vec<MessageId>) {
    let mut world = World::with(&[], folder).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.leave().await);
    }
    world.settle().await;
    world.mark(ids[0], Mark::Heard).await;
    world.mark(ids[1], Mark::Deleted).await;
    let uid = world.folder.uids_of(ids[2])[0];
    world.folder.set(uid, |flags| flags.seen = true);
    let uid = world.folder.uids_of(ids[3])[0];
    world.folder.take(uid);
    // Changed on both sides: removed there, marked here. The mark outlives the removal.
    let uid = world.folder.uids_of(ids[4])[0];
    world.folder.take(uid);
    world.mark(ids[4], Mark::Saved).await;
    for _ in 0..2 {
        ids.push(world.leave().await);
    }
    (world, ids)
}

#[tokio::test]
async fn round_that_is_cut_at_any_call_repeats_nothing_and_loses_nothing() {
    for variant in 0..folders().len() {
        for cut in [Cut::Before, Cut::After] {
            let mut call = 1;
            loop {
                let folder = folders().into_iter().nth(variant).expect("a variant");
                let (mut world, ids) = busy(folder).await;
                let (_, end) = world.round_cut(Some((call, cut)), LookOptions::default()).await;
                let was_cut = end.is_err();
                world.settle().await;
                for id in &ids {
                    world.agree(*id).await;
                }
                let deleted: Vec<bool> = {
                    let mut deleted = Vec::new();
                    for id in &ids {
                        deleted.push(world.message(*id).await.deleted);
                    }
                    deleted
                };
                assert_eq!(deleted, [false, true, false, true, false, false, false], "{variant} {cut:?} {call}");
                assert_eq!(world.message(ids[0]).await.folder, MailFolder::Heard);
                assert_eq!(world.message(ids[2]).await.folder, MailFolder::Heard);
                assert_eq!(world.message(ids[4]).await.folder, MailFolder::Saved);
                if !was_cut {
                    break;
                }
                call += 1;
                assert!(call < 100, "the round does not end");
            }
        }
    }
}

#[tokio::test]
async fn next_holder_goes_on_where_a_round_was_cut() {
    for call in 1..12 {
        let (mut world, ids) = busy(MemoryFolder::default()).await;
        let _ = world.round_cut(Some((call, Cut::After)), LookOptions::default()).await;
        world.lease.gate.close();
        world.lease.epoch = Epoch { number: 2, ..world.lease.epoch.clone() };
        world.lease.gate.open(&world.lease.epoch, BootInstant::now() + Duration::from_secs(3_600));
        world.settle().await;
        for id in ids {
            world.agree(id).await;
        }
    }
}
