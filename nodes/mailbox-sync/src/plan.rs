//! The plan of one look at an account: both sides and the stored rows in, actions out.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{MessageId, Timestamp};

use crate::{
    AccountState, Action, Extent, Link, LocalMessage, LocalState, MailState, MessageState, Plan, RemoteFlags,
    RemoteView, Scan, UidChanges,
    absent::{Absence, absent, append},
    merge::{Present, Sides},
};

/// Time for which a partial message waits for its complete audio, in milliseconds after it was received.
pub const PARTIAL_WAIT_MS: u64 = 10 * 60_000;

/// Mails after a stored attempt from which on it is renewed, so that looks do not begin ever further back.
pub const RENEWED_AFTER: u32 = 1_000;

/// Whether the next look reads the Message-IDs of the whole folder: it is the first one, or the folder is not that
/// of the look before (UIDVALIDITY changed, or UIDNEXT fell).
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
        let state = succeeded(before).with_uids_given_again(remote.uid_validity);
        return Plan { actions: vec![], held_back: state.held_back, refused: state.refused, state };
    }
    let found = believable(rows, &remote.found, full);
    let found_parts = believable(rows, &remote.found_parts, full);
    let absence = absence(rows, remote, full);
    let look = Look { now, remote, full, unkept_before: before.unkept, found, found_parts, absence };
    let mut groups: Vec<(u8, Timestamp, Vec<Action>)> = Vec::new();
    let (mut held_back, mut refused) = (0_u32, 0_u32);
    for message in local {
        let row = rows.get(&message.id);
        let (actions, waits) = look.unless_refused(look.possible(message, row), row);
        let actions = look.or_renewed(message.id, row, actions);
        refused += u32::from(waits);
        held_back += u32::from(is_held(&actions, row));
        groups.push((rank(&actions), message.received, actions));
    }
    let here: BTreeSet<MessageId> = local.iter().map(|message| message.id).collect();
    for (id, row) in rows.iter().filter(|(id, _)| !here.contains(*id)) {
        let actions = look.without_message(*id, row).into_iter().collect();
        let (actions, waits) = look.unless_refused(actions, Some(row));
        let actions = look.or_renewed(*id, Some(row), actions);
        refused += u32::from(waits);
        groups.push((rank(&actions), Timestamp(0), actions));
    }
    groups.sort_by_key(|(rank, received, _)| (*rank, *received));
    let actions: Vec<Action> = groups.into_iter().flat_map(|(_, _, actions)| actions).collect();
    let mut state = AccountState {
        uid_validity: remote.uid_validity,
        // A look that ended early is continued by the next. It may have begun at an attempt far below the position.
        uid_next: match remote.looked {
            0 => remote.uid_next,
            looked if full => looked,
            looked => looked.max(before.uid_next),
        },
        modseq: if remote.looked == 0 { remote.modseq.unwrap_or_default() } else { before.modseq },
        held_back,
        refused,
        unkept: remote.unkept,
        names: remote.names,
        scan: Scan { number: before.scan.number, ..Scan::default() },
        uid_changes: UidChanges { count: if full { uid_changes(before, remote) } else { 0 }, latest: 0 },
        ..succeeded(before)
    };
    if !actions.is_empty() || state != *before {
        state.synced_at = Some(now);
    }
    Plan { actions, state, held_back, refused }
}

