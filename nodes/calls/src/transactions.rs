//! The transactions of all flows, with their timers. Messages that they decide to send leave here; the calls of INVITEs and the senders
//! of requests learn of the outcomes. The code awaits nothing while it holds the mutex.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use twinbox_clock::{BootClock, BootInstant};
use twinbox_sip::{
    Request, Response,
    transaction::{Admission, ClientId, Event, Guard, Layer, ServerId},
    via::COOKIE,
};
use twinbox_sip_transport::{Flow, Room};

use crate::{
    Transport,
    call::Input,
    dialogs::Dialogs,
    lock,
    stats::{Stats, count},
    timers::Timers,
};

/// Maximum number of transactions of each kind. At about 2 kB each, this bounds the memory use of a flood.
const MAX_TRANSACTIONS: usize = 50_000;

/// Error: a sent request got no final response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no answer")]
    TimedOut,
    #[error("withdrawn")]
    Withdrawn,
    #[error("{0}")]
    Unreachable(String),
}

/// The transactions of the SIP server, and the sent requests that wait for an outcome.
pub(crate) struct Transactions {
    layer: Mutex<Layer<Flow>>,
    timers: Timers,
    pending: Mutex<HashMap<ClientId, oneshot::Sender<Result<Response, SendError>>>>,
    dialogs: Arc<Dialogs>,
    stats: Arc<Stats>,
    stop: CancellationToken,
    clock: BootClock,
    started: BootInstant,
}

impl Transactions {
    pub(crate) fn new(dialogs: Arc<Dialogs>, stats: Arc<Stats>, stop: CancellationToken, clock: BootClock) -> Self {
        let layer = Mutex::new(Layer::new(rand::random(), MAX_TRANSACTIONS));
        let (timers, pending, started) = (Timers::default(), Mutex::default(), clock.now());
        Self { layer, timers, pending, dialogs, stats, stop, clock, started }
    }

    /// Time on the transactions' clock, in milliseconds.
    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Number of transactions.
    pub(crate) fn count(&self) -> usize {
        let load = lock(&self.layer).load();
        load.servers + load.clients
    }

    /// Runs the timers until the SIP server stops.
    pub(crate) async fn tick(self: Arc<Self>) {
        let pass = || {
            let events = lock(&self.layer).tick(self.now());
            self.act(events, None);
        };
        let timers = self.timers.run(|| self.now(), pass, || lock(&self.layer).next_due());
        self.stop.run_until_cancelled(timers).await;
    }

    /// The local tag in the answers to this request.
    pub(crate) fn tag(&self, request: &Request) -> String {
        lock(&self.layer).tag(request)
    }

    /// Whether a request belongs to a known transaction.
    pub(crate) fn knows(&self, request: &Request) -> bool {
        lock(&self.layer).knows(request)
    }

    /// Handles a received request; returns it if it begins a transaction, which `admit` decides.
    pub(crate) fn request_received(
        &self,
        request: Request,
        flow: Flow,
        admit: impl FnOnce(&Request) -> Admission,
    ) -> Option<(ServerId, Request)> {
        let events = lock(&self.layer).request_received(request, flow, self.now(), admit);
        self.act(events, None)
    }

    /// Handles a received response.
    pub(crate) fn response_received(&self, response: Response) {
        let events = lock(&self.layer).response_received(response, self.now());
        self.act(events, None);
    }

    /// Answers a request.
    pub(crate) fn respond(&self, id: &ServerId, response: Response) {
        if !response.is_provisional() && !response.is_success() {
            self.dialogs.refused(id);
        }
        let events = lock(&self.layer).respond(id, response, self.now());
        self.act(events, None);
    }

    /// Sends the ACK of the `2xx` to a sent INVITE.
    pub(crate) fn acknowledge(&self, invite: ClientId, mut ack: Request, flow: &Flow) {
        ack.headers.push_front("Via", new_via(flow));
        let events = lock(&self.layer).acknowledge(invite, &ack, flow.clone());
        self.act(events, None);
    }

