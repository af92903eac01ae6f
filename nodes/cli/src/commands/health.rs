//! `twinbox health`: whether a process on this machine lives. A negative result is always exit code 1.

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use twinbox_config::{Config, WitnessConfig};
use twinbox_metrics::local_socket;

use twinbox_admin_client::CliError;
use twinbox_cli_args::HealthArgs;

use crate::output;

/// Maximum length of an answer in bytes; an answer is one line.
const LONGEST: u64 = 16 * 1024;

/// Checks the process and reports its fault, if any.
pub async fn run(socket: &Path, json: bool, args: HealthArgs) -> Result<(), CliError> {
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
    let state = if args.ready { "ready" } else { "alive" };
    if json {
        return output::json(&serde_json::json!({ "state": state }));
    }
    println!("{state}");
    Ok(())
}

/// Uses the socket that answers even if the event loop hangs: a probe must not end the calls of such a node.
async fn node(admin_socket: &Path, ready: bool, within: Duration) -> Result<(), String> {
    let socket = local_socket(admin_socket);
    let ask = async {
        match get(&socket, "/livez").await? {
            (true, _) if ready => get(&socket, "/readyz").await,
            answer => Ok(answer),
        }
    };
    let answered = tokio::time::timeout(within, ask).await;
    let failed = |why: std::io::Error| {
        format!("no node answers at {} ({why}): is 'twinbox node' running on this machine?", socket.display())
    };
    match answered.map_err(|_| format!("{}: no answer within {within:?}", socket.display()))?.map_err(failed)? {
        (true, _) => Ok(()),
        (false, why) => Err(why),
    }
}

/// Whether the page reports success, and its text.
async fn get(socket: &Path, page: &str) -> std::io::Result<(bool, String)> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("GET {page} HTTP/1.0\r\nHost: twinbox\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer).await?;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.split(' ').nth(1) == Some("200"), text.trim().to_owned()))
}
