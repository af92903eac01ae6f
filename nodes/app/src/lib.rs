//! Assembles a node (`run_node`) or a witness (`run_witness`) from its configuration.
//!
//! The composition root: it builds the parts, gives each the handles that it needs, and starts and stops them.

mod bound;
mod duties;
mod links;
#[cfg(debug_assertions)]
mod next_release;
mod node;
mod peering;
mod supervise;
mod timetable;
mod witness;

use std::{io, net::SocketAddr};

pub use node::run_node;
pub use supervise::supervise_node;
pub use witness::{ask_witness, run_witness};

/// Reason why a process did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The asynchronous runtime could not be made.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The supervisor failed.
    #[error(transparent)]
    Supervisor(#[from] twinbox_supervisor::SupervisorError),
    /// The pid file cannot be used.
    #[error(transparent)]
    PidFile(#[from] twinbox_supervisor::PidFileError),
    /// The data folder belongs to another member, or is missing, full or read-only.
    #[error(transparent)]
    Folder(#[from] twinbox_diagnostics::folder::FolderError),
    /// RTP ports belong to another node.
    #[error(transparent)]
    RtpPorts(#[from] twinbox_diagnostics::ports::RangeError),
    /// The data folder cannot be used.
    #[error("the data folder (data_dir) cannot be used")]
    Store(#[from] twinbox_replication_store::StoreError),
    /// The settings that all nodes share cannot be read.
    #[error("the settings of the cluster cannot be read from the data folder")]
    Settings(#[from] twinbox_mailstore::MailError),
    /// The store cannot be opened, and not built again.
    #[error("the store in the data folder (data_dir) cannot be used")]
    Rebuild(#[from] twinbox_rebuild::RebuildError),
    /// A backup was restored into the data folder only in part.
    #[error(transparent)]
    Unrestored(#[from] twinbox_backup::UnfinishedRestore),
    /// Raft's data cannot be used.
    #[error("the role manager cannot start")]
    Roles(#[from] twinbox_roles::RolesError),
    /// RTP cannot start.
    #[error("the media engine cannot start")]
    Media(#[from] twinbox_media::MediaError),
    /// SIP cannot start.
    #[error("the SIP server cannot start")]
    Calls(#[from] twinbox_calls::CallsError),
    /// Mail cannot be listened for.
    #[error("mail in cannot start")]
    Mail(#[from] twinbox_mail_gateway::GatewayError),
    /// Links to recordings cannot be served.
    #[error(transparent)]
    Links(#[from] twinbox_recording_links::LinkListenerError),
    /// An address is in use, or not of this machine.
    #[error("cannot listen on {address} for {what} ({source}): free the port or change the configuration")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Purpose of the listener.
        what: &'static str,
        /// Reason of the failure.
        source: io::Error,
    },
    /// The administrators' socket cannot be made.
    #[error(transparent)]
    AdminSocket(#[from] twinbox_admin_api::SocketError),
    /// The listener for metrics and probes cannot be bound.
    #[error(transparent)]
    Pages(#[from] twinbox_metrics::ListenError),
}

impl AppError {
    /// True when each further start fails in the same way, until an administrator acts: the member was removed, or the folder is
    /// another member's. A folder that is in use, missing or full may become usable without that: its process ends, or its
    /// disk is mounted.
    pub fn is_final(&self) -> bool {
        use twinbox_diagnostics::folder::FolderError;
        use twinbox_rebuild::RebuildError;
        use twinbox_replication_store::StoreError as DataError;
        use twinbox_roles::{RolesError, StoreError};
        match self {
            Self::Folder(error) => matches!(error, FolderError::Taken { .. }),
            Self::Store(error) | Self::Rebuild(RebuildError::Store(error)) => {
                matches!(error, DataError::OtherNode { .. } | DataError::OtherCluster { .. })
            }
            Self::Roles(RolesError::Store(error)) => {
                matches!(error, StoreError::Removed { .. } | StoreError::ForeignStore { .. })
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use twinbox_diagnostics::folder::{Folder, Owner};

    use super::*;

    #[test]
    fn start_on_another_members_folder_is_final_and_one_on_a_folder_in_use_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let owner = |name: &str| Owner { member: name.parse().expect("a name"), cluster: None };
        let is_final = |dir: &Path, name: &str| {
            let refused = Folder::take("node.data_dir", dir, &owner(name), 0).expect_err("refused");
            AppError::from(refused).is_final()
        };
        let _held = Folder::take("node.data_dir", dir.path(), &owner("a"), 0).expect("taken");
        assert!(is_final(dir.path(), "b"));
        assert!(!is_final(dir.path(), "a"), "its process may end");
        assert!(!is_final(&dir.path().join("none"), "a"), "its disk may be mounted");
    }
}
