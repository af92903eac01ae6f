//! Dispatch of received messages, in this order: strict parsing, known trunk, retransmission, admission. Only an
//! admitted message uses further resources.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_clock::BootInstant;
use twinbox_dns::Resolver;
use twinbox_overload::{
    Overload,
    admission::{Admission, CallPermit},
};
use twinbox_sip::{
    Method, Request, Response,
    strict::{self, Verdict},
    transaction::{self, ClientId, Event, Layer, ServerId},
    via,
};

use crate::{
    CallsConfig, CallsDeps, Transport,
    access::{Access, Trunk},
    call::{self, Input},
    dialogs::{Delivery, Dialogs, dialog_key},
    self_test::SelfTest,
    stats::{Stats, count},
    subscription_table::Subscriptions,
    timers::Timers,
    wire::{
        Flow,
        tcp::{Connections, TcpEndpoint, TcpPeer},
        udp::UdpEndpoint,
    },
};

/// Maximum number of transactions of each kind. At about 2 kB each, this bounds the memory use of a flood.
const MAX_TRANSACTIONS: usize = 50_000;

pub(crate) struct SipServer {
    config: RwLock<Arc<CallsConfig>>,
    pub(crate) deps: CallsDeps,
    pub(crate) access: watch::Sender<Arc<Access>>,
    pub(crate) self_test: SelfTest,
    pub(crate) resolver: Resolver,
    pub(crate) admission: Arc<Admission>,
    pub(crate) stats: Stats,
    pub(crate) dialogs: Dialogs,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) tasks: TaskTracker,
    /// Pending BYEs sent by this node.
    pub(crate) pending_byes: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) connections: Connections,
    pub(crate) udp: Vec<Arc<UdpEndpoint>>,
    pub(crate) tcp: Vec<Arc<TcpEndpoint>>,
    pub(crate) layer: Mutex<Layer<Flow>>,
    timers: Timers,
    pub(crate) pending: Mutex<HashMap<ClientId, oneshot::Sender<RequestOutcome>>>,
    broken: Mutex<Option<String>>,
    started: BootInstant,
}

/// RequestOutcome of a sent request.
#[derive(Debug)]
pub(crate) enum RequestOutcome {
    Response(Response),
    TimedOut,
    Withdrawn,
}

/// A received request with its flow, trunk and arrival time.
pub(crate) struct IncomingRequest {
    pub(crate) id: ServerId,
    pub(crate) request: Request,
    pub(crate) flow: Flow,
    pub(crate) trunk: Arc<Trunk>,
    pub(crate) at: BootInstant,
}

