//! The share of the cluster's data that is here: the durable mark *complete* (rule D13).

use std::fmt;

use tokio::sync::watch;
use twinbox_disk::{Disk, Transaction};

use crate::{
    StoreError,
    codec::DecodeError,
    keys,
    store::{unversioned, versioned},
};

/// The share of the cluster's data that a store has. It only rises.
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

/// The mark, in memory and on disk.
pub(crate) struct FillMark(watch::Sender<Filled>);

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
        Ok(Self(watch::Sender::new(filled)))
    }

    pub(crate) fn get(&self) -> Filled {
        *self.0.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Filled> {
        self.0.subscribe()
    }

    /// Writes the higher of `to` and the current mark; call [`Self::raise`] after the commit.
    pub(crate) fn put(&self, to: Filled, transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
        Ok(transaction.put(keys::FILLED, versioned(&[to.max(self.get()).number()]))?)
    }

    /// The mark `to` is durable.
    pub(crate) fn raise(&self, to: Filled) {
        self.0.send_if_modified(|now| {
            let rises = to > *now;
            *now = to.max(*now);
            rises
        });
    }
}
