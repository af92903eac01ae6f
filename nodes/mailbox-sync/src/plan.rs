//! The plan of one look at an account: both sides and the stored rows in, actions out.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{MessageId, Timestamp};

use crate::{
    AccountState, Action, Link, LocalMessage, LocalState, MessageState, Plan, RemoteFlags, RemoteView,
    absent::{Absence, absent, append},
    merge::{Present, Sides},
};

/// Time for which a partial message waits for its complete audio, in milliseconds after it was received.
pub const PARTIAL_WAIT_MS: u64 = 10 * 60_000;

/// Whether the next look reads the Message-IDs of the whole folder: it is the first one, or the folder is not the one
/// that was looked at before (UIDVALIDITY changed, or UIDNEXT fell).
pub fn needs_full_look(before: &AccountState, remote_uid_validity: u32, remote_uid_next: u32) -> bool {
    before.uid_validity == 0 || before.uid_validity != remote_uid_validity || remote_uid_next < before.uid_next
}

/// The actions that make both sides agree.
///
/// Absent messages are deleted here only if the folder is provably the one of the look before. If its UIDs may have
/// been given again (UIDNEXT or HIGHESTMODSEQ fell, a stored UID is impossible), the plan has no actions and forgets
/// the positions: the next look is a full one ([`Plan::needs_another_look`]), and so is each later look until one was
/// carried out completely.
pub fn plan(
    now: Timestamp,
    local: &[LocalMessage],
    rows: &BTreeMap<MessageId, MessageState>,
    before: &AccountState,
    remote: &RemoteView,
) -> Plan {
    let full = needs_full_look(before, remote.uid_validity, remote.uid_next);
    if is_void(rows, before, remote, full) {
        let state = AccountState { uid_validity: 0, uid_next: 0, modseq: 0, ..succeeded(before) };
        return Plan { actions: vec![], held_back: state.held_back, state };
    }
    let (found, absence) = (believable(rows, remote, full), absence(rows, remote, full));
    let look = Look { now, remote, full, found, absence };
    let mut groups: Vec<(u8, Timestamp, Vec<Action>)> = Vec::new();
    let mut held_back = 0_u32;
    for message in local {
        let row = rows.get(&message.id);
        let actions = look.actions(message, row);
        held_back += u32::from(is_held(&actions, row));
        groups.push((rank(&actions), message.received, actions));
    }
    let here: BTreeSet<MessageId> = local.iter().map(|message| message.id).collect();
    for (id, row) in rows.iter().filter(|(id, _)| !here.contains(*id)) {
        let actions: Vec<Action> = look.without_message(*id, row).into_iter().collect();
        groups.push((rank(&actions), Timestamp(0), actions));
    }
    groups.sort_by_key(|(rank, received, _)| (*rank, *received));
    let actions: Vec<Action> = groups.into_iter().flat_map(|(_, _, actions)| actions).collect();
    let mut state = AccountState {
        uid_validity: remote.uid_validity,
        uid_next: remote.uid_next,
        modseq: remote.modseq.unwrap_or_default(),
        held_back,
        ..succeeded(before)
    };
    if !actions.is_empty() || state != *before {
        state.synced_at = Some(now);
    }
    Plan { actions, state, held_back }
}

/// The state after a run that ended with success.
fn succeeded(before: &AccountState) -> AccountState {
    AccountState { error: None, failing_since: None, ..before.clone() }
}

/// Whether stored UIDs may be of other messages now, although the UIDVALIDITY did not change.
fn is_void(
    rows: &BTreeMap<MessageId, MessageState>,
    before: &AccountState,
    remote: &RemoteView,
    full: bool,
) -> bool {
    if full {
        return before.uid_validity != 0 && before.uid_validity == remote.uid_validity;
    }
    let mut uids = BTreeSet::new();
    let impossible = |link: &Link| match link {
        Link::Bound { uid_validity, uid, .. } => {
            *uid_validity != remote.uid_validity
                || *uid == 0
                || (remote.uid_next > 0 && *uid >= remote.uid_next)
                || !uids.insert(*uid)
        }
        Link::Appending { .. } | Link::Gone | Link::Held { .. } => false,
    };
    let older = remote.modseq.is_some_and(|modseq| modseq < before.modseq);
    remote.reused || older || rows.values().map(|row| &row.link).any(impossible)
}

/// Messages that were found, without UIDs that cannot be right: 0, one UID for two messages, or, unless the whole
/// folder was read, the UID of another bound message.
fn believable(
    rows: &BTreeMap<MessageId, MessageState>,
    remote: &RemoteView,
    full: bool,
) -> BTreeMap<MessageId, (u32, RemoteFlags)> {
    let mut count: BTreeMap<u32, u32> = BTreeMap::new();
    for (uid, _) in remote.found.values() {
        *count.entry(*uid).or_default() += 1;
    }
    let bound: BTreeMap<u32, MessageId> = rows
        .iter()
        .filter(|_| !full)
        .filter_map(|(id, row)| match row.link {
            Link::Bound { uid, .. } => Some((uid, *id)),
            Link::Appending { .. } | Link::Gone | Link::Held { .. } => None,
        })
        .collect();
    let fine = |id: &MessageId, uid: &u32| {
        *uid != 0 && count.get(uid) == Some(&1) && bound.get(uid).is_none_or(|bound| bound == id)
    };
    remote.found.iter().filter(|(id, (uid, _))| fine(id, uid)).map(|(id, at)| (*id, *at)).collect()
}

