//! The numbers on disk and on the wire. They are permanent: a number never gets a second meaning, and the number of a
//! removed field is not used again. Nodes that do not know a field merge and forward it all the same (rule D7).

use twinbox_ids::{MailServerId, MailboxId, MessageId};
use twinbox_replication_core::{Key, Table};

/// Mail servers. Id: server id (16 bytes).
pub const MAIL_SERVER: Table = Table(22);
/// Accounts that are synchronised. Id: mailbox id (16 bytes).
pub const SYNC_ACCOUNT: Table = Table(23);
/// The last state seen of messages. Id: mailbox id, message id (16 + 16 bytes), so that a mailbox is a prefix. The
/// state is a value by epoch ([`BY_EPOCH`](twinbox_mailbox::schema::BY_EPOCH)).
pub const SYNC_MESSAGE: Table = Table(24);

/// Fields of [`MAIL_SERVER`].
pub mod server {
    use twinbox_replication_core::Tag;

    /// Register, u64: time of its creation (milliseconds since 1970). A record without it is no server.
    pub const CREATED: Tag = 1;
    /// Register, text: the name.
    pub const NAME: Tag = 2;
    /// Register, text or empty for unset: the setting of the permanent number n has the tag `SETTINGS + n`.
    pub const SETTINGS: Tag = 0x100;
    /// Number of tags for settings.
    pub const MOST_SETTINGS: Tag = 0x1000;
}

/// Fields of [`SYNC_ACCOUNT`]. The state of the synchronisation is a value by epoch
/// ([`BY_EPOCH`](twinbox_mailbox::schema::BY_EPOCH)).
pub mod account {
    use twinbox_replication_core::Tag;

    /// Register, u64: time of its creation (milliseconds since 1970). A record without it is no listed account.
    pub const CREATED: Tag = 1;
    /// Register, 16 bytes: server id.
    pub const SERVER: Tag = 2;
    /// Register, text or empty for unset: the setting of the permanent number n has the tag `SETTINGS + n`.
    pub const SETTINGS: Tag = 0x100;
    /// Number of tags for settings.
    pub const MOST_SETTINGS: Tag = 0x1000;
}

/// The key of a mail server.
pub fn server_key(id: MailServerId) -> Key {
    Key { table: MAIL_SERVER, id: id.to_bytes().to_vec() }
}

/// The server of a server's key; `None` for another key.
pub fn server_of(key: &Key) -> Option<MailServerId> {
    (key.table == MAIL_SERVER).then(|| MailServerId::from_slice(&key.id)).flatten()
}

/// The key of an account.
pub fn account_key(mailbox: MailboxId) -> Key {
    Key { table: SYNC_ACCOUNT, id: mailbox.to_bytes().to_vec() }
}

/// The mailbox of an account's key; `None` for another key.
pub fn account_of(key: &Key) -> Option<MailboxId> {
    (key.table == SYNC_ACCOUNT).then(|| MailboxId::from_slice(&key.id)).flatten()
}

/// The key of a message's state.
pub fn message_key(mailbox: MailboxId, message: MessageId) -> Key {
    Key { table: SYNC_MESSAGE, id: [mailbox.to_bytes(), message.to_bytes()].concat() }
}

/// Mailbox and message of the key of a message's state; `None` for another key.
pub fn message_of(key: &Key) -> Option<(MailboxId, MessageId)> {
    let (mailbox, message) = (key.table == SYNC_MESSAGE).then(|| key.id.split_at_checked(16)).flatten()?;
    Some((MailboxId::from_slice(mailbox)?, MessageId::from_slice(message)?))
}
