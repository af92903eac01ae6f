//! Arguments of `alarm` and `events`.

use clap::{Args, Subcommand};

/// `alarm`
#[derive(Debug, Subcommand)]
pub enum AlarmCommand {
    /// Show the alarms of all nodes, the worst first, each with its remedy
    List {
        /// Those too that are over, or happened and were acknowledged.
        #[arg(long)]
        all: bool,
    },
    /// Say that you know: one that happened goes from the list, one that lasts stays until it is over
    Ack {
        /// Ids as 'alarm list' shows them; the first digits will do.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Your name. Default: the user who is logged in; an operator of another machine is known by the certificate.
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
}

/// `events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens from now on, until interrupted.
    #[arg(long)]
    pub follow: bool,
    /// Begin after this: a cursor from an earlier line of --json, on whichever node, or 'now'. Default: with the oldest
    /// event that is kept.
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    pub since: String,
}
