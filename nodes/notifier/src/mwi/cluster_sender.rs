//! Carries MWI states from the notifier to the SIP servers: unsolicited NOTIFYs leave this node, NOTIFYs in dialogs
//! leave the node that holds the dialog (rule E2).
//!
//! Another node sends under the lease of the holder (rule R6) without access to its gate. It may send until a time
//! that both nodes know to be within the lease. The holder first gets the other node's time, then checks its own gate,
//! which closes a margin before the lease expires, then requests the change. A datagram sent within that margin *of the
//! reported time* is sent within the lease, however long the request was delayed. Each answer brings a time: while it is
//! recent, the next request needs no other. The times and the check of one request cover the states of all mailboxes in
//! it. A node stops sending when it knows a newer epoch, or when the requester has gone. Remaining case: after an early
//! hand-over, a datagram may still be sent until the news arrives, at most for that margin; its epoch identifies it. A
//! list of mailboxes with subscribers is made after that.

use std::{collections::BTreeSet, iter, sync::Arc, time::Duration};

use tokio::task::JoinSet;
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
use twinbox_wire::admin::{
    ClockRequest, LightChange, LightOutcome, LightReply, LightState, SubscribedReply, SubscribedRequest,
    node_info_client::NodeInfoClient,
};

use super::{MwiSender, MwiUpdate, Receivers, ReportedTimes, SendError, Target, queue::MAX_BATCH};

/// Timeout for another node to notify its subscribers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Timeout for another node to report its time, or a page of its list.
const CLOCK_WITHIN: Duration = Duration::from_secs(2);
/// Maximum number of immediate attempts when a request took longer than the margin.
const TRIES: usize = 3;
/// Number of mailboxes in a page of a list: 64 KiB.
const PAGE: usize = 4_096;
/// A longer list is not used: each mailbox may have subscribers.
const MAX_LISTED: usize = 1_000_000;

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
    /// Times that the other nodes have reported.
    pub times: ReportedTimes,
}

impl ClusterMwiSender {
    fn channel(&self, to: &NodeName) -> Result<Channel, SendError> {
        let way = self.members.nodes().into_iter().find(|(name, _)| name == to);
        way.map(|(_, channel)| channel).ok_or_else(|| SendError::Unreachable(format!("there is no way to {to}")))
    }

    /// Requests another node to notify its subscribers. A request is answered for as many of its first states as the node
    /// takes, by one of an earlier release for the first: the others are requested again.
    async fn ask(&self, to: &NodeName, updates: &[MwiUpdate], permit: &Permit) -> Vec<Result<(), SendError>> {
        let mut outcomes = Vec::with_capacity(updates.len());
        while let Some((first, further)) = updates.get(outcomes.len()..).and_then(<[_]>::split_first) {
            match taken(self.request(to, first, further, permit).await, 1 + further.len()) {
                Ok(taken) => outcomes.extend(taken),
                Err(error) => outcomes.resize(updates.len(), Err(error)),
            }
        }
        outcomes
    }

    async fn request(
        &self,
        to: &NodeName,
        first: &MwiUpdate,
        further: &[MwiUpdate],
        permit: &Permit,
    ) -> Result<Result<LightReply, Status>, SendError> {
        let (epoch, channel) = (permit.epoch(), self.channel(to)?);
        let mut change = LightChange {
            mailbox: first.mailbox.to_bytes().to_vec().into(),
            number: first.number.clone(),
            new: first.counts.new,
            saved: first.counts.saved,
            generation: epoch.generation,
            epoch_number: epoch.number,
            holder: epoch.node.to_string(),
            // The gate closes this long before the lease expires.
            valid_ms: u32::try_from(self.margin.as_millis()).unwrap_or(u32::MAX),
            clock_ns: 0,
            further: further.iter().map(state).collect(),
        };
        let mut outcome = Ok(LightReply::default());
        // The rest of the margin is for the way of the request and for the datagrams.
        let mut known = self.times.recent(to, self.margin / 4, BootInstant::now());
        for _ in 0..TRIES {
            let mut client = NodeInfoClient::<Channel>::new(channel.clone());
            change.clock_ns = match known.take() {
                Some(reported_ns) => reported_ns,
                None => within(CLOCK_WITHIN, client.clock(ClockRequest {})).await.map_err(unasked)?.boot_ns,
            };
            // Checked after the time was reported, with no wait in between.
            permit.check()?;
            outcome = within(ANSWER_WITHIN, client.tell_subscribers(change.clone())).await;
            if !matches!(&outcome, Err(status) if status.code() == Code::OutOfRange) {
                break;
            }
        }
        if let Ok(reply) = &outcome {
            self.times.note(to, reply.clock_ns, BootInstant::now());
        }
        Ok(outcome)
    }

