//! IMAP UIDs of messages (rule D10). Pure: the owner of the records passes them in.
//!
//! A message keeps all UIDs that it was ever given; the highest is in force. Nodes that do not hear each other give one UID
//! to several messages. When they meet again, each message whose UID another message has or ever had gets a new one: all of
//! a clash, since each side's mail programs know that UID by a message of their own. No UID then names two messages. A node
//! gives the number after the highest that it knows, so that every number up to there is, or was, the UID of a message that
//! it knows or is about to get: a message of another side that comes late with a lower UID is a clash. One that was
//! overtaken by a later change of its own node is none, and keeps its UID (DESIGN.md has the limits).

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    ops::Bound,
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

/// The edits that give a message a new UID in place of this one; none if it has another by now, its content is gone, or no
/// number is left. A clash once seen stays one: no message ever loses a UID that it had.
pub fn give_again(record: &Record, clashing: u64, numbers: Numbers) -> Vec<Edit> {
    match of(record).max() == Some(clashing) && numbers.uid > clashing && !is_purged(record) {
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
    /// The last mailbox that was taken: none waits for ever behind those that are suspect all the time.
    taken: Option<MailboxId>,
    /// The highest UID of each checked mailbox.
    highest: HashMap<MailboxId, u64>,
}

impl State {
    fn next(&self) -> Option<MailboxId> {
        let from = self.taken.map_or(Bound::Unbounded, Bound::Excluded);
        self.suspect.range((from, Bound::Unbounded)).next().or(self.suspect.first()).copied()
    }
}

impl UidWatch {
    /// Notes a durable change. Short: runs on the committer thread.
    pub fn changed(&self, change: &Change) {
        let Some((mailbox, _)) = schema::message_of(&change.key) else {
            // Counters that could not be read before the repair may have kept a message from its new UID.
            let repaired = schema::counters_of(&change.key).filter(|_| change.seq == 0);
            return self.suspect(repaired);
        };
        let mut uids = of(&change.delta);
        // A deletion repeats the members that it saw. A whole row, as a repair brings it, has this field.
        let repeats = change.delta.tombstone().is_some() && change.delta.register(tag::RECEIVED).is_none();
        let Some(first) = uids.next().filter(|_| !repeats) else { return };
        let (lowest, last) = uids.fold((first, first), |(lowest, last), uid| (uid.min(lowest), uid.max(last)));
        let mut state = self.lock();
        let in_turn = state.highest.get_mut(&mailbox).is_some_and(|highest| {
            let above = lowest > *highest;
            *highest = last.max(*highest);
            above
        });
        if !in_turn {
            state.suspect.insert(mailbox);
        }
    }

    /// Notes mailboxes to check.
    pub fn suspect(&self, mailboxes: impl IntoIterator<Item = MailboxId>) {
        self.lock().suspect.extend(mailboxes);
    }

    /// Takes up to `most` mailboxes to check, in turn. Read their messages after this, so that no change is missed.
    pub fn take(&self, most: usize) -> Vec<MailboxId> {
        let mut state = self.lock();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(next) = state.next()
        {
            state.suspect.remove(&next);
            state.taken = Some(next);
            taken.push(next);
        }
        taken
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
