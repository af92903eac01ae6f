//! Real and hostile peers for tests: servers of mail accounts, directories, callers, a store of backups.
//!
//! As in the test kit, everything blocks and uses plain threads and sockets, and shares no code with the product.
//!
//! * [`Dovecot`]: an IMAP server with accounts, quotas, masked extensions, TLS, OAuth 2.0.
//! * [`ImapUser`]: the owner of an account with a mail program.
//! * [`TokenEndpoint`]: a provider of access tokens for applications and persons (RFC 6749, RFC 8628), which also
//!   verifies them (RFC 7662).
//! * [`CuttingProxy`]: a network between client and IMAP server that loses the connection at a chosen command.
//! * [`HoldingRelay`]: a network between client and server that holds or loses answers at a chosen point.
//! * [`HostileImap`]: an IMAP server that breaks the protocol.
//! * [`MadeUpDirectory`]: a directory server with as many people and as large attributes as a test wants.
//! * [`Samba`]: an Active Directory with one controller or two.
//! * [`Depositors`]: SIPp as many callers who leave messages.
//! * `S3Server`, with the feature `s3`: an S3-compatible store.
//! * [`people`]: people of a directory, and the users that nodes make of them.
//! * [`office`]: a cluster whose mailboxes are kept in accounts of a Dovecot.
//! * [`need`]: requirements on the machine.

mod asterisk;
mod client_stream;
mod cutting_proxy;
mod depositors;
mod dovecot;
mod holding_relay;
mod hostile_imap;
mod imap_user;
mod listener;
mod made_up_directory;
pub mod need;
pub mod office;
pub mod people;
#[cfg(feature = "s3")]
mod s3_server;
mod samba;
mod token_endpoint;

pub use asterisk::Asterisk;
pub use cutting_proxy::{Cut, CuttingProxy};
pub use depositors::{Counted, Depositing, Depositors, find_speech_of_depositors};
pub use dovecot::{Dovecot, DovecotSettings};
pub use holding_relay::HoldingRelay;
pub use hostile_imap::{HostileImap, Hostility};
pub use imap_user::{AccountMail, ImapUser};
pub use made_up_directory::{MadeUpDirectory, PeopleAnswer};
#[cfg(feature = "s3")]
pub use s3_server::S3Server;
pub use samba::Samba;
pub use token_endpoint::TokenEndpoint;
