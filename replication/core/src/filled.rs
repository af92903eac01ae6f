//! The share of the cluster's data that a store has (rule D13).

use std::fmt;

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
    /// Whether all records are here: only then may a node answer that there is no such mailbox or message.
    pub fn has_records(self) -> bool {
        self >= Self::Records
    }

    /// The number of the share on disk.
    pub fn number(self) -> u8 {
        match self {
            Self::Partly => 0,
            Self::Records => 1,
            Self::Complete => 2,
        }
    }

    /// The share with this number; `None` if there is none.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Partly, Self::Records, Self::Complete].into_iter().find(|filled| filled.number() == number)
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
