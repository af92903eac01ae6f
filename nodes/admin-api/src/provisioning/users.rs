//! Import and export of users as a table.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::info;
use twinbox_ids::Pii;
use twinbox_mailbox::{
    AddressChange, InvalidAddress, NotifyColumns, RowProblem, UserAddress, UserAddresses, UserRow, check_name,
    check_operator, read_table, write_users,
};
use twinbox_mailstore::{PlannedUser, UserImport, WeakPins};
use twinbox_outbox::Channel;
use twinbox_wire::admin::{
    UserImportEvent, UserImportOptions, UserImportPart, UserImportProblem, UserImportRow, UserImportSummary,
};

use super::gather;
use crate::{
    AdminHandles,
    admin::{internal, pin},
    delivery::served,
};

/// Maximum size of a table, in bytes: some hundred thousand users.
const LARGEST: usize = 32 << 20;

/// Maximum number of rows and problems in one event.
const BATCH: usize = 200;

/// Maximum number of events that wait for a slow reader.
const WAITING: usize = 16;

/// Imports a table and reports progress events.
pub fn import(
    node: AdminHandles,
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
    node: &AdminHandles,
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
    let rows = match mail_domain(node) {
        Some(domain) => {
            rows.into_iter().map(|row| UserRow { addresses: row.addresses.within(&domain), ..row }).collect()
        }
        None => rows,
    };
    for channel in channels_of(&rows) {
        served(node, channel).await?;
    }
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

/// The channels of the devices that a table makes or enables.
fn channels_of(rows: &[UserRow]) -> Vec<Channel> {
    let has = |address: &Option<Option<Pii<String>>>| matches!(address, Some(Some(_)));
    let mail = rows.iter().any(|row| has(&row.notify.mail)).then_some(Channel::Mail);
    let pager = rows.iter().any(|row| has(&row.notify.pager)).then_some(Channel::Pager);
    mail.into_iter().chain(pager).collect()
}

/// All users as a table.
pub async fn export(node: &AdminHandles) -> Result<String, Status> {
    let mailstore = &node.mailstore;
    let mut mailboxes = mailstore.mailboxes().await.map_err(internal)?;
    // A number that now belongs to another mailbox could not be imported again.
    mailboxes.retain(|mailbox| !mailbox.number_lost);
    mailboxes.sort_by(|a, b| (a.number.len(), &a.number).cmp(&(b.number.len(), &b.number)));
    // The same is true of its addresses.
    for mailbox in &mut mailboxes {
        let lost = mailstore.lost_addresses(mailbox).map_err(internal)?;
        mailbox.addresses.remove(&lost);
    }
    let mut columns = mailstore.notify_columns().await.map_err(internal)?;
    let none = || NotifyColumns { mail: Some(None), pager: Some(None), ..NotifyColumns::default() };
    let rows = mailboxes.iter().map(|mailbox| {
        let columns = columns.remove(&mailbox.id).unwrap_or_else(none);
        Ok((mailbox, mailstore.class_name_of(mailbox)?, columns))
    });
    let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(internal)?;
    Ok(write_users(rows))
}

/// Checks the name and the operator number of a new user, as an import checks those of a table.
pub(crate) fn check_fields(name: &str, operator: Option<&str>) -> Result<(), Status> {
    check_name(name).map_err(|error| Status::invalid_argument(format!("name: {error}")))?;
    let reachable = operator.map_or(Ok(()), check_operator);
    reachable.map_err(|error| Status::invalid_argument(format!("operator: {error}")))
}

/// Addresses of a new user.
pub(crate) fn addresses(node: &AdminHandles, mail: &str, aliases: &[String]) -> Result<UserAddresses, Status> {
    let wrong = |error: InvalidAddress| Status::invalid_argument(error.to_string());
    let mail = match mail {
        "" => None,
        mail => Some(UserAddress::address(mail).map_err(wrong)?),
    };
    let aliases = UserAddress::aliases(&aliases.join(" ")).map_err(wrong)?;
    let change = AddressChange { mail: Some(mail), aliases: Some(aliases) };
    let change = match mail_domain(node) {
        Some(domain) => change.within(&domain),
        None => change,
    };
    Ok(UserAddresses::default().changed(&change))
}

/// Domain of the mailboxes, if mail has one.
fn mail_domain(node: &AdminHandles) -> Option<String> {
    node.settings.services().identity.as_ref().map(|identity| identity.domain.clone())
}

fn how(node: &AdminHandles, options: &UserImportOptions) -> Result<UserImport, Status> {
    let weak_pins = match options.weak_pins.as_str() {
        "" | "refuse" => WeakPins::Refuse,
        "leave-out" => WeakPins::LeaveOut,
        "accept" => WeakPins::Accept,
        other => return Err(Status::invalid_argument(format!("weak PINs cannot be '{other}'"))),
    };
    Ok(UserImport { usual: node.mailstore.live().usual.clone(), keep_pins: options.keep_pins, weak_pins })
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
    events.send(Ok(event)).await.map_err(|_| Status::cancelled("the client has closed the stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_with_an_address_for_notifications_needs_the_duty_of_its_channel() {
        for (row, channels) in [
            ("1001,anna@example.com,,", vec![Channel::Mail]),
            ("1001,,,1@pager.example", vec![Channel::Pager]),
            ("1001,anna@example.com,yes,1@pager.example", vec![Channel::Mail, Channel::Pager]),
            ("1001,-,,-", vec![]),
            ("1001,,no,", vec![]),
        ] {
            let table = format!("number,notify_mail,notify_audio,notify_pager\n{row}\n");
            let (rows, problems) = read_table(&table);
            assert!(problems.is_empty(), "{row}: {problems:?}");
            assert_eq!(channels_of(&rows), channels, "{row}");
        }
    }
}