/// Number of looks in a row that found new UIDs, after this full one.
fn uid_changes(before: &AccountState, remote: &RemoteView) -> u32 {
    let (Ok(changes) | Err(changes)) = before.changes_after_full_look(remote.uid_validity);
    changes.count
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

/// Messages that were found, without impossible UIDs: 0, one UID for two messages, or, unless the whole
/// folder was read, the UID of another bound message.
fn believable(
    rows: &BTreeMap<MessageId, MessageState>,
    found: &BTreeMap<MessageId, (u32, RemoteFlags)>,
    full: bool,
) -> BTreeMap<MessageId, (u32, RemoteFlags)> {
    let mut count: BTreeMap<u32, u32> = BTreeMap::new();
    for (uid, _) in found.values() {
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
    found.iter().filter(|(id, (uid, _))| fine(id, uid)).map(|(id, at)| (*id, *at)).collect()
}

/// Whether absent messages count as deleted. A folder that is empty while more than one message is gone may have been lost, so
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
    /// The whole folder was read, and the UIDs of rows do not count.
    full: bool,
    /// Flags that the server did not keep in the look before.
    unkept_before: RemoteFlags,
    found: BTreeMap<MessageId, (u32, RemoteFlags)>,
    found_parts: BTreeMap<MessageId, (u32, RemoteFlags)>,
    absence: Absence,
}

impl Look<'_> {
    /// The actions without those that lost audio makes impossible. Lost audio is no failure of the account, and has its own alarm.
    fn possible(&self, message: &LocalMessage, row: Option<&MessageState>) -> Vec<Action> {
        let mut actions = self.actions(message, row);
        actions.retain(|action| !message.audio_lost || !matches!(action, Action::Append { .. }));
        actions
    }

    fn actions(&self, message: &LocalMessage, row: Option<&MessageState>) -> Vec<Action> {
        if let Some(present) = self.present(message, row) {
            let replaces = present.mail.extent == Extent::Part && !message.partial && !message.state.deleted;
            return if replaces { present.replaced() } else { present.actions(row) };
        }
        match row {
            Some(row) => {
                // UIDs of another folder do not count.
                let part = if self.full { 0 } else { row.mail.part };
                let row = MessageState { mail: MailState { part, ..row.mail }, ..*row };
                // A missing message may be among the mails that were not examined yet.
                let accepted = self.remote.accepted && self.remote.looked == 0;
                absent(message, &row, self.absence, accepted, self.remote.names)
            }
            None if message.state.deleted || self.waits(message) => vec![],
            None => vec![append(message, None)],
        }
    }

    /// The actions up to the first that waits because the server refused it, and whether there is one. The row keeps
    /// the data of the next attempt. An APPEND waits only for a refused APPEND, whose attempt the row has: after the
    /// refusal of another step, the row must not stay as it is in the folder before.
    fn unless_refused(&self, actions: Vec<Action>, row: Option<&MessageState>) -> (Vec<Action>, bool) {
        let waits = row.and_then(|row| row.mail.refusal).is_some_and(|refusal| refusal.waits(self.now));
        let attempted = row.is_some_and(|row| matches!(row.link, Link::Appending { .. }));
        let is_there =
            |action: &Action| action.refused().is_some() || (attempted && matches!(action, Action::Append { .. }));
        if !waits || self.remote.retry {
            return (actions, false);
        }
        let Some(step) = actions.iter().find(|action| is_there(action)) else { return (actions, false) };
        if attempted && self.place(step.message(), row).is_some() {
            // The mail of the attempt came after all: only the APPEND had to wait.
            return (actions, false);
        }
        let kept = step.refused().filter(|state| row != Some(state));
        let store = kept.map(|state| Action::Store { message: step.message(), state });
        let before = actions.iter().take_while(|action| !is_there(action)).cloned();
        (before.chain(store).collect(), true)
    }

    /// The actions; if there are none, the row of an old attempt whose mail is not among those that were read gets the
    /// position that was reached.
    fn or_renewed(&self, message: MessageId, row: Option<&MessageState>, actions: Vec<Action>) -> Vec<Action> {
        let Some(row) = row.filter(|_| actions.is_empty() && !self.full) else { return actions };
        let Link::Appending { uid_validity, from_uid } = row.link else { return actions };
        let end = self.end();
        let is_old = end.checked_sub(from_uid).is_some_and(|mails| mails >= RENEWED_AFTER);
        if !is_old || uid_validity != self.remote.uid_validity {
            return actions;
        }
        let link = Link::Appending { uid_validity, from_uid: end };
        vec![Action::Store { message, state: MessageState { link, ..*row } }]
    }

    /// The UID below which all mails were read that the folder has.
    fn end(&self) -> u32 {
        if self.remote.looked == 0 { self.remote.uid_next } else { self.remote.looked }
    }

    fn waits(&self, message: &LocalMessage) -> bool {
        message.partial && self.now.0 < message.received.0.saturating_add(PARTIAL_WAIT_MS)
    }

    /// The message in the folder on the server, with the bases of both sides.
    fn present(&self, message: &LocalMessage, row: Option<&MessageState>) -> Option<Present> {
        let local = message.state;
        if row.is_none() && local.deleted {
            // Deleted before it was known on the server: there is no sign that it came back.
            return None;
        }
        let (uid, remote, extent) = self.place(message.id, row)?;
        let mail = self.mail(message.id, row, extent);
        let base = match row {
            Some(row) if !self.full => Sides { local: row.local, remote: base_there(row) },
            // The flags of an old copy are no change on the server: the state here counts, and a deleted message has come back.
            _ => {
                let deleted = row.map_or(local, |row| row.local).deleted;
                Sides {
                    local: LocalState { deleted, ..local },
                    remote: RemoteFlags { deleted: deleted || remote.deleted, ..remote },
                }
            }
        };
        let (uid_validity, unkept) = (self.remote.uid_validity, self.remote.unkept);
        let (base, now) = self.evidence(base, Sides { local, remote });
        Some(Present { message: message.id, uid_validity, uid, mail, partial: message.partial, unkept, base, now })
    }

    /// Bases and present states, with only those flags as evidence that the server keeps. For a flag that it does not keep,
    /// the base here counts; a flag that it begins to keep has not changed on the server.
    fn evidence(&self, base: Sides, now: Sides) -> (Sides, Sides) {
        let unkept = self.remote.unkept;
        let known = base.remote.replaced(self.unkept_before.without(unkept), now.remote);
        let assumed = RemoteFlags { deleted: known.deleted, ..RemoteFlags::of(base.local.folder) };
        let masked = |remote: RemoteFlags| remote.replaced(unkept, assumed);
        (Sides { remote: masked(known), ..base }, Sides { remote: masked(now.remote), ..now })
    }

    /// Facts of the mail with this audio, which is in the folder.
    fn mail(&self, id: MessageId, row: Option<&MessageState>, extent: Extent) -> MailState {
        let found = || self.found_parts.get(&id).map_or(0, |(uid, _)| *uid);
        let part =
            match row {
                _ if extent == Extent::Part => 0,
                Some(row) if !self.full => match row.link {
                    Link::Bound { uid, .. } if row.mail.extent == Extent::Part => {
                        if self.remote.gone.contains(&uid) { found() } else { uid }
                    }
                    Link::Bound { .. } | Link::Gone | Link::Held { .. } if row.mail.part == 0 => 0,
                    // The mail may have left the folder and come back.
                    _ => Some(found()).filter(|uid| *uid != 0).unwrap_or(row.mail.part),
                },
                _ => found(),
            };
        let known = row.map(|row| row.mail).unwrap_or_default();
        let alias = if known.extent == extent { known.alias } else { 0 };
        // The refusal of an APPEND ends with its mail.
        let attempted = row.is_some_and(|row| matches!(row.link, Link::Appending { .. }));
        let refusal = known.refusal.filter(|_| !attempted);
        MailState { extent, part, alias, refusal, ..known }
    }

    /// UID, flags and audio of a message there; `None`: it is absent. The mail of the whole counts before that of the
    /// part.
    fn place(&self, id: MessageId, row: Option<&MessageState>) -> Option<(u32, RemoteFlags, Extent)> {
        let whole = self.found.get(&id).map(|(uid, flags)| (*uid, *flags, Extent::Whole));
        let found = whole.or_else(|| self.found_parts.get(&id).map(|(uid, flags)| (*uid, *flags, Extent::Part)));
        if self.full {
            return found;
        }
        let flags = |uid: u32| self.remote.flags.get(&uid).copied();
        let Some(row) = row else { return found };
        let extent = row.mail.extent;
        match row.link {
            Link::Bound { .. } if extent == Extent::Part && whole.is_some() => whole,
            Link::Bound { uid, remote, .. } if !self.remote.gone.contains(&uid) => {
                Some((uid, flags(uid).unwrap_or(remote), extent))
            }
            Link::Held { uid, .. } if uid != 0 => flags(uid).map(|flags| (uid, flags, extent)).or(found),
            _ => found,
        }
    }

    /// The action for a row without a message here: the message is purged, or its record has not arrived yet. The row
    /// is removed only if the message was deleted or is not in the folder, so that a message that arrives later is not
    /// appended a second time.
    fn without_message(&self, id: MessageId, row: &MessageState) -> Option<Action> {
        if row.local.deleted {
            return Some(self.forgotten(id, row));
        }
        if let Some((uid, remote, extent)) = self.place(id, Some(row)) {
            let base = if self.full { remote } else { base_there(row) };
            let link = Link::Bound { uid_validity: self.remote.uid_validity, uid, remote: base };
            let state = MessageState { link, mail: self.mail(id, Some(row), extent), ..*row };
            return (state != *row).then_some(Action::Store { message: id, state });
        }
        // A mail that comes after this look has a UID from its UIDNEXT on (RFC 3501 section 2.3.1.1). A mail that is in the
        // folder may be above the end of a look that ended early.
        let coming = |from: u32| self.remote.looked != 0 || self.remote.uid_next <= from;
        let waits = matches!(row.link, Link::Appending { from_uid, .. } if coming(from_uid)) && !self.full;
        (!waits).then(|| self.forgotten(id, row))
    }

    /// The end of a row: first the mail of the part is removed, which only this row names.
    fn forgotten(&self, id: MessageId, row: &MessageState) -> Action {
        let mail = row.mail;
        // UIDs of another folder do not count.
        if self.full || mail.part == 0 {
            return Action::Forget { message: id };
        }
        let then = MessageState { mail: MailState { part: 0, refusal: None, ..mail }, ..*row };
        Action::RemovePart { message: id, uid: mail.part, then, refused: *row }
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

/// Position in the plan: rows that hold deletions back come first, so that a lost connection never leaves a single absent
/// message, which would count as deleted. Actions that need the connection least come next.
fn rank(actions: &[Action]) -> u8 {
    let rank = |action: &Action| match action {
        Action::Store { state: MessageState { link: Link::Held { .. }, .. }, .. } => 0,
        Action::Store { .. } | Action::MarkHere { .. } | Action::Forget { .. } => 1,
        Action::Flags { .. } => 2,
        Action::Remove { .. } | Action::RemovePart { .. } => 3,
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
