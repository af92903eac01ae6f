//! Users that come from directories (LDAP): the records of directories, of the binding of users to entries, and of
//! runs of the synchronisation.
//!
//! # Epoch before time
//!
//! A register is decided by time. For values of the directory that is not enough: a node that lost the duty and is cut
//! off, or whose clock is ahead, would overwrite the values of the holder. A set of all values ever written would grow
//! without bound. Hence each node writes a register of its own (`by_epoch`), with the epoch of the duty, the time and
//! *all* values of the row in it; only that node writes it, and the epoch names the node. The reader takes the register
//! with the highest (epoch, time). The rows of users, of bindings and of the state of the synchronisation are such
//! rows, so the result of any merge is the values of the highest epoch, on every node and at once. A row has as many of
//! these registers as there are nodes that ever wrote it.
//!
//! The values of a user are read over the registers of the mailbox ([`Supplied`]), which the writer sets too: a user
//! who becomes local keeps them. An administrator's change of a binding takes the epoch that it replaces, with a later
//! time: it holds until the duty writes under a newer epoch.
//!
//! Only written values are ordered. A run does not write a user who is already as the directory has it, so a write of
//! an older epoch that arrives later counts for such a user until the next full run, which writes the user again.
//!
//! Claims (of numbers and addresses) cannot be ordered by epoch: they are decided by time, as all claims are. After a
//! split in which two epochs gave a user two numbers, the user has both claims and shows the number of the higher
//! epoch; the next full run withdraws the other claim (`Mailstore::settle_directory`). If the shown number was claimed
//! by another mailbox earlier, the user has lost it (`number_lost`), and the next full run names the conflict.

mod binding;
mod run;
pub mod schema;
mod stored;
mod supplied;
mod verifier;

pub use binding::{Binding, BindingState, EntryId, InvalidEntryId, SyncedField, SyncedFields, mailbox_of};
pub use run::{RunCounts, StoredRun};
pub use stored::{StoredDirectory, SyncState};
pub use supplied::Supplied;
pub use verifier::{LONGEST_PASSWORD, PasswordVerifier};
