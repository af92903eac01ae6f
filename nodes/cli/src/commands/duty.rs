//! `twinbox duty …`.

use std::path::Path;

use twinbox_wire::{
    admin::DutyListRequest,
    steering::{MoveDuty, order_request::Order},
};

use super::{cluster::done, steering::give};
use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::DutyCommand;

/// Runs the subcommand.
pub async fn run(socket: &Path, json: bool, command: DutyCommand) -> Result<(), CliError> {
    match command {
        DutyCommand::List => list(socket, json).await,
        DutyCommand::Move(args) => {
            let order = MoveDuty { duty: args.duty.clone(), to: args.node.to_string() };
            give(socket, Order::MoveDuty(order)).await?;
            done(json, format!("{} goes to {}", args.duty, args.node))
        }
        DutyCommand::Pin(args) => {
            let order = MoveDuty { duty: args.duty.clone(), to: args.node.to_string() };
            give(socket, Order::Pin(order)).await?;
            done(json, format!("{} is on {} whenever that serves", args.duty, args.node))
        }
        DutyCommand::Unpin { duty } => {
            give(socket, Order::Unpin(duty.clone())).await?;
            done(json, format!("{duty} follows the publisher"))
        }
    }
}

async fn list(socket: &Path, json: bool) -> Result<(), CliError> {
    let reply = client::connect(socket).await?.duty_list(DutyListRequest {}).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    let rows = reply.duties.into_iter().map(|d| vec![d.duty, d.holder, d.state, d.epoch, d.reason]);
    println!("{}", output::table(&["DUTY", "HOLDER", "STATE", "EPOCH", "REASON"], rows));
    Ok(())
}
