//! Input and output of [`plan`](crate::plan): both sides as seen, and the actions that make them agree.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{MessageId, Timestamp};
use twinbox_mailbox::Mark;

use crate::{AccountState, LocalState, MailState, MessageState, NamesKept, RemoteFlags};

/// A message of the mailbox here. Messages whose content was removed (purged) are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalMessage {
    /// The message.
    pub id: MessageId,
    /// Time of the recording.
    pub received: Timestamp,
    /// Only a part of its audio is available.
    pub partial: bool,
    /// No node has its audio: it is not appended.
    pub audio_lost: bool,
    /// Its state.
    pub state: LocalState,
}

/// The folder of the account as read in one look. The UIDs of `Bound` and `Held` rows count as bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteView {
    /// UIDVALIDITY of the folder (RFC 9051 section 2.3.1.1).
    pub uid_validity: u32,
    /// UIDNEXT of the folder, read in this look: a value from before an APPEND of this duty looks like an old copy.
    pub uid_next: u32,
    /// HIGHESTMODSEQ of the folder (RFC 7162), if the server has it.
    pub modseq: Option<u64>,
    /// Number of messages in the folder.
    pub exists: u32,
    /// Bound UIDs whose flags were read: all, or only changed ones. Those of `Held` rows are always read. Not used in a
    /// full look ([`needs_full_look`](crate::needs_full_look)).
    pub flags: BTreeMap<u32, RemoteFlags>,
    /// Bound UIDs that are not in the folder. Not used in a full look.
    pub gone: BTreeSet<u32>,
    /// Mails of the whole of messages of this cluster, by their Message-ID: among unbound UIDs from
    /// [`AccountState::uid_next`] on, or in a full look in the whole folder.
    pub found: BTreeMap<MessageId, (u32, RemoteFlags)>,
    /// As `found`, the mails of parts of messages.
    pub found_parts: BTreeMap<MessageId, (u32, RemoteFlags)>,
    /// The look ended before this UID, because the folder has too many new mails for one look; 0: it examined all. Such a
    /// look is no full one, and its `gone` is empty.
    pub looked: u32,
    /// Flags that the server does not keep: they are ignored, and are not set.
    pub unkept: RemoteFlags,
    /// The names that the server leaves to mails.
    pub names: NamesKept,
    /// An administrator has ordered that refused steps are retried now.
    pub retry: bool,
    /// Expunges were seen live (IDLE).
    pub watched: bool,
    /// The highest bound UID is of another mail now: UIDs were given again, as after the restore of an old copy.
    pub reused: bool,
    /// An administrator accepts the deletions that were held back.
    pub accepted: bool,
}

/// One step of a plan. Each `then` is written when the step has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Writes the row only.
    Store {
        /// The message.
        message: MessageId,
        /// The new row.
        state: MessageState,
    },
    /// Marks the message here and writes the row in one commit, unless the message is not as expected any more.
    MarkHere {
        /// The message.
        message: MessageId,
        /// State of the message in this plan.
        expected: LocalState,
        /// Whether it was partial in this plan: the deletion of a part does not delete audio that came since.
        partial: bool,
        /// Marks, in order.
        marks: Vec<Mark>,
        /// The new row.
        then: MessageState,
    },
    /// Appends the message: notes [`MessageState::appending`], sends APPEND, writes [`MessageState::appended`].
    Append {
        /// The message.
        message: MessageId,
        /// Flags of the new mail.
        flags: RemoteFlags,
        /// Facts of the new mail for the row: its audio, and the mail of the part that it replaces.
        mail: MailState,
    },
    /// Changes flags on the server.
    Flags {
        /// The message.
        message: MessageId,
        /// Its UID.
        uid: u32,
        /// Flags that are set.
        add: RemoteFlags,
        /// Flags that are cleared.
        remove: RemoteFlags,
        /// The new row.
        then: MessageState,
        /// The row if the server refuses: the next look comes to the same step.
        refused: MessageState,
    },
    /// Takes the message out of the folder on the server: moves it to the trash folder, or expunges it.
    Remove {
        /// The message.
        message: MessageId,
        /// Its UID.
        uid: u32,
        /// The new row.
        then: MessageState,
        /// The row if the server refuses, or the connection ends: the next look comes to the same step. `\Deleted` counts
        /// as seen there, which the first half of a removal sets.
        refused: MessageState,
    },
    /// Takes the mail of the part out of the folder on the server, because the mail of the whole is there, or the message
    /// is deleted here. This does not delete the message.
    RemovePart {
        /// The message.
        message: MessageId,
        /// UID of the mail of the part.
        uid: u32,
        /// The new row.
        then: MessageState,
        /// The row if the server refuses.
        refused: MessageState,
    },
    /// Removes the row: the message is purged here.
    Forget {
        /// The message.
        message: MessageId,
    },
}

impl Action {
    /// The row to write if the server refuses the step; `None` for steps here and for an APPEND.
    pub const fn refused(&self) -> Option<MessageState> {
        match self {
            Self::Flags { refused, .. } | Self::Remove { refused, .. } | Self::RemovePart { refused, .. } => {
                Some(*refused)
            }
            Self::Store { .. } | Self::MarkHere { .. } | Self::Append { .. } | Self::Forget { .. } => None,
        }
    }

    /// The message of the action.
    pub const fn message(&self) -> MessageId {
        match self {
            Self::Store { message, .. }
            | Self::MarkHere { message, .. }
            | Self::Append { message, .. }
            | Self::Flags { message, .. }
            | Self::Remove { message, .. }
            | Self::RemovePart { message, .. }
            | Self::Forget { message } => *message,
        }
    }
}

/// The actions that make both sides agree, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Actions, in order: those of this side first, appended messages last.
    pub actions: Vec<Action>,
    /// State of the account after all actions. It is equal to the state before if nothing changed. Store it only when
    /// every action was done (an APPEND that the server refused counts as done): otherwise the next look would begin
    /// behind a change that was seen but not carried out.
    pub state: AccountState,
    /// Number of deletions that are held back.
    pub held_back: u32,
    /// Number of messages whose refused step waits for its next attempt.
    pub refused: u32,
}

impl Plan {
    /// Whether the UIDs that are stored are not to be trusted: store the state and look again, which is a full look.
    pub const fn needs_another_look(&self) -> bool {
        self.state.uid_validity == 0
    }
}