impl IncomingRequest {
    /// Whether it came from an address of its trunk, which may have been removed since its dialog began.
    pub(crate) fn is_from_trunk(&self) -> bool {
        self.trunk.covers(self.flow.remote().ip(), self.flow.transport())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SipServer {
    pub(crate) fn new(
        config: CallsConfig,
        deps: CallsDeps,
        resolver: Resolver,
        udp: Vec<Arc<UdpEndpoint>>,
        tcp: Vec<Arc<TcpEndpoint>>,
    ) -> Arc<Self> {
        let started = BootInstant::now();
        let overload = Overload::new(config.bye_timeout(), deps.mailstore.commits());
        let listeners: Vec<_> = udp
            .iter()
            .map(|e| (Transport::Udp, e.local))
            .chain(tcp.iter().map(|e| (Transport::Tcp, e.local)))
            .collect();
        Arc::new(Self {
            self_test: SelfTest::new(&listeners),
            admission: Arc::new(Admission::new(config.max_calls, config.max_calls_per_second, overload, started)),
            dialogs: Dialogs::default(),
            subscriptions: Subscriptions::new(config.max_subscriptions),
            access: watch::Sender::new(Arc::new(Access::default().renewed(&config.trunks))),
            resolver,
            stats: Stats::default(),
            tasks: TaskTracker::new(),
            pending_byes: TaskTracker::new(),
            stop: CancellationToken::new(),
            connections: Connections::default(),
            udp,
            tcp,
            layer: Mutex::new(Layer::new(rand::random(), MAX_TRANSACTIONS)),
            timers: Timers::default(),
            pending: Mutex::default(),
            broken: Mutex::default(),
            started,
            config: RwLock::new(Arc::new(config)),
            deps,
        })
    }

    /// The settings, as they are now.
    pub(crate) fn config(&self) -> Arc<CallsConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the settings. Calls in progress keep the trunk that they have.
    pub(crate) fn set_config(&self, config: Arc<CallsConfig>) {
        if self.config().trunks != config.trunks {
            self.access.send_modify(|access| *access = Arc::new(access.renewed(&config.trunks)));
        }
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// The trunks, as they are now.
    pub(crate) fn access(&self) -> Arc<Access> {
        self.access.borrow().clone()
    }

    /// Time on the transactions' clock, in milliseconds.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs the transaction timers until the SIP server stops.
    pub(crate) async fn tick(self: Arc<Self>) {
        let pass = || {
            let events = lock(&self.layer).tick(self.now());
            self.act(events, None);
        };
        let timers = self.timers.run(|| self.now(), pass, || lock(&self.layer).next_due());
        self.stop.run_until_cancelled(timers).await;
    }

    /// Registers the failure of a socket.
    pub(crate) fn failed(&self, what: String) {
        tracing::error!("{what}");
        *lock(&self.broken) = Some(what);
    }

    pub(crate) fn broken(&self) -> Option<String> {
        lock(&self.broken).clone()
    }

    /// Handles a received datagram.
    pub(crate) fn datagram(self: &Arc<Self>, endpoint: &Arc<UdpEndpoint>, data: &[u8], source: SocketAddr) {
        self.handle_message(
            data,
            source,
            |reply_to| Flow::Udp(endpoint.clone(), reply_to.unwrap_or(source)),
            Transport::Udp,
        );
    }

    /// Handles a message from a connection. True: it is part of a call or subscription in progress.
    pub(crate) fn framed_message(self: &Arc<Self>, peer: &Arc<TcpPeer>, data: &[u8]) -> bool {
        self.handle_message(data, peer.remote, |_| Flow::Tcp(peer.clone()), Transport::Tcp)
    }

    /// Whether the connection belongs to a trunk; if so, stores it for requests of this node.
    pub(crate) fn remember_if_trunk(&self, peer: &Arc<TcpPeer>) -> bool {
        let is_trunk = self.access().find(peer.remote.ip(), Transport::Tcp).is_some();
        if is_trunk {
            self.connections.remember(peer);
        }
        is_trunk
    }

    pub(crate) fn forget(&self, peer: &Arc<TcpPeer>) {
        self.connections.forget(peer);
    }

    /// Handles a message. True: it is part of a call or subscription in progress.
    fn handle_message(
        self: &Arc<Self>,
        data: &[u8],
        source: SocketAddr,
        flow: impl FnOnce(Option<SocketAddr>) -> Flow,
        transport: Transport,
    ) -> bool {
        let at = BootInstant::now();
        let verdict = match transport {
            Transport::Udp => strict::read(data),
            Transport::Tcp => strict::read_framed(data),
        };
        match verdict {
            Verdict::Drop(strict::Fault::KeepAlive) => {}
            Verdict::Drop(fault) => self.stats.malformed(fault.name()),
            Verdict::Refuse(response, fault) => {
                self.stats.malformed(fault.name());
                if self.access().find(source.ip(), transport).is_some() || self.may_answer_stranger(at) {
                    let reply_to = response.headers.top_via().map(|via| via.reply_to(source));
                    let tag = format!("{:016x}", rand::random::<u64>());
                    self.send(&flow(reply_to), received(*response, source).with_to_tag(&tag).to_bytes());
                }
            }
            Verdict::Response(response) => {
                let events = lock(&self.layer).response_received(response, self.now());
                self.act(events, None);
            }
            Verdict::Request(mut request) => {
                let reply_to = request.headers.top_via().map(|via| via.reply_to(source));
                if let Some(line) = request.headers.get("Via") {
                    let line = via::received(line, source);
                    request.headers.set_first("Via", line);
                }
                let flow = flow(reply_to);
                if self.self_test.owns(&request, source.ip()) {
                    let trunk = self.self_test.trunk.clone();
                    self.request(request, flow, trunk, at);
                    return true;
                }
                let trunk = self.access().find(source.ip(), transport).cloned();
                if let Some(trunk) = trunk {
                    self.request(request, flow, trunk, at);
                } else if let Some(trunk) = self.trunk_of_dialog(&request) {
                    self.request(request, flow, trunk, at);
                    return true;
                } else if lock(&self.layer).knows(&request) {
                    let ignore = |_: &Request| transaction::Admission::Ignore;
                    let events = lock(&self.layer).request_received(request, flow, self.now(), ignore);
                    self.act(events, None);
                    return true;
                } else {
                    self.refuse_stranger(&request, &flow, at);
                }
            }
        }
        false
    }

    /// The trunk of the request's dialog, by Call-ID and both tags. Behind a proxy that leaves the path, the source
    /// address of such a request may not be a trunk's.
    fn trunk_of_dialog(&self, request: &Request) -> Option<Arc<Trunk>> {
        let (key, remote_tag) = (dialog_key(request), request.headers.tag("From"));
        let call = self.dialogs.trunk_of(&key, remote_tag);
        call.or_else(|| self.subscriptions.trunk_of(&key, remote_tag))
    }

    fn refuse_stranger(&self, request: &Request, flow: &Flow, at: BootInstant) {
        let allowed = if self.is_member_probe(request) {
            count(&self.stats.members_asked);
            self.admission.members.take(at)
        } else {
            count(&self.stats.strangers);
            request.method != Method::Ack && self.may_answer_stranger(at)
        };
        if allowed {
            let tag = lock(&self.layer).tag(request);
            self.send(flow, self.with_node_name(request, request.respond(403)).with_to_tag(&tag).to_bytes());
        }
    }

    fn may_answer_stranger(&self, at: BootInstant) -> bool {
        let allowed = self.admission.strangers.take(at);
        if !allowed {
            count(&self.stats.strangers_unanswered);
        }
        allowed
    }

    fn request(self: &Arc<Self>, request: Request, flow: Flow, trunk: Arc<Trunk>, at: BootInstant) {
        let mut permit = None;
        let events = lock(&self.layer).request_received(request, flow.clone(), self.now(), |request| {
            if self.self_test.is(&trunk) {
                return match SelfTest::refusal(request, self.has_dialog(request)) {
                    None => transaction::Admission::Accept,
                    Some(code) => transaction::Admission::Refuse(request.respond(code)),
                };
            }
            match self.admit(request, at) {
                Ok(admitted) => {
                    permit = admitted;
                    transaction::Admission::Accept
                }
                Err(response) => transaction::Admission::Refuse(*response),
            }
        });
        self.act(events, Some((flow, trunk, at, permit)));
    }

    /// Executes the events of the transaction layer.
    pub(crate) fn act(
        self: &Arc<Self>,
        events: Vec<Event<Flow>>,
        mut admitted: Option<(Flow, Arc<Trunk>, BootInstant, Option<CallPermit>)>,
    ) {
        self.timers.changed(lock(&self.layer).next_due());
        for event in events {
            match event {
                Event::Send { flow, bytes, guard: None } => self.send(&flow, bytes),
                Event::Send { flow, bytes, guard: Some((guard, id)) } => {
                    // Rule R6: checked at the write, not at the creation of the request.
                    if (guard.0)() {
                        self.send(&flow, bytes);
                    } else {
                        let events = lock(&self.layer).withdraw(id);
                        self.act(events, None);
                    }
                }
                Event::Request { id, request } => {
                    if let Some((flow, trunk, at, permit)) = admitted.take() {
                        self.dispatch(IncomingRequest { id, request, flow, trunk, at }, permit);
                    }
                }
                Event::Acknowledged { id, ack } => {
                    self.dialogs.notify(&id, Input::Acknowledged(Box::new(ack)), true);
                }
                Event::Unacknowledged(id) => self.dialogs.notify(&id, Input::Unacknowledged, true),
                Event::Cancelled(id) => self.dialogs.notify(&id, Input::Cancelled, false),
                Event::Response(id, response) if response.is_provisional() => {
                    tracing::trace!(?id, "provisional response");
                }
                Event::Response(id, response) => self.finish_request(id, RequestOutcome::Response(response)),
                Event::TimedOut(id) => self.finish_request(id, RequestOutcome::TimedOut),
                Event::Withdrawn(id) => self.finish_request(id, RequestOutcome::Withdrawn),
            }
        }
    }

    fn send(&self, flow: &Flow, bytes: bytes::Bytes) {
        if !flow.send(bytes) {
            count(&self.stats.send_failures);
        }
    }

    fn finish_request(&self, id: ClientId, outcome: RequestOutcome) {
        if let Some(waiter) = lock(&self.pending).remove(&id) {
            let _ = waiter.send(outcome);
        }
    }

    fn dispatch(self: &Arc<Self>, incoming: IncomingRequest, permit: Option<CallPermit>) {
        if incoming.request.headers.tag("To").is_some() {
            self.within_dialog(incoming);
        } else if let Some(permit) = permit {
            let (sender, inputs) = mpsc::channel(call::INBOX);
            self.dialogs.begin(&incoming, sender.clone());
            self.tasks.spawn(call::run(self.clone(), incoming, permit, sender, inputs));
        } else if self.self_test.is(&incoming.trunk) {
            let (sender, inputs) = mpsc::channel(call::INBOX);
            self.dialogs.begin(&incoming, sender.clone());
            self.tasks.spawn(call::self_test::run(self.clone(), incoming, sender, inputs));
        } else {
            self.tasks.spawn(crate::subscribe::handle_new(self.clone(), incoming));
        }
    }

    fn within_dialog(self: &Arc<Self>, incoming: IncomingRequest) {
        let key = dialog_key(&incoming.request);
        match self.dialogs.deliver(incoming, &key) {
            Delivery::Delivered => {}
            Delivery::NoCall(incoming) => crate::subscribe::handle_in_dialog(self, incoming, &key),
            Delivery::Full(incoming) => {
                self.respond(&incoming.id, incoming.request.respond(503).with("Retry-After", "1"));
            }
            Delivery::Ended(incoming) => self.respond(&incoming.id, call::too_late(&incoming.request)),
        }
    }

    /// Answers a request.
    pub(crate) fn respond(self: &Arc<Self>, id: &ServerId, response: Response) {
        if !response.is_provisional() && !response.is_success() {
            self.dialogs.refused(id);
        }
        let events = lock(&self.layer).respond(id, response, self.now());
        self.act(events, None);
    }

    pub(crate) fn has_dialog(&self, request: &Request) -> bool {
        let key = dialog_key(request);
        self.dialogs.has(&key) || self.subscriptions.has_dialog(&key)
    }
}

fn received(mut response: Response, source: SocketAddr) -> Response {
    if let Some(line) = response.headers.get("Via") {
        let line = via::received(line, source);
        response.headers.set_first("Via", line);
    }
    response
}
