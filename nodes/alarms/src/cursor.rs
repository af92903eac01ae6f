//! Read position in the events of each node: a version vector over the origins of the nodes' stores, as text that
//! every node accepts. Pure.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use twinbox_ids::{ClusterId, NodeName, Origin};
use twinbox_wire::events as wire;

/// Maximum length of a cursor text, in bytes: enough for far more nodes than a cluster has.
const LONGEST: usize = 16 * 1024;

/// Read position. A node that it does not contain: nothing read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Cluster of the events.
    pub cluster: ClusterId,
    positions: BTreeMap<NodeName, Position>,
}

/// All events of the node's earlier origins, and those of this origin up to this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Origin of the last event read.
    pub origin: Origin,
    /// Number of the last event read.
    pub number: u64,
}

/// Reason why a text is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// The text is not readable.
    #[error(
        "'{0}' is not a cursor: take it from an earlier line of 'twinbox events --json', write 'now', or leave it out"
    )]
    Text(String),
    /// The cursor is of another cluster.
    #[error(
        "this cursor is of cluster {found}, not of {expected}: leave it out to start from the oldest stored event"
    )]
    Cluster {
        /// Cluster of the cursor.
        found: ClusterId,
        /// Cluster of this node.
        expected: ClusterId,
    },
}

impl Cursor {
    /// Cursor before all events.
    pub fn new(cluster: ClusterId) -> Self {
        Self { cluster, positions: BTreeMap::new() }
    }

    /// Reads a cursor of this cluster.
    pub fn parse(text: &str, cluster: ClusterId) -> Result<Self, CursorError> {
        let cursor: Self = text.parse()?;
        if cursor.cluster == cluster {
            Ok(cursor)
        } else {
            Err(CursorError::Cluster { found: cursor.cluster, expected: cluster })
        }
    }

    /// Read position of one node.
    pub fn get(&self, node: &NodeName) -> Option<Position> {
        self.positions.get(node).copied()
    }

    /// Sets the read position of one node.
    pub fn set(&mut self, node: &NodeName, position: Position) {
        self.positions.insert(node.clone(), position);
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = |(node, position): (&NodeName, &Position)| wire::Position {
            node: node.to_string(),
            origin: position.origin.to_bytes().to_vec().into(),
            number: position.number,
        };
        let cursor = wire::Cursor {
            cluster: self.cluster.to_bytes().to_vec().into(),
            positions: self.positions.iter().map(position).collect(),
        };
        f.write_str(&URL_SAFE_NO_PAD.encode(cursor.encode_to_vec()))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let wrong = || CursorError::Text(text.chars().take(40).collect());
        if text.len() > LONGEST {
            return Err(wrong());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let cursor = wire::Cursor::decode(&*bytes).map_err(|_| wrong())?;
        let position = |position: wire::Position| {
            let origin = Origin::from_slice(&position.origin)?;
            Some((position.node.parse().ok()?, Position { origin, number: position.number }))
        };
        let positions = cursor.positions.into_iter().map(position).collect::<Option<_>>().ok_or_else(wrong)?;
        let cluster = ClusterId::from_slice(&cursor.cluster).ok_or_else(wrong)?;
        Ok(Self { cluster, positions })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursor_survives_a_round_trip_and_belongs_to_one_cluster(
            positions in prop::collection::btree_map("[a-z]{1,9}", (any::<u128>(), any::<u64>()), 0..6),
            cluster: u128,
        ) {
            let mut cursor = Cursor::new(ClusterId(cluster));
            for (node, (origin, number)) in positions {
                let position = Position { origin: Origin(origin), number };
                cursor.set(&node.parse().expect("a name"), position);
            }
            prop_assert_eq!(Cursor::parse(&cursor.to_string(), ClusterId(cluster)), Ok(cursor.clone()));
            prop_assert!(Cursor::parse(&cursor.to_string(), ClusterId(!cluster)).is_err());
        }

        #[test]
        fn other_text_is_refused(text: String) {
            prop_assert!(text.parse::<Cursor>().is_err());
        }
    }
}
