//! `twinbox node`, `twinbox witness`: processes that stay.

use std::path::Path;

use twinbox_app::config::{NodeConfig, WitnessConfig};

use crate::error::CliError;

/// Runs a node until it is told to stop.
pub fn node(file: &Path) -> Result<(), CliError> {
    let config = NodeConfig::load(file).map_err(|e| CliError::Usage(e.to_string()))?;
    twinbox_app::run_node(config).map_err(report)
}

/// Runs a witness until it is told to stop.
pub fn witness(file: &Path) -> Result<(), CliError> {
    let config = WitnessConfig::load(file).map_err(|e| CliError::Usage(e.to_string()))?;
    twinbox_app::run_witness(config).map_err(report)
}

/// The whole chain of causes, on one line.
fn report(error: twinbox_app::AppError) -> CliError {
    let mut text = format!("twinbox: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    CliError::Failed(text)
}
