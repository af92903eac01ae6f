//! Arguments of `alarm` and `events`.

use clap::{Args, Subcommand};

/// `alarm`
#[derive(Debug, Subcommand)]
pub enum AlarmCommand {
    /// Show the alarms of all nodes, highest severity first, each with its remedy
    List {
        /// Also cleared alarms, and acknowledged alarms of events.
        #[arg(long)]
        all: bool,
    },
    /// Acknowledge alarms: the alarm of an event leaves the list, the alarm of a condition stays until it is cleared
    Ack {
        /// Ids from 'alarm list'; the first digits are sufficient.
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
    /// Continue with new events, until interrupted.
    #[arg(long)]
    pub follow: bool,
    /// Start after this: a cursor from an earlier line of --json of any node, or 'now'. Default: from the oldest
    /// stored event.
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    pub since: String,
}
