//! Requests sent by this node: target, transmission, and answers to challenges.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::oneshot;
use twinbox_dns::{Target, Wanted};
use twinbox_sip::{
    Request, Response,
    digest::{self, Credentials},
    transaction::{ClientId, Guard},
    uri::Uri,
    via::COOKIE,
};

use crate::{
    Transport,
    admit::{INCARNATION_PARAM, NODE_PARAM},
    sip_server::{RequestOutcome, SipServer, lock},
    wire::Flow,
};

/// Timeout of one of several targets, after which the next is tried.
const TARGET_TIMEOUT: Duration = Duration::from_secs(4);

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

/// A sent request with its final response.
pub(crate) struct Sent {
    pub(crate) id: ClientId,
    /// The request as answered: after a challenge with another number and with credentials.
    pub(crate) request: Request,
    pub(crate) response: Response,
}

/// Gives a repeated request its next number.
pub(crate) type Renumber<'a> = &'a mut (dyn FnMut(&mut Request) + Send);

impl SipServer {
    /// The Contact on the listener of this flow. It names node and incarnation, which return in the Request-URI of
    /// requests within the dialog (rule C4).
    pub(crate) fn contact(&self, flow: &Flow) -> String {
        format!("<{};{INCARNATION_PARAM}={}>", self.address("voicemail", flow), self.deps.incarnation)
    }

    /// The Contact of a registration: the user of its address, to which calls then go, and the same for each process of this
    /// node, so that a process that starts after a kill replaces the binding of the one before.
    pub(crate) fn registered_contact(&self, aor: &str, flow: &Flow) -> String {
        let user =
            aor.split_once(':').and_then(|(_, rest)| rest.rsplit_once('@')).map_or("voicemail", |(user, _)| user);
        format!("<{}>", self.address(user, flow))
    }

    fn address(&self, user: &str, flow: &Flow) -> String {
        let transport = match flow.transport() {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
        };
        format!("sip:{user}@{}{transport};{NODE_PARAM}={}", flow.advertised(), self.deps.node)
    }

