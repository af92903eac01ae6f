//! `twinbox-bench`: the figures of docs/figures.md, measured against the real program.
//!
//! `cargo build --release -p twinbox && cargo run --release -p twinbox-bench -- all --json figures.json`
//!
//! Every subcommand prints a table and adds it to the JSON. The load generator is the [`Driver`] of `tests/crowd`, which shares no code with
//! the product; if one in a hundred of its steps was more than 5 ms late, `generator-bound` replaces the figure. The node under test is
//! pinned to core 0, everything else (generator, the other node, witness) to core 1, which may be the limit on a machine of two cores.
//!
//! Mail is measured with a client ([`smtp_client`]) and a receiver ([`smtp_receiver`]) in this process, without TLS:
//! a real mail server would be the limit.
//!
//! [`Driver`]: twinbox_crowd::Driver

mod ack_delay;
mod asterisk;
mod bandwidth;
mod bare;
mod callers;
mod cleaning;
mod commits;
mod day;
mod devices;
mod directory;
mod engine;
mod failover;
mod folder;
mod idle;
mod kept;
mod lights;
mod load;
mod mail_in;
mod mail_out;
mod mailbox_sync;
mod memory;
mod notify;
mod overload;
mod population;
mod readable;
mod recorders;
mod segments;
mod setup;
mod size;
mod smtp_client;
mod smtp_receiver;
mod storage;
mod timetable;
mod together;
mod user_list;
mod writer;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use population::Population;
use report::Report;
use twinbox_bench_kit::{machine, report, threads};
// The allocator of the product: some figures are of its parts in this process.
use twinbox_runtime as _;

