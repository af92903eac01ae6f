//! `twinbox outbox …`.

use std::path::Path;

use twinbox_wire::delivery::{
    Effect, EffectRequest, FlushReply, FlushRequest, Hold, HoldRequest, HoldsRequest, OutboxListReply,
    OutboxListRequest, OutboxRetryRequest,
};

use crate::output;
use twinbox_admin_client::{CliError, client, pages};
use twinbox_cli_args::OutboxCommand;

/// Digits of an id in the table; the node accepts any beginning that one effect has.
const SHORT: usize = 12;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: OutboxCommand) -> Result<(), CliError> {
    let mut node = client::delivery(socket).await?;
    match command {
        OutboxCommand::List { state, channel, destination, limit } => {
            let request = OutboxListRequest {
                state: state.unwrap_or_default(),
                channel: channel.unwrap_or_default(),
                destination: destination.unwrap_or_default(),
                most: limit,
                limit: pages::AS_FIT,
                after: String::new(),
            };
            let effects = pages::all(async |after| {
                let request = OutboxListRequest { after, ..request.clone() };
                node.outbox_list(request).await
            });
            let effects = effects.await?;
            if json {
                return output::json(&OutboxListReply { effects, ..Default::default() });
            }
            let header = ["ID", "STATE", "CHANNEL", "NUMBER", "DEVICE", "ATTEMPTS", "AT", "REASON"];
            println!("{}", output::table(&header, effects.iter().map(row)));
        }
        OutboxCommand::Show { id } => {
            let effect = node.outbox_show(EffectRequest { id }).await?.into_inner();
            if json {
                return output::json(&effect);
            }
            println!("{}", describe(&effect));
        }
        OutboxCommand::Retry { id, all_dead } => {
            let id = id.unwrap_or_default();
            let (mut ids, mut most) = (Vec::new(), None);
            loop {
                let request = OutboxRetryRequest { id: id.clone(), all_dead };
                let reply = node.outbox_retry(request).await?.into_inner();
                // Those that fail again meanwhile come last, and are left.
                let most = *most.get_or_insert(reply.ids.len() as u64 + reply.left);
                let more = reply.left > 0 && !reply.ids.is_empty();
                ids.extend(reply.ids);
                if !more || ids.len() as u64 >= most {
                    break;
                }
            }
            if json {
                return output::json(&serde_json::json!({ "ids": ids }));
            }
            println!("{}", if ids.is_empty() { "nothing was given up" } else { "to be attempted now:" });
            ids.iter().for_each(|id| println!("  {id}"));
        }
        OutboxCommand::Drop { id, yes } => {
            let effect = node.outbox_show(EffectRequest { id }).await?.into_inner();
            if !yes {
                eprintln!("{}", describe(&effect));
                output::confirm("Type 'drop' to give it up: ", "drop")?;
            }
            let reply = node.outbox_drop(EffectRequest { id: effect.id }).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("notification {} dropped ({})", reply.id, output::acknowledged(&reply.acknowledged));
        }
        OutboxCommand::Hold { destination, reason } => {
            let reply = node.outbox_hold(HoldRequest { destination, reason }).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            let acknowledged = output::acknowledged(&reply.acknowledged);
            println!("{0} is on hold until 'twinbox outbox flush {0}' ({acknowledged})", reply.id);
        }
        OutboxCommand::Flush { destination } => {
            let request = FlushRequest { destination: destination.clone() };
            let reply = node.outbox_flush(request).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("{}", flushed(&destination, &reply));
        }
        OutboxCommand::Holds => {
            let reply = node.outbox_holds(HoldsRequest {}).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            let header = ["DESTINATION", "SINCE", "WAITING", "REASON"];
            println!("{}", output::table(&header, reply.holds.iter().map(hold_row)));
        }
    }
    Ok(())
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn hold_row(hold: &Hold) -> Vec<String> {
    let Hold { destination, since_ms, reason, waiting } = hold;
    vec![destination.clone(), output::time(*since_ms), waiting.to_string(), or_dash(reason)]
}

/// Result of a flush for people.
fn flushed(destination: &str, reply: &FlushReply) -> String {
    let FlushReply { released, waiting, held, acknowledged } = reply;
    let hold = if *released { "hold ended" } else { "was not on hold" };
    let still = match held {
        0 => String::new(),
        held => format!("; {held} stay on hold because of another destination, see 'twinbox outbox holds'"),
    };
    let due = waiting.saturating_sub(*held);
    format!("{destination}: {hold}, {due} due now{still} ({})", output::acknowledged(acknowledged))
}

/// Time of the end, or of the next attempt.
fn time(effect: &Effect) -> String {
    match (effect.ended_ms, effect.under_way) {
        (0, true) => "under way".to_owned(),
        (0, false) if !effect.held_by.is_empty() => format!("after {} is flushed", effect.held_by),
        (0, false) => format!("due {}", output::time(effect.due_ms)),
        (ended, _) => output::time(ended),
    }
}

fn row(effect: &Effect) -> Vec<String> {
    vec![
        effect.id.chars().take(SHORT).collect(),
        effect.state.clone(),
        effect.channel.clone(),
        or_dash(&effect.number),
        or_dash(&effect.device),
        effect.attempts.to_string(),
        time(effect),
        if effect.bounced_ms > 0 { format!("came back: {}", effect.bounce) } else { effect.reason.clone() },
    ]
}

fn describe(effect: &Effect) -> String {
    let cause = match effect.message.as_str() {
        "" => "test of the device".to_owned(),
        message if effect.repeat > 0 => format!("message {message}, reminder {}", effect.repeat),
        message => format!("message {message}"),
    };
    let state = format!("{}, {} attempts, {} retries", effect.state, effect.attempts, effect.retries);
    let device = format!("{} ({}) of mailbox {}", or_dash(&effect.device), effect.channel, or_dash(&effect.number));
    let created = format!("{}, expires {}", output::time(effect.created_ms), output::time(effect.expires_ms));
    let mut rows = vec![
        ("state", state),
        ("device", device),
        ("cause", cause),
        ("created", created),
        ("at", time(effect)),
        ("reason", or_dash(&effect.reason)),
    ];
    rows.extend(history(effect));
    output::table(&["ID", &effect.id], rows.into_iter().map(|(word, value)| vec![word.to_owned(), value]))
}

/// The latest attempt, failures, deaths, a report that came back, and the notifications that followed.
fn history(effect: &Effect) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if effect.attempted_ms > 0 {
        let at = output::time(effect.attempted_ms);
        rows.push(("latest attempt", format!("{}, {at}, epoch {}", effect.attempts, effect.epoch)));
    }
    // Of one that waits, it is the reason above.
    if effect.failed_attempt > 0 && effect.failure != effect.reason {
        rows.push(("latest failure", format!("attempt {}: {}", effect.failed_attempt, effect.failure)));
    }
    if effect.deaths > 0 {
        let text = format!("{} processes ended during it, last in attempt {}", effect.deaths, effect.death_attempt);
        rows.push(("deaths", text));
    }
    if effect.bounced_ms > 0 {
        rows.push(("came back", format!("{}: {}", output::time(effect.bounced_ms), effect.bounce)));
    }
    for next in &effect.follows {
        let id: String = next.id.chars().take(SHORT).collect();
        let due = if next.due_ms > 0 { format!(", due {}", output::time(next.due_ms)) } else { String::new() };
        let device = or_dash(&next.device);
        rows.push(("followed by", format!("{} {id} at {device}: {}{due}", next.relation, next.state)));
    }
    rows
}

#[cfg(test)]
#[path = "../../tests/unit/outbox.rs"]
mod tests;
