//! Numbers and addresses that two mailboxes got while their nodes could not reach each other (rule D6): the earlier claim
//! counts, and an administrator must know of the other.

use std::collections::VecDeque;

use twinbox_ids::MailboxId;
use twinbox_mailbox::{Mailbox, Number, UserAddress, schema};
use twinbox_mailstore::{MailError, Mailstore, blocking};
use twinbox_replication_core::{Key, Record, Table};
use twinbox_replication_store::{LiveError, LiveReader};

/// The tables of claims.
const NAMES: [Table; 2] = [schema::NUMBER, schema::ADDRESS];

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

/// A name that several mailboxes have in their settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameConflict {
    /// The number or address.
    pub name: String,
    /// Kind of the name.
    pub kind: NameKind,
    /// The mailboxes, the one that has the name first, then by the time of their claims.
    pub mailboxes: Vec<MailboxId>,
}

/// Reports clashes of names: those at its creation, then those that a change made here or by a peer brings. A clash may be
/// reported again.
pub struct NameClashWatch {
    mailstore: Mailstore,
    changes: LiveReader,
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
        let (changes, reading) =
            (mailstore.store().live(|change| NAMES.contains(&change.key.table)), mailstore.clone());
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
                Err(LiveError::Lagged) => name_clashes(&self.mailstore),
                Err(LiveError::Closed) => return None,
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
    Ok(name_conflicts(mailstore)?.into_iter().flat_map(clashes_in).collect())
}

/// The clashes of a conflict: all but the first mailbox have one.
fn clashes_in(conflict: NameConflict) -> impl Iterator<Item = NameClash> {
    let kind = conflict.kind;
    conflict.mailboxes.into_iter().skip(1).map(move |mailbox| NameClash { mailbox, kind })
}

/// All numbers and addresses that several mailboxes have in their settings. Reads all claims: not for a thread that serves
/// calls.
pub fn name_conflicts(mailstore: &Mailstore) -> Result<Vec<NameConflict>, MailError> {
    let mut conflicts = Vec::new();
    for table in NAMES {
        for row in mailstore.store().rows(table, &[]) {
            let (key, record) = row?;
            conflicts.extend(conflict_of(mailstore, &key, &record)?);
        }
    }
    Ok(conflicts)
}

/// The clashes of the name with this key; none for other keys.
fn clashes_of(mailstore: &Mailstore, key: &Key) -> Result<Vec<NameClash>, MailError> {
    let record = mailstore.store().get(key)?;
    let conflict = match record {
        Some(record) => conflict_of(mailstore, key, &record)?,
        None => None,
    };
    Ok(conflict.into_iter().flat_map(clashes_in).collect())
}

/// The mailboxes that have the name of this record in their settings, if they are several.
fn conflict_of(mailstore: &Mailstore, key: &Key, record: &Record) -> Result<Option<NameConflict>, MailError> {
    let (kind, claimants) = match key.table == schema::NUMBER {
        true => (NameKind::Number, Number::claimants(record)),
        false => (NameKind::Address, UserAddress::claimants(record)),
    };
    // The usual case needs no look at a mailbox.
    if claimants.len() < 2 {
        return Ok(None);
    }
    let mut mailboxes = Vec::new();
    for id in claimants {
        match mailstore.get_now(id) {
            Ok(Some(mailbox)) if is_name_of(key, &mailbox) => mailboxes.push(id),
            Ok(_) | Err(MailError::View(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let name = String::from_utf8_lossy(&key.id).into_owned();
    Ok((mailboxes.len() > 1).then_some(NameConflict { name, kind, mailboxes }))
}

/// A claim may stay behind a mailbox that has another name by now.
fn is_name_of(key: &Key, mailbox: &Mailbox) -> bool {
    let number = Number::normalise(&mailbox.number).is_ok_and(|number| schema::number_key(&number) == *key);
    number || mailbox.addresses.all().into_iter().any(|address| schema::address_key(address) == *key)
}
