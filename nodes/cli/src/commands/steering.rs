//! `twinbox cluster settings|set|mode|failback|timing|moves|outcome|make-publisher|add|replace|remove|
//! go-on-alone`.

use std::{path::Path, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_wire::{
    admin::Member,
    join::TokenRequest,
    steering::{
        self as wire, GoOnAloneRequest, MakePublisher, MovesRequest, NamedValue, OrderRequest, OutcomeRequest,
        Remove, SettingsRequest, TimingRequest, order_request::Order,
    },
};

use super::cluster::{ask, done, millis};
use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::{
    AddArgs, FailbackArgs, FailbackWord, GoOnAloneArgs, ModeWord, RemoveArgs, ReplaceArgs, SetArgs, SteeringCommand,
};

/// Poll interval while waiting for a member to leave.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Runs the subcommand.
pub async fn run(socket: &Path, json: bool, command: SteeringCommand) -> Result<(), CliError> {
    match command {
        SteeringCommand::MakePublisher(args) => {
            let order = MakePublisher { node: args.node.to_string(), force: args.force };
            give(socket, Order::MakePublisher(order)).await?;
            done(json, format!("{} is the publisher", args.node))
        }
        SteeringCommand::Settings => settings(socket, json).await,
        SteeringCommand::Set(SetArgs { pairs }) => {
            if pairs.len() % 2 != 0 {
                return Err(CliError::Usage(format!(
                    "'{}' has no value: write NAME VALUE, in pairs",
                    pairs[pairs.len() - 1]
                )));
            }
            let pairs = pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            set(socket, json, pairs.collect()).await
        }
        SteeringCommand::Mode { mode } => {
            let word = match mode {
                ModeWord::ActiveActive => "active-active",
                ModeWord::ActivePassive => "active-passive",
            };
            set(socket, json, vec![("mode".to_owned(), word.to_owned())]).await
        }
        SteeringCommand::Failback(args) => failback(socket, json, args).await,
        SteeringCommand::Timing => timing(socket, json).await,
        SteeringCommand::Moves => moves(socket, json).await,
        SteeringCommand::Outcome { id } => {
            let reply = client::steering(socket).await?.outcome(OutcomeRequest { id }).await?.into_inner();
            check_outcome(&reply)?;
            done(json, format!("order {} was executed", reply.id))
        }
        SteeringCommand::Add(args) => add(socket, json, args).await,
        SteeringCommand::Replace(args) => replace(socket, json, args).await,
        SteeringCommand::Remove(args) => remove(socket, json, args).await,
        SteeringCommand::GoOnAlone(args) => go_on_alone(socket, json, args).await,
    }
}

/// Gives an order; any result other than "done" is an error.
pub(super) async fn give(socket: &Path, order: Order) -> Result<wire::OrderReply, CliError> {
    let request = OrderRequest { id: Default::default(), order: Some(order) };
    let reply = client::steering(socket).await?.give(request).await?.into_inner();
    check_outcome(&reply)?;
    Ok(reply)
}

fn check_outcome(reply: &wire::OrderReply) -> Result<(), CliError> {
    match reply.unknown {
        false => Ok(()),
        true => Err(CliError::Failed(format!(
            "the outcome is unknown: the majority was lost while order {id} was in progress; when it is back, \
             'twinbox cluster outcome {id}' shows whether it was executed",
            id = reply.id
        ))),
    }
}

async fn set(socket: &Path, json: bool, pairs: Vec<(String, String)>) -> Result<(), CliError> {
    let settings = pairs.into_iter().map(|(name, value)| NamedValue { name, value }).collect();
    let reply = give(socket, Order::Set(wire::Change { settings })).await?;
    done(json, format!("on all members: {}", reply.note))
}

async fn failback(socket: &Path, json: bool, args: FailbackArgs) -> Result<(), CliError> {
    let FailbackArgs { how, from, to, preferred } = args;
    let Some(how) = how else {
        if from.is_some() || to.is_some() || preferred.is_some() {
            return Err(CliError::Usage("failback mode is missing: none, manual or scheduled".to_owned()));
        }
        give(socket, Order::Failback(wire::Failback {})).await?;
        return done(json, "the preferred node is the publisher".to_owned());
    };
    let value = match (how, from, to) {
        (FailbackWord::None, None, None) => "none".to_owned(),
        (FailbackWord::Manual, None, None) => "manual".to_owned(),
        (FailbackWord::Scheduled, Some(from), Some(to)) => format!("scheduled {from}-{to}"),
        (FailbackWord::Scheduled, ..) => {
            return Err(CliError::Usage(
                "a scheduled failback needs its window: --from 02:00 --to 04:00 (UTC)".to_owned(),
            ));
        }
        _ => return Err(CliError::Usage("only a scheduled failback has a window".to_owned())),
    };
    let preferred = preferred.map(|node| ("preferred".to_owned(), node.to_string()));
    let settings = preferred.into_iter().chain([("failback".to_owned(), value)]).collect();
    // The arguments were correct; a window that is not valid is refused like any order that cannot be executed.
    set(socket, json, settings).await.map_err(|error| match error {
        CliError::Usage(reason) => CliError::Failed(reason),
        error => error,
    })
}

async fn settings(socket: &Path, json: bool) -> Result<(), CliError> {
    let reply = client::steering(socket).await?.settings(SettingsRequest {}).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    let rows = reply.settings.into_iter().map(|s| vec![s.name, s.value, s.default, s.expected]);
    println!("{}", output::table(&["SETTING", "VALUE", "DEFAULT", "MAY BE"], rows));
    for pin in reply.pins {
        println!("{} is pinned to {}", pin.duty, pin.node);
    }
    if !reply.reason.is_empty() {
        println!("these values may be out of date: {}", reply.reason);
    }
    Ok(())
}

async fn timing(socket: &Path, json: bool) -> Result<(), CliError> {
    let reply = client::steering(socket).await?.timing(TimingRequest {}).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    println!("profile {}", reply.profile);
    let rows = reply.durations.into_iter().map(|d| vec![d.symbol, d.value, d.what]);
    println!("{}\n", output::table(&["", "VALUE", "DURATION"], rows));
    let rows = reply.bounds.into_iter().map(|b| vec![b.event, format!("{} ms", b.value_ms), b.formula]);
    println!("{}", output::table(&["EVENT", "AT MOST", "FORMULA"], rows));
    println!("C is 100 ms, for commits and messages");
    if let Some(gap) = reply.longest_gap_ms {
        let (lease, minutes) = (reply.lease_ms.max(1), reply.window_seconds / 60);
        println!(
            "in the last {minutes} minutes this node was without a grant for {gap} ms at most, {} % of a lease",
            gap.saturating_mul(100) / lease
        );
    }
    Ok(())
}

async fn moves(socket: &Path, json: bool) -> Result<(), CliError> {
    let reply = client::steering(socket).await?.moves(MovesRequest {}).await?.into_inner();
    if json {
        return output::json(&reply);
    }
    let rows = reply.moves.into_iter().map(|m| {
        let at = Some(m.at_ms).filter(|ms| *ms > 0).and_then(|ms| output::local(ms, "%Y-%m-%d %H:%M:%S"));
        let from = if m.from.is_empty() { "-".to_owned() } else { m.from };
        vec![at.unwrap_or_default(), m.what, from, m.to, m.cause, format!("{} ms", m.idle_ms), m.epoch]
    });
    println!("{}", output::table(&["WHEN", "WHAT", "FROM", "TO", "CAUSE", "IDLE", "EPOCH"], rows));
    Ok(())
}

async fn add(socket: &Path, json: bool, args: AddArgs) -> Result<(), CliError> {
    let status = ask(socket).await?;
    if status.members.iter().any(|member| member.name == args.name.as_str()) {
        return Err(CliError::Failed(format!(
            "member '{}' exists already: choose another name, or use 'twinbox cluster replace {}' if it is lost for good",
            args.name, args.name
        )));
    }
    let token = token(socket, args.witness, String::new(), args.valid).await?;
    show(json, &args.name, args.address.as_deref(), args.witness, &token)
}

async fn replace(socket: &Path, json: bool, args: ReplaceArgs) -> Result<(), CliError> {
    let status = ask(socket).await?;
    let name = args.name.unwrap_or_else(|| args.old.clone());
    let Some(old) = status.members.iter().find(|member| member.name == args.old.as_str()) else {
        let names: Vec<&str> = status.members.iter().map(|member| member.name.as_str()).collect();
        let (old, names) = (args.old, names.join(", "));
        return Err(CliError::Failed(format!(
            "there is no member '{old}' in this cluster; its members are: {names}"
        )));
    };
    let witness = old.kind == "witness";
    let token = token(socket, witness, args.old.to_string(), args.valid).await?;
    show(json, &name, Some(&old.address), witness, &token)
}

async fn token(socket: &Path, witness: bool, replaces: String, valid: Duration) -> Result<String, CliError> {
    let request = TokenRequest { witness, valid_ms: millis(valid), replaces };
    Ok(client::tokens(socket).await?.make(request).await?.into_inner().token)
}

fn show(json: bool, name: &NodeName, address: Option<&str>, witness: bool, token: &str) -> Result<(), CliError> {
    let kind = if witness { " --witness" } else { "" };
    let address = address.unwrap_or("HOST:PORT");
    let command =
        format!("twinbox cluster join {token} --dir /etc/twinbox --name {name} --address {address}{kind}");
    if json {
        return output::json(&serde_json::json!({ "token": token, "join": command }));
    }
    println!("On the new machine (any machine with the token can join):\n  {command}");
    Ok(())
}

async fn remove(socket: &Path, json: bool, args: RemoveArgs) -> Result<(), CliError> {
    let RemoveArgs { node, lost, within, timeout } = args;
    let timeout = timeout + within.unwrap_or_default();
    let order = Remove { node: node.to_string(), lost, within_ms: within.map(millis) };
    let asked = ask(socket).await?.answered_by;
    let reply = give(socket, Order::Remove(order)).await?;
    let began = BootInstant::now();
    loop {
        let status = match ask(socket).await {
            Ok(status) => status,
            // The leaving node's administrators' socket closes when it leaves.
            Err(CliError::Unreachable(_)) if asked == node.as_str() => {
                return done(
                    json,
                    format!("{node} does not answer any more; check on another node whether it has left"),
                );
            }
            // Another one starts again, or is lost.
            Err(CliError::Unreachable(_)) if began.elapsed() <= timeout => {
                tokio::time::sleep(POLL_INTERVAL).await;
                continue;
            }
            Err(CliError::Unreachable(why)) => {
                return Err(CliError::Unreachable(format!("{why}; check on another node whether {node} has left")));
            }
            Err(error) => return Err(error),
        };
        let Some(member) = status.members.iter().find(|member| member.name == node.as_str()) else {
            let note = if reply.note.is_empty() { String::new() } else { format!(": {}", reply.note) };
            return done(json, format!("{node} was removed from the cluster{note}{}", caution(&status.members)));
        };
        if began.elapsed() > timeout {
            return Err(CliError::Failed(format!(
                "{node} is still {}: {}. It leaves when another node has all of its data; if it is lost for good, \
                 'twinbox cluster remove {node} --lost' gives up the data that it alone has",
                member.status, member.reason
            )));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The risk that is left with these members; empty if there is none: a witness that is away cannot vote.
fn caution(members: &[Member]) -> String {
    let nodes: Vec<_> = members.iter().filter(|m| m.kind == "node").map(|m| m.name.as_str()).collect();
    let away = members.iter().find(|m| m.kind == "witness" && m.status != "in-service" && nodes.len() == 2);
    away.map_or_else(String::new, |witness| {
        format!("; until {} is back, the loss of {} stops the duties", witness.name, nodes.join(" or "))
    })
}

async fn go_on_alone(socket: &Path, json: bool, args: GoOnAloneArgs) -> Result<(), CliError> {
    let lost: Vec<String> = args.lost.iter().map(ToString::to_string).collect();
    let mut client = client::steering(socket).await?;
    let reply = client.go_on_alone(GoOnAloneRequest { lost: lost.clone(), look: true }).await?.into_inner();
    if !args.yes {
        eprintln!("{} would go on without {}, as a new group. Risks:", reply.node, lost.join(", "));
        reply.stakes.iter().for_each(|stake| eprintln!("  - {stake}"));
        output::confirm("Type the name of this node to confirm: ", &reply.node)?;
    }
    let reply = client.go_on_alone(GoOnAloneRequest { lost: lost.clone(), look: false }).await?.into_inner();
    let node = reply.node;
    if json {
        return output::json(&serde_json::json!({ "node": node, "lost": lost, "stakes": reply.stakes }));
    }
    println!("{node} went on alone, without {}", lost.join(", "));
    println!("Add a second node: 'twinbox cluster add NAME --address HOST:PORT'");
    Ok(())
}

#[cfg(test)]
#[path = "../../tests/unit/steering.rs"]
mod tests;