    /// Requests another node's list of mailboxes with subscribers.
    async fn ask_receivers(&self, of: &NodeName) -> Result<Receivers, SendError> {
        let mut client = NodeInfoClient::<Channel>::new(self.channel(of)?);
        let mut found = BTreeSet::<MailboxId>::new();
        loop {
            let after = found.last().map(|last| last.to_bytes().to_vec()).unwrap_or_default();
            let request = client.subscribed_mailboxes(SubscribedRequest { after: after.into() });
            let page = match within(CLOCK_WITHIN, request).await {
                Ok(page) => page,
                // A node of an earlier release has no list.
                Err(status) if status.code() == Code::Unimplemented => return Ok(Receivers::Unknown),
                Err(status) => return Err(unasked(status)),
            };
            let before = found.len();
            if !add_page(&mut found, &page) || (page.more && (found.len() == before || before > MAX_LISTED)) {
                return Ok(Receivers::Unknown);
            }
            if !page.more {
                return Ok(Receivers::Of(found));
            }
        }
    }

    async fn notify_trunk(&self, trunk: &str, update: &MwiUpdate, permit: &Permit) -> Result<(), SendError> {
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
}

impl MwiSender for ClusterMwiSender {
    fn targets(&self) -> Vec<Target> {
        let config = self.calls.config();
        let trunks = config.trunks.iter().filter(|trunk| trunk.takes_mwi());
        let trunks = trunks.map(|trunk| Target::Trunk(trunk.name.clone()));
        let nodes = self.members.nodes().into_iter().map(|(name, _)| name).chain([self.node.clone()]);
        trunks.chain(nodes.map(Target::Subscribers)).collect()
    }

    async fn receivers(&self, target: &Target) -> Result<Receivers, SendError> {
        if matches!(target, Target::Subscribers(_)) {
            // The holder before may have asked that node to send, until a margin after its gate closed: from then on a subscriber
            // that is not in the list has no state of it.
            tokio::time::sleep(self.margin).await;
        }
        match target {
            Target::Trunk(_) => Ok(Receivers::Unknown),
            Target::Subscribers(node) if *node == self.node => {
                Ok(Receivers::Of(sip_server(&self.calls)?.subscribed_mailboxes().into_iter().collect()))
            }
            Target::Subscribers(node) => self.ask_receivers(node).await,
        }
    }

