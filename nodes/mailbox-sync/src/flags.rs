//! The state of a message on each side, and the table between both.

use twinbox_mailbox::{Folder, Mark};

/// Flags of a message in the folder of the account (RFC 9051 section 2.3.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteFlags {
    /// `\Seen`.
    pub seen: bool,
    /// `\Flagged`.
    pub flagged: bool,
    /// `\Deleted`.
    pub deleted: bool,
}

impl RemoteFlags {
    /// The folder that the flags stand for; `\Flagged` without `\Seen` is new.
    pub const fn folder(self) -> Folder {
        match (self.seen, self.flagged) {
            (false, _) => Folder::New,
            (true, false) => Folder::Heard,
            (true, true) => Folder::Saved,
        }
    }

    /// The flags of a message in that folder.
    pub const fn of(folder: Folder) -> Self {
        let (seen, flagged) = match folder {
            Folder::New => (false, false),
            Folder::Heard => (true, false),
            Folder::Saved => (true, true),
        };
        Self { seen, flagged, deleted: false }
    }

    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        !self.seen && !self.flagged && !self.deleted
    }

    /// The flags of `self` that `other` does not have.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self {
            seen: self.seen && !other.seen,
            flagged: self.flagged && !other.flagged,
            deleted: self.deleted && !other.deleted,
        }
    }

    /// The flags of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self {
            seen: self.seen || other.seen,
            flagged: self.flagged || other.flagged,
            deleted: self.deleted || other.deleted,
        }
    }

    /// The flags of `self`, but those that `mask` names as in `other`.
    #[must_use]
    pub(crate) const fn replaced(self, mask: Self, other: Self) -> Self {
        Self {
            seen: if mask.seen { other.seen } else { self.seen },
            flagged: if mask.flagged { other.flagged } else { self.flagged },
            deleted: if mask.deleted { other.deleted } else { self.deleted },
        }
    }

    pub(crate) const fn byte(self) -> u8 {
        self.seen as u8 | (self.flagged as u8) << 1 | (self.deleted as u8) << 2
    }

    pub(crate) const fn from_byte(byte: u8) -> Self {
        Self { seen: byte & 1 != 0, flagged: byte & 2 != 0, deleted: byte & 4 != 0 }
    }
}

/// State of a message here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalState {
    /// Its folder.
    pub folder: Folder,
    /// Flagged as deleted.
    pub deleted: bool,
}

impl LocalState {
    /// The marks that lead from this state to another, in order. The folder of a message that ends as deleted does not
    /// change.
    pub fn marks_to(self, to: Self) -> Vec<Mark> {
        let mut marks = Vec::new();
        if to.deleted {
            marks.extend((!self.deleted).then_some(Mark::Deleted));
            return marks;
        }
        marks.extend(self.deleted.then_some(Mark::Undeleted));
        match (self.folder, to.folder) {
            (Folder::Saved, Folder::Heard) => marks.extend([Mark::New, Mark::Heard]),
            (from, to) if from == to => {}
            (_, Folder::New) => marks.push(Mark::New),
            (_, Folder::Heard) => marks.push(Mark::Heard),
            (_, Folder::Saved) => marks.push(Mark::Saved),
        }
        marks
    }

    pub(crate) const fn byte(self) -> u8 {
        let folder = match self.folder {
            Folder::New => 0,
            Folder::Heard => 1,
            Folder::Saved => 2,
        };
        folder | (self.deleted as u8) << 7
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        let folder = match byte & 0x7f {
            0 => Folder::New,
            1 => Folder::Heard,
            2 => Folder::Saved,
            _ => return None,
        };
        Some(Self { folder, deleted: byte & 0x80 != 0 })
    }
}
