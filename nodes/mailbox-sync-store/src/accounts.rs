//! Accounts of single users: an own row with a server and settings.

use std::collections::BTreeMap;

use twinbox_clock::wall;
use twinbox_ids::{MailServerId, MailboxId};
use twinbox_mailbox::{ViewError, by_epoch::Author};
use twinbox_mailbox_sync::{AccountSettings, AccountState, StoredAccount, schema};
use twinbox_mailstore::{Acknowledgement, MailError, rows::mailbox_in};
use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::Draft;

use crate::{
    MailboxSyncError, MailboxSyncStore,
    account_place::place_edit,
    changed,
    resolve::{Resolver, Servers},
    server_in,
    state::{clear_in, stored_in},
};

/// Accounts whose rows are removed in one commit: each may have thousands of messages.
const GROUP: usize = 4;

impl MailboxSyncStore {
    /// All rows of accounts, by mailbox id: those of single users, and those that only hold the state of a user whom a
    /// server names. A row that this release cannot read is skipped, and logged.
    pub fn accounts(&self) -> Result<Vec<(StoredAccount, AccountState)>, MailError> {
        let mut accounts = Vec::new();
        for row in self.mailstore.store().rows(schema::SYNC_ACCOUNT, &[]) {
            let (key, record) = row?;
            match readable_account(&key, &record) {
                Ok(account) => accounts.extend(account),
                Err(error) => tracing::warn!(%error, "account cannot be read; it is left out"),
            }
        }
        Ok(accounts)
    }

    /// The row of a mailbox's account, as in [`Self::accounts`].
    pub fn account(&self, mailbox: MailboxId) -> Result<Option<(StoredAccount, AccountState)>, MailError> {
        let key = schema::account_key(mailbox);
        let record = self.mailstore.store().get(&key)?.unwrap_or_default();
        Ok(readable_account(&key, &record)?)
    }

    /// Gives a mailbox an account of its own, or changes it: `server` moves it to that server, and a setting of `None`
    /// is unset. A new account needs a server.
    pub async fn set_account(
        &self,
        mailbox: MailboxId,
        server: Option<MailServerId>,
        changes: BTreeMap<u16, Option<String>>,
    ) -> Result<Acknowledgement, MailboxSyncError> {
        let (refused, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                mailbox_in(draft, mailbox)?;
                let before = listed_in(draft, mailbox)?;
                let Some(server) = server.or_else(|| before.as_ref()?.server) else {
                    return Ok(Some(MailboxSyncError::NoServer));
                };
                if server_in(draft, server)?.is_none() {
                    return Ok(Some(MailboxSyncError::None(server)));
                }
                let settings = before.as_ref().map(|account| account.settings.clone()).unwrap_or_default();
                let settings = changed(&settings, &changes);
                if let Err(error) = AccountSettings::from_settings(&settings) {
                    return Ok(Some(error.into()));
                }
                let created = before.and_then(|account| account.created).unwrap_or_else(wall);
                let account = StoredAccount { mailbox, server: Some(server), created: Some(created), settings };
                let mut edits = account.edits();
                let unset = changes.iter().filter(|(_, value)| value.is_none());
                edits.extend(unset.flat_map(|(number, _)| StoredAccount::change(*number, None)));
                draft.edit(schema::account_key(mailbox), edits)?;
                Ok(None)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Removes the account of a mailbox, and the states of its messages; messages stay on both sides. If a server names
    /// the user too, the user is synchronised with that server from now on.
    pub async fn remove_account(&self, mailbox: MailboxId) -> Result<Acknowledgement, MailboxSyncError> {
        let author = self.local_author();
        let (found, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let found = listed_in(draft, mailbox)?.is_some();
                if found {
                    remove_in(draft, mailbox, &author)?;
                }
                Ok(found)
            })
            .await?;
        if found { Ok(acknowledgement) } else { Err(MailboxSyncError::NoAccount) }
    }

    /// The mailboxes with an account on a server, of their own or because the server names them.
    pub(crate) async fn mailboxes_of(&self, server: MailServerId) -> Result<Vec<MailboxId>, MailError> {
        let effective = self.effective().await?;
        let accounts = effective.accounts.iter().map(|(account, _)| (account.mailbox, Some(account.server)));
        let left_out = effective.left_out.iter().map(|left_out| (left_out.mailbox, left_out.server));
        let all = accounts.chain(left_out);
        Ok(all.filter(|(_, of)| *of == Some(server)).map(|(mailbox, _)| mailbox).collect())
    }

    /// Removes accounts of a server that was removed. Accounts that have another server meanwhile stay.
    pub(crate) async fn release_accounts(
        &self,
        server: MailServerId,
        mailboxes: &[MailboxId],
    ) -> Result<Option<Acknowledgement>, MailError> {
        let mut acknowledgement = None;
        for group in mailboxes.chunks(GROUP) {
            let (group, author) = (group.to_vec(), self.local_author());
            let ((), latest) = self
                .mailstore
                .commit(move |draft| {
                    for mailbox in group {
                        let elsewhere = match listed_in(draft, mailbox)? {
                            Some(listed) => listed.server != Some(server),
                            None => is_in_place(draft, mailbox)?,
                        };
                        if !elsewhere {
                            remove_in(draft, mailbox, &author)?;
                        }
                    }
                    Ok(())
                })
                .await?;
            acknowledgement = Some(latest);
        }
        Ok(acknowledgement)
    }

    fn local_author(&self) -> Author {
        Author::Local(self.mailstore.settings().node.clone())
    }
}

/// The account of a row; `None` for a row that was removed.
fn readable_account(key: &Key, record: &Record) -> Result<Option<(StoredAccount, AccountState)>, ViewError> {
    let account = StoredAccount::read(key, record)?;
    Ok(account.map(|account| (account, AccountState::read_anywhere(record))))
}

/// The account of its own that a mailbox has, as the committer sees it.
fn listed_in(draft: &Draft<'_>, mailbox: MailboxId) -> Result<Option<StoredAccount>, MailError> {
    let key = schema::account_key(mailbox);
    let account = draft.get(&key)?.map(|record| StoredAccount::read(&key, &record)).transpose()?.flatten();
    Ok(account.filter(|account| account.created.is_some()))
}

/// Whether the stored states of a mailbox are those of the account that it has now.
fn is_in_place(draft: &Draft<'_>, mailbox: MailboxId) -> Result<bool, MailError> {
    let servers = Servers::read(draft)?;
    let resolved = Resolver::new(draft, &servers).resolve(mailbox)?;
    Ok(resolved.and_then(Result::ok).is_some_and(|resolved| resolved.in_place))
}

/// Removes the row of an account, and the states of its messages.
fn remove_in(draft: &mut Draft<'_>, mailbox: MailboxId, author: &Author) -> Result<(), MailError> {
    let key = schema::account_key(mailbox);
    let record = draft.get(&key)?.unwrap_or_default();
    let mut edits = StoredAccount::removal(&record, author, wall())?;
    edits.push(place_edit(None));
    draft.edit(key, edits)?;
    let keys = stored_in(draft, mailbox)?;
    clear_in(draft, &keys, author)
}
