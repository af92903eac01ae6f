//! The node and the cluster that a store belongs to.

use std::path::Path;

use twinbox_disk::Disk;
use twinbox_ids::{ClusterId, NodeName};

use crate::{StoreError, codec::DecodeError, keys, store::unversioned};

/// Whether the store has its node's name; refused if it is another's.
pub(crate) fn check_node(disk: &Disk, dir: &Path, node: &NodeName) -> Result<bool, StoreError> {
    let Some(bytes) = disk.get(keys::NODE)? else { return Ok(false) };
    let found = String::from_utf8_lossy(unversioned(&bytes, "the node's name")?).into_owned();
    if found == node.as_str() {
        Ok(true)
    } else {
        Err(StoreError::OtherNode { dir: dir.to_owned(), found, expected: node.clone() })
    }
}

/// The cluster that the data belongs to, once it is set.
pub(crate) fn read_cluster(disk: &Disk) -> Result<Option<ClusterId>, StoreError> {
    let what = "the cluster id";
    let Some(bytes) = disk.get(keys::CLUSTER)? else { return Ok(None) };
    let invalid = StoreError::Format { what, source: DecodeError::Invalid("length") };
    ClusterId::from_slice(unversioned(&bytes, what)?).map(Some).ok_or(invalid)
}
