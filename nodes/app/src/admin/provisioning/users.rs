//! Import and export of users as a table.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::info;
use twinbox_mailbox::{NewMailbox, RowProblem, read_table, write_users};
use twinbox_mailstore::{PlannedUser, Quota, UserImport, WeakPins};
use twinbox_wire::admin::{
    UserImportEvent, UserImportOptions, UserImportPart, UserImportProblem, UserImportRow, UserImportSummary,
};

use super::super::{internal, pin};
use super::gather;
use crate::node::Node;

/// Maximum size of a table, in bytes: some hundred thousand users.
const LARGEST: usize = 32 << 20;

/// Maximum number of rows and problems in one event.
const BATCH: usize = 200;

/// Maximum number of events that wait for a slow reader.
const WAITING: usize = 16;

/// Imports a table and reports progress events.
pub fn import(
    node: Arc<Node>,
    parts: Streaming<UserImportPart>,
) -> ReceiverStream<Result<UserImportEvent, Status>> {
    let (events, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        if let Err(status) = run(&node, parts, &events).await {
            // The reader may have gone.
            let _ = events.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receiver)
}

async fn run(
    node: &Node,
    mut parts: Streaming<UserImportPart>,
    events: &Sender<Result<UserImportEvent, Status>>,
) -> Result<(), Status> {
    let first = parts.message().await?.and_then(|part| part.options);
    let options = first.ok_or_else(|| Status::invalid_argument("the first part carries the options"))?;
    let table = gather(parts, LARGEST, |part| part.csv).await?;
    let (rows, mut problems) = match std::str::from_utf8(&table) {
        Ok(text) => read_table(text),
        Err(error) => {
            let before = table.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
            (Vec::new(), vec![RowProblem::new(line, "the table is not in UTF-8: save it as \"CSV UTF-8\"")])
        }
    };
    let how = how(node, &options)?;
    let plan = match node.mailstore.plan_users(rows, &how).await.map_err(internal)? {
        Ok(plan) if problems.is_empty() => plan,
        judged => {
            problems.extend(judged.err().unwrap_or_default());
            problems.sort_by_key(|problem| problem.line);
            return tell_problems(problems, events).await;
        }
    };
    let told: Vec<_> =
        plan.users.iter().filter(|u| !u.changes.reveal().is_empty() || u.without_pin).map(row).collect();
    for rows in told.chunks(BATCH) {
        tell(events, UserImportEvent { rows: rows.to_vec(), ..Default::default() }).await?;
    }
    let summary = if options.dry_run {
        let count = |which: fn(&PlannedUser) -> bool| plan.users.iter().filter(|user| which(user)).count() as u64;
        UserImportSummary {
            created: count(|user| !user.known),
            changed: count(|user| user.known && !user.changes.reveal().is_empty()),
            unchanged: count(|user| user.changes.reveal().is_empty()),
            dry_run: true,
            ..Default::default()
        }
    } else {
        let progress = {
            let (events, last) = (events.clone(), AtomicU64::new(0));
            move |done| {
                // A slow reader misses some progress events.
                if last.fetch_max(done, Ordering::Relaxed) < done {
                    let _ = events.try_send(Ok(UserImportEvent { done, ..Default::default() }));
                }
            }
        };
        let imported = node.mailstore.import_users(plan, progress).await.map_err(pin)?;
        info!(
            created = imported.created,
            changed = imported.changed,
            unchanged = imported.unchanged,
            "users were imported by an administrator"
        );
        let acknowledged = match (imported.groups_alone, imported.groups_on_two) {
            (0, 0) => "",
            (0, _) => "on two",
            _ => "alone",
        };
        UserImportSummary {
            created: imported.created,
            changed: imported.changed,
            unchanged: imported.unchanged,
            dry_run: false,
            acknowledged: acknowledged.to_owned(),
            missed: imported.missed,
        }
    };
    tell(events, UserImportEvent { summary: Some(summary), ..Default::default() }).await
}

/// All users as a table.
pub async fn export(node: &Node) -> Result<String, Status> {
    let mailstore = &node.mailstore;
    let mut mailboxes = mailstore.mailboxes().await.map_err(internal)?;
    // A number that now belongs to another mailbox could not be imported again.
    mailboxes.retain(|mailbox| !mailbox.number_lost);
    mailboxes.sort_by(|a, b| (a.number.len(), &a.number).cmp(&(b.number.len(), &b.number)));
    let class = |mailbox| Ok((mailbox, mailstore.class_name_of(mailbox)?));
    let rows: Vec<_> = mailboxes.iter().map(class).collect::<Result<_, _>>().map_err(internal)?;
    Ok(write_users(rows))
}

fn how(node: &Node, options: &UserImportOptions) -> Result<UserImport, Status> {
    let settings = &node.config.voicemail;
    let usual = NewMailbox {
        pin: None,
        timezone: settings.timezone.clone(),
        language: settings.language.clone(),
        quota: Quota {
            max_messages: u64::from(settings.max_messages),
            max_message_ms: node.config.calls.max_message_ms,
        },
        ..NewMailbox::new("", "")
    };
    let weak_pins = match options.weak_pins.as_str() {
        "" | "refuse" => WeakPins::Refuse,
        "leave-out" => WeakPins::LeaveOut,
        "accept" => WeakPins::Accept,
        other => return Err(Status::invalid_argument(format!("weak PINs cannot be '{other}'"))),
    };
    Ok(UserImport { usual, keep_pins: options.keep_pins, weak_pins })
}

fn row(user: &PlannedUser) -> UserImportRow {
    UserImportRow {
        line: user.line,
        number: user.number.to_string(),
        state: match (user.known, user.changes.reveal().is_empty()) {
            (false, _) => "new",
            (true, false) => "changed",
            (true, true) => "unchanged",
        }
        .to_owned(),
        changes: user.changes.reveal().clone(),
        without_pin: user.without_pin,
    }
}

async fn tell_problems(
    problems: Vec<RowProblem>,
    events: &Sender<Result<UserImportEvent, Status>>,
) -> Result<(), Status> {
    for problems in problems.chunks(BATCH) {
        let problems = problems.iter().map(|p| UserImportProblem { line: p.line, what: p.what.clone() }).collect();
        tell(events, UserImportEvent { problems, ..Default::default() }).await?;
    }
    Ok(())
}

async fn tell(events: &Sender<Result<UserImportEvent, Status>>, event: UserImportEvent) -> Result<(), Status> {
    events.send(Ok(event)).await.map_err(|_| Status::cancelled("nobody listens any more"))
}
