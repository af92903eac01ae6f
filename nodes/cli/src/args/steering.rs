//! Arguments of commands that steer the cluster: settings, moves of roles and duties, joining and leaving members.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use twinbox_ids::NodeName;

use super::{lifetime, seconds};

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
    /// Choose whether the role goes back to the preferred node; without a word, give it back now
    Failback(FailbackArgs),
    /// Print the durations in force, and every bound with its formula
    Timing,
    /// Show the last moves of the role and of duties, with cause and length
    Moves,
    /// Ask what became of an order whose outcome was unknown; one that was not carried out never will be
    Outcome {
        /// The id that was printed.
        id: String,
    },
    /// Make a token for a new member of this name, and print what to do with it
    Add(AddArgs),
    /// Make a token for a new member that takes the place of one that is gone for good
    Replace(ReplaceArgs),
    /// Remove a node or the witness from the cluster
    Remove(RemoveArgs),
    /// Let the node that is asked go on alone, when so many members are gone for good that there will be no majority again
    GoOnAlone(GoOnAloneArgs),
}

/// `cluster make-publisher`
#[derive(Debug, Args)]
pub struct MakePublisherArgs {
    /// The node's name.
    pub node: NodeName,
    /// Also if it lacks much of what others have; nothing that was acknowledged is lost by that.
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
    /// Whether it goes back: never, when told to, or in a window of each day.
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
    /// By itself, in a window of each day.
    Scheduled,
}

/// `cluster add`
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The newcomer's name.
    pub name: NodeName,
    /// Address at which the other members will reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// It is to be a witness.
    #[arg(long)]
    pub witness: bool,
    /// Validity of the token: 90s, 30m, 1h, 7d.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = lifetime)]
    pub valid: Duration,
}

/// `cluster replace`
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The member that is gone for good.
    pub old: NodeName,
    /// The name of the new one, if another.
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
    /// It is gone for good: nothing is handed over, and what it alone had is lost.
    #[arg(long)]
    pub lost: bool,
    /// End calls that are left after so long: 90s, 10m, 1h. Without it they end by themselves, however long that takes.
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
    /// End calls that are left after so long: 90s, 10m, 1h. Without it they end by themselves, however long that takes.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub within: Option<Duration>,
}

/// `cluster go-on-alone`
#[derive(Debug, Args)]
pub struct GoOnAloneArgs {
    /// A member that is gone for good; once for every other member.
    #[arg(long, required = true, value_name = "NAME")]
    pub lost: Vec<NodeName>,
    /// Do not ask whether it is meant.
    #[arg(long)]
    pub yes: bool,
}

/// `duty`
#[derive(Debug, Subcommand)]
pub enum DutyCommand {
    /// Show each duty, who has it and why it waits, if it does
    List,
    /// Move a duty to a node, until the publisher is made anew
    Move(DutyToArgs),
    /// Keep a duty on a node whenever that serves
    Pin(DutyToArgs),
    /// Let a duty follow the publisher again
    Unpin {
        /// The duty.
        duty: String,
    },
}

/// `duty move`, `duty pin`
#[derive(Debug, Args)]
pub struct DutyToArgs {
    /// The duty.
    pub duty: String,
    /// The node.
    pub node: NodeName,
}
