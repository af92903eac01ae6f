//! One round of an account: look, plan, act, store.
//!
//! ```text
//! look ─► plan (core) ─► this side: marks and rows, each in one commit
//!                    └─► that side: APPEND, flags, removal; the rows after them in groups
//! ```
//!
//! A round may be cut at any point. Before an APPEND its attempt is durable, so that the next look finds the mail. A row
//! that was not written after any other step is found to be out of date by the next look, which comes to the same
//! result. The position in the folder is stored last, and only when every step was done: the changes since then are read
//! again.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::Semaphore;
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, MessageId};
use twinbox_imap::ImapError;
use twinbox_mail::Address;
use twinbox_mailbox_sync::{
    Account, AccountState, Action, Link, LocalState, MessageState, RemoteFlags, RemoteView, message_id,
    needs_full_look, plan,
};
use twinbox_mailbox_sync_store::{MailboxSyncStore, MarkedHere, SyncedMailbox};
use twinbox_mailstore::{MailError, Mailstore};

use crate::{
    error::SyncError,
    folder::{Folder, is_usable_after},
    lease::Lease,
    look::{LookOptions, is_of, look},
    mail::mail,
};

/// Rows that wait to be written in one commit.
const GROUP: usize = 32;

/// Mails after a stored attempt from which on it is renewed.
const RENEWED_AFTER: u32 = 1_000;

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
}

/// End of a round whose connection can be used further.
#[derive(Debug, Default)]
pub(crate) struct RoundEnd {
    /// Deletions that are held back.
    pub held_back: u32,
    /// Something is left to do.
    pub again: bool,
    /// The first step that the server refused, or the mail that it does not show; the other steps were done.
    pub refused: Option<SyncError>,
}

/// The parts of a round.
#[derive(Clone, Copy)]
pub(crate) struct Session<'a> {
    pub mailstore: &'a Mailstore,
    pub store: &'a MailboxSyncStore,
    pub account: &'a Account,
    pub lease: &'a Lease,
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
    /// Rows at the beginning.
    rows: &'a BTreeMap<MessageId, MessageState>,
    counts: &'a mut RoundCounts,
    /// Rows to be written.
    pending: Vec<(MessageId, Option<MessageState>)>,
    /// Messages with a step that was not done: their later steps are left out.
    skipped: BTreeSet<MessageId>,
    /// The account is full: no further message is appended.
    full: bool,
    /// The Message-IDs of the whole folder were read.
    everything_read: bool,
    /// A mail was found outside of the look: the next one reads all flags.
    rereads: bool,
    /// UIDs were given again: the next look is a full one.
    reused: bool,
    end: RoundEnd,
}

