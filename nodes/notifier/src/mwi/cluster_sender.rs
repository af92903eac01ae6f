//! Carries MWI states from the notifier to the SIP servers: unsolicited NOTIFYs leave this node, NOTIFYs in dialogs
//! leave the node that holds the dialog (rule E2).
//!
//! Another node sends under the lease of the holder (rule R6) without access to its gate. It may send until a time
//! that both nodes know to be within the lease. The holder first asks the other node for its time, then checks its
//! own gate, which closes a margin before the lease expires, then requests the change. A datagram sent within that
//! margin *of the reported time* is sent within the lease, however long the request was delayed. A node stops
//! sending when it knows a newer epoch, or when the requester has gone. Remaining case: after an early hand-over, a
//! datagram may still be sent until the news arrives, at most for that margin; its epoch identifies it.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Response, Status, transport::Channel};
use tracing::debug;
use twinbox_calls::{Calls, CallsService, NotifyError};
use twinbox_clock::BootInstant;
use twinbox_gate::Permit;
use twinbox_ids::{Epoch, MailboxId, NodeName};
use twinbox_mailstore::MessageCounts;
use twinbox_members::MemberClients;
use twinbox_roles::{Duty, MemberKind, Roles};
use twinbox_sip::mwi::Summary;
use twinbox_wire::admin::{ClockRequest, LightChange, node_info_client::NodeInfoClient};

use super::{MwiSender, MwiUpdate, SendError, Target};

/// Timeout for another node to notify its subscribers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Timeout for another node to report its time.
const CLOCK_WITHIN: Duration = Duration::from_secs(2);
/// Maximum number of immediate attempts when a request took longer than the margin.
const TRIES: usize = 3;

/// Sender of MWI states: from this node, and through the other nodes.
#[derive(Clone)]
pub struct ClusterMwiSender {
    /// Name of this node.
    pub node: NodeName,
    /// SIP server of this node.
    pub calls: CallsService,
    /// Role manager, for the members and the newest epoch.
    pub roles: Roles,
    /// Connections to the other members.
    pub members: Arc<MemberClients>,
    /// Period before the end of a lease in which its gate is closed.
    pub margin: Duration,
}

impl ClusterMwiSender {
    /// Requests another node to notify its subscribers.
    async fn ask(&self, to: &NodeName, update: &MwiUpdate, permit: &Permit) -> Result<(), SendError> {
        let epoch = permit.epoch();
        let way = self.members.nodes().into_iter().find(|(name, _)| name == to);
        let (_, channel) = way.ok_or_else(|| SendError::Unreachable(format!("there is no way to {to}")))?;
        let mut change = LightChange {
            mailbox: update.mailbox.to_bytes().to_vec().into(),
            number: update.number.clone(),
            new: update.counts.new,
            saved: update.counts.saved,
            generation: epoch.generation,
            epoch_number: epoch.number,
            holder: epoch.node.to_string(),
            // The gate closes this long before the lease expires.
            valid_ms: u32::try_from(self.margin.as_millis()).unwrap_or(u32::MAX),
            clock_ns: 0,
        };
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            let mut client = NodeInfoClient::<Channel>::new(channel.clone());
            change.clock_ns = within(CLOCK_WITHIN, client.clock(ClockRequest {})).await.map_err(unasked)?.boot_ns;
            // Checked after the answer, with no wait in between.
            permit.check()?;
            outcome = within(ANSWER_WITHIN, client.tell_subscribers(change.clone())).await.map(drop);
            if !matches!(&outcome, Err(status) if status.code() == Code::OutOfRange) {
                break;
            }
        }
        outcome.map_err(unasked)
    }
}

impl MwiSender for ClusterMwiSender {
    fn targets(&self) -> Vec<Target> {
        let config = self.calls.config();
        let trunks = config.trunks.iter().filter(|trunk| trunk.takes_mwi());
        let trunks = trunks.map(|trunk| Target::Trunk(trunk.name.clone()));
        let nodes = self.members.nodes().into_iter().map(|(name, _)| name).chain([self.node.clone()]);
        trunks.chain(nodes.map(Target::Subscribers)).collect()
    }

    async fn send(&self, target: &Target, update: &MwiUpdate, permit: &Permit) -> Result<(), SendError> {
        match target {
            Target::Trunk(trunk) => {
                let MessageCounts { new, saved } = update.counts;
                let (body, epoch) = (Summary { account: None, new, old: saved }.body(), permit.epoch().to_string());
                let calls = sip_server(&self.calls)?;
                let sent = calls.send_unsolicited_notify(trunk, &update.number, &body, &epoch, permit.guard());
                sent.await.map_err(|error| match error {
                    NotifyError::NotHolder => SendError::NotHolder,
                    NotifyError::Refused(_) => SendError::Refused(error.to_string()),
                    error => SendError::Unreachable(error.to_string()),
                })
            }
            Target::Subscribers(node) if *node == self.node => {
                tell(&self.calls, update.mailbox, update.counts, permit.epoch(), permit.guard()).await
            }
            Target::Subscribers(node) => self.ask(node, update, permit).await,
        }
    }
}

async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    tokio::time::timeout(limit, answer).await.unwrap_or_else(late).map(Response::into_inner)
}

/// Reason why another node has not notified all its subscribers.
fn unasked(status: Status) -> SendError {
    let what = status.message().to_owned();
    match status.code() {
        Code::Aborted | Code::OutOfRange | Code::PermissionDenied => SendError::Incomplete(what),
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => SendError::Refused(what),
        // The node may be alive and keep its dialogs: it gets the state when it answers again.
        _ => SendError::Unreachable(what),
    }
}

