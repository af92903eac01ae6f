//! One round of an account: look, plan, act, store.
//!
//! ```text
//! look ─► plan (core) ─► this side: marks and rows, each in one commit
//!                    └─► that side: APPEND, flags, removal; the rows after them in groups
//! ```
//!
//! A round may be interrupted at any point. Before an APPEND its attempt is durable, so that the next look finds the mail. If
//! the row was not written after any other step, the next look finds it out of date and comes to the same
//! result. The position in the folder is stored last, and only when every step was done or refused: the changes since
//! then are read again. The row of a refused step has the data and the time of the next attempt.

mod append;

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::Semaphore;
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, MessageId};
use twinbox_imap::ImapError;
use twinbox_mail::Address;
use twinbox_mailbox_sync::{
    Account, AccountState, Action, Extent, Link, MailState, MessageState, NamesKept, RENEWED_AFTER, Refusal,
    RemoteFlags, RemoteView, Scan, needs_full_look, plan,
};
use twinbox_mailbox_sync_store::{MailboxSyncStore, MarkedHere, SyncedMailbox};
use twinbox_mailstore::Mailstore;

use crate::{
    duty_lease::DutyLease,
    error::SyncError,
    folder::{Folder, is_usable_after},
    look::{BeforeLook, LookEnd, LookOptions, look},
    names::{Mail, Names},
};

/// Rows that wait to be written in one commit.
const GROUP: usize = 32;

/// Numbers of a round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RoundCounts {
    pub appended: u64,
    pub marked_here: u64,
    pub flagged_there: u64,
    pub removed_there: u64,
}

impl RoundCounts {
    pub(crate) fn has_changes(&self) -> bool {
        *self != Self::default()
    }

    /// Adds the numbers of another round.
    pub(crate) fn add(&mut self, other: &Self) {
        self.appended += other.appended;
        self.marked_here += other.marked_here;
        self.flagged_there += other.flagged_there;
        self.removed_there += other.removed_there;
    }
}

/// End of a round whose connection can be used further.
#[derive(Debug, Default)]
pub(crate) struct RoundEnd {
    /// Deletions that are held back.
    pub held_back: u32,
    /// Work is left.
    pub again: bool,
    /// The look ended early: the next one continues, with the options that an administrator ordered.
    pub goes_on: bool,
    /// The first step that the server refused, or the mail that the server does not show; the other steps were done.
    pub refused: Option<SyncError>,
}

/// The parts of a round.
#[derive(Clone, Copy)]
pub(crate) struct Session<'a> {
    pub mailstore: &'a Mailstore,
    pub store: &'a MailboxSyncStore,
    pub account: &'a Account,
    pub lease: &'a DutyLease,
    pub cluster: ClusterId,
    /// Address of the mails' senders.
    pub from: &'a Address,
    /// Bounds the mails of one server that are in memory.
    pub appends: &'a Semaphore,
}

/// A round under way.
struct Round<'a, F> {
    session: Session<'a>,
    folder: &'a mut F,
    remote: &'a RemoteView,
    names: &'a Names,
    /// The names that the server leaves to mails, as far as seen.
    names_kept: NamesKept,
    /// Rows at the beginning.
    rows: &'a BTreeMap<MessageId, MessageState>,
    counts: &'a mut RoundCounts,
    /// Rows to be written.
    pending: Vec<(MessageId, Option<MessageState>)>,
    /// Messages whose attempt this round has stored, and whose APPEND has not begun.
    noted: BTreeSet<MessageId>,
    /// Messages with a step that was not done: their later steps are left out.
    skipped: BTreeSet<MessageId>,
    /// Messages with a step that the server refused: likewise.
    refused: BTreeSet<MessageId>,
    /// The account is full: no further message is appended.
    full: bool,
    /// The Message-IDs of the whole folder were read in this look.
    everything_read: bool,
    /// A mail was found outside of the look: the next one reads all flags.
    rereads: bool,
    /// UIDs were given again: the next look is a full one.
    reused: bool,
    end: RoundEnd,
}

