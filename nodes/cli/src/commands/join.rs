//! `twinbox cluster token` and `twinbox cluster join`.

use std::{collections::BTreeMap, io::Read, path::Path};

use twinbox_enrollment::{JoinError, JoinSpec, Joined, SipAddressing};
use twinbox_roles::MemberKind;
use twinbox_wire::join::TokenRequest;

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::{JoinArgs, TokenArgs};

/// Prints a new token; on a terminal also the next step.
pub async fn token(socket: &Path, json: bool, args: TokenArgs) -> Result<(), CliError> {
    let valid_ms = u64::try_from(args.valid.as_millis()).unwrap_or(u64::MAX);
    let request = TokenRequest { witness: args.witness, valid_ms, replaces: String::new() };
    let made = client::tokens(socket).await?.make(request).await?.into_inner();
    if json {
        return output::json(&made);
    }
    println!("{}", made.token);
    let until = output::local(made.expires_ms, " until %Y-%m-%d %H:%M:%S");
    let witness = if args.witness { " --witness" } else { "" };
    // Scripts read the token from standard output.
    eprintln!(
        "The token admits one {}{}: any machine that has it can join. On the new machine:\n  \
         twinbox cluster join TOKEN{witness} --dir DIR --name NAME --address HOST:PORT",
        if args.witness { "witness" } else { "node" },
        until.unwrap_or_default(),
    );
    Ok(())
}

/// Joins, and prints the next step.
pub async fn join(json: bool, args: JoinArgs) -> Result<(), CliError> {
    let token = match args.token.as_str() {
        "-" => {
            let mut token = String::new();
            std::io::stdin().take(16 * 1024).read_to_string(&mut token).map_err(CliError::failed)?;
            token
        }
        token => token.to_owned(),
    };
    let advertise: BTreeMap<_, _> = args.sip_advertise.map(|ip| (args.name.clone(), ip)).into_iter().collect();
    let spec = JoinSpec {
        token,
        dir: args.dir,
        name: args.name,
        address: args.address,
        witness: args.witness,
        sip: SipAddressing { advertise, pbx: args.pbx },
    };
    let joined = twinbox_enrollment::join(&spec).await.map_err(|error| match error {
        JoinError::Token(_) | JoinError::Kind(..) => CliError::Usage(error.to_string()),
        JoinError::Nobody(_) => CliError::Unreachable(error.to_string()),
        error => CliError::failed(error),
    })?;
    show(json, &joined)
}

fn show(json: bool, joined: &Joined) -> Result<(), CliError> {
    let Joined { id, cluster_name, by, member, everyone } = joined;
    let config = member.config.display().to_string();
    if json {
        return output::json(&serde_json::json!({
            "cluster": cluster_name,
            "id": id.to_string(),
            "let_in_by": by.to_string(),
            "config": config,
            "members": everyone.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    let names: Vec<&str> = everyone.iter().map(|name| name.as_str()).collect();
    println!(
        "{} has joined cluster '{cluster_name}' ({id}), admitted by {by}; members: {}",
        member.name,
        names.join(", ")
    );
    match member.kind {
        MemberKind::Node => println!(
            "Trunks and other settings that all nodes share come with the records; set what is left of [mail] and passwords \
             of trunks in {config} as on {by}, check it with 'twinbox config check {config}', and start 'twinbox node \
             --config {config}'."
        ),
        MemberKind::Witness => println!("Start 'twinbox witness --config {config}'."),
    }
    Ok(())
}
