//! The `twinbox` command: parses the arguments, executes the command, and turns the result into an exit code.

mod commands;
mod output;
mod private_file;

use std::process::ExitCode;

use clap::{
    CommandFactory, Parser,
    error::{ContextKind, ErrorKind},
};

use twinbox_admin_client::{CliError, client, end_on_full_output};
use twinbox_cli_args::{Cli, Command};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| hint(error).exit());
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}

/// The remedy for options that stand in another place. `--node` is also one of `cluster init`, so it cannot be global as `--socket` is.
fn hint(error: clap::Error) -> clap::Error {
    let argument = error.get(ContextKind::InvalidArg).filter(|_| error.kind() == ErrorKind::UnknownArgument);
    let text = match argument.map(ToString::to_string).as_deref() {
        Some("--node") => "write --node before the command: twinbox --node HOST:PORT --identity DIR user list",
        Some("--config") => "no --config here: a command that asks a running node finds it by --socket",
        _ => return error,
    };
    Cli::command().error(ErrorKind::UnknownArgument, text)
}

/// Whether a command contacts a node, on this machine or another.
fn contacts_a_node(command: &Command) -> bool {
    use twinbox_cli_args::{
        BackupCommand,
        ClusterCommand::{Init, Join, Place},
        StoreCommand,
    };
    match command {
        Command::Node(_) | Command::Witness(_) | Command::Demo(_) | Command::Config(_) | Command::Call(_) => false,
        // 'health' asks by a socket that only processes of the same machine reach.
        Command::Health(_) | Command::Doctor(_) | Command::Completion(_) | Command::Man(_) => false,
        Command::Cluster(Init(_) | Join(_) | Place(_)) => false,
        Command::Backup(BackupCommand::Verify { .. } | BackupCommand::Prune { .. }) => false,
        Command::Backup(BackupCommand::Create { config, .. }) => config.is_none(),
        Command::Backup(BackupCommand::List { dir, config }) => commands::backup::asks_node(dir, config),
        Command::Backup(BackupCommand::Restore(args)) => args.mailbox.is_some(),
        Command::Store(StoreCommand::OverwriteData(_)) => false,
        _ => true,
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    if cli.remote.node.is_some() && !contacts_a_node(&cli.command) {
        return Err(CliError::Usage("--node is only for commands that contact a node".to_owned()));
    }
    if let Some(remote) = cli.remote.remote() {
        client::use_remote(remote)?;
    }
    if !matches!(cli.command, Command::Node(_) | Command::Witness(_) | Command::Demo(_)) {
        end_on_broken_pipe();
        end_on_full_output();
    }
    match cli.command {
        Command::Node(args) => commands::run::node(&args),
        Command::Witness(args) => commands::run::witness(&args.config),
        Command::Health(args) => block_on(commands::health::run(&cli.socket, cli.json, args)),
        Command::Config(command) => commands::config::run(command),
        Command::Demo(args) => block_on(twinbox_demo::run(args.into())),
        Command::Cluster(command) => block_on(commands::cluster::run(&cli.socket, cli.json, command)),
        Command::Duty(command) => block_on(commands::duty::run(&cli.socket, cli.json, command)),
        Command::Service(command) => block_on(commands::service::run(&cli.socket, cli.json, command)),
        Command::Replication(command) => block_on(commands::replication::run(&cli.socket, cli.json, command)),
        Command::Store(command) => block_on(commands::store::run(&cli.socket, cli.json, command)),
        Command::Alarm(command) => block_on(commands::alarm::run(&cli.socket, cli.json, command)),
        Command::Events(args) => block_on(commands::events::run(&cli.socket, cli.json, args)),
        Command::Report(args) => block_on(commands::report::run(&cli.socket, cli.json, args)),
        Command::User(command) => block_on(commands::user::run(&cli.socket, cli.json, command)),
        Command::Message(command) => block_on(commands::message::run(&cli.socket, cli.json, command)),
        Command::Location(command) => block_on(commands::location::run(&cli.socket, cli.json, command)),
        Command::Directory(command) => block_on(commands::directory::run(&cli.socket, cli.json, command)),
        Command::MailboxSync(command) => block_on(commands::mailbox_sync::run(&cli.socket, cli.json, command)),
        Command::Device(command) => block_on(commands::device::run(&cli.socket, cli.json, command)),
        Command::Outbox(command) => block_on(commands::outbox::run(&cli.socket, cli.json, command)),
        Command::Mail(command) => block_on(commands::notify::mail(&cli.socket, cli.json, command)),
        Command::Notify(command) => block_on(commands::notify::notify(&cli.socket, cli.json, command)),
        Command::Mwi(command) => block_on(commands::notify::mwi(&cli.socket, cli.json, command)),
        Command::Timetable(command) => block_on(commands::timetable::run(&cli.socket, cli.json, command)),
        Command::Backup(command) => block_on(commands::backup::run(&cli.socket, cli.json, command)),
        Command::Cos(command) => block_on(commands::cos::run(&cli.socket, cli.json, command)),
        Command::Setting(command) => block_on(commands::setting::run(&cli.socket, cli.json, command)),
        Command::Trunk(command) => block_on(commands::trunk::run(&cli.socket, cli.json, command)),
        Command::Prompt(command) => block_on(commands::prompt::run(&cli.socket, cli.json, command)),
        Command::Import(command) => block_on(commands::import::run(&cli.socket, cli.json, command)),
        Command::Call(args) => block_on(commands::call::run(cli.json, args)),
        Command::Dns(command) => block_on(commands::dns::run(&cli.socket, cli.json, command)),
        Command::Doctor(args) => block_on(commands::doctor::run(cli.json, args)),
        Command::Completion(args) => commands::help::completion(&args),
        Command::Man(args) => commands::help::man(&args),
    }
}

/// Ends a command on a closed pipe, as in other programs: a user who pipes a table into `head` expects no error.
/// Long-running processes keep Rust's behaviour, an error at the write.
fn end_on_broken_pipe() {
    // SAFETY: no other thread runs yet, and the handler does only what a handler may.
    unsafe {
        libc::signal(libc::SIGPIPE, on_broken_pipe as *const () as libc::sighandler_t);
    }
}

/// The signal does not name the write that caused it. A connection closed by the other side must be reported as an
/// error and not end the command; only a closed standard output ends it.
extern "C" fn on_broken_pipe(signal: libc::c_int) {
    // SAFETY: poll, signal and raise may be called in a handler; errno is restored for the interrupted code.
    unsafe {
        let errno = *libc::__errno_location();
        let mut output = libc::pollfd { fd: libc::STDOUT_FILENO, events: 0, revents: 0 };
        if libc::poll(&raw mut output, 1, 0) > 0 && output.revents & libc::POLLERR != 0 {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        *libc::__errno_location() = errno;
    }
}

/// Commands that only send requests need one thread.
fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?.block_on(command)
}
