//! Assembles a node (`run_node`) or a witness (`run_witness`) from its configuration.
//!
//! Only this crate connects the role manager with replication.

mod admin;
mod alarms;
mod alive;
mod aside;
mod beat;
mod certificates;
pub mod config;
mod drain;
mod drift;
pub mod folder;
mod health;
pub mod init;
mod joining;
mod knock;
mod learned;
mod lights;
mod logging;
mod members;
mod metrics;
mod node;
mod operators;
mod orphans;
mod peering;
mod place;
mod ports;
mod prompts;
mod reach;
mod release;
mod restart;
mod roles;
mod selftest;
mod stop;
mod supervised;
mod systemd;
mod unfiled;
mod watchdog;
#[cfg(debug_assertions)]
mod wedge;
mod witness;

use std::{io, net::SocketAddr, path::PathBuf};

pub use joining::{JoinError, JoinSpec, Joined, join};
pub use learned::known as known_members;
pub use metrics::local_socket;
pub use node::run_node;
pub use place::{PlaceError, place};
pub use reach::Reach;
pub use supervised::supervise_node;
pub use twinbox_calls::Network;
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
    Folder(#[from] folder::FolderError),
    /// RTP ports belong to another node.
    #[error(transparent)]
    RtpPorts(#[from] ports::RangeError),
    /// The data folder cannot be used.
    #[error("the data folder (data_dir) cannot be used")]
    Store(#[from] twinbox_replication_store::StoreError),
    /// Raft's data cannot be used.
    #[error("the role manager cannot start")]
    Roles(#[from] twinbox_roles::RolesError),
    /// RTP cannot start.
    #[error("the media engine cannot start")]
    Media(#[from] twinbox_media::MediaError),
    /// SIP cannot start.
    #[error("the SIP door cannot open")]
    Calls(#[from] twinbox_calls::CallsError),
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
    #[error("cannot make the administrators' socket {path}: {source}")]
    AdminSocket {
        /// Path of the socket.
        path: PathBuf,
        /// Reason of the failure.
        source: io::Error,
    },
}
