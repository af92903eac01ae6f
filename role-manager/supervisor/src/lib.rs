//! The supervisor: parent of the node's process, on the same host, of the same program (rule R1).
//!
//! It holds the child, restarts it when it has ended ([`RestartPolicy`]), and reports to every member which incarnation
//! has ended: a statement under the node's own certificate, which is proof where a refused connection is only a hint.
//! The end of the supervisor ends no call: the next supervisor finds the child by its pid file, watches it by pidfd,
//! and starts another only when it has exited.
//!
//! Two threads share nothing but a channel. [`run`] watches and never waits for a network, a name server or a disk. The
//! other keeps connections to the members open, so that a report is sent without delay.

mod answer;
mod child;
mod crash_report;
mod notify;
mod pidfile;
mod process_info;
mod report;
mod restart_policy;
mod watch;

use std::{ffi::OsString, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use twinbox_ids::NodeName;
use twinbox_pki::NodeIdentity;

pub use crash_report::{CrashReport, ExitNotice, record_panics};
pub use notify::ServiceManager;
pub use pidfile::{PidFile, PidFileError};
pub use process_info::{EXIT_DISK_FAILED, ExitCause, ProcessInfo};
pub use restart_policy::{Ended, RestartDecision, RestartPolicy};
pub use watch::run;

/// Another member, and its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// `HOST:PORT`.
    pub address: String,
}

/// Configuration of a supervisor.
pub struct Spec {
    /// The node.
    pub node: NodeName,
    /// Its data folder, which contains the pid files.
    pub data_dir: PathBuf,
    /// The program to run as a child.
    pub program: PathBuf,
    /// The arguments.
    pub arguments: Vec<OsString>,
    /// The node's certificate.
    pub tls: Arc<NodeIdentity>,
    /// Address at which the supervisor answers members.
    pub bind: SocketAddr,
    /// Returns the other members as known now; reads files, and is called only where it may block.
    pub members: Box<dyn Fn() -> Vec<Member> + Send + Sync>,
    /// Time for a child to stop before it is killed.
    pub patience: Duration,
}

/// Reason for which a supervisor does not start.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Error of runtime, signals or threads.
    #[error("the supervisor cannot start: {0}")]
    System(#[from] io::Error),
    /// Error of the pid file of supervisor or node.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The program cannot be started.
    #[error("cannot start {program}: {cause}")]
    Program {
        /// Path of the program.
        program: PathBuf,
        /// The error.
        cause: io::Error,
    },
}
