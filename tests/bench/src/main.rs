//! `twinbox-bench`: the figures of docs/figures.md, measured against the real program.
//!
//! `cargo build --release -p twinbox && cargo run --release -p twinbox-bench -- all --json figures.json`
//!
//! Every subcommand prints a table and adds it to the JSON. The load generator is the test kit's [`Driver`], which
//! shares no code with the product; if it ran more than 5 ms late itself, `generator-bound` replaces the figure. The
//! node under test is pinned to core 0, everything else (generator, the other node, witness) to core 1: on a machine of
//! two cores the generator limits the figures.
//!
//! Mail is measured with a client ([`smtp_client`]) and a receiver ([`smtp_receiver`]) in this process, without TLS: a
//! real mail server would be the limit.
//!
//! [`Driver`]: twinbox_testkit::Driver

mod bare;
mod callers;
mod commits;
mod devices;
mod directory;
mod engine;
mod failover;
mod idle;
mod lights;
mod load;
mod machine;
mod mail_in;
mod mail_out;
mod mailbox_sync;
mod memory;
mod notify;
mod overload;
mod readable;
mod report;
mod setup;
mod sipp;
mod smtp_client;
mod smtp_receiver;
mod timetable;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use report::Report;

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
    /// Callers who leave messages on a node of a pair: processor, memory, lateness, INVITE to 200, BYE to 200
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
    },
    /// A node at twice the load that it carries: what it admits, whether it keeps its promises
    Overload {
        /// Calls recording at once, step by step: the last that is clean is what the node carries.
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
    /// Resident memory of both nodes over many short calls: flat or not
    Memory {
        /// Number of calls.
        #[arg(long, default_value_t = 100_000)]
        calls: usize,
        /// Calls a second.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
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
    /// MWI of all mailboxes resent to a PBX: time, longest queue at the PBX, processor time
    Lights {
        /// Number of mailboxes.
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
        /// Number of resyncs.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Time that the PBX needs for each NOTIFY.
        #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
        service: u64,
    },
    /// Users from an LDAP directory (slapd): full search, dry run without a difference, changes until seen, memory
    Directory {
        /// Number of people in the directory.
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(10..=50_000))]
        users: u32,
    },
    /// Mailboxes in mail accounts (Dovecot): connections, processor, memory at rest; a new message until it is there
    MailboxSync {
        /// Number of mailboxes with an account.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        accounts: u32,
    },
    /// Nodes at rest with hourly jobs, none of them due: processor time beside the same without jobs
    Timetable {
        /// Number of jobs.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
        jobs: u32,
    },
    /// All of them with their defaults, but `memory`, which takes half an hour
    All,
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
    let seconds = arguments.seconds.max(1);
    let mut report = Report::new();
    match arguments.figure {
        Figure::Engine { calls } => engine::run(&mut report, &calls, seconds),
        Figure::Commits { callers } => commits::run(&mut report, &callers, seconds),
        Figure::Load { calls, message_seconds } => {
            load::run(&mut report, &calls, seconds, Duration::from_secs(message_seconds));
        }
        Figure::Overload { calls } => overload::run(&mut report, &calls, seconds),
        Figure::Readable { messages } => readable::run(&mut report, messages),
        Figure::Failover { rounds } => failover::run(&mut report, rounds),
        Figure::Memory { calls, rate } => memory::run(&mut report, calls, rate),
        Figure::Idle => idle::run(&mut report, seconds),
        Figure::Notify { count } => notify::run(&mut report, count as usize),
        Figure::MailIn { count, connections } => mail_in::run(&mut report, count as usize, &connections),
        Figure::MailOut { count, outage } => {
            mail_out::run(&mut report, count as usize, Duration::from_secs(outage));
        }
        Figure::Devices { count } => devices::run(&mut report, count as usize, seconds),
        Figure::Lights { count, rounds, service } => {
            lights::run(&mut report, rounds, count as usize, Duration::from_millis(service));
        }
        Figure::Directory { users } => directory::run(&mut report, users as usize),
        Figure::MailboxSync { accounts } => mailbox_sync::run(&mut report, accounts as usize),
        Figure::Timetable { jobs } => timetable::run(&mut report, jobs as usize, seconds),
        Figure::All => {
            engine::run(&mut report, &[500, 1000, 2000, 3000, 4000, 6000], seconds);
            commits::run(&mut report, &[1, 16, 256], seconds);
            overload::run(&mut report, &[0, 200, 300, 500, 800, 1200, 1400, 1600, 1800, 2000], seconds);
            readable::run(&mut report, 50);
            failover::run(&mut report, 20);
            idle::run(&mut report, seconds);
            notify::run(&mut report, 40);
            mail_in::run(&mut report, 300, &[1, 4, 16]);
            mail_out::run(&mut report, 1_000, Duration::from_secs(60));
            devices::run(&mut report, 1_000, seconds);
            lights::run(&mut report, 3, 20_000, Duration::ZERO);
            directory::run(&mut report, 20_000);
            mailbox_sync::run(&mut report, 200);
            timetable::run(&mut report, 100, seconds);
        }
    }
    match arguments.json.map(|path| report.save(&path).map_err(|e| format!("{}: {e}", path.display()))) {
        Some(Err(error)) => {
            eprintln!("twinbox-bench: the figures cannot be written: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
