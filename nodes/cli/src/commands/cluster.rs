//! `twinbox cluster …`.

use std::{fmt::Write, path::Path, time::Duration};

use twinbox_clock::{BootInstant, wall};
use twinbox_enrollment::{
    SipAddressing,
    init::{self, InitSpec},
};
use twinbox_ids::NodeName;
use twinbox_roles::MemberKind;
use twinbox_wire::admin::{ClusterStatusReply, ClusterStatusRequest, DeactivateRequest, Heir, Member, NodeRequest};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::{ClusterCommand, DeactivateArgs, InitArgs, NodeArg, Owner, StatusArgs};

/// Poll interval of `--watch` and `--wait`.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Mode that is shown in the first line.
const ACTIVE_PASSIVE: &str = "active-passive";
/// Period for which the table shows heirs of calls: one day.
const INHERITED_FOR_MS: u64 = 24 * 3_600 * 1_000;

/// Runs the subcommand.
pub async fn run(socket: &Path, json: bool, command: ClusterCommand) -> Result<(), CliError> {
    match command {
        ClusterCommand::Init(args) => form(args),
        ClusterCommand::Token(args) => super::join::token(socket, json, args).await,
        ClusterCommand::Join(args) => super::join::join(json, args).await,
        ClusterCommand::Ca(command) => super::ca::run(socket, json, command).await,
        ClusterCommand::OperatorCert(args) => super::operator::make(socket, json, args).await,
        ClusterCommand::OperatorRevoke { name } => super::operator::revoke(socket, json, name).await,
        ClusterCommand::Place(args) => {
            let placed =
                twinbox_enrollment::unpack(&args.from, &args.member, &args.to).map_err(CliError::failed)?;
            let done = if placed { "has its folder" } else { "has its folder already: nothing was changed" };
            println!("{} {done}: {}", args.member, args.to.display());
            Ok(())
        }
        ClusterCommand::Status(args) => status(socket, json, args).await,
        ClusterCommand::Steer(command) => super::steering::run(socket, json, command).await,
        ClusterCommand::Activate(NodeArg { node }) => {
            client::connect(socket).await?.activate(NodeRequest { node: node.to_string() }).await?;
            done(json, format!("{node} is activated"))
        }
        ClusterCommand::Deactivate(DeactivateArgs { node, within }) => {
            let request = DeactivateRequest { node: node.to_string(), within_ms: within.map(millis) };
            client::connect(socket).await?.deactivate(request).await?;
            let calls = match within {
                Some(within) => format!("; remaining calls are ended after {} s", within.as_secs()),
                None => ", without a time limit (--within sets one)".to_owned(),
            };
            let text =
                format!("{node} is deactivated: it takes no new calls, calls in progress end normally{calls}");
            done(json, text)
        }
    }
}

/// A duration as sent over the wire, in milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn done(json: bool, text: String) -> Result<(), CliError> {
    if json {
        return output::json(&serde_json::json!({ "done": text }));
    }
    println!("{text}");
    Ok(())
}

fn form(args: InitArgs) -> Result<(), CliError> {
    let member = |kind| move |m: twinbox_cli_args::MemberArg| (m.name, kind, m.address);
    let members = args
        .nodes
        .into_iter()
        .map(member(MemberKind::Node))
        .chain(args.witnesses.into_iter().map(member(MemberKind::Witness)))
        .collect();
    let sip = SipAddressing {
        advertise: args.sip_advertise.into_iter().map(|a| (a.name, a.ip)).collect(),
        pbx: args.pbx,
    };
    let spec = InitSpec { cluster_name: args.name, members, sip };
    let before = if args.if_absent { init::formed_before(&args.dir, &spec) } else { Vec::new() };
    if !before.is_empty() && before.len() < spec.members.len() {
        let made = init::form_again(&args.dir, &spec).map_err(CliError::failed)?;
        if let Some(Owner { user, group }) = args.owner {
            init::give_to(&made, user, group).map_err(CliError::failed)?;
        }
        for member in &made.members {
            println!("{} is created again, empty: {}", member.name, member.config.display());
        }
        return Ok(());
    }
    if !before.is_empty() {
        let names: Vec<&str> = before.iter().map(NodeName::as_str).collect();
        println!("{} has the cluster of {} already: nothing was changed", args.dir.display(), names.join(", "));
        return Ok(());
    }
    let made = init::form(&args.dir, &spec).map_err(|e| match e {
        init::InitError::Spec(_) => CliError::Usage(e.to_string()),
        e => CliError::failed(e),
    })?;
    if let Some(Owner { user, group }) = args.owner {
        init::give_to(&made, user, group).map_err(CliError::failed)?;
    }
    println!("cluster '{}' created, id {}", spec.cluster_name, made.id);
    for member in &made.members {
        println!("  {}: {}", member.name, member.config.display());
    }
    println!(
        "Copy each folder to its machine, review its twinbox.toml, check it with \
         'twinbox config check FILE' and start it.\nKeep {} safe: anyone who has it can create members.",
        made.ca_dir.display()
    );
    Ok(())
}

