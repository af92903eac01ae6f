//! `twinbox-bench`: the figures of docs/figures.md, measured against the real program.
//!
//! `cargo build --release -p twinbox && cargo run --release -p twinbox-bench -- all --json figures.json`
//!
//! Every subcommand prints a table and adds it to the JSON. The load generator is the test kit's [`Driver`], which
//! shares no code with the product; if it ran more than 5 ms late itself, `generator-bound` replaces the figure. The
//! node under test is pinned to core 0, everything else (generator, the other node, witness) to core 1: on a machine of
//! two cores the generator limits the figures.
//!
//! [`Driver`]: twinbox_testkit::Driver

mod bare;
mod callers;
mod engine;
mod failover;
mod idle;
mod load;
mod machine;
mod memory;
mod overload;
mod readable;
mod report;
mod sipp;

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
    /// Recordings at once on the media engine alone, on one core, beside a bare receiving loop
    Engine {
        /// Recordings at once, step by step; ends with the first step in which a packet was handled 20 ms late.
        #[arg(long, value_delimiter = ',', default_value = "500,1000,2000,3000,4000,6000")]
        calls: Vec<usize>,
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
    /// Publisher killed, its host lost, the role moved: to the other's first act, beside the formula
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
    /// All of them with their defaults, but `memory`, which takes half an hour
    All,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seconds = arguments.seconds.max(1);
    let mut report = Report::new();
    match arguments.figure {
        Figure::Engine { calls } => engine::run(&mut report, &calls, seconds),
        Figure::Load { calls, message_seconds } => {
            load::run(&mut report, &calls, seconds, Duration::from_secs(message_seconds));
        }
        Figure::Overload { calls } => overload::run(&mut report, &calls, seconds),
        Figure::Readable { messages } => readable::run(&mut report, messages),
        Figure::Failover { rounds } => failover::run(&mut report, rounds),
        Figure::Memory { calls, rate } => memory::run(&mut report, calls, rate),
        Figure::Idle => idle::run(&mut report, seconds),
        Figure::All => {
            engine::run(&mut report, &[500, 1000, 2000, 3000, 4000, 6000], seconds);
            overload::run(&mut report, &[0, 200, 300, 500, 800, 1200, 1400, 1600, 1800, 2000], seconds);
            readable::run(&mut report, 50);
            failover::run(&mut report, 20);
            idle::run(&mut report, seconds);
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
