//! All accounts in force, as last resolved: later searches resolve only the mailboxes that changes since then concern.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use twinbox_ids::MailboxId;
use twinbox_mailbox::{
    Binding, Number, UserAddress, directory::schema as directory_schema, schema as mailbox_schema,
};
use twinbox_mailbox_sync::{Account, AccountState, schema};
use twinbox_mailstore::{MailError, blocking};
use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::{LiveReader, Store};

use crate::{
    MailboxSyncStore,
    resolve::{LeftOut, Resolver, Servers, SyncedMailbox},
    watch::Subject,
};

/// The mailboxes with an account, and those that a server names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EffectiveAccounts {
    /// Accounts that are synchronised, with their states, by mailbox id.
    pub accounts: Vec<(Account, AccountState)>,
    /// Mailboxes that are not synchronised, with the reason, by mailbox id.
    pub left_out: Vec<LeftOut>,
}

/// The accounts as last resolved, shared by the clones of a store.
#[derive(Default)]
pub(crate) struct AccountCache(Mutex<Option<Index>>);

struct Index {
    /// Changes since the accounts were resolved.
    changes: LiveReader,
    servers: Servers,
    mailboxes: BTreeMap<MailboxId, SyncedMailbox>,
}

impl MailboxSyncStore {
    /// All accounts in force, and the mailboxes that are left out with the reason: those with an account of their
    /// own, and those that the setting `users` of a server names. The first call reads all users if a server names
    /// users. Later calls read the users that changed; after a change of a server or a class, and after thousands
    /// of changes of any kind, all users.
    pub async fn effective(&self) -> Result<EffectiveAccounts, MailError> {
        let store = self.clone();
        blocking(move || store.effective_now()).await?
    }

    /// The account of one mailbox, or the reason why it is left out; `None` for a mailbox without an account that no
    /// server names.
    pub fn effective_of(&self, mailbox: MailboxId) -> Result<Option<SyncedMailbox>, MailError> {
        let store = self.mailstore.store();
        Resolver::new(store, &Servers::read(store)?).synced(mailbox)
    }

    fn effective_now(&self) -> Result<EffectiveAccounts, MailError> {
        let store = self.mailstore.store();
        let mut cached = self.cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After an error, everything is read again.
        let index = match cached.take() {
            Some(index) => index.updated(store)?,
            None => Index::read(store)?,
        };
        let effective = index.list();
        *cached = Some(index);
        Ok(effective)
    }
}

impl Index {
    fn read(store: &Store) -> Result<Self, MailError> {
        let changes = store.live(|change| Subject::of(change).is_some_and(|subject| subject.is_of_accounts()));
        let servers = Servers::read(store)?;
        let mut resolver = Resolver::new(store, &servers);
        let mut mailboxes = BTreeMap::new();
        let with_accounts = store.rows(schema::SYNC_ACCOUNT, &[]);
        let users = servers.name_users().then(|| store.rows(mailbox_schema::MAILBOX, &[])).into_iter().flatten();
        for row in users.chain(with_accounts) {
            let (key, _) = row?;
            let id = mailbox_schema::mailbox_of(&key).or_else(|| schema::account_of(&key));
            let Some(id) = id.filter(|id| !mailboxes.contains_key(id)) else { continue };
            if let Some(synced) = resolver.synced(id)? {
                mailboxes.insert(id, synced);
            }
        }
        drop(resolver);
        Ok(Self { changes, servers, mailboxes })
    }

    /// The index after the changes since it was made.
    fn updated(mut self, store: &Store) -> Result<Self, MailError> {
        let mut changed = BTreeSet::new();
        loop {
            let change = match self.changes.try_recv() {
                Ok(Some(change)) => change,
                Ok(None) => break,
                Err(_) => return Self::read(store),
            };
            match Subject::of(&change) {
                Some(Subject::AllAccounts) => return Self::read(store),
                Some(Subject::Account(mailbox) | Subject::State(mailbox)) => {
                    changed.insert(mailbox);
                }
                Some(Subject::Named(key)) => {
                    if let Some(record) = store.get(&key)? {
                        changed.extend(named(&key, &record));
                    }
                }
                Some(Subject::Messages(_) | Subject::Recording(_)) | None => {}
            }
        }
        let mut resolver = Resolver::new(store, &self.servers);
        for id in changed {
            match resolver.synced(id)? {
                Some(synced) => self.mailboxes.insert(id, synced),
                None => self.mailboxes.remove(&id),
            };
        }
        drop(resolver);
        Ok(self)
    }

    fn list(&self) -> EffectiveAccounts {
        let mut effective = EffectiveAccounts::default();
        for synced in self.mailboxes.values() {
            match synced.clone() {
                SyncedMailbox::Account(account, state) => effective.accounts.push((account, state)),
                SyncedMailbox::LeftOut(left_out) => effective.left_out.push(left_out),
            }
        }
        effective
    }
}

/// The mailboxes that a claim of a number or an address, or a binding to a directory, names.
fn named(key: &Key, record: &Record) -> Vec<MailboxId> {
    match key.table {
        mailbox_schema::ADDRESS => UserAddress::claimants(record),
        mailbox_schema::NUMBER => Number::claimants(record),
        directory_schema::BINDING => {
            Binding::read(key, record).ok().flatten().map(|binding| binding.mailbox).into_iter().collect()
        }
        _ => Vec::new(),
    }
}