impl Session<'_> {
    /// Does one round.
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
        let remote = look(folder, &before, &rows, self.cluster, options).await?;
        let plan = plan(wall(), &local, &rows, &before, &remote);
        let mut round = Round {
            session: self,
            folder,
            remote: &remote,
            rows: &rows,
            counts,
            pending: Vec::new(),
            skipped: BTreeSet::new(),
            full: false,
            everything_read: needs_full_look(&before, remote.uid_validity, remote.uid_next),
            rereads: false,
            reused: false,
            end: RoundEnd { held_back: plan.held_back, again: plan.needs_another_look(), refused: None },
        };
        let acted = round.act(&plan.actions).await;
        if let Err(error) = acted {
            // What was done stays known, as far as this node may still write.
            if !error.is_of_the_duty() {
                round.flush(None).await?;
            }
            return Err(error);
        }
        let mut state = after(&before, plan.state, round.end.refused.is_none());
        if round.rereads {
            state.modseq = 0;
        }
        let state = if round.reused {
            Some(AccountState { uid_validity: 0, uid_next: 0, modseq: 0, ..before })
        } else {
            (round.skipped.is_empty() && state != before).then_some(state)
        };
        round.flush(state).await?;
        Ok(round.end)
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
            if !self.skipped.contains(&action.message()) {
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
        let appends = actions.iter().filter_map(|action| match action {
            Action::Append { message, flags } => {
                let state = MessageState::appending(*flags, self.remote.uid_validity, self.first_uid(*message));
                Some((*message, Some(state)))
            }
            _ => None,
        });
        // An attempt that is stored already needs no second commit.
        let is_new =
            |(message, state): &(MessageId, Option<MessageState>)| self.rows.get(message) != state.as_ref();
        let attempts: Vec<_> = appends.filter(is_new).collect();
        if attempts.is_empty() { Ok(()) } else { self.session.write(attempts, None).await }
    }

    /// The first UID that the mail of an APPEND may have. This look found no mail of an earlier attempt, so a later one
    /// has a UID from its UIDNEXT on (RFC 3501 section 2.3.1.1); a stored attempt is renewed now and then, so that looks
    /// do not begin further and further back.
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
            Action::MarkHere { message, expected, marks, then } => {
                self.flush(None).await?;
                let marked =
                    MarkedHere { message: *message, expected: *expected, marks: marks.clone(), then: *then };
                let Session { store, account, lease, .. } = self.session;
                if store.mark_here(account, marked, &lease.epoch, || lease.permit()).await? {
                    self.counts.marked_here += 1;
                } else {
                    self.skip(*message);
                }
            }
            Action::Append { message, flags } => self.append(*message, *flags).await?,
            Action::Flags { message, uid, add, remove, then } => {
                let stored = self.folder.store_flags(*uid, *add, *remove).await;
                if self.is_done(*message, stored)? {
                    self.counts.flagged_there += 1;
                    self.pending.push((*message, Some(*then)));
                }
            }
            Action::Remove { message, uid, then } => {
                // Somebody's mail must not go because its UID was one of ours in a copy of the folder.
                if !is_of(self.folder, *uid, *message, self.session.cluster).await? {
                    self.reused = true;
                    self.skip(*message);
                    return Ok(());
                }
                let removed = match &self.session.account.trash {
                    Some(trash) => self.folder.move_to(*uid, trash).await,
                    None => self.folder.expunge(*uid).await,
                };
                if self.is_done(*message, removed)? {
                    self.counts.removed_there += 1;
                    self.pending.push((*message, Some(*then)));
                }
            }
        }
        Ok(())
    }

    /// Appends a message. A refusal counts as done: its attempt is stored, and the next round repeats it.
    async fn append(&mut self, message: MessageId, flags: RemoteFlags) -> Result<(), SyncError> {
        if self.full {
            return Ok(());
        }
        let Session { mailstore, account, cluster, from, appends, lease, .. } = self.session;
        let first = self.first_uid(message);
        let id = message_id(message, cluster);
        // The server may have finished an interrupted APPEND after this round's look, or a look before saw the mail of
        // another holder whose row, or the message itself, was not here yet.
        if (self.rows.contains_key(&message) || !self.everything_read)
            && let Some(uid) = self.find(&id, 1).await?
        {
            // It may have been read since.
            self.rereads = true;
            self.bind(message, flags, uid);
            return Ok(());
        }
        let stored = mailstore.message(account.mailbox, message).await?;
        let (Some(stored), Some(mailbox)) = (stored, mailstore.get_now(account.mailbox)?) else {
            self.skip(message);
            return Ok(());
        };
        // A closed semaphore does not exist: the server lives as long as its accounts.
        let _turn = lease.unless_lost(appends.acquire()).await?.map_err(|_| SyncError::DutyLost)?;
        let wav = match lease.unless_lost(mailstore.wav(&stored)).await? {
            Ok(wav) => wav,
            // Audio that is not here yet holds up no other message.
            Err(error @ (MailError::NoAudio(_) | MailError::Store(_))) => {
                self.refuse(SyncError::Store(error));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let bytes = mail(cluster, from, &mailbox, &stored, wav);
        if !lease.is_held() {
            return Err(SyncError::DutyLost);
        }
        match self.folder.append(flags, stored.received, &bytes).await {
            Ok(place) => {
                let validity = self.remote.uid_validity;
                let named = place.filter(|place| place.uid_validity == validity && place.uid >= first);
                let shown = match named {
                    Some(named) => Some(named.uid),
                    None => self.find(&id, first).await?,
                };
                let Some(uid) = shown else {
                    // Not appended again: each attempt would leave a copy elsewhere. It is bound when it shows up.
                    let local = LocalState { folder: flags.folder(), deleted: false };
                    self.pending.push((message, Some(MessageState { local, link: Link::Gone })));
                    self.refuse(SyncError::NotShown);
                    return Ok(());
                };
                self.counts.appended += 1;
                self.bind(message, flags, uid);
                Ok(())
            }
            Err(error) if is_usable_after(&error) => {
                self.full |= matches!(error, ImapError::Quota { .. });
                self.refuse(error.into());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The mail with this Message-ID, from this UID on.
    async fn find(&mut self, id: &str, first: u32) -> Result<Option<u32>, SyncError> {
        let uids = self.folder.find(id).await?;
        Ok(uids.into_iter().filter(|uid| *uid >= first && *uid != 0).min())
    }

    fn bind(&mut self, message: MessageId, flags: RemoteFlags, uid: u32) {
        let state = MessageState::appended(flags, self.remote.uid_validity, uid);
        self.pending.push((message, Some(state)));
    }

    /// Whether a step there was done. A refused one is left to the next round.
    fn is_done(&mut self, message: MessageId, done: Result<(), ImapError>) -> Result<bool, SyncError> {
        match done {
            Ok(()) => Ok(true),
            Err(error) if is_usable_after(&error) => {
                self.refuse(error.into());
                self.skipped.insert(message);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves a message that changed meanwhile to the next round.
    fn skip(&mut self, message: MessageId) {
        self.skipped.insert(message);
        self.end.again = true;
    }

    /// Notes the first refusal. A mail that is not shown counts before all others: its pause is the longest.
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
