//! UIDs after a split: each message whose UID another one has gets a new one, once, from the publisher (rule D10).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::sync::watch;
use twinbox_ids::{MailboxId, MessageId};
use twinbox_reconciler::UidKeeper;
use twinbox_replication_store::Filled;
use twinbox_roles::{LocalFacts, RolesView, State};
use twinbox_store_kit::{Node, audio, name};

/// The cluster as node a sees it.
fn view(publisher: Option<&str>, quorum: bool) -> Arc<RolesView> {
    let facts = LocalFacts { quorum, ..LocalFacts::default() };
    let view = RolesView::new(&name("a"), &State::default(), &facts);
    Arc::new(RolesView { publisher: publisher.map(name), duties: Vec::new(), reason: String::new(), ..view })
}

/// Two nodes with a mailbox that do not hear each other.
struct Split {
    _dir: TempDir,
    a: Node,
    b: Node,
    mailbox: MailboxId,
    /// Messages that were ever seen with a UID on node a.
    seen: BTreeMap<u64, BTreeSet<MessageId>>,
}

impl Split {
    async fn begin() -> Self {
        let dir = TempDir::new().expect("a folder");
        let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
        let mailbox = a.mailbox().await.id;
        a.hand_over(&b).await;
        Self { _dir: dir, a, b, mailbox, seen: BTreeMap::new() }
    }

    /// Node a has all records.
    async fn fill(&self) {
        self.a.store.set_filled(Filled::Complete).await.expect("stored");
    }

    /// Leaves a message on each node, and then hands that of b over to a.
    async fn leave_on_both(&self) {
        self.a.leave(self.mailbox, &audio(1_500)).await;
        self.b.leave(self.mailbox, &audio(2_000)).await;
        self.b.hand_over(&self.a).await;
    }

    fn keeper(&self, view: watch::Receiver<Arc<RolesView>>) -> UidKeeper {
        UidKeeper::new(name("a"), self.a.mailstore.clone(), view)
    }

    /// The UIDs in force on node a.
    async fn uids(&mut self) -> BTreeMap<MessageId, u64> {
        let messages = self.a.mailstore.messages(self.mailbox).await.expect("a list");
        let uids: BTreeMap<_, _> = messages.iter().map(|m| (m.id, m.uid.expect("a UID"))).collect();
        for (message, uid) in &uids {
            self.seen.entry(*uid).or_default().insert(*message);
        }
        uids
    }

    /// Whether each UID in force was never seen with another message.
    fn are_unique(&self, uids: &BTreeMap<MessageId, u64>) -> bool {
        uids.values().all(|uid| self.seen[uid].len() == 1)
    }
}

#[tokio::test]
async fn clashing_messages_get_new_uids_once_and_no_uid_ever_names_two_messages() {
    let mut split = Split::begin().await;
    split.fill().await;
    split.leave_on_both().await;
    let before = split.uids().await;
    assert_eq!(before.values().copied().collect::<Vec<_>>(), [1, 1]);
    // Its first round finds what was there when it began.
    let mut keeper = split.keeper(watch::channel(view(Some("a"), true)).1);
    keeper.round().await.expect("a round");
    let after = split.uids().await;
    assert_eq!(after.values().copied().collect::<BTreeSet<_>>(), [2, 3].into());
    assert!(split.are_unique(&after));
    keeper.round().await.expect("a round");
    assert_eq!(split.uids().await, after, "a second round finds nothing");

    // Node b has not heard of that, and gives UID 2 to its next message.
    split.b.leave(split.mailbox, &audio(2_500)).await;
    split.b.hand_over(&split.a).await;
    let late = split.uids().await;
    assert_eq!((late.len(), split.are_unique(&late)), (3, false));
    keeper.round().await.expect("a round");
    let again = split.uids().await;
    assert!(split.are_unique(&again), "{again:?}");
    let moved: Vec<_> =
        late.iter().filter(|(message, uid)| again[*message] != **uid).map(|(_, uid)| *uid).collect();
    assert_eq!(moved, [2, 2], "the two that clashed, and no other");

    // Node b knows all UIDs now.
    split.a.hand_over(&split.b).await;
    split.b.leave(split.mailbox, &audio(3_000)).await;
    split.b.hand_over(&split.a).await;
    let in_turn = split.uids().await;
    assert!(in_turn.len() == 4 && split.are_unique(&in_turn), "{in_turn:?}");
    keeper.round().await.expect("a round");
    assert_eq!(split.uids().await, in_turn, "messages filed in turn keep their UIDs");
}

#[tokio::test]
async fn only_a_publisher_with_a_majority_and_all_records_gives_new_uids() {
    for (publisher, quorum, is_filled, why) in [
        (Some("b"), true, true, "b is the publisher"),
        (None, true, true, "no node is the publisher"),
        (Some("a"), false, true, "it may be the publisher no more"),
        (Some("a"), true, false, "a record that it lacks may have the UID that it would give"),
    ] {
        let mut split = Split::begin().await;
        if is_filled {
            split.fill().await;
        }
        split.leave_on_both().await;
        let before = split.uids().await;
        let (views, seen) = watch::channel(view(publisher, quorum));
        let mut keeper = split.keeper(seen);
        keeper.round().await.expect("a round");
        assert_eq!(split.uids().await, before, "{why}");
        views.send_replace(view(Some("a"), true));
        split.fill().await;
        keeper.round().await.expect("a round");
        let after = split.uids().await;
        assert!(split.are_unique(&after), "afterwards: {after:?}; before: {why}");
    }
}
