//! IMAP UIDs of messages (rule D10). Pure: the owner of the records passes them in.
//!
//! A message keeps all UIDs that it was ever given; the highest is in force. Nodes that do not hear each other give one UID
//! to several messages. When they meet again, each message whose UID another message has or ever had gets a new one: all of
//! a clash, since each side's mail programs know that UID by a message of their own. No UID then names two messages. A node
//! gives the number after the highest that it knows, so that every number up to there is, or was, the UID of a message that
//! it knows: a message that comes with a UID below the one announced as the next is always a clash.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use twinbox_ids::{MailboxId, MessageId};
use twinbox_replication_core::{Change, Edit, Record};

use crate::{
    Numbers, is_purged,
    schema::{self, message as tag},
    value::{read_u64, set_u64},
};

/// All UIDs that a message was ever given.
pub fn of(record: &Record) -> impl Iterator<Item = u64> {
    record.bytes(tag::UID).into_iter().chain(record.ever_added(tag::UIDS)).filter_map(read_u64)
}

/// The edit that gives a message this UID.
pub(crate) fn add(uid: u64) -> Edit {
    Edit::Add(tag::UIDS, uid.to_be_bytes().to_vec())
}

/// The edits that give a message a new UID in place of this one; none if it has another by now, or its content is gone. A
/// clash once seen stays one: no message ever loses a UID that it had.
pub fn give_again(record: &Record, clashing: u64, numbers: Numbers) -> Vec<Edit> {
    match of(record).max() == Some(clashing) && !is_purged(record) {
        true => vec![add(numbers.uid), set_u64(tag::MODSEQ, numbers.modseq)],
        false => vec![],
    }
}

/// The UIDs of a mailbox's messages.
#[derive(Debug, Default)]
pub struct MailboxUids {
    /// By UID a message that has or had it; `None` if several do.
    owners: HashMap<u64, Option<MessageId>>,
    /// The messages with their UIDs, but for those whose content is gone.
    in_force: BTreeSet<(u64, MessageId)>,
    highest: u64,
}

impl MailboxUids {
    /// Adds one message.
    pub fn add(&mut self, id: MessageId, record: &Record) {
        let mut last = None;
        for uid in of(record) {
            last = last.max(Some(uid));
            match self.owners.entry(uid) {
                Entry::Vacant(entry) => drop(entry.insert(Some(id))),
                Entry::Occupied(mut entry) if *entry.get() != Some(id) => drop(entry.insert(None)),
                Entry::Occupied(_) => {}
            }
        }
        self.highest = self.highest.max(last.unwrap_or_default());
        self.in_force.extend(last.filter(|_| !is_purged(record)).map(|uid| (uid, id)));
    }

    /// Messages that need a new UID, with the one that they have: lowest first, so that they keep their order.
    pub fn clashing(&self) -> Vec<(u64, MessageId)> {
        self.in_force.iter().copied().filter(|(uid, _)| self.owners.get(uid) == Some(&None)).collect()
    }

    /// The highest UID; 0 if there is none.
    pub fn highest(&self) -> u64 {
        self.highest
    }
}

/// Notes the mailboxes in which UIDs may clash. A mailbox that was checked is suspect again only if a UID comes that is not
/// above all before: messages filed in turn cost no further check.
#[derive(Default)]
pub struct UidWatch {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    suspect: BTreeSet<MailboxId>,
    /// The highest UID of each checked mailbox.
    highest: HashMap<MailboxId, u64>,
}

impl UidWatch {
    /// Notes a durable change. Short: runs on the committer thread.
    pub fn changed(&self, change: &Change) {
        let Some((mailbox, _)) = schema::message_of(&change.key) else { return };
        let mut uids = of(&change.delta).peekable();
        // A deletion repeats the members that it saw. A whole row, as a repair brings it, has this field.
        let repeats = change.delta.tombstone().is_some() && change.delta.register(tag::RECEIVED).is_none();
        if repeats || uids.peek().is_none() {
            return;
        }
        let mut state = self.lock();
        let state = &mut *state;
        let in_turn = state.highest.get_mut(&mailbox).is_some_and(|highest| {
            uids.all(|uid| {
                let above = uid > *highest;
                *highest = uid.max(*highest);
                above
            })
        });
        if !in_turn {
            state.suspect.insert(mailbox);
        }
    }

    /// Notes mailboxes that nobody has checked since the start of this node.
    pub fn suspect(&self, mailboxes: impl IntoIterator<Item = MailboxId>) {
        self.lock().suspect.extend(mailboxes);
    }

    /// Takes up to `most` mailboxes to check. Read their messages after this, so that no change is missed.
    pub fn take(&self, most: usize) -> Vec<MailboxId> {
        let suspect = &mut self.lock().suspect;
        std::iter::from_fn(|| suspect.pop_first()).take(most).collect()
    }

    /// A mailbox was checked, and its messages had no UID above this one.
    pub fn checked(&self, mailbox: MailboxId, highest: u64) {
        let mut state = self.lock();
        let known = state.highest.entry(mailbox).or_default();
        *known = highest.max(*known);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
