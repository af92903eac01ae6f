//! The numbers on disk and on the wire: permanent, like those of `nodes/mailbox/src/schema.rs`.

use twinbox_ids::MailboxId;
use twinbox_replication_core::{Key, Table, Tag};

/// Warnings that the owners of mailboxes got. Id: mailbox id (16 bytes).
pub const OWNER_WARNING: Table = Table(25);

/// Register, two u64: the share of the capacity, in percent, of which the owner knows, and the number of warnings so far.
pub const QUOTA: Tag = 1;
/// Register, four u64: time of the latest warning of ageing (milliseconds since 1970), the end of the time that it covered,
/// a digest of the rules then in force, and the number of warnings so far.
pub const AGEING: Tag = 2;

/// The key of the warnings of a mailbox.
pub fn warning_key(mailbox: MailboxId) -> Key {
    Key { table: OWNER_WARNING, id: mailbox.to_bytes().to_vec() }
}

/// The mailbox of such a key; `None` for another key.
pub fn warned_mailbox(key: &Key) -> Option<MailboxId> {
    (key.table == OWNER_WARNING).then(|| MailboxId::from_slice(&key.id)).flatten()
}
