//! Notices of changes that concern the synchronisation.

use twinbox_ids::{MailboxId, RecordingId};
use twinbox_mailbox::{
    Recording,
    directory::schema as directory_schema,
    schema::{self as mailbox_schema, BY_EPOCH, mailbox as tag},
};
use twinbox_mailbox_sync::schema;
use twinbox_mailstore::Mailstore;
use twinbox_replication_core::{Change, Key, Record, Tag};
use twinbox_replication_store::{LiveError, LiveReader};

use crate::account_place::PLACE;

/// A change that the synchronisation must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncChange {
    /// Messages of this mailbox, which may have no account. Marks of the duty are among them.
    Mailbox(MailboxId),
    /// The set of accounts, or settings of a server or an account.
    Settings,
    /// Any change: some were missed.
    Everything,
}

/// Subject of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Messages of a mailbox.
    Messages(MailboxId),
    /// A recording that may not count as a message any more.
    Recording(RecordingId),
    /// The state of an account, which the duty writes.
    State(MailboxId),
    /// An account's settings, or the user that it belongs to.
    Account(MailboxId),
    /// A claim of a number or an address, or a binding to a directory: its row names the mailboxes.
    Named(Key),
    /// Any account.
    AllAccounts,
}

impl Subject {
    /// The subject of a change; `None` if it does not concern the synchronisation.
    pub(crate) fn of(change: &Change) -> Option<Self> {
        let Change { key, delta, .. } = change;
        match key.table {
            mailbox_schema::MESSAGE => Some(Self::Messages(mailbox_schema::message_of(key)?.0)),
            mailbox_schema::RECORDING if Recording::withdraws(delta) => {
                Some(Self::Recording(mailbox_schema::recording_of(key)?))
            }
            mailbox_schema::MAILBOX if is_of_account(delta) => {
                Some(Self::Account(mailbox_schema::mailbox_of(key)?))
            }
            mailbox_schema::NUMBER | mailbox_schema::ADDRESS => Some(Self::Named(key.clone())),
            directory_schema::BINDING if has_value_by_epoch(delta) => Some(Self::Named(key.clone())),
            mailbox_schema::CLASS | schema::MAIL_SERVER => Some(Self::AllAccounts),
            schema::SYNC_ACCOUNT => {
                let mailbox = schema::account_of(key)?;
                let is_setting = |tag| tag < BY_EPOCH && tag != PLACE;
                let settings = delta.tombstone().is_some() || delta.fields().any(|(tag, _)| is_setting(tag));
                Some(if settings { Self::Account(mailbox) } else { Self::State(mailbox) })
            }
            _ => None,
        }
    }

    /// False for messages.
    pub(crate) fn is_of_accounts(&self) -> bool {
        match self {
            Self::Messages(_) | Self::Recording(_) => false,
            Self::State(_) | Self::Account(_) | Self::Named(_) | Self::AllAccounts => true,
        }
    }
}

/// Whether a change of a mailbox's row may change its account: a new PIN or greeting does not.
fn is_of_account(delta: &Record) -> bool {
    const FIELDS: [Tag; 5] = [tag::CREATED, tag::NUMBER, tag::CLASS, tag::MAIL, tag::DISABLED];
    let has_field = delta.fields().any(|(tag, _)| FIELDS.contains(&tag));
    has_field || has_value_by_epoch(delta) || delta.tombstone().is_some()
}

fn has_value_by_epoch(delta: &Record) -> bool {
    delta.fields().any(|(tag, _)| tag >= BY_EPOCH)
}

/// Reports changes, made here or by a peer, from its creation on.
pub struct MailboxSyncWatch {
    mailstore: Mailstore,
    changes: LiveReader,
    /// A change that came after reported ones.
    pending: Option<SyncChange>,
}

impl MailboxSyncWatch {
    pub(crate) fn new(mailstore: &Mailstore) -> Self {
        let changes = mailstore.store().live(|change| Subject::of(change).is_some());
        Self { mailstore: mailstore.clone(), changes, pending: None }
    }

    /// The next change; `None` when the store is closed. Changes of settings that came together are one. Safe to
    /// cancel.
    pub async fn next(&mut self) -> Option<SyncChange> {
        if let Some(pending) = self.pending.take() {
            return Some(pending);
        }
        loop {
            match self.changes.recv().await {
                Ok(change) => match self.meaning(&change) {
                    Some(SyncChange::Settings) => {
                        self.pending = self.after_settings();
                        return Some(SyncChange::Settings);
                    }
                    Some(change) => return Some(change),
                    None => {}
                },
                Err(LiveError::Lagged) => return Some(SyncChange::Everything),
                Err(LiveError::Closed) => return None,
            }
        }
    }

    /// The first change of another kind among those that have come.
    fn after_settings(&mut self) -> Option<SyncChange> {
        loop {
            match self.changes.try_recv() {
                Ok(Some(change)) => match self.meaning(&change) {
                    Some(SyncChange::Settings) | None => {}
                    Some(change) => return Some(change),
                },
                Err(LiveError::Lagged) => return Some(SyncChange::Everything),
                Ok(None) | Err(LiveError::Closed) => return None,
            }
        }
    }

    fn meaning(&self, change: &Change) -> Option<SyncChange> {
        match Subject::of(change)? {
            Subject::Messages(mailbox) => Some(SyncChange::Mailbox(mailbox)),
            Subject::Recording(id) => {
                let key = mailbox_schema::recording_key(id);
                match self.mailstore.store().get(&key) {
                    Ok(record) => Some(SyncChange::Mailbox(Recording::read(&key, &record?).ok()?.mailbox)),
                    Err(_) => Some(SyncChange::Everything),
                }
            }
            Subject::State(_) => None,
            Subject::Account(_) | Subject::Named(_) | Subject::AllAccounts => Some(SyncChange::Settings),
        }
    }
}
