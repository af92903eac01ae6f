//! Numbers and addresses that two mailboxes got while their nodes could not reach each other (rule D6): the earlier claim
//! counts, and an administrator must know of the other.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::broadcast::{Receiver, error::RecvError};
use twinbox_ids::MailboxId;
use twinbox_mailbox::{Mailbox, Number, UserAddress, schema};
use twinbox_mailstore::{MailError, Mailstore, blocking};
use twinbox_replication_core::{Change, Key, Record};

/// Kind of a name that only one mailbox can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameKind {
    /// The number of a mailbox.
    Number,
    /// A mail address or an alias.
    Address,
}

/// A mailbox one of whose names another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameClash {
    /// The mailbox with the later claim.
    pub mailbox: MailboxId,
    /// Kind of the name.
    pub kind: NameKind,
}

/// Reports clashes of names: those at its creation, then those that a change made here or by a peer brings. A clash may be
/// reported again.
pub struct NameClashWatch {
    mailstore: Mailstore,
    changes: Receiver<Arc<Change>>,
    found: VecDeque<NameClash>,
}

impl NameKind {
    /// The words for administrators.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Address => "mail address",
        }
    }
}

impl NameClashWatch {
    /// Watches the store of a node for clashes of names.
    pub async fn new(mailstore: Mailstore) -> Result<Self, MailError> {
        // Subscribed before the read, so that none is missed.
        let (changes, reading) = (mailstore.store().live(), mailstore.clone());
        let found = blocking(move || name_clashes(&reading)).await??;
        Ok(Self { mailstore, changes, found: found.into() })
    }

    /// The next clash; `None` when the store is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<NameClash> {
        loop {
            if let Some(clash) = self.found.pop_front() {
                return Some(clash);
            }
            let found = match self.changes.recv().await {
                Ok(change) => clashes_of(&self.mailstore, &change.key),
                Err(RecvError::Lagged(_)) => name_clashes(&self.mailstore),
                Err(RecvError::Closed) => return None,
            };
            match found {
                Ok(clashes) => self.found.extend(clashes),
                Err(error) => tracing::warn!(%error, "claims of names cannot be read; a clash may have no alarm"),
            }
        }
    }
}

/// All clashes.
fn name_clashes(mailstore: &Mailstore) -> Result<Vec<NameClash>, MailError> {
    let mut clashes = Vec::new();
    for table in [schema::NUMBER, schema::ADDRESS] {
        for row in mailstore.store().rows(table, &[]) {
            let (key, record) = row?;
            clashes.extend(losers(mailstore, &key, &record)?);
        }
    }
    Ok(clashes)
}

/// The clashes of the name with this key; none for other keys.
fn clashes_of(mailstore: &Mailstore, key: &Key) -> Result<Vec<NameClash>, MailError> {
    if key.table != schema::NUMBER && key.table != schema::ADDRESS {
        return Ok(Vec::new());
    }
    let record = mailstore.store().get(key)?;
    record.map_or_else(|| Ok(Vec::new()), |record| losers(mailstore, key, &record))
}

/// The mailboxes that have the name of this record in their settings, after the first of them.
fn losers(mailstore: &Mailstore, key: &Key, record: &Record) -> Result<Vec<NameClash>, MailError> {
    let (kind, claimants) = match key.table == schema::NUMBER {
        true => {
            let tag = schema::number::HOLDER;
            let all = record.claim(tag).into_iter().chain(record.losers(tag));
            (NameKind::Number, all.filter_map(MailboxId::from_slice).collect())
        }
        false => (NameKind::Address, UserAddress::claimants(record)),
    };
    // The usual case needs no look at a mailbox.
    if claimants.len() < 2 {
        return Ok(Vec::new());
    }
    let mut named = Vec::new();
    for id in claimants {
        match mailstore.get_now(id) {
            Ok(Some(mailbox)) if is_name_of(key, &mailbox) => named.push(NameClash { mailbox: id, kind }),
            Ok(_) | Err(MailError::View(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(named.into_iter().skip(1).collect())
}

/// A claim may stay behind a mailbox that has another name by now.
fn is_name_of(key: &Key, mailbox: &Mailbox) -> bool {
    let number = Number::normalise(&mailbox.number).is_ok_and(|number| schema::number_key(&number) == *key);
    number || mailbox.addresses.all().into_iter().any(|address| schema::address_key(address) == *key)
}
