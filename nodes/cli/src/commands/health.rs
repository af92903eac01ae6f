//! `twinbox health`: whether a process on this machine lives. No is always exit code 1, whatever the reason.

use std::path::Path;

use twinbox_app::config::{Config, WitnessConfig};
use twinbox_wire::admin::HealthRequest;

use crate::{args::HealthArgs, client, error::CliError};

/// Asks and says what is wrong, if anything is.
pub async fn run(socket: &Path, args: HealthArgs) -> Result<(), CliError> {
    let within = args.timeout;
    let answer = match &args.config {
        None => node(socket, args.ready, within).await,
        Some(file) => match Config::admin_socket(file).map_err(CliError::failed)? {
            Some(socket) => node(&socket, args.ready, within).await,
            None => {
                let config = WitnessConfig::load(file).map_err(CliError::failed)?;
                twinbox_app::ask_witness(&config, within).await
            }
        },
    };
    answer.map_err(CliError::Failed)?;
    println!("{}", if args.ready { "ready" } else { "alive" });
    Ok(())
}

async fn node(socket: &Path, ready: bool, within: std::time::Duration) -> Result<(), String> {
    let ask = async {
        let mut client = client::connect(socket).await.map_err(|error| error.to_string())?;
        client.health(HealthRequest {}).await.map_err(|status| status.message().to_owned())
    };
    let answered = tokio::time::timeout(within, ask).await;
    let reply = answered.map_err(|_| format!("{}: no answer within {within:?}", socket.display()))??.into_inner();
    let why_not = if ready && reply.not_alive.is_empty() { reply.not_ready } else { reply.not_alive };
    if why_not.is_empty() { Ok(()) } else { Err(why_not) }
}