    /// Sends a request and waits for its final response, for `timeout`, if given, instead of timer F.
    pub(crate) async fn request(
        &self,
        request: &mut Request,
        flow: &Flow,
        guard: Option<Guard>,
        room: Room,
        timeout: Option<Duration>,
    ) -> Result<(ClientId, Response), SendError> {
        request.headers.remove("Via");
        request.headers.push_front("Via", new_via(flow));
        let (outcome_sender, outcome) = oneshot::channel();
        let (id, events) = {
            let mut layer = lock(&self.layer);
            let sent = layer.request(request, flow.clone(), guard, self.now());
            let (id, events) =
                sent.ok_or_else(|| SendError::Unreachable("too many pending requests of this node".into()))?;
            lock(&self.pending).insert(id, outcome_sender);
            (id, events)
        };
        let pending = PendingRequest { transactions: self, id };
        self.act(events, room);
        // After the stop no timer runs and no outcome comes; a task that waits would hold the sockets that the next server binds.
        let outcome = self.stop.run_until_cancelled(outcome);
        let outcome = outcome
            .map(|outcome| outcome.map_or(Err(SendError::Withdrawn), |it| it.unwrap_or(Err(SendError::TimedOut))));
        let outcome = match timeout {
            None => outcome.await,
            Some(timeout) => tokio::time::timeout(timeout, outcome).await.unwrap_or_else(|_| {
                // The request must not be retransmitted after the one to the next target.
                let events = lock(&self.layer).withdraw(id);
                self.act(events, None);
                Err(SendError::TimedOut)
            }),
        };
        drop(pending);
        Ok((id, outcome?))
    }

    /// Executes the events of the layer; the first message has `room`. Returns the request that began a transaction.
    fn act(&self, events: Vec<Event<Flow>>, mut room: Room) -> Option<(ServerId, Request)> {
        self.timers.changed(lock(&self.layer).next_due());
        let mut begun = None;
        for event in events {
            match event {
                Event::Send { flow, bytes, guard: None } => self.send(&flow, bytes, room.take()),
                Event::Send { flow, bytes, guard: Some((guard, id)) } => {
                    // Rule R6: checked at the write, not at the creation of the request.
                    if (guard.0)() {
                        self.send(&flow, bytes, room.take());
                    } else {
                        let events = lock(&self.layer).withdraw(id);
                        self.act(events, None);
                    }
                }
                Event::Request { id, request } => begun = Some((id, request)),
                Event::Acknowledged { id, ack } => {
                    self.dialogs.notify(&id, Input::Acknowledged(Box::new(ack)), true);
                }
                Event::Unacknowledged(id) => self.dialogs.notify(&id, Input::Unacknowledged, true),
                Event::Cancelled(id) => self.dialogs.notify(&id, Input::Cancelled, false),
                Event::Response(id, response) if response.is_provisional() => {
                    tracing::trace!(?id, "provisional response");
                }
                Event::Response(id, response) => self.finish(id, Ok(response)),
                Event::TimedOut(id) => self.finish(id, Err(SendError::TimedOut)),
                Event::Withdrawn(id) => self.finish(id, Err(SendError::Withdrawn)),
            }
        }
        begun
    }

    /// Sends a message of no transaction, or of one that has decided to send it.
    pub(crate) fn send(&self, flow: &Flow, bytes: Bytes, room: Room) {
        if !flow.send(bytes, room) {
            count(&self.stats.send_failures);
        }
    }

    fn finish(&self, id: ClientId, outcome: Result<Response, SendError>) {
        if let Some(waiter) = lock(&self.pending).remove(&id) {
            let _ = waiter.send(outcome);
        }
    }
}

/// A Via with a new branch.
fn new_via(flow: &Flow) -> String {
    let transport = match flow.transport() {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
    };
    format!("SIP/2.0/{transport} {};rport;branch={COOKIE}{:032x}", flow.advertised(), rand::random::<u128>())
}

/// Removes a request from the table of pending ones when dropped.
struct PendingRequest<'a> {
    transactions: &'a Transactions,
    id: ClientId,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        lock(&self.transactions.pending).remove(&self.id);
    }
}

#[cfg(test)]
#[path = "../tests/unit/transactions.rs"]
mod tests;
