//! `twinbox node`, `twinbox witness`: long-running processes.

use std::path::Path;

use twinbox_app::AppError;
use twinbox_config::{ConfigError, NodeConfig, WitnessConfig};

use twinbox_admin_client::CliError;
use twinbox_cli_args::NodeArgs;

/// Runs a node until it gets a stop signal: a supervisor, and the node's own process as its child.
pub fn node(args: &NodeArgs) -> Result<(), CliError> {
    let config = NodeConfig::load(&args.config).map_err(not_loaded)?;
    if args.child {
        return twinbox_app::run_node(config).map_err(not_run);
    }
    match twinbox_app::supervise_node(config, &args.config).map_err(not_run)? {
        0 => Ok(()),
        // The child process has reported its error.
        code => std::process::exit(code.into()),
    }
}

/// Runs a witness until it gets a stop signal.
pub fn witness(file: &Path) -> Result<(), CliError> {
    let config = WitnessConfig::load(file).map_err(not_loaded)?;
    twinbox_app::run_witness(config).map_err(not_run)
}

/// A file with a mistake in it is not tried again by those that start the process; one that may be usable later is.
fn not_loaded(error: ConfigError) -> CliError {
    if error.may_pass() { CliError::Failed(error.to_string()) } else { CliError::Usage(error.to_string()) }
}

/// A start that fails in the same way each time counts as a mistake in the configuration.
fn not_run(error: AppError) -> CliError {
    let is_final = error.is_final();
    match report(error) {
        CliError::Failed(text) if is_final => CliError::Usage(text),
        failed => failed,
    }
}

/// Error with all its causes, on one line.
pub(super) fn report(error: impl std::error::Error) -> CliError {
    let mut text = format!("twinbox: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Many errors already include the text of their cause.
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(&format!(": {words}"));
        }
        cause = inner.source();
    }
    CliError::Failed(text)
}
