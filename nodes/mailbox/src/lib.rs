//! The voicemail meaning of replicated records: mailboxes, messages, recordings, PINs, MWI.
//!
//! Pure: no clock, no disk, no task. Views are read from a [`Record`](twinbox_replication_core::Record), changes are
//! lists of [`Edit`](twinbox_replication_core::Edit). The result of merging two nodes' edits thus depends only on this
//! crate and the record's merge, and the table in `tests/delete_truth_table.txt` lists it.

mod address;
mod ageing;
pub mod by_epoch;
mod class;
mod counters;
pub mod counts;
mod csv;
pub mod directory;
mod greeting;
mod mailbox;
mod message;
mod message_counts;
mod nearest;
mod number;
pub mod pin;
mod prompt;
mod recording;
pub mod schema;
pub mod uids;
mod user_field;
mod user_row;
mod value;

pub use address::{AddressChange, InvalidAddress, MOST_ALIASES, UserAddress, UserAddresses, is_mail_address};
pub use ageing::{Ageing, MessageTime, ageing, is_purge_due, message_time};
pub use class::{Class, ClassNameError, Rule, RuleError, Rules, class_name};
pub use counters::Numbers;
pub use directory::{
    Binding, BindingState, EntryId, RunCounts, StoredDirectory, StoredRun, SyncState, SyncedField, SyncedFields,
    mailbox_of,
};
pub use greeting::{GreetingKind, GreetingRef, clear_greeting, set_greeting};
pub use mailbox::{Mailbox, MailboxChange, NewMailbox, is_timezone};
pub use message::{
    Filing, Folder, MailOrigin, Mark, Message, NewMessage, StoredAudio, came_by_mail, has_uid, is_purged, purge,
    restored_from, set_restored_from,
};
pub use message_counts::{MessageCounts, Quota};
pub use nearest::nearest;
pub use number::{InvalidNumber, Number, claim, release, renumber};
pub use prompt::{PromptKey, clear_prompt, prompt_audio, set_prompt};
pub use recording::{
    Recording, RecordingState, discarded, filed, is_message_purged, is_of_purged_record, is_outlived,
    message_purged, next_take,
};
pub use twinbox_rtp::Codec;
pub use user_field::{InvalidName, InvalidOperator, check_name, check_operator};
pub use user_row::{NotifyColumns, RowProblem, UserRow, read_table, read_users, repeated_addresses, write_users};
pub use value::ViewError;
