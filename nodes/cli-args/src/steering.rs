//! Arguments of commands that steer the cluster: settings, moves of roles and duties, joining and leaving members.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use twinbox_ids::NodeName;

use super::{lifetime, member_address, seconds};

/// `cluster …`, of the role manager
#[derive(Debug, Subcommand)]
pub enum SteeringCommand {
    /// Move the publisher role to a node; duties follow
    MakePublisher(MakePublisherArgs),
    /// Show the settings that all members share
    Settings,
    /// Change settings that all members share: all of those named, or none
    Set(SetArgs),
    /// Choose how nodes share the work
    Mode {
        /// The mode.
        mode: ModeWord,
    },
    /// Choose whether the role goes back to the preferred node; without a mode, move it back now
    Failback(FailbackArgs),
    /// Print the durations in force, and every bound with its formula
    Timing,
    /// Show the last moves of the role and of duties, with cause and length
    Moves,
    /// Show the outcome of an order that was unknown; an order that was not executed never will be
    Outcome {
        /// The id that was printed.
        id: String,
    },
    /// Make a token for a new member of this name, and print the next step
    Add(AddArgs),
    /// Make a token for a new member that replaces one that is lost for good
    Replace(ReplaceArgs),
    /// Remove a node or the witness from the cluster
    Remove(RemoveArgs),
    /// Let the contacted node go on alone, if too many members are lost for good for a majority to return
    GoOnAlone(GoOnAloneArgs),
}

/// `cluster make-publisher`
#[derive(Debug, Args)]
pub struct MakePublisherArgs {
    /// The node's name.
    pub node: NodeName,
    /// Even if it lacks much data of the others; no acknowledged data is lost by that.
    #[arg(long)]
    pub force: bool,
}

/// `cluster set`
#[derive(Debug, Args)]
pub struct SetArgs {
    /// A setting and its value, and further pairs; 'twinbox cluster settings' shows them.
    #[arg(num_args = 2.., required = true, value_names = ["NAME", "VALUE"])]
    pub pairs: Vec<String>,
}

/// Distribution of calls between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeWord {
    /// Every node answers calls.
    ActiveActive,
    /// The publisher answers calls, the others when it cannot.
    ActivePassive,
}

/// `cluster failback`
#[derive(Debug, Args)]
pub struct FailbackArgs {
    /// Whether it goes back: never, on command, or in a window of each day.
    pub how: Option<FailbackWord>,
    /// Opening time of the window, UTC.
    #[arg(long, value_name = "HH:MM")]
    pub from: Option<String>,
    /// Closing time of the window, UTC.
    #[arg(long, value_name = "HH:MM")]
    pub to: Option<String>,
    /// The node that shall be publisher.
    #[arg(long, value_name = "NODE")]
    pub preferred: Option<NodeName>,
}

/// Whether the role goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailbackWord {
    /// Never.
    None,
    /// On the command 'twinbox cluster failback' only.
    Manual,
    /// Automatically, in a window of each day.
    Scheduled,
}

/// `cluster add`
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Name of the new member.
    pub name: NodeName,
    /// Address at which the other members will reach it.
    #[arg(long, value_name = "HOST:PORT", value_parser = member_address)]
    pub address: Option<String>,
    /// The new member is a witness.
    #[arg(long)]
    pub witness: bool,
    /// Validity of the token: 90s, 30m, 1h, 7d.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = lifetime)]
    pub valid: Duration,
}

/// `cluster replace`
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The member that is lost for good.
    pub old: NodeName,
    /// Name of the new member. Default: the same.
    #[arg(long, value_name = "NAME")]
    pub name: Option<NodeName>,
    /// Validity of the token: 90s, 30m, 1h, 7d.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = lifetime)]
    pub valid: Duration,
}

/// `cluster remove`
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The member's name.
    pub node: NodeName,
    /// The member is lost for good: no data is handed over, and data that only it had is lost.
    #[arg(long)]
    pub lost: bool,
    /// End remaining calls after this time: 90s, 10m, 1h. Without it they end normally, without a time limit.
    #[arg(long, value_name = "TIME", value_parser = lifetime, conflicts_with = "lost")]
    pub within: Option<Duration>,
    /// Maximum wait until it has left, in addition to the time that --within gives to calls.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
}

/// `cluster deactivate`
#[derive(Debug, Args)]
pub struct DeactivateArgs {
    /// The node's name.
    pub node: NodeName,
    /// End remaining calls after this time: 90s, 10m, 1h. Without it they end normally, without a time limit.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub within: Option<Duration>,
}

/// `cluster go-on-alone`
#[derive(Debug, Args)]
pub struct GoOnAloneArgs {
    /// A member that is lost for good; repeat for every other member.
    #[arg(long, required = true, value_name = "NAME")]
    pub lost: Vec<NodeName>,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub yes: bool,
}

/// `duty`
#[derive(Debug, Subcommand)]
pub enum DutyCommand {
    /// Show each duty with its holder, and why it waits
    List,
    /// Move a duty to a node, until the publisher moves
    Move(DutyToArgs),
    /// Keep a duty on a node whenever that node is in service
    Pin(DutyToArgs),
    /// Let a duty follow the publisher again
    Unpin {
        /// Name of the duty, as `twinbox duty list` shows it.
        duty: String,
    },
}

/// `duty move`, `duty pin`
#[derive(Debug, Args)]
pub struct DutyToArgs {
    /// Name of the duty, as `twinbox duty list` shows it.
    pub duty: String,
    /// The node.
    pub node: NodeName,
}
