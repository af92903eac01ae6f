//! Arguments of `replication` and `store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use twinbox_ids::NodeName;

/// `replication`
#[derive(Debug, Subcommand)]
pub enum ReplicationCommand {
    /// Show the lag of each other node, and the last comparison with it
    Status,
    /// Compare the stores of this node and the others now, repair what differs, and name it; exit code 1 unless all is equal
    Verify {
        /// Read and verify all recordings of every node, too.
        #[arg(long)]
        audio: bool,
    },
    /// Numbers and addresses that two users got while their nodes could not reach each other
    Conflicts,
}

/// `store`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read all records of the node, and look for the recordings that they name; exit code 1 if something is damaged
    Check {
        /// Read and verify the recordings, too.
        #[arg(long)]
        audio: bool,
    },
    /// Records by table, changes in the log, recordings, space on the disk
    Stats,
    /// Give the space of removed recordings back to the disk now; calls go on
    Compact,
    /// Give up the data of a stopped node and let it fill from another one; what only it has is salvaged, the old data is kept aside
    OverwriteData(OverwriteArgs),
}

/// `store overwrite-data`
#[derive(Debug, Args)]
pub struct OverwriteArgs {
    /// Another node of the cluster that has the data; it must be in service now.
    #[arg(long, value_name = "NODE")]
    pub from: NodeName,
    /// Configuration of the node whose data is given up, which must not run.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub yes: bool,
}
