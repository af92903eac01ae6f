//! Real and hostile servers of mail accounts for tests.
//!
//! As in the test kit, everything blocks and uses plain threads and sockets, and shares no code with the product.
//!
//! * [`Dovecot`]: an IMAP server with accounts, quotas, masked extensions, TLS, OAuth 2.0.
//! * [`ImapUser`]: the owner of an account with a mail program.
//! * [`TokenEndpoint`]: a provider of access tokens (RFC 6749, section 4.4), which also verifies them (RFC 7662).
//! * [`CuttingProxy`]: a network between client and IMAP server that loses the connection at a chosen command.
//! * [`HostileImap`]: an IMAP server that breaks the protocol.
//! * [`Samba`]: an Active Directory with one controller or two.
//! * [`office`]: a cluster whose mailboxes are kept in accounts of a Dovecot.
//! * [`need`]: requirements on the machine.

mod client_stream;
mod cutting_proxy;
mod dovecot;
mod hostile_imap;
mod imap_user;
mod listener;
pub mod need;
pub mod office;
mod samba;
mod token_endpoint;

pub use cutting_proxy::{Cut, CuttingProxy};
pub use dovecot::{Dovecot, DovecotSettings};
pub use hostile_imap::{HostileImap, Hostility};
pub use imap_user::{AccountMail, ImapUser};
pub use samba::Samba;
pub use token_endpoint::TokenEndpoint;