/// Measures Twinbox.
#[derive(Debug, Parser)]
#[command(name = "twinbox-bench", version)]
struct Arguments {
    /// Write the figures to this file as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Duration of each measurement in seconds.
    #[arg(long, global = true, default_value_t = 20, value_name = "N")]
    seconds: u64,
    /// The figure to measure.
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Debug, Subcommand)]
enum Figure {
    /// Concurrent recordings on the media engine alone, on one core, compared with a bare receiving loop
    Engine {
        /// Recordings at once, step by step; ends with the first step in which a packet was handled 20 ms late.
        #[arg(long, value_delimiter = ',', default_value = "500,1000,2000,3000,4000,6000")]
        calls: Vec<usize>,
    },
    /// Durable commits of the store alone, by callers at once, and what a reader waits for meanwhile
    Commits {
        /// Callers at once, step by step.
        #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
        callers: Vec<usize>,
    },
    /// The storage path alone: recordings in this process, each deposit durable; fails if a message is lost
    Storage {
        /// Recordings at once.
        #[arg(long, default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
        recordings: u32,
        /// Deposits a second: with 600 of 6,000 recordings each lasts 10 s.
        #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// All threads but the generator's share core 0.
        #[arg(long)]
        pin_core: bool,
    },
    /// Callers who leave messages on a node of a pair: processor, memory, syncs, lateness, INVITE to 200, BYE to 200;
    /// fails if an acknowledged message is lost
    Load {
        /// Calls recording at once, step by step; ends with the first step that is not clean.
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "0,100,200,300,400,600,800,1000,1200,1400,1600,1800,2000"
        )]
        calls: Vec<usize>,
        /// Length of each message: with 10 s, 600 calls recording are 60 that begin and 60 that end in a second.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
        message_seconds: u64,
        /// Then callers who hang up at one moment, step by step: this many at once, such as 1,16,256.
        #[arg(long, value_delimiter = ',', value_parser = at_once)]
        callers_at_once: Vec<usize>,
        /// Then half of the highest clean load, with the processor time of node a by thread.
        #[arg(long)]
        threads: bool,
    },
    /// Asterisk's voicemail with the callers of `load`, for comparison
    Asterisk {
        /// The system in which it is installed, such as one that debootstrap made.
        #[arg(long, default_value = "/")]
        root: PathBuf,
        /// Calls recording at once, step by step, until one is not clean.
        #[arg(long, value_delimiter = ',', default_value = "300,600,1000,1600,2400")]
        calls: Vec<usize>,
        /// Length of each message.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
        message_seconds: u64,
    },
    /// Traffic between the nodes of a pair for each call being recorded; fails if an acknowledged message is lost
    Bandwidth {
        /// Calls recording at once.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        calls: u32,
        /// Length of each message.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
        message_seconds: u64,
    },
    /// Acknowledgement on two, by round trip between the nodes; fails if an acknowledged message is lost
    AckDelay {
        /// Round trips in milliseconds, step by step.
        #[arg(long, value_delimiter = ',', default_value = "0,1,60,150")]
        rtt: Vec<u64>,
        /// Number of messages at each.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
    /// A cluster with many messages: start after kill -9, memory, sign-in, lists, space, fill, comparison, repair;
    /// fails if a message is lost or the stores differ
    Size {
        #[command(flatten)]
        bulk: Bulk,
        /// Rows of messages that a node loses, to be repaired, step by step.
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "1,100,10000",
            value_parser = clap::value_parser!(u32).range(1..=50_000)
        )]
        differences: Vec<u32>,
        /// Limit of the network in its copy of the files and in the fill, in Mbit/s; 0: none, as quick as this machine's memory.
        #[arg(long, default_value_t = 0)]
        network_mbit: u32,
    },
    /// Days of messages that are left, heard and deleted: fails if the data folders grow, or records stay
    Day {
        /// Number of mailboxes.
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        mailboxes: u32,
        /// Messages of each mailbox in a day.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        messages: u32,
        /// Audio of each message, in bytes: 8,000 are a second.
        #[arg(long, default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(8..=10_000_000))]
        audio: u32,
        /// Number of days; each from the second on is judged by the end of the first.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=100))]
        days: u32,
    },
    /// Writes a bulk into a closed store of a node a, and waits to be killed: for `size`
    #[command(hide = true)]
    WriteStore {
        /// The folder of the store.
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        bulk: Bulk,
    },
    /// A node at twice its capacity: what it admits, whether it keeps its promises; fails if it misses a goal
    Overload {
        /// Calls recording at once, step by step, until a tenth of the callers is refused: the most that is admitted and
        /// acknowledged is the capacity.
        #[arg(long, value_delimiter = ',', default_value = "200,300,500,800,1200,1400,1600,1800,2000")]
        calls: Vec<usize>,
    },
    /// Hang-up to readable on the other node
    Readable {
        /// Number of messages.
        #[arg(long, default_value_t = 50)]
        messages: usize,
    },
    /// Publisher killed, host lost, role moved: time to the first act of the other node, compared with the formula
    Failover {
        /// Rounds of each kind.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Resident memory of both nodes over many short calls; fails if it is not flat
    Memory {
        /// Number of calls.
        #[arg(long, default_value_t = 100_000)]
        calls: usize,
        /// Calls a second.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
        /// The callers hang up before they leave a message.
        #[arg(long)]
        no_messages: bool,
        /// Messages that are there before the first call, so that caches are full.
        #[arg(long, default_value_t = 150_000)]
        before: usize,
    },
    /// `user list` with many messages: warm, and right after a start
    UserList {
        /// Number of users.
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        users: u32,
        /// Number of messages of each user.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1_000))]
        messages: u32,
    },
    /// A cluster at rest: traffic between its members, processor time
    Idle,
    /// Change of a mailbox (message left, message saved) to the NOTIFY at the PBX, from either node
    Notify {
        /// Number of changes of each kind on each node.
        #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
    /// Mails with 10 s of sound that a node takes in a second, and the time of its 250 on two
    MailIn {
        /// Number of mails in each step.
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Concurrent connections, step by step.
        #[arg(long, value_delimiter = ',', default_value = "1,4,16", value_parser = connections)]
        connections: Vec<usize>,
    },
    /// Mails that leave in a second, with and without sound, and the end of an outage of the smarthost
    MailOut {
        /// Number of mails in each step.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Minimum length of the outage.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        outage: u64,
    },
    /// Mailboxes at rest whose devices have schedules and delays: processor time beside the same without devices
    Devices {
        /// Number of mailboxes.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
    },
    /// MWI of all mailboxes resent to a PBX: time, longest queue at the PBX, processor time; the same after the publisher was
    /// killed, and the MWI of a message that is left meanwhile: fails if that waits for all others
    Lights {
        /// Number of mailboxes.
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
        /// Number of resyncs; the take-over comes after them.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Time that the PBX needs for each NOTIFY.
        #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
        service: u64,
    },
    /// Users from an LDAP directory (slapd): full search, dry run without a difference, changes until seen, memory
    Directory {
        /// Number of people in the directory.
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
        users: u32,
    },
    /// Mailboxes in mail accounts (Dovecot): connections, processor, memory at rest; a new message until it is there
    MailboxSync {
        /// Number of mailboxes with an account.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        accounts: u32,
    },
    /// Nodes at rest with hourly jobs, none of them due: processor time beside the same without jobs
    Timetable {
        /// Number of jobs.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
        jobs: u32,
    },
    /// All of them with their defaults, but `asterisk`, and `memory`, `size` and `day`, which take long
    All,
}

/// Mailboxes and messages in bulk.
#[derive(Debug, Args)]
struct Bulk {
    /// Number of mailboxes.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    mailboxes: u32,
    /// Number of all messages.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    messages: u32,
    /// Audio of each message, in bytes: 8,000 are a second.
    #[arg(long, default_value_t = 1_600, value_parser = clap::value_parser!(u32).range(8..=10_000_000))]
    audio: u32,
    /// Import the messages, with a thousand different pieces of audio, instead of recording each with its own:
    /// quicker, and a message has fewer records.
    #[arg(long)]
    imported: bool,
}

impl Bulk {
    fn population(&self) -> Population {
        Population {
            mailboxes: self.mailboxes as usize,
            messages: self.messages as usize,
            audio: self.audio as usize,
            imported: self.imported,
            deleted: false,
        }
    }
}

/// A number of callers at once: a node's admission limit lets this many come within seconds.
fn at_once(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=2_000) => Ok(count),
        _ => Err("give numbers from 1 to 2000".to_owned()),
    }
}

