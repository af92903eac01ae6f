//! Requests sent by this node: target, transmission, and answers to challenges.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use twinbox_dns::{Resolver, Target, Wanted};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_sip::{
    Request, Response,
    digest::{self, Credentials},
    transaction::{ClientId, Guard},
    uri::Uri,
};
use twinbox_sip_transport::{Connections, Flow, Room, TcpEndpoint, UdpEndpoint};

use crate::{
    Transport,
    admit::{INCARNATION_PARAM, NODE_PARAM},
    transactions::{SendError, Transactions},
};

/// Timeout of one of several targets, after which the next is tried.
const TARGET_TIMEOUT: Duration = Duration::from_secs(4);

/// A sent request with its final response.
pub(crate) struct Sent {
    pub(crate) id: ClientId,
    /// The request as answered: after a challenge with another number and with credentials.
    pub(crate) request: Request,
    pub(crate) response: Response,
}

/// Gives a repeated request its next number.
pub(crate) type Renumber<'a> = &'a mut (dyn FnMut(&mut Request) + Send);

/// Terms of a request.
#[derive(Default)]
pub(crate) struct RequestTerms<'a> {
    /// Credentials for a challenge: of the addressed host only (`Trunk::credentials_for`).
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) guard: Option<Guard>,
    pub(crate) room: Room,
    /// Timeout instead of timer F.
    pub(crate) timeout: Option<Duration>,
}

/// Sender of the requests of this node.
pub(crate) struct Outgoing {
    /// Name of this node, for its Contact.
    pub(crate) node: NodeName,
    /// Incarnation of this node, for its Contact.
    pub(crate) incarnation: Incarnation,
    pub(crate) resolver: Resolver,
    pub(crate) udp: Vec<Arc<UdpEndpoint>>,
    pub(crate) tcp: Vec<Arc<TcpEndpoint>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) transactions: Arc<Transactions>,
}

impl Outgoing {
    /// The Contact on the listener of this flow. It names node and incarnation, which return in the Request-URI of
    /// requests within the dialog (rule C4).
    pub(crate) fn contact(&self, flow: &Flow) -> String {
        format!("<{};{INCARNATION_PARAM}={}>", self.address("voicemail", flow), self.incarnation)
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
        format!("sip:{user}@{}{transport};{NODE_PARAM}={}", flow.advertised(), self.node)
    }

    /// The flow to a URI. Within a dialog `near` is the dialog's flow: its listener is reused, and its connection
    /// while it is open.
    pub(crate) async fn route(&self, uri: &str, near: Option<&Flow>) -> Result<Flow, SendError> {
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
        &self,
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
                let terms = RequestTerms { credentials, guard: guard.clone(), room: None, timeout };
                let sent = self.send_request(make(&flow), &flow, terms, &mut renumber).await?;
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

    async fn flow_to(&self, to: SocketAddr, transport: Transport, near: Option<&Flow>) -> Result<Flow, SendError> {
        let unreachable = |what: String| SendError::Unreachable(what);
        match (transport, near) {
            (Transport::Udp, Some(Flow::Udp(endpoint, _))) => Ok(Flow::Udp(endpoint.clone(), to)),
            (Transport::Udp, _) => {
                let same_family = |e: &&Arc<UdpEndpoint>| e.local.is_ipv4() == to.is_ipv4();
                let endpoint = self.udp.iter().find(same_family).or(self.udp.first());
                let endpoint = endpoint.ok_or_else(|| unreachable("there is no UDP listener".into()))?;
                Ok(Flow::Udp(endpoint.clone(), to))
            }
            (Transport::Tcp, _) => {
                if let Some(peer) = self.connections.find(to) {
                    return Ok(Flow::Tcp(peer));
                }
                let same_family = |e: &&Arc<TcpEndpoint>| e.local.is_ipv4() == to.is_ipv4();
                let endpoint = self.tcp.iter().find(same_family).or(self.tcp.first());
                let endpoint = endpoint.ok_or_else(|| unreachable("there is no TCP listener".into()))?;
                let peer = endpoint.connect(to).await;
                Ok(Flow::Tcp(peer.map_err(|e| unreachable(format!("no connection: {e}")))?))
            }
        }
    }

    /// Sends a request and waits for its final response. Answers one challenge.
    pub(crate) async fn send_request(
        &self,
        mut request: Request,
        flow: &Flow,
        terms: RequestTerms<'_>,
        renumber: Renumber<'_>,
    ) -> Result<Sent, SendError> {
        let RequestTerms { credentials, guard, room, timeout } = terms;
        let sent = self.transactions.request(&mut request, flow, guard.clone(), room, timeout);
        let (mut id, mut response) = sent.await?;
        let cnonce = || format!("{:016x}", rand::random::<u64>());
        if credentials.is_some_and(|credentials| digest::answer(&mut request, &response, credentials, &cnonce())) {
            renumber(&mut request);
            (id, response) = self.transactions.request(&mut request, flow, guard, None, timeout).await?;
        }
        Ok(Sent { id, request, response })
    }
}
