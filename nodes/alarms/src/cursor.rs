//! How far somebody has read the events of each node: a version vector over the lives of the nodes' stores, as a text
//! that any node understands. Pure.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use twinbox_ids::{ClusterId, NodeName, Origin};
use twinbox_wire::events as wire;

/// The longest text that is taken for a cursor: far more nodes than a cluster has.
const LONGEST: usize = 16 * 1024;

/// How far somebody has read. A node that is not in it: nothing of it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Whose events.
    pub cluster: ClusterId,
    positions: BTreeMap<NodeName, Position>,
}

/// All events of the node's earlier lives, and those of this life up to this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The life.
    pub origin: Origin,
    /// The number of the last event read.
    pub number: u64,
}

/// Why a text is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not one of ours.
    #[error(
        "'{0}' is no cursor: take it from an earlier line of 'twinbox events --json', write 'now', or leave it out"
    )]
    Text(String),
    /// Of another cluster.
    #[error("this cursor is of cluster {found}, not of {expected}: leave it out to begin anew")]
    Cluster {
        /// Its.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
}

impl Cursor {
    /// Before everything.
    pub fn new(cluster: ClusterId) -> Self {
        Self { cluster, positions: BTreeMap::new() }
    }

    /// Reads one of this cluster.
    pub fn parse(text: &str, cluster: ClusterId) -> Result<Self, CursorError> {
        let cursor: Self = text.parse()?;
        if cursor.cluster == cluster {
            Ok(cursor)
        } else {
            Err(CursorError::Cluster { found: cursor.cluster, expected: cluster })
        }
    }

    /// How far, of one node.
    pub fn get(&self, node: &NodeName) -> Option<Position> {
        self.positions.get(node).copied()
    }

    /// Read up to there, of one node.
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
        fn a_cursor_is_read_as_it_was_written(
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
        fn any_other_text_is_refused_and_harmless(text: String) {
            prop_assert!(text.parse::<Cursor>().is_err());
        }
    }
}
