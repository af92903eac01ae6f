//! The numbers of directories on disk and on the wire: permanent, like those of [`crate::schema`].

use twinbox_ids::DirectoryId;
use twinbox_replication_core::{Key, Table, Tag};

use super::EntryId;

/// Directories. Id: directory id (16 bytes).
pub const DIRECTORY: Table = Table(16);
/// Bindings of users to entries. Id: directory id, entry id (16 + 16 bytes), so that a directory is a prefix.
pub const BINDING: Table = Table(17);
/// Runs of the synchronisation. Id: directory id (16 bytes), time of the begin (u64, milliseconds since 1970).
pub const DIRECTORY_RUN: Table = Table(18);

/// Fields of [`DIRECTORY`]. The state of the synchronisation is a value by epoch ([`BY_EPOCH`](crate::schema::BY_EPOCH)).
pub mod directory {
    use super::Tag;

    /// Register, u64: time of its creation (milliseconds since 1970). A record without it is no directory.
    pub const CREATED: Tag = 1;
    /// Register, text: the name.
    pub const NAME: Tag = 2;
    /// Register, text or empty for unset: the setting of the permanent number n has the tag `SETTINGS + n`.
    pub const SETTINGS: Tag = 0x100;
    /// Number of tags for settings.
    pub const MOST_SETTINGS: Tag = 0x1000;
}

/// Fields of [`BINDING`]. The binding is a value by epoch ([`BY_EPOCH`](crate::schema::BY_EPOCH)).
pub mod binding {
    use super::Tag;

    /// Register: time (u64, milliseconds since 1970) at which the directory confirmed the password, then the PHC string
    /// of argon2id; empty for none. Every node writes it: sign-in is not a duty.
    pub const VERIFIER: Tag = 1;
}

/// Fields of [`DIRECTORY_RUN`].
pub mod run {
    use super::Tag;

    /// Register, u64: time of its begin (milliseconds since 1970). A record without it is no run.
    pub const BEGAN: Tag = 1;
    /// Register, u64: time of its end.
    pub const ENDED: Tag = 2;
    /// Register, one byte, 0 or 1: nothing was to be changed.
    pub const DRY: Tag = 3;
    /// Register, text: the outcome.
    pub const OUTCOME: Tag = 4;
    /// Register, seven u64: new, changed, disabled, gone, returned, refused, unchanged.
    pub const COUNTS: Tag = 5;
    /// Register, one byte, 0 or 1: an administrator accepted its deletions.
    pub const ACCEPTED: Tag = 6;
    /// Register, 32 bytes: digest of its deletions.
    pub const DIGEST: Tag = 7;
}

/// The key of a directory.
pub fn directory_key(id: DirectoryId) -> Key {
    Key { table: DIRECTORY, id: id.to_bytes().to_vec() }
}

/// The directory of a directory's key; `None` for another key.
pub fn directory_of(key: &Key) -> Option<DirectoryId> {
    (key.table == DIRECTORY).then(|| DirectoryId::from_slice(&key.id)).flatten()
}

/// The key of a binding.
pub fn binding_key(directory: DirectoryId, entry: EntryId) -> Key {
    Key { table: BINDING, id: [directory.to_bytes(), entry.to_bytes()].concat() }
}

/// Directory and entry of a binding's key; `None` for another key.
pub fn binding_of(key: &Key) -> Option<(DirectoryId, EntryId)> {
    let (directory, entry) = (key.table == BINDING).then(|| key.id.split_at_checked(16)).flatten()?;
    Some((DirectoryId::from_slice(directory)?, EntryId::from_slice(entry)?))
}

/// The key of a run.
pub fn run_key(directory: DirectoryId, run: u64) -> Key {
    Key { table: DIRECTORY_RUN, id: [&directory.to_bytes()[..], &run.to_be_bytes()].concat() }
}

/// Directory and number of a run's key; `None` for another key.
pub fn run_of(key: &Key) -> Option<(DirectoryId, u64)> {
    let (directory, run) = (key.table == DIRECTORY_RUN).then(|| key.id.split_at_checked(16)).flatten()?;
    Some((DirectoryId::from_slice(directory)?, u64::from_be_bytes(run.try_into().ok()?)))
}
