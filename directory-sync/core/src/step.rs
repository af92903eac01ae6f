//! Steps of a run, and the entries that it refuses.

use twinbox_ids::{MailboxId, Pii};
use twinbox_mailbox::{BindingState, EntryId, SyncedField, SyncedFields};

use crate::Person;

/// A changed field of a user. `None` is an empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The field.
    pub field: SyncedField,
    /// The present value.
    pub from: Option<Pii<String>>,
    /// The new value.
    pub to: Option<Pii<String>>,
}

/// A user for people to recognise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserLabel {
    /// Number that callers dial.
    pub number: Pii<String>,
    /// The owner's name.
    pub name: Pii<String>,
    /// Distinguished name of the entry, as found last.
    pub dn: Pii<String>,
}

/// A step of a run. Steps are applied in their order: a number is free when the next user takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryStep {
    /// A new user.
    Create {
        /// The values of the new user; `None` is the default of the store.
        person: Person,
        /// The user: [`twinbox_mailbox::mailbox_of`] the entry.
        mailbox: MailboxId,
        /// Fields that the directory supplies.
        fields: SyncedFields,
    },
    /// A local user is bound to an entry, and keeps its messages.
    Adopt {
        /// The person; of its values only `changes` are written.
        person: Person,
        /// The user.
        mailbox: MailboxId,
        /// Changed fields.
        changes: Vec<FieldChange>,
        /// Fields that the directory supplies.
        fields: SyncedFields,
    },
    /// Fields, name or supplied fields of a bound user change. The user may be disabled, and stays so.
    Change {
        /// The person; of its values only `changes` are written, and the names to the binding.
        person: Person,
        /// The user.
        mailbox: MailboxId,
        /// The entry.
        entry: EntryId,
        /// Changed fields; empty if the names or the supplied fields of the binding change alone.
        changes: Vec<FieldChange>,
        /// Fields that the directory supplies.
        fields: SyncedFields,
        /// The user before the change, with the former distinguished name.
        user: UserLabel,
    },
    /// The directory disabled the account: the binding is [`BindingState::Disabled`], and so is the user.
    Disable {
        /// The user.
        mailbox: MailboxId,
        /// The entry.
        entry: EntryId,
        /// State of the binding before.
        before: BindingState,
        /// The user.
        user: UserLabel,
    },
    /// The entry is gone: the binding is [`BindingState::Gone`], the user is disabled, and its messages stay.
    Gone {
        /// The user.
        mailbox: MailboxId,
        /// The entry.
        entry: EntryId,
        /// State of the binding before.
        before: BindingState,
        /// The user.
        user: UserLabel,
    },
    /// The entry is back or enabled again: the binding is [`BindingState::Active`], and the user is enabled.
    Return {
        /// The user.
        mailbox: MailboxId,
        /// The entry.
        entry: EntryId,
        /// The user.
        user: UserLabel,
    },
    /// The grace time of a gone entry is over: the binding is removed. The user is local and disabled, with its
    /// messages.
    Release {
        /// The user.
        mailbox: MailboxId,
        /// The entry.
        entry: EntryId,
        /// The user.
        user: UserLabel,
    },
}

impl DirectoryStep {
    /// The user of the step.
    pub fn mailbox(&self) -> MailboxId {
        match self {
            Self::Create { mailbox, .. }
            | Self::Adopt { mailbox, .. }
            | Self::Change { mailbox, .. }
            | Self::Disable { mailbox, .. }
            | Self::Gone { mailbox, .. }
            | Self::Return { mailbox, .. }
            | Self::Release { mailbox, .. } => *mailbox,
        }
    }

    /// The entry of the step.
    pub fn entry(&self) -> EntryId {
        match self {
            Self::Create { person, .. } | Self::Adopt { person, .. } => person.entry,
            Self::Change { entry, .. }
            | Self::Disable { entry, .. }
            | Self::Gone { entry, .. }
            | Self::Return { entry, .. }
            | Self::Release { entry, .. } => *entry,
        }
    }

    /// Whether the step deletes or disables: the guard counts it. An entry that comes back as a disabled one is none.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Disable { before, .. } => *before != BindingState::Gone,
            Self::Gone { .. } => true,
            _ => false,
        }
    }
}

/// An entry of which nothing is taken. A user that it has stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEntry {
    /// The entry.
    pub entry: EntryId,
    /// Its distinguished name.
    pub dn: Pii<String>,
    /// The reason with its remedy, for the administrator.
    pub reason: Pii<String>,
}

/// A value of an entry that is left out. The entry is taken otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The entry.
    pub entry: EntryId,
    /// Its distinguished name.
    pub dn: Pii<String>,
    /// The field that stays as it is.
    pub field: SyncedField,
    /// The reason with its remedy, for the administrator.
    pub reason: Pii<String>,
}
