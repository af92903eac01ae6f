//! Numbers of records and fields on disk and on the wire. They never change. `twinbox-mailbox` has the tables below
//! 256.

use twinbox_ids::NodeName;
use twinbox_replication_core::{Key, Table, Tag};

/// Alarms. Id: name of the node that raised it, 0, index (2 bytes). When all indexes are used, one is reused, so
/// their number is bounded.
pub const ALARM: Table = Table(256);
/// Events. Id: name of the node that reports it, 0, index (2 bytes). Each event takes the next index, modulo the
/// number of records.
pub const EVENT: Table = Table(257);
/// Origins of the nodes' stores. Id: name of the node.
pub const ORIGINS: Table = Table(258);

/// Maximum number of stored alarms per node.
pub const ALARMS_OF_A_NODE: u16 = 256;
/// Maximum of those per code: a flood of one code does not displace the others.
pub const ALARMS_OF_A_CODE: usize = 48;
/// Maximum number of stored events per node.
pub const EVENTS_OF_A_NODE: u16 = 2_048;
/// Maximum number of known origins per node.
pub const ORIGINS_OF_A_NODE: usize = 16;

/// Fields of [`ALARM`].
pub mod alarm {
    use super::Tag;

    /// Register, `AlarmReport`: state reported by the node that raised the alarm. Only that node writes it.
    pub const REPORT: Tag = 1;
    /// Register, `AlarmAcknowledged`.
    pub const ACKNOWLEDGED: Tag = 2;
    /// Register, `AlarmSent`: delivery state of the webhook.
    pub const WEBHOOK: Tag = 3;
    /// Register, `AlarmSent`: delivery state of the trap receivers.
    pub const TRAP: Tag = 4;
}

/// Fields of [`EVENT`].
pub mod event {
    use super::Tag;

    /// Register, `EventRecord`; empty after the event was erased.
    pub const EVENT: Tag = 1;
}

/// Fields of [`ORIGINS`].
pub mod origins {
    use super::Tag;

    /// Register, `NodeLives`.
    pub const ORIGINS: Tag = 1;
}

/// Prefix of the keys of a node's alarms or events.
pub fn prefix(node: &NodeName) -> Vec<u8> {
    [node.as_str().as_bytes(), &[0]].concat()
}

/// Key of an alarm or event.
pub fn slot_key(table: Table, node: &NodeName, slot: u16) -> Key {
    Key::new(table, [prefix(node), slot.to_be_bytes().to_vec()].concat())
}

/// Node and index of such a key.
pub fn slot_of(key: &Key) -> Option<(NodeName, u16)> {
    let (name, slot) = key.id.split_last_chunk::<2>()?;
    let name = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?;
    Some((name.parse().ok()?, u16::from_be_bytes(*slot)))
}

/// Key of a node's origins.
pub fn origins_key(node: &NodeName) -> Key {
    Key::new(ORIGINS, node.as_str().as_bytes().to_vec())
}

/// Node of such a key.
pub fn node_of_origins(key: &Key) -> Option<NodeName> {
    std::str::from_utf8(&key.id).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_round_trip_and_invalid_keys_are_refused() {
        let node: NodeName = "a-1".parse().expect("a name");
        let key = slot_key(EVENT, &node, 0x0100);
        assert_eq!(slot_of(&key), Some((node.clone(), 0x0100)));
        assert!(key.id.starts_with(&prefix(&node)));
        assert_eq!(node_of_origins(&origins_key(&node)), Some(node));
        for id in [&b""[..], b"a", b"a\0", b"a\0\0", b"A!\0\0\0", b"\xff\0\0\0"] {
            assert_eq!(slot_of(&Key::new(EVENT, id)), None, "{id:?}");
        }
    }
}