/// Belief in the absence of messages. A folder that is empty while more than one message is gone may have been lost, so
/// deletions are held back.
fn absence(rows: &BTreeMap<MessageId, MessageState>, remote: &RemoteView, full: bool) -> Absence {
    if full {
        return Absence::Reset;
    }
    let is_gone = |row: &&MessageState| match row.link {
        Link::Bound { uid, .. } => remote.gone.contains(&uid),
        Link::Held { .. } => true,
        Link::Appending { .. } | Link::Gone => false,
    };
    let gone = rows.values().filter(is_gone).count();
    if remote.exists == 0 && gone > 1 && !remote.watched && !remote.accepted {
        Absence::HeldBack
    } else {
        Absence::Counts
    }
}

/// One look at an account.
struct Look<'a> {
    now: Timestamp,
    remote: &'a RemoteView,
    /// The whole folder was read, and rows do not say where messages are.
    full: bool,
    found: BTreeMap<MessageId, (u32, RemoteFlags)>,
    absence: Absence,
}

impl Look<'_> {
    fn actions(&self, message: &LocalMessage, row: Option<&MessageState>) -> Vec<Action> {
        if let Some(present) = self.present(message, row) {
            return present.actions(row);
        }
        match row {
            Some(row) => absent(message, row, self.absence, self.remote.accepted),
            None if message.state.deleted || self.waits(message) => vec![],
            None => vec![append(message)],
        }
    }

    fn waits(&self, message: &LocalMessage) -> bool {
        message.partial && self.now.0 < message.received.0.saturating_add(PARTIAL_WAIT_MS)
    }

    /// The message in the folder there, with the bases of both sides.
    fn present(&self, message: &LocalMessage, row: Option<&MessageState>) -> Option<Present> {
        let local = message.state;
        if row.is_none() && local.deleted {
            // Deleted before it was known there: nothing says that it came back.
            return None;
        }
        let (uid, remote) = self.place(message.id, row)?;
        let base = match row {
            Some(row) if !self.full => Sides { local: row.local, remote: base_there(row) },
            // The flags of an old copy are no change there: it is as here, and what was deleted before has come back.
            _ => {
                let deleted = row.map_or(local, |row| row.local).deleted;
                Sides {
                    local: LocalState { deleted, ..local },
                    remote: RemoteFlags { deleted: deleted || remote.deleted, ..remote },
                }
            }
        };
        let (uid_validity, now) = (self.remote.uid_validity, Sides { local, remote });
        Some(Present { message: message.id, uid_validity, uid, base, now })
    }

    /// UID and flags of a message there; `None`: it is absent.
    fn place(&self, id: MessageId, row: Option<&MessageState>) -> Option<(u32, RemoteFlags)> {
        let found = self.found.get(&id).copied();
        if self.full {
            return found;
        }
        let flags = |uid: u32| self.remote.flags.get(&uid).copied();
        match row.map(|row| row.link) {
            Some(Link::Bound { uid, remote, .. }) if !self.remote.gone.contains(&uid) => {
                Some((uid, flags(uid).unwrap_or(remote)))
            }
            Some(Link::Held { uid, .. }) if uid != 0 => flags(uid).map(|flags| (uid, flags)).or(found),
            _ => found,
        }
    }

    /// The action for a row without a message here: the message is purged, or its record has not arrived yet. The row
    /// goes only if the message was deleted or is not in the folder, so that a message that arrives later is not
    /// appended a second time.
    fn without_message(&self, id: MessageId, row: &MessageState) -> Option<Action> {
        if row.local.deleted {
            return Some(Action::Forget { message: id });
        }
        if let Some((uid, remote)) = self.place(id, Some(row)) {
            let base = if self.full { remote } else { base_there(row) };
            let link = Link::Bound { uid_validity: self.remote.uid_validity, uid, remote: base };
            let state = MessageState { link, ..*row };
            return (state != *row).then_some(Action::Store { message: id, state });
        }
        // A mail that comes after this look has a UID from its UIDNEXT on (RFC 3501 section 2.3.1.1).
        let coming = |from: u32| self.remote.uid_next <= from;
        let waits = matches!(row.link, Link::Appending { from_uid, .. } if coming(from_uid)) && !self.full;
        (!waits).then_some(Action::Forget { message: id })
    }
}

/// Base of the other side.
fn base_there(row: &MessageState) -> RemoteFlags {
    match row.link {
        Link::Bound { remote, .. } | Link::Held { remote, .. } => remote,
        Link::Appending { .. } => RemoteFlags::of(row.local.folder),
        Link::Gone => RemoteFlags { deleted: true, ..RemoteFlags::of(row.local.folder) },
    }
}

/// Position in the plan: rows that hold deletions back come first, so that a cut never leaves a single absent message,
/// which would be believed. What needs the connection least comes next.
fn rank(actions: &[Action]) -> u8 {
    let rank = |action: &Action| match action {
        Action::Store { state: MessageState { link: Link::Held { .. }, .. }, .. } => 0,
        Action::Store { .. } | Action::MarkHere { .. } | Action::Forget { .. } => 1,
        Action::Flags { .. } => 2,
        Action::Remove { .. } => 3,
        Action::Append { .. } => 4,
    };
    actions.iter().map(rank).max().unwrap_or_default()
}

/// Whether the deletion of a message is held back after these actions.
fn is_held(actions: &[Action], row: Option<&MessageState>) -> bool {
    match actions {
        [] => row.is_some_and(|row| matches!(row.link, Link::Held { .. })),
        actions => rank(actions) == 0,
    }
}
