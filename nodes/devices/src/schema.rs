//! The numbers on disk and on the wire. They are permanent: a number never gets a second meaning, and the number of a
//! removed field is not used again. Nodes that do not know a field merge and forward it all the same (rule D7).

use twinbox_ids::MailboxId;
use twinbox_replication_core::{Key, Table};

use crate::DeviceId;

/// Notification devices. Id: mailbox id, device id (16 + 16 bytes), so that a mailbox is a prefix.
pub const DEVICE: Table = Table(11);

/// Fields of [`DEVICE`].
pub mod device {
    use twinbox_replication_core::Tag;

    /// Register, one byte: 1 mail, 2 pager, 3 SMS by mail, 4 SMS by the gateway, 5 webhook. Never changes.
    pub const KIND: Tag = 1;
    /// Register, text: the name in lists.
    pub const NAME: Tag = 2;
    /// Register, text: mail address (mail, pager, SMS by mail).
    pub const ADDRESS: Tag = 3;
    /// Register, text: telephone number (SMS by the gateway).
    pub const NUMBER: Tag = 4;
    /// Register, text: URL (webhook).
    pub const URL: Tag = 5;
    /// Register, text: key of the signatures (webhook).
    pub const SECRET: Tag = 6;
    /// Register, one byte, 0 or 1: the mail has the recording as an attachment.
    pub const AUDIO: Tag = 7;
    // 8 belonged to a link to the recording that no release sent: not to be used again.
    /// Register, one byte, 0 or 1: notifications are sent.
    pub const ENABLED: Tag = 9;
    /// Register, text or empty for the mailbox's: language of the texts.
    pub const LANGUAGE: Tag = 10;
    /// Register, text or empty for always: times, such as `mon-fri 08:00-18:00`.
    pub const SCHEDULE: Tag = 11;
    /// Register, one byte, 0 or 1: urgent messages only.
    pub const URGENT_ONLY: Tag = 12;
    /// Register, text or empty for all: patterns of callers, with commas.
    pub const CALLERS: Tag = 13;
    /// Register, u64: minimum length of a message, in seconds.
    pub const MIN_SECONDS: Tag = 14;
    /// Register, u64: delay of the first notification, in seconds.
    pub const DELAY: Tag = 15;
    /// Register, empty for none, or two u64: seconds between repeats, and the maximum number of them. One register,
    /// because one number has no meaning without the other.
    pub const REPEAT: Tag = 16;
    /// Register, 16 bytes or empty for none: the device that follows when this one fails.
    pub const FALLBACK: Tag = 17;
    /// Register, u64: notifications in an hour; 0 for no limit.
    pub const PER_HOUR: Tag = 18;
    /// Register, one byte, 0 or 1: the message is deleted once the mail with its recording is delivered.
    pub const DELETE_AFTER: Tag = 19;
    /// Register, one byte, 0 or 1: notifications have a link to the recording (webhook).
    pub const LINK: Tag = 20;
    /// Register, u64: validity of the links, in hours.
    pub const LINK_HOURS: Tag = 21;
    /// Register, 32 random bytes: key that signs the links, from the first link on (webhook).
    pub const LINK_KEY: Tag = 22;
}

/// The key of a device.
pub fn device_key(mailbox: MailboxId, device: DeviceId) -> Key {
    let mut id = Vec::with_capacity(32);
    id.extend_from_slice(&mailbox.to_bytes());
    id.extend_from_slice(&device.to_bytes());
    Key { table: DEVICE, id }
}

/// Prefix of the ids of a mailbox's devices in [`DEVICE`].
pub fn devices_prefix(mailbox: MailboxId) -> Vec<u8> {
    mailbox.to_bytes().to_vec()
}

/// Mailbox and device of a device's key; `None` for another key.
pub fn device_of(key: &Key) -> Option<(MailboxId, DeviceId)> {
    if key.table != DEVICE || key.id.len() != 32 {
        return None;
    }
    let (mailbox, device) = key.id.split_at_checked(16)?;
    Some((MailboxId::from_slice(mailbox)?, DeviceId::from_slice(device)?))
}
