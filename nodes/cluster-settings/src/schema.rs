//! The numbers on disk and on the wire. They are permanent: a number never gets a second meaning.

use twinbox_replication_core::{Key, Table, Tag};

use crate::Register;

/// Settings that all nodes share. Id: the name of the [`Register`], or [`TRUNK`] and the name of a trunk.
pub const SETTING: Table = Table(26);

/// Register, text: the value that an administrator set, as [`Entries`](crate::Entries) writes it, or a trunk's properties.
/// Empty: the defaults.
pub const VALUE: Tag = 1;
/// Claim, text: the values of the nodes' files, which count while there is no [`VALUE`]. The earliest wins.
pub const FIRST: Tag = 2;

/// Remove-wins set of a trunk: it may call while the set has [`GRANT`]. A removal beats changes that did not see it.
pub const GRANTED: Tag = 3;
/// The member of [`GRANTED`].
pub const GRANT: &[u8] = b"may call";
/// Begin of the ids of trunks.
pub const TRUNK: &[u8] = b"trunk/";

/// The key of a trunk's row.
pub fn trunk_key(name: &str) -> Key {
    Key { table: SETTING, id: [TRUNK, name.as_bytes()].concat() }
}

/// The name of the trunk of a row; `None`: the row is no trunk.
pub fn trunk_name(key: &Key) -> Option<String> {
    let name = key.id.strip_prefix(TRUNK).filter(|_| is_setting(key))?;
    String::from_utf8(name.to_vec()).ok()
}

/// The key of a register's row.
pub fn row_key(register: Register) -> Key {
    Key { table: SETTING, id: register.name().as_bytes().to_vec() }
}

/// True for a key of [`SETTING`].
pub fn is_setting(key: &Key) -> bool {
    key.table == SETTING
}
