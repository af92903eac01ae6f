//! Arguments of the command line.

mod alarms;
mod certificates;
mod provisioning;
mod steering;
mod tools;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use twinbox_ids::{MessageId, NodeName};

pub use alarms::{AlarmCommand, EventsArgs};
pub use certificates::{CaCommand, OperatorCertArgs, RemoteArgs};
pub use provisioning::{AsteriskArgs, CosCommand, ImportCommand, Law, PromptCommand, UserImportArgs, UserSetArgs};

pub use steering::{
    AddArgs, DeactivateArgs, DutyCommand, FailbackArgs, FailbackWord, GoOnAloneArgs, ModeWord, RemoveArgs,
    ReplaceArgs, SetArgs, SteeringCommand,
};
pub use tools::{CompletionArgs, DnsCommand, DoctorArgs, ManArgs};

/// The open voicemail system that does not go down.
#[derive(Debug, Parser)]
#[command(name = "twinbox", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 no node reachable.")]
pub struct Cli {
    /// The node's Unix socket for administrators.
    #[arg(
        long,
        global = true,
        env = "TWINBOX_SOCKET",
        default_value = "/run/twinbox/admin.sock",
        value_name = "PATH"
    )]
    pub socket: PathBuf,
    /// Print JSON for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// A node on another machine.
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The first word.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: answers calls, holds a copy of everything
    Node(NodeArgs),
    /// Run a witness: votes, holds no data
    Witness(RunArgs),
    /// Ask whether a node or witness on this machine lives: exit code 0 or 1, for health checks
    Health(HealthArgs),
    /// Try Twinbox: two nodes and a witness on this machine, with a call that proves it works
    Demo(DemoArgs),
    /// Look at configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Form, see and steer the cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The jobs that one node runs for all
    #[command(subcommand)]
    Duty(DutyCommand),
    /// The services of a node and their state
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Alarms, and the remedy of each
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Events of the cluster, as they happen
    Events(EventsArgs),
    /// Mailboxes and their owners
    #[command(subcommand)]
    User(UserCommand),
    /// Messages of a mailbox
    #[command(subcommand)]
    Message(MessageCommand),
    /// Classes of service: rules that many mailboxes share
    #[command(subcommand)]
    Cos(CosCommand),
    /// Your own prompts in the place of the set's, on every node
    #[command(subcommand)]
    Prompt(PromptCommand),
    /// Bring users and messages from another system
    #[command(subcommand)]
    Import(ImportCommand),
    /// Make a test call
    Call(CallArgs),
    /// The name by which all nodes are found
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Look for what is commonly wrong; each finding comes with its remedy, and with exit code 1
    Doctor(DoctorArgs),
    /// Print what makes a shell complete this command line
    Completion(CompletionArgs),
    /// Write manual pages
    Man(ManArgs),
}

/// `node`
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Be the node's own process; without it, be the supervisor that starts it.
    #[arg(long, hide = true)]
    pub child: bool,
}

/// `witness`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `health`
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The configuration file of the node or witness; without it, the node behind --socket is asked.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask instead whether the node takes calls.
    #[arg(long)]
    pub ready: bool,
    /// Time limit for the answer.
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
}

/// `demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Stop after the self-check: 0 if it passed, 1 with the failed step named.
    #[arg(long)]
    pub once: bool,
    /// Folder for the demo's files.
    #[arg(long, default_value = "./twinbox-demo", value_name = "DIR")]
    pub dir: PathBuf,
    /// Throw away what an earlier demo left in DIR.
    #[arg(long)]
    pub fresh: bool,
    /// The first of the ports; the demo uses the 100 from there and 1,000 more for RTP.
    #[arg(long, default_value_t = 5060, value_name = "N", value_parser = clap::value_parser!(u16).range(1024..=64000))]
    pub base_port: u16,
}

/// `config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Report all mistakes of a file; starts nothing
    Check {
        /// A node's or a witness's configuration file.
        file: PathBuf,
    },
}

