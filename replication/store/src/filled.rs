//! The share of the cluster's data that is here: the durable mark *complete* (rule D13).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;
use twinbox_disk::{Disk, Transaction};
use twinbox_ids::NodeName;
use twinbox_replication_core::Filled;

use crate::{
    Store, StoreError,
    codec::DecodeError,
    keys,
    store::{lock, unversioned, versioned},
};

/// The mark, in memory and on disk, and the members that the fill missed.
pub(crate) struct FillMark {
    filled: watch::Sender<Filled>,
    missed: Mutex<BTreeSet<NodeName>>,
}

impl FillMark {
    /// The mark of a store that is being opened; `new` when nothing was ever written to the store. A store that was
    /// made before the mark existed is complete if it has records.
    pub(crate) fn read(disk: &Disk, new: bool) -> Result<Self, StoreError> {
        let what = "the mark of completeness";
        let filled = match disk.get(keys::FILLED)? {
            Some(bytes) => {
                let [number] = unversioned(&bytes, what)? else { return Err(invalid("number", what)) };
                Filled::from_number(*number).ok_or_else(|| invalid("number", what))?
            }
            None if !new && disk.scan(keys::RECORDS).next().transpose()?.is_some() => Filled::Complete,
            None => Filled::Partly,
        };
        let missed = read_names(disk, keys::FILL_MISSED, "the members that the first fill missed")?;
        Ok(Self { filled: watch::Sender::new(filled), missed: Mutex::new(missed) })
    }

    pub(crate) fn get(&self) -> Filled {
        *self.filled.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Filled> {
        self.filled.subscribe()
    }

    /// Writes the higher of `to` and the current mark; call [`Self::raise`] after the commit.
    pub(crate) fn put(&self, to: Filled, transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
        Ok(transaction.put(keys::FILLED, versioned(&[to.max(self.get()).number()]))?)
    }

    /// Takes the mark `to` into use, which is durable.
    pub(crate) fn raise(&self, to: Filled) {
        self.filled.send_if_modified(|now| {
            let rises = to > *now;
            *now = to.max(*now);
            rises
        });
    }
}

/// Names, each behind a line feed.
fn encode_names(names: &BTreeSet<NodeName>) -> Vec<u8> {
    names.iter().flat_map(|name| name.as_str().bytes().chain([b'\n'])).collect()
}

/// The names that are stored under a key; none if nothing is.
fn read_names(disk: &Disk, key: &[u8], what: &'static str) -> Result<BTreeSet<NodeName>, StoreError> {
    let Some(bytes) = disk.get(key)? else { return Ok(BTreeSet::new()) };
    let names = std::str::from_utf8(unversioned(&bytes, what)?).ok();
    let names: Option<BTreeSet<NodeName>> =
        names.and_then(|names| names.lines().map(|name| name.parse().ok()).collect());
    names.ok_or_else(|| invalid("name", what))
}

fn invalid(part: &'static str, what: &'static str) -> StoreError {
    StoreError::Format { what, source: DecodeError::Invalid(part) }
}

impl Store {
    /// Ends the fill: all records that the sources of the first fill had are here. `missed` are the other members: their disks
    /// may hold changes that no source had and that this node's earlier disk had acknowledged.
    pub async fn end_fill(&self, missed: BTreeSet<NodeName>) -> Result<(), StoreError> {
        let (mark, names) = (Arc::clone(self.fill_mark()), missed.clone());
        let write = move |transaction: &mut Transaction<'_>| {
            transaction.put(keys::FILL_MISSED, versioned(&encode_names(&names)))?;
            mark.put(Filled::Records, transaction)
        };
        let mark = Arc::clone(self.fill_mark());
        let then = move |()| {
            *lock(&mark.missed) = missed;
            mark.raise(Filled::Records);
        };
        Ok(self.disk().transact_then(write, then).await?)
    }

    /// Lowers the mark: records may be missing again, since no log reaches back to this node. Durable when it resolves.
    pub async fn reopen_fill(&self) -> Result<(), StoreError> {
        let write = |transaction: &mut Transaction<'_>| {
            Ok::<_, StoreError>(transaction.put(keys::FILLED, versioned(&[Filled::Partly.number()]))?)
        };
        let mark = Arc::clone(self.fill_mark());
        let then = move |()| {
            mark.filled.send_replace(Filled::Partly);
        };
        Ok(self.disk().transact_then(write, then).await?)
    }

    /// The members that have once announced that they fill by state: a log is cut only when all have.
    pub fn state_fillers(&self) -> Result<BTreeSet<NodeName>, StoreError> {
        read_names(self.disk(), keys::STATE_FILLERS, "the members that fill by state")
    }

    /// Notes durably that these members fill by state.
    pub async fn set_state_fillers(&self, names: BTreeSet<NodeName>) -> Result<(), StoreError> {
        let write = move |transaction: &mut Transaction<'_>| {
            Ok::<_, StoreError>(transaction.put(keys::STATE_FILLERS, versioned(&encode_names(&names)))?)
        };
        Ok(self.disk().transact(write).await?)
    }

    /// The members that the first fill missed and that have not sent their changes since.
    pub fn fill_missed(&self) -> BTreeSet<NodeName> {
        lock(&self.fill_mark().missed).clone()
    }

    /// Notes durably that only these members are still missed.
    pub async fn set_fill_missed(&self, missed: BTreeSet<NodeName>) -> Result<(), StoreError> {
        let (mark, names) = (Arc::clone(self.fill_mark()), missed.clone());
        let write = move |transaction: &mut Transaction<'_>| {
            transaction.put(keys::FILL_MISSED, versioned(&encode_names(&names))).map_err(StoreError::from)
        };
        Ok(self.disk().transact_then(write, move |()| *lock(&mark.missed) = missed).await?)
    }
}
