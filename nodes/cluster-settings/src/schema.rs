//! The numbers on disk and on the wire. They are permanent: a number never gets a second meaning.

use twinbox_replication_core::{Key, Table, Tag};

use crate::Register;

/// Settings that all nodes share. Id: the name of the [`Register`].
pub const SETTING: Table = Table(26);

/// Register, text: the value that an administrator set, as [`Entries`](crate::Entries) writes it. Empty: the defaults.
pub const VALUE: Tag = 1;
/// Claim, text: the values of the nodes' files, which count while there is no [`VALUE`]. The earliest wins.
pub const FIRST: Tag = 2;

/// The key of a register's row.
pub fn row_key(register: Register) -> Key {
    Key { table: SETTING, id: register.name().as_bytes().to_vec() }
}

/// True for a key of [`SETTING`].
pub fn is_setting(key: &Key) -> bool {
    key.table == SETTING
}
