//! The numbers of records and fields on disk and on the wire. They are for ever, as those of `twinbox-mailbox`, which
//! has the tables below 256.

use twinbox_ids::NodeName;
use twinbox_replication_core::{Key, Table, Tag};

/// Alarms. Id: the name of the node that raised it, 0, its place (2 bytes). A place is used again for another alarm when
/// all are taken, so there are never more.
pub const ALARM: Table = Table(256);
/// Events. Id: the name of the node that tells it, 0, its place (2 bytes). The next event takes the next place, so there
/// are never more.
pub const EVENT: Table = Table(257);
/// The lives of nodes' stores. Id: the name of the node.
pub const LIVES: Table = Table(258);

/// Alarms of one node that are kept.
pub const ALARMS_OF_A_NODE: u16 = 256;
/// Of those, of one code: a flood of one does not push out the others.
pub const ALARMS_OF_A_CODE: usize = 48;
/// Events of one node that are kept.
pub const EVENTS_OF_A_NODE: u16 = 2_048;
/// Lives of one node that are known.
pub const LIVES_OF_A_NODE: usize = 16;

/// Fields of [`ALARM`].
pub mod alarm {
    use super::Tag;

    /// Register, `AlarmReport`: what the node that raised it says. Only that node writes it.
    pub const REPORT: Tag = 1;
    /// Register, `AlarmAcknowledged`.
    pub const ACKNOWLEDGED: Tag = 2;
    /// Register, `AlarmSent`: what the webhook has been told.
    pub const WEBHOOK: Tag = 3;
    /// Register, `AlarmSent`: what receivers of traps have been told.
    pub const TRAP: Tag = 4;
}

/// Fields of [`EVENT`].
pub mod event {
    use super::Tag;

    /// Register, `EventRecord`; empty when it has become too old.
    pub const EVENT: Tag = 1;
}

/// Fields of [`LIVES`].
pub mod lives {
    use super::Tag;

    /// Register, `NodeLives`.
    pub const LIVES: Tag = 1;
}

/// What the keys of a node's alarms or events begin with.
pub fn prefix(node: &NodeName) -> Vec<u8> {
    [node.as_str().as_bytes(), &[0]].concat()
}

/// The key of an alarm or event.
pub fn place_key(table: Table, node: &NodeName, place: u16) -> Key {
    Key::new(table, [prefix(node), place.to_be_bytes().to_vec()].concat())
}

/// Node and place of such a key.
pub fn place_of(key: &Key) -> Option<(NodeName, u16)> {
    let (name, place) = key.id.split_last_chunk::<2>()?;
    let name = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?;
    Some((name.parse().ok()?, u16::from_be_bytes(*place)))
}

/// The key of a node's lives.
pub fn lives_key(node: &NodeName) -> Key {
    Key::new(LIVES, node.as_str().as_bytes().to_vec())
}

/// The node of such a key.
pub fn lives_of(key: &Key) -> Option<NodeName> {
    std::str::from_utf8(&key.id).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let node: NodeName = "a-1".parse().expect("a name");
        let key = place_key(EVENT, &node, 0x0100);
        assert_eq!(place_of(&key), Some((node.clone(), 0x0100)));
        assert!(key.id.starts_with(&prefix(&node)));
        assert_eq!(lives_of(&lives_key(&node)), Some(node));
        for id in [&b""[..], b"a", b"a\0", b"a\0\0", b"A!\0\0\0", b"\xff\0\0\0"] {
            assert_eq!(place_of(&Key::new(EVENT, id)), None, "{id:?}");
        }
    }
}
