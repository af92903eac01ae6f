//! IMAP client (RFC 3501) of the mailbox synchronization: few commands, bounded answers, every write under the permit of
//! the duty.
//!
//! The parser is imap-codec's; the exchange of commands is written here and not taken from imap-next 0.3.4, for three
//! reasons. That crate writes all sent and received bytes to the log at level trace, passwords included. Its client
//! waits forever with the next command if the server answers NO to the announcement of a literal, as servers do for a
//! full account. And it reads a literal of 4 GB to the end before it reports that the literal is too large.
//!
//! After an error other than [`ImapError::No`], [`ImapError::NoFolder`] and [`ImapError::Quota`] the connection cannot be
//! used any more: drop the [`Client`].

mod capabilities;
mod change;
mod client;
mod config;
mod error;
mod fetch;
mod folder;
mod hidden;
mod idle;
mod keywords;
mod response;
mod secret;
mod select;
mod session;
mod sign_in;
mod tls;
mod types;
mod uids;
mod wire;

pub use capabilities::Capabilities;
pub use client::Client;
pub use config::{Login, Security, ServerConfig};
pub use error::ImapError;
pub use secret::{Secret, SecretError};
pub use twinbox_gate::SocketOwner;
pub use types::{AppendUid, FetchedFlags, FetchedId, IdleEnd, ImapFlags, OWN_ID, Resume, Selected};
