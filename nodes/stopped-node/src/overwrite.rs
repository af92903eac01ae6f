//! The data of a node that an administrator gives up.

use twinbox_backup::refuse_unfinished;
use twinbox_config::NodeConfig;
use twinbox_rebuild::Overwritten;
use twinbox_replication_store::StoreConfig;

use crate::StoppedNodeError;

/// Sets the data of a node that does not run aside, and takes over to an empty store what the other nodes may lack: the node
/// fills from them at its next start, and sends them that (rule D2).
pub async fn overwrite_data(config: &NodeConfig) -> Result<Overwritten, StoppedNodeError> {
    refuse_unfinished(&config.data_dir)?;
    let store = StoreConfig {
        dir: config.data_dir.join("store"),
        node: config.name.clone(),
        reserve_bytes: config.reserve_bytes,
    };
    Ok(twinbox_rebuild::overwrite(store, config.cluster.id).await?)
}
