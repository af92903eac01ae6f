//! The pure core of mailbox sync: a user's voicemail in a folder of the user's IMAP account, both ways.
//!
//! ```text
//! settings as text ─► setting, values ─► ServerSettings, AccountSettings ─► Account
//! messages here ──────────┐
//! stored rows (the bases) ┼─► plan (merge, absent) ─► actions ─► the duty
//! view of the folder ─────┘
//! ```
//!
//! | module | subject |
//! | --- | --- |
//! | `schema`, `value` | permanent numbers, keys, bytes of registers |
//! | `setting`, `values` | words, numbers and texts of settings |
//! | `settings`, `auth`, `account_settings` | their types |
//! | `account` | the account of one user: sign-in name, folder, file of the secret |
//! | `stored` | servers and accounts as stored |
//! | `flags`, `message_state`, `account_state` | the last state seen of messages and accounts, stored by epoch |
//! | `account_place` | the folder that stored UIDs are of |
//! | `refusal` | pauses after steps that the server refused |
//! | `sign_in_brake` | sign-ins with a secret that accounts share |
//! | `message_id` | Message-IDs that are the same at each APPEND |
//! | `plan`, `absent`, `merge`, `view` | the actions that make both sides agree |
//!
//! # Meaning of flags
//!
//! | here | there |
//! | --- | --- |
//! | new | no `\Seen` |
//! | heard | `\Seen`, no `\Flagged` |
//! | saved | `\Seen` and `\Flagged` |
//! | deleted | not in the folder, or `\Deleted` |
//!
//! IMAP flags carry no time, so a change is a difference from the last state seen, stored per message and side.
//! No clock, no socket, no disk: the time is an argument.

mod absent;
mod account;
mod account_place;
mod account_settings;
mod account_state;
mod auth;
mod flags;
mod merge;
mod message_id;
mod message_state;
mod plan;
mod refusal;
pub mod schema;
mod setting;
mod settings;
mod sign_in_brake;
mod stored;
mod uid_changes;
mod value;
mod values;
mod view;

pub use account::{Account, AccountError, AccountTemplate, Owner, account_of};
pub use account_place::AccountPlace;
pub use account_settings::{AccountSettings, Trash};
pub use account_state::{AccountState, NamesKept, Scan};
pub use auth::{Auth, AuthKind, OAuthGrant, OAuthSettings};
pub use flags::{LocalState, RemoteFlags};
pub use message_id::{Extent, fingerprint, message_id, parse_message_id};
pub use message_state::{Link, MailState, MessageState};
pub use plan::{PARTIAL_WAIT_MS, RENEWED_AFTER, needs_full_look, plan};
pub use refusal::Refusal;
pub use setting::{AccountSetting, ServerSetting, SettingError, account_change, server_change};
pub use settings::{ServerSettings, Tls, Users};
pub use sign_in_brake::{MOST_REFUSED, REFUSED_PAUSE, SignInBrake, SignInTurn};
pub use stored::{StoredAccount, StoredServer};
pub use uid_changes::{MOST_UID_CHANGES, UidChanges};
pub use view::{Action, LocalMessage, Plan, RemoteView};