async fn status(socket: &Path, json: bool, args: StatusArgs) -> Result<(), CliError> {
    let began = BootInstant::now();
    loop {
        let last = match ask(socket).await {
            Ok(reply) => {
                let in_service = client::all_in_service(&reply);
                if args.watch {
                    match json {
                        // One document on each line, for programs that read while it runs.
                        true => println!("{}", serde_json::to_string(&reply).map_err(CliError::failed)?),
                        false => print!("\x1b[H\x1b[2J{}", render(&reply)),
                    }
                    std::io::Write::flush(&mut std::io::stdout()).map_err(CliError::failed)?;
                } else if args.wait.is_none() || in_service {
                    if json {
                        return output::json(&reply);
                    }
                    print!("{}", render(&reply));
                    return Ok(());
                }
                Ok(reply)
            }
            // A starting node has no socket yet: `--wait` includes that time.
            Err(error) if args.wait.is_some() => Err(error),
            Err(error) => return Err(error),
        };
        if args.wait.is_some() && !args.watch && began.elapsed() > args.timeout {
            let reply = last?;
            let seconds = args.timeout.as_secs();
            let old = match client::unconfirmed(&reply).join(", ") {
                names if names.is_empty() => names,
                names => format!("; no answer, or a restart since this status was agreed: {names}"),
            };
            return Err(CliError::Failed(format!(
                "{}not every member is in service after {seconds} s{old}",
                render(&reply)
            )));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

pub(super) async fn ask(socket: &Path) -> Result<ClusterStatusReply, CliError> {
    Ok(client::connect(socket).await?.cluster_status(ClusterStatusRequest {}).await?.into_inner())
}

/// Table for administrators.
pub(crate) fn render(reply: &ClusterStatusReply) -> String {
    let mut text = String::new();
    let or_none = |name: &str| if name.is_empty() { "none".to_owned() } else { name.to_owned() };
    let quorum =
        if reply.quorum { "majority reachable" } else { "NO MAJORITY: calls continue, roles as last known" };
    let level = reply.feature_level;
    let (cluster, publisher) = (&reply.cluster, or_none(&reply.publisher));
    let mode = if reply.mode == ACTIVE_PASSIVE { ", active-passive" } else { "" };
    let _ = writeln!(text, "cluster {cluster}: publisher {publisher}{mode}, {quorum}, feature level {level}");
    let table = output::table(
        &["NODE", "ROLE", "STATUS", "DUTIES", "VERSION", "CALLS", "LAG", "ADDRESS"],
        reply.members.iter().map(row),
    );
    let _ = writeln!(text, "{table}");
    if !reply.reason.is_empty() {
        let _ = writeln!(text, "{}: {}", reply.answered_by, reply.reason);
    }
    for note in &reply.notes {
        let _ = writeln!(text, "{note}");
    }
    for heir in reply.heirs.iter().filter(|heir| heir.calls > 0 && is_recent(heir.at_ms)) {
        let _ = writeln!(text, "{}", describe_heir(reply, heir));
    }
    for member in reply.members.iter().filter(|m| !m.reason.is_empty()) {
        let _ = writeln!(text, "{}: {}", member.name, member.reason);
    }
    for member in &reply.members {
        for service in member.info.iter().flat_map(|i| &i.services).filter(|s| !s.ok) {
            let _ = writeln!(text, "{}: {} is not working: {}", member.name, service.name, service.detail);
        }
    }
    text
}

/// Whether the table shows an inheritance of this time; `--json` shows all.
fn is_recent(at_ms: u64) -> bool {
    wall().0.saturating_sub(at_ms) < INHERITED_FOR_MS
}

/// Heir of the calls of an ended incarnation.
fn describe_heir(reply: &ClusterStatusReply, heir: &Heir) -> String {
    let Heir { node, incarnation, heir: name, heir_incarnation, epoch, calls, cause, .. } = heir;
    let epoch = if epoch.is_empty() { "by exit proof".to_owned() } else { format!("epoch {epoch}") };
    let info = reply.members.iter().find(|member| member.name == *name).and_then(|member| member.info.as_ref());
    let ended = match info.is_some_and(|info| info.incarnation != *heir_incarnation) {
        true => "; that incarnation has ended, too, and the calls with it",
        false => "",
    };
    format!(
        "calls of {node} (incarnation {incarnation}): heir {name}, {epoch}; {calls} at the last report, {cause}{ended}"
    )
}

fn row(member: &Member) -> Vec<String> {
    let dash = || "-".to_owned();
    let info = member.info.as_ref();
    let of_node =
        |value: Option<String>| if member.kind == "witness" { dash() } else { value.unwrap_or_else(dash) };
    vec![
        member.name.clone(),
        if info.is_some_and(|i| i.passive) { format!("{}, passive", member.role) } else { member.role.clone() },
        member.status.clone(),
        if member.duties.is_empty() { dash() } else { member.duties.join(", ") },
        info.map_or_else(dash, |i| i.version.clone()),
        of_node(info.map(|i| i.calls.to_string())),
        of_node(info.map(|i| i.lag.to_string())),
        member.address.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use twinbox_wire::admin::NodeInfoReply;

    use super::*;

    #[test]
    fn all_members_are_in_service_only_with_a_present_majority() {
        let witness =
            Member { name: "w".into(), kind: "witness".into(), status: "in-service".into(), ..Default::default() };
        let members = vec![in_service("a"), in_service("b"), witness];
        let well = ClusterStatusReply { publisher: "a".into(), quorum: true, members, ..Default::default() };
        assert!(client::all_in_service(&well));
        assert!(
            !client::all_in_service(&ClusterStatusReply { quorum: false, ..well.clone() }),
            "agreed on before the start"
        );
        assert!(!client::all_in_service(&ClusterStatusReply { publisher: String::new(), ..well.clone() }));
        let mut one_out = well;
        one_out.members[1].status = "starting".into();
        assert!(!client::all_in_service(&one_out));
    }

    /// A node in service that answers, as the incarnation of its status.
    fn in_service(name: &str) -> Member {
        Member {
            name: name.into(),
            kind: "node".into(),
            status: "in-service".into(),
            incarnation: "1".into(),
            info: Some(NodeInfoReply { incarnation: "1".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn status_of_an_earlier_incarnation_is_not_in_service() {
        let reply = |b: Member| ClusterStatusReply {
            publisher: "a".into(),
            quorum: true,
            members: vec![in_service("a"), b],
            ..Default::default()
        };
        assert!(client::all_in_service(&reply(in_service("b"))));
        let restarted = NodeInfoReply { incarnation: "2".into(), ..Default::default() };
        assert!(!client::all_in_service(&reply(Member { info: Some(restarted), ..in_service("b") })));
        assert!(!client::all_in_service(&reply(Member { info: None, ..in_service("b") })), "it does not answer");
        assert_eq!(client::unconfirmed(&reply(Member { info: None, ..in_service("b") })), ["b"]);
        let earlier_release = Member { incarnation: String::new(), ..in_service("b") };
        assert!(client::all_in_service(&reply(earlier_release)));
    }
}
