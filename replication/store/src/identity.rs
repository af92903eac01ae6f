//! The node and the cluster that a store belongs to.

use std::path::Path;

use twinbox_disk::Disk;
use twinbox_ids::{ClusterId, NodeName};

use crate::{StoreError, codec::DecodeError, keys, store::unversioned};

/// The version of the store as a whole, before the name of its node, which each opening reads first and writes. In version 3 the index
/// noted each blob at its packs. A release that needs these notes takes packs for empty without them, so it must refuse the store.
/// All other values are of the same version as before.
const STORE: u8 = 4;

/// The name of the node, as the index has it.
pub(crate) fn named(node: &str) -> Vec<u8> {
    [&[STORE], node.as_bytes()].concat()
}

/// Whether the store has its node's name; refused if it is another's.
pub(crate) fn check_node(disk: &Disk, dir: &Path, node: &NodeName) -> Result<bool, StoreError> {
    let Some(bytes) = disk.get(keys::NODE)? else { return Ok(false) };
    let name = bytes.strip_prefix(&[STORE]).map_or_else(|| unversioned(&bytes, "the node's name"), Ok)?;
    let found = String::from_utf8_lossy(name).into_owned();
    if found != node.as_str() {
        return Err(StoreError::OtherNode { dir: dir.to_owned(), found, expected: node.clone() });
    }
    Ok(true)
}

/// The cluster that the data belongs to, once it is set.
pub(crate) fn read_cluster(disk: &Disk) -> Result<Option<ClusterId>, StoreError> {
    let what = "the cluster id";
    let Some(bytes) = disk.get(keys::CLUSTER)? else { return Ok(None) };
    let invalid = StoreError::Format { what, source: DecodeError::Invalid("length") };
    ClusterId::from_slice(unversioned(&bytes, what)?).map(Some).ok_or(invalid)
}
