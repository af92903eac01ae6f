//! The `twinbox` command: parses what was asked, does it, and turns the outcome into an exit code.

mod args;
mod asterisk;
mod client;
mod commands;
mod demo;
mod error;
mod output;
mod pin;
mod upload;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    error::CliError,
};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    if !matches!(cli.command, Command::Node(_) | Command::Witness(_) | Command::Demo(_)) {
        end_with_the_reader();
    }
    match cli.command {
        Command::Node(args) => commands::run::node(&args.config),
        Command::Witness(args) => commands::run::witness(&args.config),
        Command::Health(args) => block_on(commands::health::run(&cli.socket, args)),
        Command::Config(command) => commands::config::run(command),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Cluster(command) => block_on(commands::cluster::run(&cli.socket, cli.json, command)),
        Command::Duty(command) => block_on(commands::duty::run(&cli.socket, cli.json, command)),
        Command::User(command) => block_on(commands::user::run(&cli.socket, cli.json, command)),
        Command::Message(command) => block_on(commands::message::run(&cli.socket, cli.json, command)),
        Command::Cos(command) => block_on(commands::cos::run(&cli.socket, cli.json, command)),
        Command::Prompt(command) => block_on(commands::prompt::run(&cli.socket, cli.json, command)),
        Command::Import(command) => block_on(commands::import::run(&cli.socket, cli.json, command)),
        Command::Call(args) => block_on(commands::call::run(cli.json, args)),
        Command::Dns(command) => block_on(commands::dns::run(&cli.socket, cli.json, command)),
        Command::Doctor(args) => block_on(commands::doctor::run(cli.json, args)),
        Command::Completion(args) => commands::help::completion(&args),
        Command::Man(args) => commands::help::man(&args),
    }
}

/// Whoever pipes a table into `head` wants no complaint about the rest: a closed pipe ends the command, as it does
/// for every other program. Processes that stay keep Rust's way, which is an error at the write.
fn end_with_the_reader() {
    // SAFETY: no other thread runs yet, and the default disposition touches no memory of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Commands that only ask need one thread.
fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?.block_on(command)
}
