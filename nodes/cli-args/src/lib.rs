//! Arguments of the command line `twinbox`: commands, options, help texts. `twinbox-cli` executes them.

mod alarms;
mod backup;
mod certificates;
mod cluster;
mod delivery;
mod directory;
mod mailbox_sync;
mod provisioning;
mod report;
mod sending;
mod setting;
mod steering;
mod storage;
mod timetable;
mod tools;
mod trunk;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser};
use twinbox_demo::DemoOptions;
use twinbox_ids::MessageId;

pub use alarms::{AlarmCommand, EventsArgs};
pub use backup::{BackupCommand, RestoreArgs};
pub use certificates::{CaCommand, OperatorCertArgs, RemoteArgs};
pub use cluster::{ClusterCommand, InitArgs, JoinArgs, MemberArg, NodeArg, Owner, StatusArgs, TokenArgs};
pub use delivery::{DeviceArg, DeviceCommand, MailCommand, MwiCommand, NotifyCommand, OutboxCommand};
pub use directory::{AdoptBy, CheckPasswordArgs, DirectoryCommand, DirectorySyncArgs};
pub use mailbox_sync::{AuthorizeArgs, MailServerCommand, MailboxSyncCommand, MailboxSyncRunArgs};
pub use provisioning::{AsteriskArgs, CosCommand, ImportCommand, Law, PromptCommand, UserImportArgs, UserSetArgs};
pub use report::ReportArgs;
pub use sending::{LocationCommand, SendArgs};
pub use setting::SettingCommand;
pub use steering::{
    AddArgs, DeactivateArgs, DutyCommand, FailbackArgs, FailbackWord, GoOnAloneArgs, ModeWord, RemoveArgs,
    ReplaceArgs, SetArgs, SteeringCommand,
};
pub use storage::{OverwriteArgs, ReplicationCommand, StoreCommand};
pub use timetable::TimetableCommand;
pub use tools::{CompletionArgs, DnsCommand, DoctorArgs, ManArgs};
pub use trunk::TrunkCommand;

/// The open voicemail system that does not go down.
#[derive(Debug, Parser)]
#[command(name = "twinbox", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 no node reachable, 4 done, but data is missing."
)]
pub struct Cli {
    /// The node's Unix socket for administrators [default: /run/twinbox/admin.sock, else /var/lib/twinbox/admin.sock].
    #[arg(
        long,
        global = true,
        env = "TWINBOX_SOCKET",
        default_value_os_t = default_socket(),
        hide_default_value = true,
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

/// The default of `admin_socket`. If no socket is there: that of a node whose folder is the one of the shipped systemd unit.
fn default_socket() -> PathBuf {
    let [usual, of_service] = ["/run/twinbox/admin.sock", "/var/lib/twinbox/admin.sock"].map(PathBuf::from);
    if !usual.exists() && of_service.exists() { of_service } else { usual }
}

/// The first word.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: answers calls, holds a copy of everything
    Node(NodeArgs),
    /// Run a witness: votes, holds no data
    Witness(RunArgs),
    /// Check that a node or witness on this machine works: exit code 0 or 1, for health checks
    Health(HealthArgs),
    /// Try Twinbox: two nodes and a witness on this machine, with a call that proves it works
    Demo(DemoArgs),
    /// Check configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Create, show and control the cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Duties: jobs that one node runs at a time
    #[command(subcommand)]
    Duty(DutyCommand),
    /// The services of a node and their state
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Copies of the data on the other nodes: how far they are, and whether they are equal
    #[command(subcommand)]
    Replication(ReplicationCommand),
    /// The data of a node: check and statistics
    #[command(subcommand)]
    Store(StoreCommand),
    /// Alarms, and the remedy of each
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Events of the cluster, as they happen
    Events(EventsArgs),
    /// Reports of calls: traffic, users, unanswered calls, failed sign-ins; and of fail-overs
    Report(ReportArgs),
    /// Mailboxes and their owners
    #[command(subcommand)]
    User(UserCommand),
    /// Messages of a mailbox
    #[command(subcommand)]
    Message(MessageCommand),
    /// Other voicemail systems, and the digits that lead to them
    #[command(subcommand)]
    Location(LocationCommand),
    /// Users from LDAP directories
    #[command(subcommand)]
    Directory(DirectoryCommand),
    /// Voicemail in users' mail accounts, and what they do there back here
    #[command(subcommand)]
    MailboxSync(MailboxSyncCommand),
    /// Notification devices of a mailbox: mail, pager, SMS, webhook
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Notifications on their way out, and those that were given up
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Mail out
    #[command(subcommand)]
    Mail(MailCommand),
    /// Texts of notifications
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Message-waiting indication
    #[command(subcommand)]
    Mwi(MwiCommand),
    /// Jobs that run at set times: ageing of messages, quota warnings, reports
    #[command(subcommand)]
    Timetable(TimetableCommand),
    /// Backups to a folder or a bucket: create, list, verify, restore, prune
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Classes of service: rules that many mailboxes share
    #[command(subcommand)]
    Cos(CosCommand),
    /// Settings that all nodes share: limits of messages, waits, receivers of alarms; see also 'cluster settings'
    #[command(subcommand)]
    Setting(SettingCommand),
    /// Trunks: who may call
    #[command(subcommand)]
    Trunk(TrunkCommand),
    /// Your own prompts instead of the standard ones, on every node
    #[command(subcommand)]
    Prompt(PromptCommand),
    /// Import users and messages from another system
    #[command(subcommand)]
    Import(ImportCommand),
    /// Make a test call
    Call(CallArgs),
    /// The name by which all nodes are found
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Check for common faults and show their remedies; exit code 1 if there are findings
    Doctor(DoctorArgs),
    /// Print completions for a shell
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
    /// The configuration file of the node or witness; without it, the node behind --socket is checked.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check instead whether the node takes calls.
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
    /// Delete the files of an earlier demo in DIR.
    #[arg(long)]
    pub fresh: bool,
    /// The first of the ports; the demo uses the 100 from there and 1,000 more for RTP.
    #[arg(long, default_value_t = 5060, value_name = "N", value_parser = clap::value_parser!(u16).range(1024..=64000))]
    pub base_port: u16,
}