    /// The flow to a URI. Within a dialog `near` is the dialog's flow: its listener is reused, and its connection
    /// while it is open.
    pub(crate) async fn route(self: &Arc<Self>, uri: &str, near: Option<&Flow>) -> Result<Flow, SendError> {
        if let Some(flow @ Flow::Tcp(_)) = near
            && flow.open()
        {
            return Ok(flow.clone());
        }
        let unreachable = |what: &str| SendError::Unreachable(what.to_owned());
        let uri = Uri::parse(uri).filter(Uri::is_sip).ok_or_else(|| unreachable("the target is not a SIP URI"))?;
        let transport = match uri.param("transport") {
            Some(t) if t.eq_ignore_ascii_case("tcp") => Some(Transport::Tcp),
            Some(t) if t.eq_ignore_ascii_case("udp") => Some(Transport::Udp),
            Some(_) => return Err(unreachable("the target requires a transport other than UDP and TCP")),
            None => None,
        };
        let mut last = unreachable("no address of the target can be used");
        for target in self.targets(uri.host, uri.port, transport).await? {
            match self.flow_to(target.address, target.transport, near).await {
                Ok(flow) => return Ok(flow),
                Err(error) => {
                    self.resolver.failed(target.address);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Targets of a name, in the order to try (RFC 3263).
    pub(crate) async fn targets(
        &self,
        host: &str,
        port: Option<u16>,
        transport: Option<Transport>,
    ) -> Result<Vec<Target>, SendError> {
        let usable: &[Transport] = match (self.udp.is_empty(), self.tcp.is_empty()) {
            (false, false) => &[Transport::Udp, Transport::Tcp],
            (true, false) => &[Transport::Tcp],
            _ => &[Transport::Udp],
        };
        let found = self.resolver.targets(Wanted { host, port, transport, usable }).await;
        found.map_err(|error| SendError::Unreachable(error.to_string()))
    }

    /// Sends a request outside of a dialog to these targets in order, until one answers with a status other than `503`
    /// (RFC 3263 section 4.3). `make` creates the request for a flow.
    pub(crate) async fn send_to_any(
        self: &Arc<Self>,
        targets: &[Target],
        make: &(dyn Fn(&Flow) -> Request + Sync),
        credentials: Option<&Credentials>,
        guard: Option<Guard>,
    ) -> Result<Response, SendError> {
        let mut last = Err(SendError::Unreachable("no target".to_owned()));
        for (n, target) in targets.iter().enumerate() {
            let more = n + 1 < targets.len();
            let tried = async {
                let flow = self.flow_to(target.address, target.transport, None).await?;
                let mut renumber = |request: &mut Request| {
                    let next = request.headers.cseq().saturating_add(1);
                    request.headers.set("CSeq", format!("{next} {}", request.method));
                };
                let timeout = more.then_some(TARGET_TIMEOUT);
                let sent = self
                    .send_within(make(&flow), &flow, credentials, guard.clone(), &mut renumber, timeout)
                    .await?;
                Ok(sent.response)
            };
            last = tried.await;
            match &last {
                Ok(response) if response.code == 503 && more => {}
                Ok(_) | Err(SendError::Withdrawn) => return last,
                Err(_) => self.resolver.failed(target.address),
            }
        }
        last
    }

    pub(crate) async fn flow_to(
        self: &Arc<Self>,
        to: SocketAddr,
        transport: Transport,
        near: Option<&Flow>,
    ) -> Result<Flow, SendError> {
        let unreachable = |what: String| SendError::Unreachable(what);
        match (transport, near) {
            (Transport::Udp, Some(Flow::Udp(endpoint, _))) => Ok(Flow::Udp(endpoint.clone(), to)),
            (Transport::Udp, _) => {
                let same_family = |e: &&Arc<crate::wire::udp::UdpEndpoint>| e.local.is_ipv4() == to.is_ipv4();
                let endpoint = self.udp.iter().find(same_family).or(self.udp.first());
                let endpoint = endpoint.ok_or_else(|| unreachable("there is no UDP listener".into()))?;
                Ok(Flow::Udp(endpoint.clone(), to))
            }
            (Transport::Tcp, _) => {
                if let Some(peer) = self.connections.find(to) {
                    return Ok(Flow::Tcp(peer));
                }
                let same_family = |e: &&Arc<crate::wire::tcp::TcpEndpoint>| e.local.is_ipv4() == to.is_ipv4();
                let endpoint = self.tcp.iter().find(same_family).or(self.tcp.first());
                let endpoint = endpoint.ok_or_else(|| unreachable("there is no TCP listener".into()))?;
                let peer = endpoint.connect(self, to, &self.stop).await;
                Ok(Flow::Tcp(peer.map_err(|e| unreachable(format!("no connection: {e}")))?))
            }
        }
    }

    /// Sends a request and waits for its final response. Answers one challenge, with the credentials of the addressed
    /// host only ([`Trunk::credentials_for`]).
    pub(crate) async fn send_request(
        self: &Arc<Self>,
        request: Request,
        flow: &Flow,
        credentials: Option<&Credentials>,
        guard: Option<Guard>,
        renumber: Renumber<'_>,
    ) -> Result<Sent, SendError> {
        self.send_within(request, flow, credentials, guard, renumber, None).await
    }

    /// Like [`Self::send_request`], with `timeout`, if given, instead of timer F.
    async fn send_within(
        self: &Arc<Self>,
        mut request: Request,
        flow: &Flow,
        credentials: Option<&Credentials>,
        guard: Option<Guard>,
        renumber: Renumber<'_>,
        timeout: Option<Duration>,
    ) -> Result<Sent, SendError> {
        let (mut id, mut response) = self.transact(&mut request, flow, guard.clone(), timeout).await?;
        let cnonce = || format!("{:016x}", rand::random::<u64>());
        if credentials.is_some_and(|credentials| digest::answer(&mut request, &response, credentials, &cnonce())) {
            renumber(&mut request);
            (id, response) = self.transact(&mut request, flow, guard, timeout).await?;
        }
        Ok(Sent { id, request, response })
    }

    /// Sends the ACK of the `2xx` to a sent INVITE.
    pub(crate) fn acknowledge(self: &Arc<Self>, invite: ClientId, mut ack: Request, flow: &Flow) {
        ack.headers.push_front("Via", new_via(flow));
        let events = lock(&self.layer).acknowledge(invite, &ack, flow.clone());
        self.act(events, None);
    }

    async fn transact(
        self: &Arc<Self>,
        request: &mut Request,
        flow: &Flow,
        guard: Option<Guard>,
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
        let pending = PendingRequest { server: self, id };
        self.act(events, None);
        // After the stop no timer runs and no outcome comes; a task that waits would hold the sockets that the next server binds.
        let outcome = self.stop.run_until_cancelled(outcome);
        let stopped = || Ok(RequestOutcome::Withdrawn);
        let outcome = match timeout {
            None => outcome.await.unwrap_or_else(stopped),
            Some(timeout) => match tokio::time::timeout(timeout, outcome).await {
                Ok(outcome) => outcome.unwrap_or_else(stopped),
                Err(_) => {
                    // The request must not be retransmitted after the one to the next target.
                    let events = lock(&self.layer).withdraw(id);
                    self.act(events, None);
                    Ok(RequestOutcome::TimedOut)
                }
            },
        };
        drop(pending);
        match outcome {
            Ok(RequestOutcome::Response(response)) => Ok((id, response)),
            Ok(RequestOutcome::Withdrawn) => Err(SendError::Withdrawn),
            Ok(RequestOutcome::TimedOut) | Err(_) => Err(SendError::TimedOut),
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
    server: &'a SipServer,
    id: ClientId,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        lock(&self.server.pending).remove(&self.id);
    }
}
