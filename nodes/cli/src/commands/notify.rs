//! `twinbox mail test`, `twinbox notify preview`, `twinbox mwi resync`.

use std::path::Path;

use twinbox_wire::delivery::{MailTestRequest, MwiResyncRequest, PreviewRequest};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::{MailCommand, MwiCommand, NotifyCommand};

/// Tests the way of mail.
pub async fn mail(socket: &Path, json: bool, command: MailCommand) -> Result<(), CliError> {
    let MailCommand::Test { address } = command;
    let request = MailTestRequest { address: address.clone() };
    let reply = client::delivery(socket).await?.mail_test(request).await?.into_inner();
    if json {
        output::json(&reply)?;
    } else {
        let result = |ok: bool| if ok { "ok" } else { "FAILED" }.to_owned();
        let rows = reply.steps.into_iter().map(|step| vec![step.step, result(step.ok), step.detail]);
        println!("{}", output::table(&["STEP", "RESULT", "DETAIL"], rows));
    }
    match reply.ok {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{} cannot send mail to {address} now", reply.node))),
    }
}

/// Prints the text of a notification.
pub async fn notify(socket: &Path, json: bool, command: NotifyCommand) -> Result<(), CliError> {
    let NotifyCommand::Preview { device, language, message } = command;
    let request = PreviewRequest {
        number: device.number,
        device: device.device,
        language: language.unwrap_or_default(),
        message: message.map(|id| id.to_string()).unwrap_or_default(),
    };
    let reply = client::delivery(socket).await?.preview(request).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    if !reply.subject.is_empty() {
        println!("Subject: {}\n", reply.subject);
    }
    println!("{}", reply.text.trim_end());
    Ok(())
}

/// Has MWI states sent again.
pub async fn mwi(socket: &Path, json: bool, command: MwiCommand) -> Result<(), CliError> {
    let MwiCommand::Resync { mailbox } = command;
    let request = MwiResyncRequest { number: mailbox.unwrap_or_default() };
    let reply = client::delivery(socket).await?.mwi_resync(request).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    println!("{} sends {} MWI states again", reply.node, reply.states);
    Ok(())
}
