//! `twinbox location …`, and `twinbox message send`.

use std::path::Path;

use twinbox_wire::sending::{
    Location, LocationListRequest, LocationRequest, MessageSendHeader, MessageSendPart, SentTo,
};

use crate::output;
use twinbox_admin_client::{CliError, client, upload};
use twinbox_cli_args::{LocationCommand, SendArgs};

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: LocationCommand) -> Result<(), CliError> {
    let mut node = client::sending(socket).await?;
    let (reply, name, done) = match command {
        LocationCommand::List => {
            let reply = node.location_list(LocationListRequest {}).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("{}", table(reply.locations));
            return Ok(());
        }
        LocationCommand::Show { name } => {
            let locations = node.location_list(LocationListRequest {}).await?.into_inner().locations;
            let is_it = |location: &Location| location.name.eq_ignore_ascii_case(&name) || location.id == name;
            let location = locations.into_iter().find(is_it).ok_or_else(|| {
                CliError::Failed(format!("there is no location '{name}': see 'twinbox location list'"))
            })?;
            if json {
                return output::json(&location);
            }
            println!("{}", table(vec![location]));
            return Ok(());
        }
        LocationCommand::Add { name, settings } => {
            let request = LocationRequest { name: name.clone(), settings };
            (node.location_add(request).await?.into_inner(), name, "added")
        }
        LocationCommand::Set { name, settings } => {
            let request = LocationRequest { name: name.clone(), settings };
            (node.location_set(request).await?.into_inner(), name, "changed")
        }
        LocationCommand::Remove { name } => {
            let request = LocationRequest { name: name.clone(), settings: Vec::new() };
            (node.location_remove(request).await?.into_inner(), name, "removed")
        }
    };
    if json {
        return output::json(&reply);
    }
    println!("location {name} {done} ({})", output::acknowledged(&reply.acknowledged));
    Ok(())
}

/// Sends a sound file as a message, and prints what became of it.
pub async fn send(socket: &Path, json: bool, args: SendArgs) -> Result<(), CliError> {
    let SendArgs { file, from, to, urgent, private, subject, order } = args;
    let bytes = upload::read(&file)?;
    let order = order.map(|order| order.to_string()).unwrap_or_default();
    let header = MessageSendHeader { from, to, subject, urgent, private, order };
    let first = MessageSendPart { header: Some(header), ..Default::default() };
    let parts = upload::parts(first, bytes, |file| MessageSendPart { file, ..Default::default() });
    let mut node = client::sending(socket).await?;
    let sent = node.message_send(parts).await?.into_inner();
    if json {
        return output::json(&sent);
    }
    let rows = sent.to.into_iter().map(|SentTo { number, id, location, effect }| {
        let location = if location.is_empty() { "here".to_owned() } else { location };
        vec![number, location, id, effect]
    });
    println!("{}", output::table(&["NUMBER", "LOCATION", "MESSAGE", "OUTBOX"], rows));
    println!("message sent ({})", output::acknowledged(&sent.acknowledged));
    Ok(())
}

fn table(locations: Vec<Location>) -> String {
    let rows = locations.into_iter().map(|location| {
        let enabled = if location.enabled { "yes" } else { "no" };
        vec![location.name, location.dial_id, location.domain, location.audio, enabled.to_owned()]
    });
    output::table(&["LOCATION", "DIAL ID", "DOMAIN", "AUDIO", "ENABLED"], rows)
}
