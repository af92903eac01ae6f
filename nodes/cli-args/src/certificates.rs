//! Arguments for certificates: `cluster ca`, `cluster operator-cert`, and access to a remote node.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use twinbox_admin_client::RemoteNode;
use twinbox_ids::NodeName;

use super::{lifetime, seconds};

/// The node to ask, if it is not this machine's. These options stand before the command: `twinbox --node … cluster status`.
#[derive(Debug, Args)]
#[command(next_help_heading = "A node on another machine (before the command)")]
pub struct RemoteArgs {
    /// Contact the node at this address of its members, as an operator
    #[arg(long, value_name = "HOST:PORT")]
    pub node: Option<String>,
    /// The folder that 'cluster operator-cert' wrote
    #[arg(long, env = "TWINBOX_IDENTITY", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// The operator's certificate, if it is not in such a folder
    #[arg(long, value_name = "FILE", requires_all = ["node", "key", "ca"], conflicts_with = "identity")]
    pub cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The cluster's authorities
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub ca: Option<PathBuf>,
}

impl RemoteArgs {
    /// The node on another machine that these arguments name, if they name one.
    pub fn remote(&self) -> Option<RemoteNode<'_>> {
        let files = match (&self.cert, &self.key, &self.ca) {
            (Some(cert), Some(key), Some(ca)) => Some([cert, key, ca].map(PathBuf::as_path)),
            _ => None,
        };
        self.node.as_deref().map(|node| RemoteNode { node, identity: self.identity.as_deref(), files })
    }
}

/// `cluster ca`
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Show the authority, the progress of its rotation on every member, and the operators
    Status {
        /// Wait until no rotation is in progress.
        #[arg(long)]
        wait: bool,
        /// Maximum wait.
        #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
        timeout: Duration,
    },
    /// Replace the cluster's authority and every member's certificate, without an interruption
    Rotate {
        /// Continue without this member, which is lost or absent for long: it needs a new certificate to return (repeat for each).
        #[arg(long, value_name = "NAME", conflicts_with = "call_off")]
        without: Vec<NodeName>,
        /// Stay with the old authority: possible while not every member trusts the new one.
        #[arg(long)]
        call_off: bool,
    },
    /// A new certificate for a member that was absent during a CA rotation
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
    /// Name of the operator: 1 to 63 of a-z, 0-9 and '-'.
    pub name: NodeName,
    /// Validity: 90s, 30m, 12h, 30d; at most 365d.
    #[arg(long, default_value = "30d", value_name = "TIME", value_parser = lifetime)]
    pub valid: Duration,
    /// Output folder for operator.pem, operator.key and ca.pem.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}
