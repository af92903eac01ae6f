//! A bulk of messages, written by a process of its own that is killed at the end: what a node finds when it starts after a kill -9.

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    path::Path,
    process::Command,
    thread::park,
};

use twinbox_clock::BootInstant;
use twinbox_store_kit::Node;
use twinbox_testkit::{NetPlace, Process};

use crate::population::{self, Population};

/// The line that the process prints when everything is durable; seconds for mailboxes and for messages follow.
const WRITTEN: &str = "written";

/// Times of a bulk, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct WriteTimes {
    /// For the mailboxes.
    pub mailboxes: f64,
    /// For the messages.
    pub messages: f64,
}

/// The process: writes into the store in `dir`, and waits to be killed.
pub fn write(dir: &Path, population: Population) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    // The store stays open until the kill.
    let _node = runtime.block_on(async {
        let node = Node::with(dir, "a", 2, 0, |settings| settings.min_message_ms = 0);
        let begun = BootInstant::now();
        let mailboxes = population::mailboxes(&node.mailstore, population.mailboxes).await;
        let made = begun.elapsed().as_secs_f64();
        let begun = BootInstant::now();
        population::messages(&node.mailstore, &mailboxes, population, 0).await;
        println!("{WRITTEN} {made} {}", begun.elapsed().as_secs_f64());
        node
    });
    loop {
        park();
    }
}

/// Runs the process for the store of node a in `dir`, and kills it once everything is written.
pub fn write_and_kill(dir: &Path, log: &Path, population: Population) -> WriteTimes {
    let Population { mailboxes, messages, audio, imported, .. } = population;
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    command.arg("write-store").arg("--dir").arg(dir);
    for (name, value) in [("--mailboxes", mailboxes), ("--messages", messages), ("--audio", audio)] {
        command.arg(name).arg(value.to_string());
    }
    if imported {
        command.arg("--imported");
    }
    let mut process = Process::start_piped("writer", command, &NetPlace::here(Ipv4Addr::LOCALHOST), log);
    let output = process.child().stdout.take().expect("its output is a pipe");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let times = lines.find_map(|line| {
        let mut times = line.strip_prefix(WRITTEN)?.split_whitespace().map_while(|word| word.parse().ok());
        Some(WriteTimes { mailboxes: times.next()?, messages: times.next()? })
    });
    let times = times.unwrap_or_else(|| panic!("the messages were not written\n{}", process.tail(40)));
    process.kill();
    times
}
