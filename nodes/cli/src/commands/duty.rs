//! `twinbox duty list`.

use std::path::Path;

use twinbox_wire::admin::DutyListRequest;

use crate::{args::DutyCommand, client, error::CliError, output};

/// Asks the node and prints.
pub async fn run(socket: &Path, json: bool, command: DutyCommand) -> Result<(), CliError> {
    let DutyCommand::List = command;
    let reply = client::connect(socket).await?.duty_list(DutyListRequest {}).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    let rows = reply.duties.into_iter().map(|d| vec![d.duty, d.holder, d.state, d.epoch, d.reason]);
    println!("{}", output::table(&["DUTY", "HOLDER", "STATE", "EPOCH", "REASON"], rows));
    Ok(())
}