impl Session<'_> {
    /// Performs one round.
    pub(crate) async fn round<F: Folder>(
        self,
        folder: &mut F,
        options: LookOptions,
        counts: &mut RoundCounts,
    ) -> Result<RoundEnd, SyncError> {
        let mailbox = self.account.mailbox;
        let before = match self.store.effective_of(mailbox)? {
            Some(SyncedMailbox::Account(account, state)) if account == *self.account => state,
            _ => return Err(SyncError::AccountChanged),
        };
        let rows = self.lease.unless_lost(self.store.rows(mailbox)).await??;
        let local = self.lease.unless_lost(self.store.local(mailbox)).await??;
        let names = Names::new(&rows, &local);
        let known = BeforeLook { before: &before, rows: &rows, local: &local, names: &names };
        let remote = match look(folder, known, options).await? {
            LookEnd::View(remote) => remote,
            LookEnd::Part(rows, scan, changes) => {
                let state = AccountState { scan, ..before.without_position(changes) };
                self.write(rows, Some(state)).await?;
                let held_back = before.held_back;
                return Ok(RoundEnd { held_back, again: true, goes_on: true, refused: None });
            }
            LookEnd::UidsChange(changes) => {
                let state = before.without_position(changes);
                if state != before {
                    self.write(Vec::new(), Some(state)).await?;
                }
                return Err(SyncError::UidsChange);
            }
        };
        let plan = plan(wall(), &local, &rows, &before, &remote);
        let is_full = needs_full_look(&before, remote.uid_validity, remote.uid_next);
        // Earlier parts of the folder were read before messages came that are here now.
        let everything_read = is_full && before.scan.next == 0;
        let appends = plan.actions.iter().any(|action| matches!(action, Action::Append { .. }));
        let before = if is_full && appends { self.note_uids(before, &remote).await? } else { before };
        let mut round = Round {
            session: self,
            folder,
            remote: &remote,
            names: &names,
            names_kept: before.names,
            rows: &rows,
            counts,
            pending: Vec::new(),
            noted: BTreeSet::new(),
            skipped: BTreeSet::new(),
            refused: BTreeSet::new(),
            full: false,
            everything_read,
            rereads: false,
            reused: false,
            end: RoundEnd {
                held_back: plan.held_back,
                again: plan.needs_another_look() || remote.looked != 0,
                goes_on: remote.looked != 0,
                refused: None,
            },
        };
        let acted = round.act(&plan.actions).await;
        if let Err(error) = acted {
            // The rows of completed steps are written, as far as this node may still write.
            if !error.is_of_the_duty() {
                let names = round.names_kept;
                let state = (names != before.names).then(|| AccountState { names, ..before.clone() });
                round.flush(state).await?;
            }
            return Err(error);
        }
        let waiting = plan.refused.saturating_add(u32::try_from(round.refused.len()).unwrap_or(u32::MAX));
        if waiting > 0 && round.end.refused.is_none() {
            round.end.refused = Some(SyncError::StepsWait(waiting));
        }
        let mut state = after(&before, plan.state, round.end.refused.is_none());
        (state.refused, state.names) = (waiting, round.names_kept);
        if round.rereads {
            state.modseq = 0;
        }
        let state = if round.reused {
            let names = round.names_kept;
            // A continued reading of the folder saw the earlier mails.
            let scan = Scan { number: before.scan.number, ..Scan::default() };
            Some(AccountState { names, scan, ..before.with_uids_given_again(remote.uid_validity) })
        } else {
            (round.skipped.is_empty() && state != before).then_some(state)
        };
        round.flush(state).await?;
        Ok(round.end)
    }

    /// Stores the UIDVALIDITY of a full look before its first APPEND, which may fail: a server that gives the folder
    /// new UIDs at each look would get the message each time. Returns the state.
    async fn note_uids(&self, before: AccountState, remote: &RemoteView) -> Result<AccountState, SyncError> {
        let (Ok(changes) | Err(changes)) = before.changes_after_full_look(remote.uid_validity);
        let state = before.without_position(changes);
        if state != before {
            self.write(Vec::new(), Some(state.clone())).await?;
        }
        Ok(state)
    }

    async fn write(
        &self,
        rows: Vec<(MessageId, Option<MessageState>)>,
        state: Option<AccountState>,
    ) -> Result<(), SyncError> {
        let epoch = &self.lease.epoch;
        self.store.write(self.account, rows, state, epoch, || self.lease.permit()).await?;
        Ok(())
    }
}