/// Notifies the subscribers whose dialogs are here, at the request of the duty's holder. Refuses a sender that is
/// not a node of the cluster. Refuses an epoch older than the newest known here. The permission ends `valid_ms`,
/// at most `margin`, after the reported time, and when the holder stops waiting for the answer.
pub async fn notify_for(
    calls: &CallsService,
    roles: &Roles,
    margin: Duration,
    from: &NodeName,
    change: LightChange,
) -> Result<(), Status> {
    let invalid = |what: &str| Status::invalid_argument(format!("a change of MWI without {what}"));
    let mailbox = MailboxId::from_slice(&change.mailbox).ok_or_else(|| invalid("a mailbox"))?;
    let holder: NodeName = change.holder.parse().map_err(|_| invalid("a holder"))?;
    let known = roles.members().borrow().iter().any(|m| m.name == *from && m.kind == MemberKind::Node);
    if holder != *from || !known {
        return Err(Status::permission_denied(format!("{from} does not speak for {holder}, or is no node here")));
    }
    let epoch = Epoch { generation: change.generation, number: change.epoch_number, node: holder };
    let window = SendWindow {
        since: BootInstant::from_nanos(change.clock_ns),
        valid: Duration::from_millis(u64::from(change.valid_ms)).min(margin),
    };
    if !window.is_open(BootInstant::now()) {
        return Err(Status::out_of_range("the change was too long on its way: the lease may be out"));
    }
    if !is_newest(roles, &epoch) {
        return Err(Status::permission_denied(format!("epoch {epoch} is over")));
    }
    let asker = Arc::new(());
    let guard = {
        let (roles, epoch, asked) = (roles.clone(), epoch.clone(), Arc::downgrade(&asker));
        move || asked.strong_count() > 0 && window.is_open(BootInstant::now()) && is_newest(&roles, &epoch)
    };
    let counts = MessageCounts { new: change.new, saved: change.saved };
    let told = tell(calls, mailbox, counts, &epoch, guard).await;
    // Dropped earlier, together with this call, when the holder stops waiting.
    drop(asker);
    told.map_err(|error| match error {
        SendError::Refused(what) => Status::failed_precondition(what),
        SendError::Unreachable(what) => Status::unavailable(what),
        error => Status::aborted(error.to_string()),
    })
}

/// Time within which this node may send under the lease of another, which asks for it. It is no [`Permit`]: only the holder
/// has the gate of the duty and checks it, and its own permit lasts until this node has answered. Here the time alone decides.
#[derive(Debug, Clone, Copy)]
struct SendWindow {
    /// Time that this node reported.
    since: BootInstant,
    /// Length of the window from then on: at most the margin by which the holder's gate closes before its lease expires.
    valid: Duration,
}

impl SendWindow {
    /// Refuses a reported time in the future: the machine was restarted since the report.
    fn is_open(&self, now: BootInstant) -> bool {
        self.since <= now && now.since(self.since) < self.valid
    }
}

/// Whether this node knows no newer epoch of the duty.
fn is_newest(roles: &Roles, epoch: &Epoch) -> bool {
    let view = roles.watch();
    let view = view.borrow();
    let newest = view.duties.iter().find(|d| d.duty == Duty::Notifier).and_then(|duty| duty.epoch.as_ref());
    newest.is_none_or(|newest| newest <= epoch)
}

/// Notifies the subscribers whose dialogs this node holds.
async fn tell(
    calls: &CallsService,
    mailbox: MailboxId,
    counts: MessageCounts,
    epoch: &Epoch,
    guard: impl Fn() -> bool + Send + Sync + 'static,
) -> Result<(), SendError> {
    let told = sip_server(calls)?.notify_subscribers(mailbox, counts, &epoch.to_string(), guard).await;
    told.map_err(|error| {
        debug!(%mailbox, %error, "MWI of a subscriber was not sent");
        match error {
            NotifyError::NotHolder => SendError::NotHolder,
            NotifyError::Refused(_) => SendError::Refused(error.to_string()),
            error => SendError::Incomplete(error.to_string()),
        }
    })
}

fn sip_server(calls: &CallsService) -> Result<Calls, SendError> {
    calls.running().ok_or_else(|| SendError::Unreachable("the SIP server does not run".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_nodes_lease_is_used_only_within_the_margin_of_the_time_it_was_told() {
        let at = |ms: u64| BootInstant::from_nanos(ms * 1_000_000);
        let window = SendWindow { since: at(1_000), valid: Duration::from_millis(50) };
        for (now, allowed) in [(999, false), (1_000, true), (1_049, true), (1_050, false), (9_000, false)] {
            assert_eq!(window.is_open(at(now)), allowed, "{now}");
        }
        // A request that waited for a connection since before the machine was restarted, or that has no time.
        assert!(!SendWindow { since: at(7_000), ..window }.is_open(at(100)));
        assert!(!SendWindow { since: at(0), ..window }.is_open(at(100)));
    }

    #[test]
    fn a_node_that_cannot_be_asked_keeps_its_dialogs_and_is_told_later() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown] {
            assert!(matches!(unasked(Status::new(code, "")), SendError::Unreachable(_)), "{code}");
        }
        assert!(matches!(unasked(Status::aborted("")), SendError::Incomplete(_)));
        assert!(matches!(unasked(Status::failed_precondition("")), SendError::Refused(_)));
    }
}
