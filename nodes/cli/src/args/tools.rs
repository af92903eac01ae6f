//! The words of commands that look, print and help: `dns`, `doctor`, `completion`, `man`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use clap_complete::Shell;

/// `dns`
#[derive(Debug, Subcommand)]
pub enum DnsCommand {
    /// Print the A, AAAA and SRV records of the shared name, for your zone
    Records {
        /// The name by which phones and the PBX shall find all nodes, such as voicemail.example.com.
        name: String,
        /// Seconds that the records may be kept.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        ttl: u32,
    },
}

/// `doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// This node's configuration file.
    #[arg(long, value_name = "FILE", env = "TWINBOX_CONFIG", default_value = "/etc/twinbox/twinbox.toml")]
    pub config: PathBuf,
    /// How long whoever is asked may take to answer.
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = super::seconds)]
    pub timeout: Duration,
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
    /// Where to write the pages; a page for each command.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