/// `cluster`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make a new cluster's certificates and configuration files
    Init(InitArgs),
    /// Make a token that lets one newcomer join, once
    Token(TokenArgs),
    /// Make this machine a member, with a token from 'cluster token'
    Join(JoinArgs),
    /// Put a member's folder where it is to live, out of files under flat names, unless it is there: for
    /// Kubernetes
    Place(PlaceArgs),
    /// See and replace the cluster's certificate authority
    #[command(subcommand)]
    Ca(CaCommand),
    /// Make a certificate with which an operator steers the cluster from another machine
    OperatorCert(OperatorCertArgs),
    /// Let an operator in no longer
    OperatorRevoke {
        /// The operator's name, from 'cluster ca status'.
        name: NodeName,
    },
    /// Show every node: role, status, duties, calls, lag
    Status(StatusArgs),
    #[command(flatten)]
    Steer(SteeringCommand),
    /// Put a node back in service
    Activate(NodeArg),
    /// Take a node out of service: duties go elsewhere, calls in progress end by themselves or after --within
    Deactivate(DeactivateArgs),
}

/// `cluster init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Output folder; it gets one folder a member, to be copied to its machine.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The cluster's name, for people.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// A node and where the others reach it (give it for each node).
    #[arg(long = "node", required = true, value_name = "NAME=HOST:PORT")]
    pub nodes: Vec<MemberArg>,
    /// A witness and where the others reach it.
    #[arg(long = "witness", value_name = "NAME=HOST:PORT")]
    pub witnesses: Vec<MemberArg>,
    /// The address that a node puts into SIP and SDP, where callers reach it at another than it sends from (give it
    /// for each node).
    #[arg(long, value_name = "NAME=IP")]
    pub sip_advertise: Vec<AdvertiseArg>,
    /// An address or network of the PBX: it may call every node.
    #[arg(long, value_name = "NETWORK")]
    pub pbx: Vec<twinbox_app::Network>,
    /// If DIR has a cluster already, change nothing and succeed, but make again those members whose folders are
    /// empty, as lost volumes are: for start scripts and init containers.
    #[arg(long)]
    pub if_absent: bool,
    /// Give what is made to this user and group, by number.
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,
}

/// `cluster token`
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The newcomer is to be a witness.
    #[arg(long)]
    pub witness: bool,
    /// Validity of the token: 90s, 30m, 1h, 7d.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = lifetime)]
    pub valid: Duration,
}

/// `cluster join`
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// From 'twinbox cluster token' on a node; '-' reads it from standard input, where no other user sees it.
    pub token: String,
    /// Output folder: the member's folder will be DIR/NAME.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The new member's name.
    #[arg(long, value_name = "NAME")]
    pub name: NodeName,
    /// Address at which the other members reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
    /// Become a witness: vote, hold no data.
    #[arg(long)]
    pub witness: bool,
    /// The address that the node puts into SIP and SDP, where callers reach it at another than it sends from.
    #[arg(long, value_name = "IP", conflicts_with = "witness")]
    pub sip_advertise: Option<IpAddr>,
    /// An address or network of the PBX: it may call the node.
    #[arg(long, value_name = "NETWORK", conflicts_with = "witness")]
    pub pbx: Vec<twinbox_app::Network>,
}

/// `NAME=IP`
#[derive(Debug, Clone)]
pub struct AdvertiseArg {
    /// The node's name.
    pub name: NodeName,
    /// Address that it advertises.
    pub ip: IpAddr,
}

impl std::str::FromStr for AdvertiseArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, ip) = text.split_once('=').ok_or("write NAME=IP, such as a=192.0.2.1")?;
        let name = name.parse().map_err(|e: twinbox_ids::ParseIdError| e.to_string())?;
        let ip = ip.parse().map_err(|_| format!("'{ip}' is no address"))?;
        Ok(Self { name, ip })
    }
}

/// `UID:GID`
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The user's number.
    pub user: u32,
    /// The group's number.
    pub group: u32,
}

impl std::str::FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
        let (user, group) = numbers.ok_or_else(|| format!("'{text}' is no UID:GID: write two numbers"))?;
        Ok(Self { user, group })
    }
}

/// `NAME=HOST:PORT`
#[derive(Debug, Clone)]
pub struct MemberArg {
    /// The member's name.
    pub name: NodeName,
    /// Its peer address.
    pub address: String,
}

impl std::str::FromStr for MemberArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("write NAME=HOST:PORT, such as a=10.0.0.1:7070")?;
        let name = name.parse().map_err(|e: twinbox_ids::ParseIdError| e.to_string())?;
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self { name, address: address.to_owned() })
            }
            _ => Err(format!("'{address}' is no HOST:PORT")),
        }
    }
}