    async fn send(&self, target: &Target, updates: &[MwiUpdate], permit: &Permit) -> Vec<Result<(), SendError>> {
        match target {
            Target::Trunk(trunk) => {
                let mut outcomes = Vec::with_capacity(updates.len());
                for update in updates {
                    outcomes.push(self.notify_trunk(trunk, update, permit).await);
                }
                outcomes
            }
            Target::Subscribers(node) if *node == self.node => {
                let states = updates.iter().map(|update| (update.mailbox, update.counts)).collect();
                tell(&self.calls, states, permit.epoch(), permit.guard()).await
            }
            Target::Subscribers(node) => self.ask(node, updates, permit).await,
        }
    }
}

fn state(update: &MwiUpdate) -> LightState {
    let MessageCounts { new, saved } = update.counts;
    LightState { mailbox: update.mailbox.to_bytes().to_vec().into(), new, saved }
}

/// Outcomes of the first states of a request for `asked` states, at least of one; `Err`: that of all.
fn taken(
    reply: Result<Result<LightReply, Status>, SendError>,
    asked: usize,
) -> Result<Vec<Result<(), SendError>>, SendError> {
    match reply? {
        Ok(reply) if reply.outcomes.is_empty() => Ok(vec![Ok(())]),
        Ok(reply) => Ok(reply.outcomes.into_iter().take(asked).map(outcome).collect()),
        // So answers a node that was asked for one state, or knows of one.
        Err(status) if matches!(status.code(), Code::Aborted | Code::FailedPrecondition) => {
            Ok(vec![Err(unasked(status))])
        }
        Err(status) => Err(unasked(status)),
    }
}

fn outcome(of: LightOutcome) -> Result<(), SendError> {
    match Code::from(of.code) {
        Code::Ok => Ok(()),
        code => Err(unasked(Status::new(code, of.detail))),
    }
}

/// Adds a page to a list; false: it cannot be read.
fn add_page(list: &mut BTreeSet<MailboxId>, page: &SubscribedReply) -> bool {
    let read: Option<Vec<_>> = page.mailboxes.chunks(16).map(MailboxId::from_slice).collect();
    let is_read = read.is_some();
    list.extend(read.into_iter().flatten());
    is_read
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

/// Lists mailboxes with subscribers whose dialogs are here, for the duty's holder.
pub fn list_for(calls: &CallsService, request: &SubscribedRequest) -> Result<SubscribedReply, Status> {
    let after = match &request.after[..] {
        [] => None,
        after => Some(MailboxId::from_slice(after).ok_or_else(|| {
            Status::invalid_argument("a request for mailboxes after one whose ID has not 16 bytes")
        })?),
    };
    Ok(page(&sip_server(calls).map_err(status)?.subscribed_mailboxes(), after))
}

/// Page of these mailboxes, which are in ascending order.
fn page(mailboxes: &[MailboxId], after: Option<MailboxId>) -> SubscribedReply {
    let rest = mailboxes.iter().skip_while(|mailbox| after.is_some_and(|after| **mailbox <= after));
    let mut rest = rest.peekable();
    let page = rest.by_ref().take(PAGE).flat_map(|mailbox| mailbox.to_bytes()).collect::<Vec<_>>();
    SubscribedReply { mailboxes: page.into(), more: rest.peek().is_some() }
}

/// Notifies the subscribers whose dialogs are here, at the request of the duty's holder. Refuses a sender that is
/// not a node of the cluster. Refuses an epoch older than the newest known here. The permission ends `valid_ms`,
/// at most `margin`, after the reported time, and when the holder stops waiting for the answer. Of more than [`MAX_BATCH`]
/// states it takes as many.
pub async fn notify_for(
    calls: &CallsService,
    roles: &Roles,
    margin: Duration,
    from: &NodeName,
    change: LightChange,
) -> Result<LightReply, Status> {
    let states = states(&change)?;
    let holder: NodeName = change.holder.parse().map_err(|_| without("a holder"))?;
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
    let told = tell(calls, states, &epoch, guard).await;
    // Dropped earlier, together with this call, when the holder stops waiting.
    drop(asker);
    reply(told, change.further.is_empty())
}

fn without(what: &str) -> Status {
    Status::invalid_argument(format!("a change of MWI without {what}"))
}

/// States of a change, as many as are taken.
fn states(change: &LightChange) -> Result<Vec<(MailboxId, MessageCounts)>, Status> {
    let further = change.further.iter().map(|state| (&state.mailbox, state.new, state.saved));
    let states = iter::once((&change.mailbox, change.new, change.saved)).chain(further).take(MAX_BATCH);
    let states = states.map(|(mailbox, new, saved)| {
        let mailbox = MailboxId::from_slice(mailbox).ok_or_else(|| without("a mailbox"));
        mailbox.map(|mailbox| (mailbox, MessageCounts { new, saved }))
    });
    states.collect()
}

/// Answer with these outcomes. That of a state which was `alone` in its change is the status of the answer, as a holder of
/// an earlier release expects it.
fn reply(told: Vec<Result<(), SendError>>, alone: bool) -> Result<LightReply, Status> {
    let clock_ns = BootInstant::now().as_nanos();
    if alone {
        let told = told.into_iter().collect::<Result<(), _>>();
        return told.map(|()| LightReply { clock_ns, ..LightReply::default() }).map_err(status);
    }
    let outcome = |told: Result<(), SendError>| match told.map_err(status) {
        Ok(()) => LightOutcome::default(),
        Err(status) => LightOutcome { code: status.code().into(), detail: status.message().to_owned() },
    };
    Ok(LightReply { outcomes: told.into_iter().map(outcome).collect(), clock_ns })
}

/// Status with which this node answers that subscribers were not notified.
fn status(error: SendError) -> Status {
    match error {
        SendError::Refused(what) => Status::failed_precondition(what),
        SendError::Unreachable(what) => Status::unavailable(what),
        error => Status::aborted(error.to_string()),
    }
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

/// Notifies the subscribers whose dialogs this node holds, of all these mailboxes concurrently: an outcome for each.
async fn tell(
    calls: &CallsService,
    states: Vec<(MailboxId, MessageCounts)>,
    epoch: &Epoch,
    guard: impl Fn() -> bool + Send + Sync + 'static,
) -> Vec<Result<(), SendError>> {
    let server = match sip_server(calls) {
        Ok(server) => server,
        Err(error) => return vec![Err(error); states.len()],
    };
    let mut outcomes = vec![Err(SendError::Incomplete("its task ended".to_owned())); states.len()];
    let (guard, mut tasks) = (Arc::new(guard), JoinSet::new());
    for (index, (mailbox, counts)) in states.into_iter().enumerate() {
        let (server, epoch, guard) = (server.clone(), epoch.to_string(), guard.clone());
        tasks.spawn(async move {
            let told = server.notify_subscribers(mailbox, counts, &epoch, move || guard()).await;
            (index, told.map_err(|error| untold(mailbox, error)))
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Ok((index, told)) = ended {
            outcomes[index] = told;
        }
    }
    outcomes
}

fn untold(mailbox: MailboxId, error: NotifyError) -> SendError {
    debug!(%mailbox, %error, "MWI of a subscriber was not sent");
    match error {
        NotifyError::NotHolder => SendError::NotHolder,
        NotifyError::Refused(_) => SendError::Refused(error.to_string()),
        error => SendError::Incomplete(error.to_string()),
    }
}

fn sip_server(calls: &CallsService) -> Result<Calls, SendError> {
    calls.running().ok_or_else(|| SendError::Unreachable("the SIP server does not run".to_owned()))
}

#[cfg(test)]
#[path = "../../tests/unit/cluster_sender.rs"]
mod tests;
