//! Values of commands and answers.

use std::collections::BTreeSet;

/// Flags of a mail that matter here (RFC 3501 §2.3.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ImapFlags {
    /// `\Seen`.
    pub seen: bool,
    /// `\Flagged`.
    pub flagged: bool,
    /// `\Deleted`.
    pub deleted: bool,
}

impl ImapFlags {
    /// List for a command, such as `(\Seen \Flagged)`.
    pub(crate) fn list(self) -> String {
        let names = [(self.seen, "\\Seen"), (self.flagged, "\\Flagged"), (self.deleted, "\\Deleted")];
        let set: Vec<_> = names.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        format!("({})", set.join(" "))
    }
}

/// Flags of one mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedFlags {
    /// UID of the mail, never 0.
    pub uid: u32,
    /// Its flags.
    pub flags: ImapFlags,
}

/// Flags and names of one mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedId {
    /// UID of the mail, never 0.
    pub uid: u32,
    /// Its flags.
    pub flags: ImapFlags,
    /// Its Message-ID with angle brackets; `None`: it has none that can be read.
    pub message_id: Option<String>,
    /// Its header field [`OWN_ID`] with angle brackets, which no server has a reason to rewrite.
    pub own_id: Option<String>,
}

/// Name of the header field that repeats the Message-ID of a mail of Twinbox.
pub const OWN_ID: &str = "X-Twinbox-Id";

/// Place of an appended mail (RFC 4315 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendUid {
    /// UIDVALIDITY of the folder.
    pub uid_validity: u32,
    /// UID of the mail.
    pub uid: u32,
}

/// Last state seen of a folder, from which QRESYNC resumes (RFC 7162 §3.2.5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resume {
    /// UIDVALIDITY of that state.
    pub uid_validity: u32,
    /// HIGHESTMODSEQ of that state; 0: none.
    pub modseq: u64,
    /// UIDs whose changes and removal are asked for.
    pub uids: BTreeSet<u32>,
}

/// Folder that was selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selected {
    /// UIDVALIDITY: UIDs of another value mean other mails.
    pub uid_validity: u32,
    /// UIDNEXT: all mails have smaller UIDs.
    pub uid_next: u32,
    /// Number of mails.
    pub exists: u32,
    /// Flags that the server does not keep (RFC 3501 §7.1, PERMANENTFLAGS). Without PERMANENTFLAGS it keeps all.
    pub unkept: ImapFlags,
    /// HIGHESTMODSEQ; `None`: the folder has no modification sequences.
    pub highest_modseq: Option<u64>,
    /// Whether the server resumed from the given state. If so, `vanished` and `flags` are complete: a UID of the state in
    /// neither is unchanged. If not, both are empty and the flags have to be read by `flags`.
    pub resumed: bool,
    /// UIDs of the state whose mails are not in the folder any more, in ascending order.
    pub vanished: Vec<u32>,
    /// Flags of mails of the state that changed since.
    pub flags: Vec<FetchedFlags>,
}

/// Reason why waiting for changes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleEnd {
    /// The folder changed.
    Changed {
        /// Whether mails were removed from it.
        expunged: bool,
    },
    /// The given future ended.
    Stopped,
    /// The longest time passed.
    TimedOut,
}
