//! The numbers of the outbox on disk and on the wire: permanent, like those of `nodes/mailbox/src/schema.rs`.

use twinbox_ids::EffectId;
use twinbox_replication_core::{Key, Table, Tag};

/// Effects. Id: effect id (16 bytes).
pub const OUTBOX: Table = Table(10);
/// Holds of destinations. Id: the destination as text.
pub const HOLD: Table = Table(14);

/// Register, 32 bytes: mailbox and message that caused the effect.
pub const CAUSE: Tag = 1;
/// Register, 2 bytes: transition and channel.
pub const KIND: Tag = 2;
/// Register, 16 bytes: the target, such as a device.
pub const TARGET: Tag = 3;
/// Register, 8 bytes: number of the repeat and of the administrator's retry, u32 each.
pub const NUMBERS: Tag = 4;
/// Register, u64: time of its creation (milliseconds since 1970).
pub const CREATED: Tag = 5;
/// Register, u64: earliest time of the first attempt.
pub const NOT_BEFORE: Tag = 6;
/// Register, u64: time after which it is not attempted any more.
pub const EXPIRES: Tag = 7;
/// Register: number of the latest attempt (u32), its time (u64), incarnation (16 bytes), epoch (text).
pub const ATTEMPT: Tag = 8;
/// Register: number of the attempt that failed (u32), time of the next one (u64), reason (text).
pub const FAILURE: Tag = 9;
/// Register: time (u64) and receipt (text) of the success. Never unset.
pub const DONE: Tag = 10;
/// Register: time (u64) and reason (text) of giving up. Never unset.
pub const DEAD: Tag = 11;
/// Register: number of the attempt during which a process died (u32), count of such deaths (u32).
pub const DEATHS: Tag = 12;
/// Register: time (u64) and reason (text) of the report that the receiver's system sent back after the success.
pub const BOUNCED: Tag = 13;
/// Register: a report of delivery: time of the mail's arrival (u64), then five texts, each with its length (u32) in front:
/// sender, recipient, original recipient, identification of the envelope, header of the mail.
pub const REPORT: Tag = 14;
/// Register: a mail of the system: its transition (one byte), then texts, each with its length (u32) in front: recipient,
/// then the values of its kind. Empty once its secret is not needed any more.
pub const SYSTEM_MAIL: Tag = 15;
/// Register, text: epoch of a holder that asks for the attempts of earlier holders. It is never read: a member that
/// has this change reports the attempts that it has after that epoch began.
pub const ASKED: Tag = 16;
/// Register: effects whose messages are in the notification of this one: version (one byte, 1), then their ids (16 bytes each,
/// at most 100). Without ids: none any more.
pub const COVERS: Tag = 17;
/// Register: the effect whose notification has the message of this one: version (one byte, 1), its id (16 bytes), number of
/// this effect's attempt that was made with it (u32).
pub const IN: Tag = 18;
/// Register: version (one byte, 1), number of attempts (u32), from the first on, that left nothing with the receiver.
pub const NOT_TAKEN: Tag = 19;

/// Fields of [`HOLD`].
pub mod hold {
    use twinbox_replication_core::Tag;

    /// Register, two u64: time of its beginning, and of its release, or 0. One register, because one time has no meaning
    /// without the other.
    pub const STATE: Tag = 1;
    /// Register, text: reason of the administrator.
    pub const REASON: Tag = 2;
}

/// The key of the hold of a destination.
pub fn hold_key(destination: &str) -> Key {
    Key::new(HOLD, destination.as_bytes())
}

/// The destination of a hold's key; `None` for another key.
pub fn held_text(key: &Key) -> Option<&str> {
    (key.table == HOLD).then(|| std::str::from_utf8(&key.id).ok()).flatten()
}

/// The key of an effect.
pub fn effect_key(id: EffectId) -> Key {
    Key { table: OUTBOX, id: id.to_bytes().to_vec() }
}

/// The effect of an effect's key; `None` for another key.
pub fn effect_of(key: &Key) -> Option<EffectId> {
    (key.table == OUTBOX).then(|| EffectId::from_slice(&key.id)).flatten()
}
