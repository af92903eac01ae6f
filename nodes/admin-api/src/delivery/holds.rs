//! Holds of destinations: the effects that go there wait for an administrator.

use tonic::Status;
use tracing::info;
use twinbox_clock::wall;
use twinbox_mailstore::{HoldError, Mailstore};
use twinbox_outbox::{Destination, DestinationError};
use twinbox_wire::delivery::{Changed, FlushReply, FlushRequest, Hold, HoldRequest, HoldsReply};

use super::changed;
use crate::{
    AdminHandles,
    admin::{acknowledged, all_records, internal, mail},
};

/// Age from which the cluster's status names a hold, in milliseconds.
const OLD_MS: u64 = 24 * 3_600 * 1_000;

/// Puts a destination on hold.
pub async fn hold(node: &AdminHandles, request: HoldRequest) -> Result<Changed, Status> {
    let HoldRequest { destination, reason } = request;
    all_records(node)?;
    let destination = parse(&destination)?;
    let (name, kind) = (destination.reveal().to_owned(), destination.kind());
    let acknowledgement = node.mailstore.hold(destination, &reason).await.map_err(refused)?;
    info!(kind, "administrator holds a destination of the outbox");
    Ok(changed(name, &acknowledgement))
}

/// Releases the hold of a destination, if there is one, and makes all that wait for it due now.
pub async fn flush(node: &AdminHandles, request: FlushRequest) -> Result<FlushReply, Status> {
    all_records(node)?;
    let destination = parse(&request.destination)?;
    let flushed = node.mailstore.flush(&destination).await.map_err(mail)?;
    let (kind, released, waiting) = (destination.kind(), flushed.released, flushed.waiting);
    info!(kind, released, waiting, "administrator flushes a destination of the outbox");
    Ok(FlushReply {
        released,
        waiting: count(waiting),
        held: count(flushed.held),
        acknowledged: acknowledged(&flushed.acknowledgement),
    })
}

/// The holds in force, earliest first.
pub async fn list(node: &AdminHandles) -> Result<HoldsReply, Status> {
    all_records(node)?;
    let holds = node.mailstore.holds().map_err(internal)?;
    let mut shown: Vec<_> = holds.in_force().map(|hold| (&hold.destination, show(hold))).collect();
    if !shown.is_empty() {
        for effect in node.mailstore.open_effects().await.map_err(internal)? {
            let destinations = node.mailstore.destinations(&effect).map_err(internal)?;
            shown.iter_mut().filter(|(of, _)| destinations.contains(of)).for_each(|(_, hold)| hold.waiting += 1);
        }
    }
    let mut holds: Vec<Hold> = shown.into_iter().map(|(_, hold)| hold).collect();
    holds.sort_by(|a, b| (a.since_ms, &a.destination).cmp(&(b.since_ms, &b.destination)));
    Ok(HoldsReply { holds })
}

/// The destination of an administrator's text.
pub fn parse(text: &str) -> Result<Destination, Status> {
    text.parse().map_err(|error: DestinationError| Status::invalid_argument(error.to_string()))
}

/// A note for the cluster's status while destinations have been on hold for a day or longer.
pub(crate) fn note(mailstore: &Mailstore) -> Option<String> {
    let (holds, now) = (mailstore.holds().ok()?, wall().0);
    let old = holds.in_force().filter(|hold| hold.since.0.saturating_add(OLD_MS) <= now).count();
    (old > 0).then(|| {
        let have = if old == 1 { "1 destination has".to_owned() } else { format!("{old} destinations have") };
        format!("outbox: {have} been on hold for a day or longer: 'twinbox outbox holds' lists them")
    })
}

fn show(hold: &twinbox_outbox::Hold) -> Hold {
    Hold {
        destination: hold.destination.reveal().to_owned(),
        since_ms: hold.since.0,
        reason: hold.reason.clone(),
        waiting: 0,
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn refused(error: HoldError) -> Status {
    match error {
        HoldError::Mail(error) => mail(error),
        HoldError::TooMany => Status::resource_exhausted(error.to_string()),
    }
}
