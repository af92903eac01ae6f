//! `twinbox cluster ca …`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_wire::join::{
    AuthorityStatus, AuthorityStatusRequest, MemberProgress, OperatorStatus, ReissueRequest, RotateRequest,
};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::CaCommand;

/// Poll interval of `--wait`.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Runs the subcommand.
pub async fn run(socket: &Path, json: bool, command: CaCommand) -> Result<(), CliError> {
    match command {
        CaCommand::Status { wait, timeout } => status(socket, json, wait, timeout).await,
        CaCommand::Rotate { without, call_off } => {
            let without = without.iter().map(ToString::to_string).collect();
            let request = RotateRequest { without, call_off };
            show(json, &client::authorities(socket).await?.rotate(request).await?.into_inner())
        }
        CaCommand::Reissue { certificate, out } => reissue(socket, json, &certificate, &out).await,
    }
}

async fn status(socket: &Path, json: bool, wait: bool, timeout: Duration) -> Result<(), CliError> {
    let began = BootInstant::now();
    loop {
        let status = client::authorities(socket).await?.status(AuthorityStatusRequest {}).await?.into_inner();
        let finished = status.rotation.as_ref().is_none_or(|r| matches!(r.step.as_str(), "over" | "called-off"));
        if !wait || finished {
            return show(json, &status);
        }
        if began.elapsed() > timeout {
            let (text, seconds) = (render(&status), timeout.as_secs());
            return Err(CliError::Failed(format!("{text}the CA rotation is not finished after {seconds} s")));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn reissue(socket: &Path, json: bool, certificate: &Path, out: &Path) -> Result<(), CliError> {
    let read = fs::read_to_string(certificate);
    let certificate =
        read.map_err(|error| CliError::Usage(format!("cannot read {}: {error}", certificate.display())))?;
    let files: Vec<PathBuf> = ["node.pem", "ca.pem"].iter().map(|file| out.join(file)).collect();
    if let Some(there) = files.iter().find(|file| file.exists()) {
        return Err(CliError::Usage(format!("{} exists already; use another folder", there.display())));
    }
    let made = client::authorities(socket).await?.reissue(ReissueRequest { certificate }).await?.into_inner();
    let failed = |path: &Path, error| CliError::Failed(format!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(out).map_err(|error| failed(out, error))?;
    for (file, text) in files.iter().zip([&made.certificate, &made.authorities]) {
        fs::write(file, text).map_err(|error| failed(file, error))?;
    }
    let text = format!(
        "Copy both files of {} into the tls folder of {}, replacing the present ones, and start it.",
        out.display(),
        made.name
    );
    if json {
        return output::json(&serde_json::json!({ "name": made.name, "done": text }));
    }
    println!("{text}");
    Ok(())
}

/// Prints the status of the CA.
pub fn show(json: bool, status: &AuthorityStatus) -> Result<(), CliError> {
    if json {
        return output::json(status);
    }
    print!("{}", render(status));
    Ok(())
}

fn render(status: &AuthorityStatus) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "authority {}\n  ends {}; the certificate of {} ends {}",
        status.authority,
        day(status.authority_ends_ms),
        status.answered_by,
        day(status.certificate_ends_ms)
    );
    for other in status.trusted.iter().filter(|trusted| **trusted != status.authority) {
        let _ = writeln!(text, "  certificates of {other} are accepted, too");
    }
    if let Some(rotation) = &status.rotation {
        let waits = rotation.waits_for.join(", ");
        let phase = match rotation.step.as_str() {
            "trust" => format!("1 of 3, members start to trust the next authority; waiting for {waits}"),
            "show" => format!("2 of 3, members get certificates of the next authority; waiting for {waits}"),
            "drop" => format!("3 of 3, members drop the former authority; waiting for {waits}"),
            "over" => "done".to_owned(),
            _ => "called off".to_owned(),
        };
        let begun = day(rotation.begun_ms);
        let _ = writeln!(text, "CA rotation, started {begun} on {}: {phase}", rotation.begun_by);
        let table = output::table(&["MEMBER", "HAS DONE"], rotation.members.iter().map(progress));
        let _ = writeln!(text, "{table}");
    }
    match status.operators.as_slice() {
        [] => text.push_str("no operator certificates: other machines have no access\n"),
        operators => {
            let table =
                output::table(&["OPERATOR", "UNTIL", "MADE", "BY", "CERTIFICATE"], operators.iter().map(operator));
            let _ = writeln!(text, "{table}");
        }
    }
    text
}

fn progress(member: &MemberProgress) -> Vec<String> {
    let done = match member.done.as_str() {
        "trust" => "trusts both",
        "show" => "has a certificate of the next one",
        "drop" => "all",
        _ => "nothing yet",
    };
    let given_up = if member.given_up { " (not waited for)" } else { "" };
    vec![member.name.clone(), format!("{done}{given_up}")]
}

fn operator(operator: &OperatorStatus) -> Vec<String> {
    let until =
        day(operator.ends_ms) + if operator.ends_with_rotation { ", or with the former authority" } else { "" };
    let short = operator.certificate.get(..23).unwrap_or_default().to_owned();
    vec![operator.name.clone(), until, day(operator.made_ms), operator.made_by.clone(), short]
}

/// Local date and time of this machine.
pub fn day(ms: u64) -> String {
    output::local(ms, "%Y-%m-%d %H:%M").unwrap_or_else(|| "never".to_owned())
}