/// A number of connections: a node takes 200 from one address.
fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=200) => Ok(count),
        _ => Err("give numbers from 1 to 200".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Figure::WriteStore { dir, bulk } = &arguments.figure {
        writer::write(dir, bulk.population());
    }
    let seconds = arguments.seconds.max(1);
    let mut report = Report::begin();
    let mut judged = Ok(());
    match arguments.figure {
        Figure::Engine { calls } => engine::run(&mut report, &calls, seconds),
        Figure::Commits { callers } => commits::run(&mut report, &callers, seconds),
        Figure::Storage { recordings, rate, pin_core } => {
            let (recordings, rate) = (recordings as usize, rate as usize);
            judged = storage::run(&mut report, storage::Load { recordings, rate, seconds, pin_core });
        }
        Figure::Load { calls, message_seconds, callers_at_once, threads } => {
            let further = load::Further { at_once: callers_at_once, threads };
            judged = load::run(&mut report, &calls, seconds, Duration::from_secs(message_seconds), &further);
        }
        Figure::Asterisk { root, calls, message_seconds } => {
            judged = asterisk::run(&mut report, &root, &calls, seconds, Duration::from_secs(message_seconds));
        }
        Figure::Bandwidth { calls, message_seconds } => {
            judged = bandwidth::run(&mut report, calls as usize, Duration::from_secs(message_seconds), seconds);
        }
        Figure::AckDelay { rtt, count } => judged = ack_delay::run(&mut report, &rtt, count as usize),
        Figure::Size { bulk, differences, network_mbit } => {
            judged = size::run(&mut report, bulk.population(), &differences, network_mbit);
        }
        Figure::Day { mailboxes, messages, audio, days } => {
            let [mailboxes, messages, audio, days] = [mailboxes, messages, audio, days].map(|n| n as usize);
            judged = day::run(&mut report, mailboxes, messages, audio, days);
        }
        // Above, without a report.
        Figure::WriteStore { .. } => {}
        Figure::Overload { calls } => judged = overload::run(&mut report, &calls, seconds),
        Figure::Readable { messages } => readable::run(&mut report, messages),
        Figure::Failover { rounds } => failover::run(&mut report, rounds),
        Figure::Memory { calls, rate, no_messages, before } => {
            judged = memory::run(&mut report, calls, rate, !no_messages, before);
        }
        Figure::UserList { users, messages } => user_list::run(&mut report, users, messages),
        Figure::Idle => idle::run(&mut report, seconds),
        Figure::Notify { count } => notify::run(&mut report, count as usize),
        Figure::MailIn { count, connections } => mail_in::run(&mut report, count as usize, &connections),
        Figure::MailOut { count, outage } => {
            mail_out::run(&mut report, count as usize, Duration::from_secs(outage));
        }
        Figure::Devices { count } => devices::run(&mut report, count as usize, seconds),
        Figure::Lights { count, rounds, service } => {
            judged = lights::run(&mut report, rounds, count as usize, Duration::from_millis(service));
        }
        Figure::Directory { users } => directory::run(&mut report, users as usize),
        Figure::MailboxSync { accounts } => mailbox_sync::run(&mut report, accounts as usize),
        Figure::Timetable { jobs } => timetable::run(&mut report, jobs as usize, seconds),
        Figure::All => {
            engine::run(&mut report, &[500, 1000, 2000, 3000, 4000, 6000], seconds);
            commits::run(&mut report, &[1, 16, 256], seconds);
            let storage =
                storage::run(&mut report, storage::Load { recordings: 6_000, rate: 600, seconds, pin_core: true });
            let bandwidth = bandwidth::run(&mut report, 100, Duration::from_secs(10), seconds);
            let delays = ack_delay::run(&mut report, &[0, 1, 60, 150], 60);
            let overload =
                overload::run(&mut report, &[0, 200, 300, 500, 800, 1200, 1400, 1600, 1800, 2000], seconds);
            judged = [storage, bandwidth, delays, overload].into_iter().collect();
            user_list::run(&mut report, 5_000, 10);
            readable::run(&mut report, 50);
            failover::run(&mut report, 20);
            idle::run(&mut report, seconds);
            notify::run(&mut report, 40);
            mail_in::run(&mut report, 300, &[1, 4, 16]);
            mail_out::run(&mut report, 1_000, Duration::from_secs(60));
            devices::run(&mut report, 1_000, seconds);
            judged = judged.and(lights::run(&mut report, 3, 20_000, Duration::ZERO));
            directory::run(&mut report, 20_000);
            mailbox_sync::run(&mut report, 1_000);
            timetable::run(&mut report, 100, seconds);
        }
    }
    let written = arguments.json.map(|path| report.save(&path).map_err(|e| format!("{}: {e}", path.display())));
    let unwritten = written.and_then(Result::err).map(|error| format!("the figures cannot be written: {error}"));
    let errors: Vec<String> = judged.err().into_iter().chain(unwritten).collect();
    errors.iter().for_each(|error| eprintln!("twinbox-bench: {error}"));
    if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
