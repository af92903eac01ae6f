//! Search, follow and sign in at LDAP servers.
//!
//! The parser of the `ldap3` crate recurses without a limit, it panics at answers of an unexpected shape, and its
//! queue of results is unbounded. So no byte of a server reaches it unchecked: a relay task owns the connection (plain,
//! LDAPS or StartTLS), checks size, depth and shape of each message ([`FrameChecker`]), forwards only answers to
//! requests that are under way, stops reading while the results wait for their reader, and hands `ldap3` one end of a
//! socket pair.
//!
//! * [`DirectoryServers`]: the servers of a directory, tried in order, and the check of a user's password.
//! * [`DirectoryConnection`]: a signed-in connection: full search, changes since a [`Cursor`], ids, and [`Following`].

mod active_directory;
mod ber;
mod bounds;
mod connection;
mod containers;
mod controls;
mod cursor;
mod description;
mod entry;
mod error;
mod follow;
mod guard;
mod link;
mod message;
mod openldap;
mod password;
mod referral;
mod relay;
mod search;
mod servers;
mod synchronize;
mod tls;

pub use bounds::Bounds;
pub use connection::{DirectoryConnection, Stop};
pub use cursor::{Cursor, InvalidCursor};
pub use description::ServerDescription;
pub use entry::Notes;
pub use error::LdapError;
pub use follow::{Followed, Following};
pub use guard::{FrameChecker, FrameError, FrameLimits};
pub use password::BindVerdict;
pub use servers::DirectoryServers;
pub use synchronize::{Change, Changes};