impl From<DemoArgs> for DemoOptions {
    fn from(args: DemoArgs) -> Self {
        let DemoArgs { once, dir, fresh, base_port } = args;
        Self { once, dir, fresh, base_port }
    }
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

/// `service`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// State of the services of every node, since when, number of restarts and last failure
    List {
        /// Only this node's.
        #[arg(long, value_name = "NODE")]
        at: Option<String>,
    },
    /// Restart a service: calls, notifier, mta, directory-sync, mailbox-sync or timetable
    Restart {
        /// The service.
        service: String,
        /// On this node. Default: the node that is contacted.
        #[arg(long, value_name = "NODE")]
        at: Option<String>,
        /// Restart even if that ends calls in progress.
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
        /// The first PIN; generated and printed if none is given. The owner must change it at the first sign-in.
        #[arg(long, value_name = "DIGITS", value_parser = NonEmptyStringValueParser::new())]
        pin: Option<String>,
        /// The PIN stays: the owner need not change it.
        #[arg(long)]
        keep_pin: bool,
        /// The owner's time zone, such as Europe/Berlin.
        #[arg(long, default_value = "", value_name = "ZONE")]
        timezone: String,
        /// Number to which 0 leads during the greeting; - for none.
        #[arg(long, default_value = "", value_name = "NUMBER", allow_hyphen_values = true)]
        operator: String,
        /// The owner's mail address; as a sender from a trusted network it counts as this user.
        #[arg(long, default_value = "", value_name = "ADDRESS")]
        mail: String,
        /// Another name for mail to the mailbox: a local part or a whole address; may be repeated.
        #[arg(long = "alias", value_name = "ALIAS")]
        aliases: Vec<String>,
    },
    /// All users
    List,
    /// One user
    Show {
        /// The mailbox number, or its id.
        number: String,
    },
    /// Give a user a new PIN
    SetPin {
        /// The mailbox number, or its id.
        number: String,
        /// The new PIN; generated and printed if none is given.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        pin: Option<String>,
        /// The PIN stays: the owner need not change it.
        #[arg(long)]
        keep_pin: bool,
    },
    /// Change a user
    Set(UserSetArgs),
    /// Add and change the users of a CSV table, all or none
    Import(UserImportArgs),
    /// Write all users as a CSV table, for 'user import'; without PINs
    Export {
        /// Output file; '-' for standard output.
        #[arg(long, short, default_value = "-", value_name = "FILE")]
        output: PathBuf,
    },
    /// Check a password of the user's directory, as a sign-in does; read from standard input
    CheckPassword(CheckPasswordArgs),
    /// Give a user another number; messages, settings and PIN stay
    Renumber {
        /// The present number, or the id of the mailbox: 'user list --json' shows it.
        number: String,
        /// The new number, digits only.
        to: String,
    },
    /// Remove a user and the mailbox
    Remove {
        /// The mailbox number, or its id.
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
    /// Send a sound file as a message to mailboxes here and at locations, to all or none
    Send(SendArgs),
    /// Delete a message
    Delete {
        /// The mailbox number.
        number: String,
        /// The message's id, from 'message list'.
        id: MessageId,
    },
    /// Bring a deleted message back, while 'message list' shows it
    Undelete {
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
    /// Play this WAV file (8 kHz mono) once the other side is silent.
    #[arg(long, value_name = "FILE")]
    pub play: Option<PathBuf>,
    /// Send these touch tones after the call is answered; ',' waits a second.
    #[arg(long, value_name = "DIGITS")]
    pub digits: Option<String>,
    /// Write the received audio to this WAV file.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Hang up after this number of seconds [default: 10; with --play once the file was played, at most 60].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// The number that calls.
    #[arg(long, default_value = "twinbox-phone", value_name = "NUMBER")]
    pub from: String,
    /// The address that calls; must be one of a trunk of the node.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub bind: IpAddr,
    /// Use TCP for SIP.
    #[arg(long)]
    pub tcp: bool,
    /// The number that was called first, as a redirecting PBX reports it (Diversion).
    #[arg(long, value_name = "NUMBER")]
    pub diversion: Option<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 86_400.0 => Ok(Duration::from_secs_f64(s)),
        _ => Err("write a number of seconds from 0.1 to 86400".to_owned()),
    }
}

/// `HOST:PORT` of a new member.
fn member_address(text: &str) -> Result<String, twinbox_ids::MemberAddressError> {
    twinbox_ids::check_member_address(text).map(|()| text.to_owned())
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