/// `cluster place`
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The folder with the files: MEMBER__FOLDER__FILE, as a Secret's keys.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Name of the member.
    #[arg(long, value_name = "NAME")]
    pub member: NodeName,
    /// Folder of the member.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// `cluster status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Keep showing it, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Wait until every member has this status.
    #[arg(long, value_name = "STATUS", value_parser = ["in-service"])]
    pub wait: Option<String>,
    /// Maximum wait.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
}

/// A node by name.
#[derive(Debug, Args)]
pub struct NodeArg {
    /// The node's name.
    pub node: NodeName,
}

/// `service`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// State of the services of every node, since when, number of restarts and last failure
    List {
        /// Only this node's.
        #[arg(long, value_name = "NODE")]
        at: Option<String>,
    },
    /// Restart a service: calls or notifier; what else there is says why it cannot be
    Restart {
        /// The service.
        service: String,
        /// On this node; without it, on the one that is asked.
        #[arg(long, value_name = "NODE")]
        at: Option<String>,
        /// Though calls in progress end by it.
        #[arg(long)]
        force: bool,
    },
}

/// `user`
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user with a mailbox
    Add {
        /// The number that callers dial, digits only.
        number: String,
        /// The owner's name.
        #[arg(long, default_value = "")]
        name: String,
        /// The first PIN; made and printed where none is given. The owner must change it at the first sign-in.
        #[arg(long, value_name = "DIGITS")]
        pin: Option<String>,
        /// The PIN stays: the owner need not change it.
        #[arg(long)]
        keep_pin: bool,
        /// The owner's time zone, such as Europe/Berlin.
        #[arg(long, default_value = "", value_name = "ZONE")]
        timezone: String,
        /// Number to which 0 leads during the greeting.
        #[arg(long, default_value = "", value_name = "NUMBER")]
        operator: String,
    },
    /// All users
    List,
    /// One user
    Show {
        /// The mailbox number.
        number: String,
    },
    /// Give a user a new PIN
    SetPin {
        /// The mailbox number.
        number: String,
        /// The new PIN; made and printed where none is given.
        pin: Option<String>,
        /// The PIN stays: the owner need not change it.
        #[arg(long)]
        keep_pin: bool,
    },
    /// Change a user
    Set(UserSetArgs),
    /// Add and change the users of a CSV table, all or none
    Import(UserImportArgs),
    /// Write all users as a CSV table, which 'user import' takes; PINs are not in it
    Export {
        /// Output file; '-' for standard output.
        #[arg(long, short, default_value = "-", value_name = "FILE")]
        output: PathBuf,
    },
    /// Remove a user and the mailbox
    Remove {
        /// The mailbox number.
        number: String,
    },
}

/// `message`
#[derive(Debug, Subcommand)]
pub enum MessageCommand {
    /// The messages of a mailbox
    List {
        /// The mailbox number.
        number: String,
    },
    /// Write a message to a WAV file
    Export {
        /// The mailbox number.
        number: String,
        /// The message's id, from 'message list'.
        id: MessageId,
        /// Output file; '-' for standard output.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Delete a message
    Delete {
        /// The mailbox number.
        number: String,
        /// The message's id, from 'message list'.
        id: MessageId,
    },
}

/// `call`
#[derive(Debug, Args)]
pub struct CallArgs {
    /// Address to call, such as sip:1001@127.0.0.1:5060; a name without a port is looked up (SRV, then A and AAAA), and
    /// its addresses are tried one after the other
    pub uri: String,
    /// Speak this WAV file (8 kHz mono) once the other side is silent.
    #[arg(long, value_name = "FILE")]
    pub play: Option<PathBuf>,
    /// Send these touch tones after the call is answered; ',' waits a second.
    #[arg(long, value_name = "DIGITS")]
    pub digits: Option<String>,
    /// Write what is heard to this WAV file.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Hang up after so many seconds.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Duration,
    /// The number that calls.
    #[arg(long, default_value = "twinbox-phone", value_name = "NUMBER")]
    pub from: String,
    /// The address that calls; must be one of a trunk of the node.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub bind: IpAddr,
    /// Use TCP for SIP.
    #[arg(long)]
    pub tcp: bool,
    /// The number that was called first, as a redirecting PBX says it (Diversion).
    #[arg(long, value_name = "NUMBER")]
    pub diversion: Option<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 86_400.0 => Ok(Duration::from_secs_f64(s)),
        _ => Err("write a number of seconds from 0.1 to 86400".to_owned()),
    }
}

/// `90s`, `30m`, `1h`, `7d`.
fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time such as 90s, 30m, 1h or 7d".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}
