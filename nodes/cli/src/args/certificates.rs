//! Arguments for certificates: `cluster ca`, `cluster operator-cert`, and access to a remote node.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use twinbox_ids::NodeName;

use super::{lifetime, seconds};

/// The node to ask, if it is not this machine's. These options stand before the command: `twinbox --node … cluster status`.
#[derive(Debug, Args)]
#[command(next_help_heading = "A node on another machine (before the command)")]
pub struct RemoteArgs {
    /// Ask the node that members reach at this address, as an operator
    #[arg(long, value_name = "HOST:PORT")]
    pub node: Option<String>,
    /// The folder that 'cluster operator-cert' wrote
    #[arg(long, env = "TWINBOX_IDENTITY", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// The operator's certificate, where it is not in such a folder
    #[arg(long, value_name = "FILE", requires_all = ["node", "key", "ca"], conflicts_with = "identity")]
    pub cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The cluster's authorities
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub ca: Option<PathBuf>,
}

/// `cluster ca`
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Show the authority, how far its replacement is on every member, and who may come from other machines
    Status {
        /// Wait until nothing is being replaced.
        #[arg(long)]
        wait: bool,
        /// Maximum wait.
        #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
        timeout: Duration,
    },
    /// Replace the cluster's authority and every member's certificate, without an interruption
    Rotate {
        /// Go on without this member, which is lost or away for long: it cannot come back by itself (give it for each).
        #[arg(long, value_name = "NAME", conflicts_with = "call_off")]
        without: Vec<NodeName>,
        /// Stay with the old authority: possible while not every member takes the new one.
        #[arg(long)]
        call_off: bool,
    },
    /// A new certificate for a member that was away while the authority was replaced
    Reissue {
        /// That member's node.pem, copied here; it is no secret.
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        /// Output folder for its node.pem and ca.pem; they are no secret either.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// `cluster operator-cert`
#[derive(Debug, Args)]
pub struct OperatorCertArgs {
    /// Whose: 1 to 63 of a-z, 0-9 and '-'.
    pub name: NodeName,
    /// Validity: 90s, 30m, 12h, 30d; at most 365d.
    #[arg(long, default_value = "30d", value_name = "TIME", value_parser = lifetime)]
    pub valid: Duration,
    /// Output folder for operator.pem, operator.key and ca.pem.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}
