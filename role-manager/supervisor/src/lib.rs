//! The supervisor: parent of the node's process, on the same host, of the same program (rule R1).
//!
//! It holds the child, starts it again when it has ended ([`Policy`]), and tells every member which life is over: a
//! statement under the node's own certificate, which is proof where a refused connection is only a hint. It takes no
//! call with it when it dies: the next one finds the child by its pid file, watches it by pidfd, and starts another
//! only when it has exited.
//!
//! Two threads that share nothing but a channel: [`run`] watches, with nothing in it that waits for a network, a name
//! server or a disk; beside it, connections to the members are kept warm, so that a report leaves as soon as there is
//! one.

mod answer;
mod child;
mod life;
mod notify;
mod pidfile;
mod policy;
mod report;
mod watch;
mod words;

use std::{ffi::OsString, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use twinbox_ids::NodeName;
use twinbox_pki::NodeIdentity;

pub use life::{How, Life};
pub use notify::ServiceManager;
pub use pidfile::{PidFile, PidFileError};
pub use policy::{Ended, Policy, Verdict};
pub use watch::run;
pub use words::{LastWords, Line, keep_panics};

/// Another member, and where its node-to-node listener is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// `HOST:PORT`.
    pub address: String,
}

/// What a supervisor is told.
pub struct Spec {
    /// The node.
    pub node: NodeName,
    /// Its data folder, where the pid files are.
    pub data_dir: PathBuf,
    /// The program that is its child, and its arguments.
    pub program: PathBuf,
    /// The arguments.
    pub arguments: Vec<OsString>,
    /// The node's certificate.
    pub tls: Arc<NodeIdentity>,
    /// Where the supervisor answers members.
    pub bind: SocketAddr,
    /// The other members as they are known now; reads files, and is called where that may take its time.
    pub members: Box<dyn Fn() -> Vec<Member> + Send + Sync>,
    /// How long a child that was told to stop may take.
    pub patience: Duration,
}

/// Why a supervisor does not start.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Runtime, signals or threads.
    #[error("the supervisor cannot start: {0}")]
    System(#[from] io::Error),
    /// The pid file of supervisor or node.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The program.
    #[error("cannot start {program}: {cause}")]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        cause: io::Error,
    },
}