/// State of the account after a round. After a refused step, the error stays until a round without one.
fn after(before: &AccountState, planned: AccountState, well: bool) -> AccountState {
    if well {
        return planned;
    }
    let AccountState { synced_at, error, failing_since, .. } = before.clone();
    AccountState { synced_at, error, failing_since, ..planned }
}

impl<F: Folder> Round<'_, F> {
    async fn act(&mut self, actions: &[Action]) -> Result<(), SyncError> {
        self.note_attempts(actions).await?;
        for action in actions {
            let message = action.message();
            if !self.skipped.contains(&message) && !self.refused.contains(&message) {
                self.take(action).await?;
            }
            if self.pending.len() >= GROUP {
                self.flush(None).await?;
            }
        }
        Ok(())
    }

    /// Makes the attempts of all APPENDs durable before the first of them.
    async fn note_attempts(&mut self, actions: &[Action]) -> Result<(), SyncError> {
        if self.names_kept == NamesKept::Nothing {
            // If no look can find the mails of attempts, each is noted alone: the others have not begun.
            return Ok(());
        }
        let appends = actions.iter().filter_map(|action| match action {
            Action::Append { message, flags, mail } => {
                Some((*message, Some(self.attempt(*message, *flags, *mail))))
            }
            _ => None,
        });
        // An attempt that is stored already needs no second commit.
        let is_new =
            |(message, state): &(MessageId, Option<MessageState>)| self.rows.get(message) != state.as_ref();
        let attempts: Vec<_> = appends.filter(is_new).collect();
        if attempts.is_empty() {
            return Ok(());
        }
        self.noted = attempts.iter().map(|(message, _)| *message).collect();
        self.session.write(attempts, None).await
    }

    /// The row of an attempt.
    fn attempt(&self, message: MessageId, flags: RemoteFlags, mail: MailState) -> MessageState {
        MessageState::appending(flags, self.remote.uid_validity, self.first_uid(message), mail)
    }

    /// The first UID that the mail of an APPEND may have. This look found no mail of an earlier attempt, so a later one
    /// has a UID from its UIDNEXT on (RFC 3501 section 2.3.1.1); a stored attempt is renewed now and then, so that looks
    /// do not begin ever further back.
    fn first_uid(&self, message: MessageId) -> u32 {
        let next = self.remote.uid_next;
        match self.rows.get(&message).map(|row| row.link) {
            Some(Link::Appending { uid_validity, from_uid })
                if uid_validity == self.remote.uid_validity
                    && next.checked_sub(from_uid).is_some_and(|mails| mails < RENEWED_AFTER) =>
            {
                from_uid
            }
            _ => next,
        }
    }

    async fn take(&mut self, action: &Action) -> Result<(), SyncError> {
        match action {
            Action::Store { message, state } => self.pending.push((*message, Some(*state))),
            Action::Forget { message } => self.pending.push((*message, None)),
            Action::MarkHere { message, expected, partial, marks, then } => {
                self.flush(None).await?;
                let (message, expected, partial) = (*message, *expected, *partial);
                let marked = MarkedHere { message, expected, partial, marks: marks.clone(), then: *then };
                let Session { store, account, lease, .. } = self.session;
                if store.mark_here(account, marked, &lease.epoch, || lease.permit()).await? {
                    self.counts.marked_here += 1;
                } else {
                    self.skip(message);
                }
            }
            Action::Append { message, flags, mail } => self.append(*message, *flags, *mail).await?,
            Action::Flags { message, uid, add, remove, then, refused } => {
                let stored = self.folder.store_flags(*uid, *add, *remove).await;
                if self.is_done(*message, *refused, stored)? {
                    self.counts.flagged_there += 1;
                    self.pending.push((*message, Some(*then)));
                }
            }
            Action::Remove { message, uid, then, refused } => {
                // A mail of others must not be removed because its UID was one of ours in a copy of the folder.
                let removed = match self.names.read(self.folder, *uid, *message, then.mail.alias).await {
                    Ok(Mail::Other) => {
                        self.reused = true;
                        self.skip(*message);
                        return Ok(());
                    }
                    Ok(Mail::Absent | Mail::Of { .. }) => {
                        let removed = self.remove(*uid).await;
                        if removed.as_ref().is_err_and(|error| !is_usable_after(error)) {
                            // The mail may be flagged as deleted now.
                            self.pending.push((*message, Some(*refused)));
                        }
                        removed
                    }
                    Err(error) => Err(error),
                };
                if self.is_done(*message, *refused, removed)? {
                    self.counts.removed_there += 1;
                    self.pending.push((*message, Some(*then)));
                }
            }
            Action::RemovePart { message, uid, then, refused } => {
                // Removes the mail only if it is proved to be the partial message. Any other mail stays and is not read again.
                let (is_part, removed) = match self.names.read(self.folder, *uid, *message, 0).await {
                    Ok(Mail::Of { extent: Extent::Part, .. }) => (true, self.remove(*uid).await),
                    Ok(_) => (false, Ok(())),
                    Err(error) => (false, Err(error)),
                };
                if self.is_done(*message, *refused, removed)? {
                    self.counts.removed_there += u64::from(is_part);
                    self.pending.push((*message, Some(*then)));
                }
            }
        }
        Ok(())
    }

    async fn remove(&mut self, uid: u32) -> Result<(), ImapError> {
        match &self.session.account.trash {
            Some(trash) => self.folder.move_to(uid, trash).await,
            None => self.folder.expunge(uid).await,
        }
    }

    /// Whether the server carried out the step. A refused one is left to a later round, for which the row is `refused`.
    fn is_done(
        &mut self,
        message: MessageId,
        refused: MessageState,
        done: Result<(), ImapError>,
    ) -> Result<bool, SyncError> {
        match done {
            Ok(()) => Ok(true),
            Err(error) if is_usable_after(&error) => {
                self.refuse(error.into());
                self.refused_step(message, refused);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes a refused step, with the time of its next attempt.
    fn refused_step(&mut self, message: MessageId, row: MessageState) {
        let refusal = Some(Refusal::after(row.mail.refusal, wall()));
        let row = MessageState { mail: MailState { refusal, ..row.mail }, ..row };
        self.pending.push((message, Some(row)));
        self.refused.insert(message);
    }

    /// Leaves a message that changed meanwhile to the next round.
    fn skip(&mut self, message: MessageId) {
        self.skipped.insert(message);
        self.end.again = true;
    }

    /// Notes the first refusal. A mail that is not shown takes precedence: its pause is the longest.
    fn refuse(&mut self, error: SyncError) {
        if self.end.refused.is_none() || matches!(error, SyncError::NotShown) {
            self.end.refused = Some(error);
        }
    }

    async fn flush(&mut self, state: Option<AccountState>) -> Result<(), SyncError> {
        let rows = std::mem::take(&mut self.pending);
        if rows.is_empty() && state.is_none() { Ok(()) } else { self.session.write(rows, state).await }
    }
}

#[cfg(test)]
mod tests;
