//! Requests of ours: where they go, how they are sent, and how a challenge is answered.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::oneshot;
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
    door::{Door, Outcome, lock},
    wire::Flow,
};

const RESOLVE: Duration = Duration::from_secs(2);

/// Why a request of ours had no final response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no answer")]
    TimedOut,
    #[error("withdrawn")]
    Withdrawn,
    #[error("{0}")]
    Unreachable(String),
}

/// Gives a repeated request its next number; `None` for one outside a dialog, which just counts on.
pub(crate) type Renumber<'a> = &'a mut (dyn FnMut(&mut Request) + Send);

impl Door {
    /// Our Contact on the listener of this flow. It names node and incarnation, so that they come back in the
    /// Request-URI of whatever is sent within the dialog (rule C4).
    pub(crate) fn contact(&self, flow: &Flow) -> String {
        let transport = match flow.transport() {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
        };
        let (node, incarnation) = (&self.deps.node, &self.deps.incarnation);
        format!(
            "<sip:voicemail@{}{transport};{NODE_PARAM}={node};{INCARNATION_PARAM}={incarnation}>",
            flow.advertised()
        )
    }

    /// The flow to a URI. Within a dialog `near` is the flow that it came by: its listener is used again, and its
    /// connection while it is open.
    pub(crate) async fn route(self: &Arc<Self>, uri: &str, near: Option<&Flow>) -> Result<Flow, SendError> {
        if let Some(flow @ Flow::Tcp(_)) = near
            && flow.open()
        {
            return Ok(flow.clone());
        }
        let unreachable = |what: &str| SendError::Unreachable(what.to_owned());
        let uri = Uri::parse(uri).filter(Uri::is_sip).ok_or_else(|| unreachable("the target is no SIP URI"))?;
        let tcp = match uri.param("transport") {
            Some(t) if t.eq_ignore_ascii_case("tcp") => true,
            Some(t) if !t.eq_ignore_ascii_case("udp") => {
                return Err(unreachable("the target wants another transport"));
            }
            _ => self.udp.is_empty(),
        };
        let to = resolve(uri.host, uri.port.unwrap_or(5060)).await?;
        self.flow_to(to, if tcp { Transport::Tcp } else { Transport::Udp }, near).await
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
                let endpoint = self.tcp.first().ok_or_else(|| unreachable("there is no TCP listener".into()))?;
                let peer = endpoint.connect(self, to, &self.stop).await;
                Ok(Flow::Tcp(peer.map_err(|e| unreachable(format!("no connection: {e}")))?))
            }
        }
    }

    /// Sends a request and waits for its final response. One challenge is answered, with the credentials for the
    /// host that we called ([`Trunk::credentials_for`]) and no other.
    pub(crate) async fn send_request(
        self: &Arc<Self>,
        mut request: Request,
        flow: &Flow,
        credentials: Option<&Credentials>,
        guard: Option<Guard>,
        renumber: Renumber<'_>,
    ) -> Result<Response, SendError> {
        let response = self.transact(&mut request, flow, guard.clone()).await?;
        let Some(credentials) = credentials else { return Ok(response) };
        let cnonce = format!("{:016x}", rand::random::<u64>());
        if !digest::answer(&mut request, &response, credentials, &cnonce) {
            return Ok(response);
        }
        renumber(&mut request);
        self.transact(&mut request, flow, guard).await
    }

    async fn transact(
        self: &Arc<Self>,
        request: &mut Request,
        flow: &Flow,
        guard: Option<Guard>,
    ) -> Result<Response, SendError> {
        let transport = match flow.transport() {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        let via = format!(
            "SIP/2.0/{transport} {};rport;branch={COOKIE}{:032x}",
            flow.advertised(),
            rand::random::<u128>()
        );
        request.headers.remove("Via");
        request.headers.push_front("Via", via);
        let (tell, outcome) = oneshot::channel();
        let (id, events) = {
            let mut layer = lock(&self.layer);
            let sent = layer.request(request, flow.clone(), guard, self.now());
            let (id, events) = sent.ok_or_else(|| SendError::Unreachable("too many requests of ours".into()))?;
            lock(&self.waiting).insert(id, tell);
            (id, events)
        };
        let waiting = Waiting { door: self, id };
        self.act(events, None);
        let outcome = outcome.await;
        drop(waiting);
        match outcome {
            Ok(Outcome::Response(response)) => Ok(response),
            Ok(Outcome::Withdrawn) => Err(SendError::Withdrawn),
            Ok(Outcome::TimedOut) | Err(_) => Err(SendError::TimedOut),
        }
    }
}

/// Takes a waiter out of the table however its wait ends.
struct Waiting<'a> {
    door: &'a Door,
    id: ClientId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.door.waiting).remove(&self.id);
    }
}

/// The address of a host: itself, or the first that its name resolves to.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<SocketAddr, SendError> {
    if let Ok(ip) = host.parse() {
        return Ok(SocketAddr::new(ip, port));
    }
    let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host, port))).await;
    found
        .ok()
        .and_then(Result::ok)
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| SendError::Unreachable("the host's name does not resolve".to_owned()))
}
