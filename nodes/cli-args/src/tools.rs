//! Arguments of auxiliary commands: `dns`, `doctor`, `completion`, `man`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use clap_complete::Shell;

/// `dns`
#[derive(Debug, Subcommand)]
pub enum DnsCommand {
    /// Print the A, AAAA and SRV records of the shared name, for your zone
    Records {
        /// The name by which phones and the PBX find all nodes, such as voicemail.example.com.
        name: String,
        /// Seconds for which the records may be cached.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        ttl: u32,
    },
}

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
What it looks at:
  configuration  mistakes of the file
  disk           the data folder: there, this member's, writable, its reserve
  certificates   this member's, in force for 30 days
  settings       values of the file without effect, those that this node cannot use
  node           a process answers
  limits, rtp    open files and RTP ports: enough for sip.max_calls
  ports          free while the node does not run; those of other members reached
  clock          against every member's
  cluster        a majority, members in service
  dns            names resolve; with --name, the shared name leads to every node
  addresses      those that nodes advertise answer SIP OPTIONS from here
  trunks         each proxy answers OPTIONS
It works for a node that does not run, and for a witness.

Exit codes: 0 nothing is wrong, 1 there are findings, 2 wrong use.")]
pub struct DoctorArgs {
    /// The member's configuration file. Default: twinbox.toml in /etc/twinbox, /var/lib/twinbox or /var/lib/twinbox-witness;
    /// where there is none, those of the members that run on this machine; where none runs, those of a demo in this
    /// folder.
    #[arg(long, value_name = "FILE", env = "TWINBOX_CONFIG")]
    pub config: Option<PathBuf>,
    /// Time limit for each answer.
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = super::seconds)]
    pub timeout: Duration,
    /// The shared name by which phones and the PBX find all nodes: it must resolve to each of them.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// `completion`
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell.
    pub shell: Shell,
}

/// `man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Output folder; it gets a page for each command.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
