//! The share of the cluster's data that is here: the durable mark *complete* (rule D13).

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;
use twinbox_disk::{Disk, Transaction};
use twinbox_ids::NodeName;

use crate::{
    Store, StoreError,
    codec::DecodeError,
    keys,
    store::{lock, unversioned, versioned},
};

/// The share of the cluster's data that a store has. It rises, until a member was away for longer than the logs of the
/// others reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filled {
    /// Records may be missing: a record that is not here may exist.
    Partly,
    /// All records are here since the first fill; audio that they name may be missing.
    Records,
    /// All records and audio are here since the first fill.
    Complete,
}

impl Filled {
    /// Whether all records are here: only then may a node say that there is no such mailbox or message.
    pub fn has_records(self) -> bool {
        self >= Self::Records
    }

    fn number(self) -> u8 {
        match self {
            Self::Partly => 0,
            Self::Records => 1,
            Self::Complete => 2,
        }
    }
}

impl fmt::Display for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Partly => "records and audio are being copied",
            Self::Records => "audio is being copied",
            Self::Complete => "complete",
        })
    }
}

/// The mark, in memory and on disk, and the members that the fill had to go without.
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
            Some(bytes) => match unversioned(&bytes, what)? {
                [0] => Filled::Partly,
                [1] => Filled::Records,
                [2] => Filled::Complete,
                _ => return Err(StoreError::Format { what, source: DecodeError::Invalid("number") }),
            },
            None if !new && disk.scan(keys::RECORDS).next().transpose()?.is_some() => Filled::Complete,
            None => Filled::Partly,
        };
        let what = "the members that the first fill missed";
        let missed = match disk.get(keys::FILL_MISSED)? {
            Some(bytes) => parse_names(unversioned(&bytes, what)?)
                .ok_or(StoreError::Format { what, source: DecodeError::Invalid("name") })?,
            None => BTreeSet::new(),
        };
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

    /// The mark `to` is durable.
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

fn parse_names(bytes: &[u8]) -> Option<BTreeSet<NodeName>> {
    std::str::from_utf8(bytes).ok()?.lines().map(|name| name.parse().ok()).collect()
}

impl Store {
    /// All records that the sources of the first fill had are here. `missed` are the other members: their disks may hold
    /// changes that no source had and that this node's earlier disk had acknowledged.
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

    /// Records may be missing again: no log reaches back to what this node has. Durable when it resolves.
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

    /// The members that were once heard to fill by state: a log is cut only when all are.
    pub fn state_fillers(&self) -> Result<BTreeSet<NodeName>, StoreError> {
        let what = "the members that fill by state";
        let Some(bytes) = self.disk().get(keys::STATE_FILLERS)? else { return Ok(BTreeSet::new()) };
        parse_names(unversioned(&bytes, what)?)
            .ok_or(StoreError::Format { what, source: DecodeError::Invalid("name") })
    }

    /// These members fill by state, durably.
    pub async fn set_state_fillers(&self, names: BTreeSet<NodeName>) -> Result<(), StoreError> {
        let write = move |transaction: &mut Transaction<'_>| {
            Ok::<_, StoreError>(transaction.put(keys::STATE_FILLERS, versioned(&encode_names(&names)))?)
        };
        Ok(self.disk().transact(write).await?)
    }

    /// The members that the first fill went without and that have not sent since what they had.
    pub fn fill_missed(&self) -> BTreeSet<NodeName> {
        lock(&self.fill_mark().missed).clone()
    }

    /// Only these members are still missed, durably.
    pub async fn set_fill_missed(&self, missed: BTreeSet<NodeName>) -> Result<(), StoreError> {
        let (mark, names) = (Arc::clone(self.fill_mark()), missed.clone());
        let write = move |transaction: &mut Transaction<'_>| {
            transaction.put(keys::FILL_MISSED, versioned(&encode_names(&names))).map_err(StoreError::from)
        };
        Ok(self.disk().transact_then(write, move |()| *lock(&mark.missed) = missed).await?)
    }
}
