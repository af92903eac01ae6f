//! Shared part of a phone's calls: transport, and dispatch of messages to waiting calls.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use tokio::sync::mpsc;
use twinbox_clock::BootInstant;
use twinbox_dns::{ResolveError, Resolver, Wanted};
use twinbox_sip::{
    Method, Request, Response,
    strict::{self, MessageVerdict},
    uri::Uri,
    via::COOKIE,
};

use crate::{
    CallError, Notify, Transport,
    api::list,
    wire::{Flow, Received, Wire},
};

pub(crate) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, UPDATE, NOTIFY";

/// Number of stored answers, for retransmitted requests.
const MAX_STORED_ANSWERS: usize = 512;

/// A message with the time and flow of its arrival.
pub(crate) struct Arrived<T> {
    pub(crate) message: T,
    pub(crate) at: BootInstant,
    pub(crate) flow: Flow,
}

/// Call-ID and local tag.
pub(crate) type DialogKey = (String, String);

/// Branch and method.
pub(crate) type TransactionKey = (String, Method);

type Receivers<K, T> = Mutex<HashMap<K, mpsc::UnboundedSender<Arrived<T>>>>;

pub(crate) struct Core {
    pub(crate) wire: Wire,
    /// Created at the first lookup of a name: calls to addresses need no name servers.
    resolver: OnceLock<Resolver>,
    transactions: Receivers<TransactionKey, Response>,
    dialogs: Receivers<DialogKey, Request>,
    /// ACKs by the branch of their INVITE, for retransmitted final answers.
    acks: Mutex<HashMap<String, (Bytes, Flow)>>,
    answered: Mutex<VecDeque<(String, Bytes)>>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<Notify>>>,
}

/// Ends the dispatch to its receiver when dropped.
pub(crate) struct Registration<K: Eq + Hash, T> {
    core: Arc<Core>,
    map: fn(&Core) -> &Receivers<K, T>,
    pub(crate) key: K,
}

impl<K: Eq + Hash, T> Drop for Registration<K, T> {
    fn drop(&mut self) {
        lock((self.map)(&self.core)).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random token for tags, branches and Call-IDs.
pub(crate) fn token() -> String {
    format!("{:016x}", rand::random::<u64>())
}

impl Core {
    pub(crate) fn new(wire: Wire) -> Arc<Self> {
        Arc::new(Self {
            wire,
            resolver: OnceLock::new(),
            transactions: Mutex::default(),
            dialogs: Mutex::default(),
            acks: Mutex::default(),
            answered: Mutex::default(),
            listeners: Mutex::default(),
        })
    }

    /// Dispatches received messages until the wire ends.
    pub(crate) async fn run(self: Arc<Self>, mut received: mpsc::UnboundedReceiver<Received>) {
        while let Some(Received { bytes, flow }) = received.recv().await {
            let at = BootInstant::now();
            match strict::read(&bytes) {
                MessageVerdict::Request(message) => self.request(Arrived { message, at, flow }).await,
                MessageVerdict::Response(message) => self.response(Arrived { message, at, flow }).await,
                MessageVerdict::Refuse(response, fault) => {
                    tracing::debug!(%fault, "request is malformed");
                    flow.send(response.to_bytes()).await;
                }
                MessageVerdict::Drop(fault) => tracing::debug!(%fault, "message is malformed"),
            }
        }
    }

    async fn response(&self, response: Arrived<Response>) {
        let headers = &response.message.headers;
        let Some(branch) = headers.top_via().and_then(|via| via.branch()).map(str::to_owned) else { return };
        let method = headers.cseq_method();
        if method == Method::Invite && !response.message.is_provisional() {
            let ack = lock(&self.acks).get(&branch).cloned();
            if let Some((bytes, flow)) = ack {
                return flow.send(bytes).await;
            }
        }
        if let Some(waiting) = lock(&self.transactions).get(&(branch, method)) {
            // A closed receiver already has its final answer.
            let _ = waiting.send(response);
        }
    }

    async fn request(&self, request: Arrived<Request>) {
        let Request { method, uri, headers, body } = &request.message;
        let dialog = headers.tag("To").map(|tag| (headers.call_id().to_owned(), tag.to_owned()));
        let has_tag = dialog.is_some();
        let request_key = retransmission_key(&request.message);
        let again =
            lock(&self.answered).iter().find(|(key, _)| *key == request_key).map(|(_, bytes)| bytes.clone());
        if let Some(bytes) = again.filter(|_| *method != Method::Ack) {
            return request.flow.send(bytes).await;
        }
        if let Some(waiting) = dialog.and_then(|key| lock(&self.dialogs).get(&key).cloned()) {
            let _ = waiting.send(request);
            return;
        }
        let code = match method {
            Method::Ack => return,
            _ if has_tag => 481,
            Method::Options => 200,
            Method::Notify => {
                let notify = notify(&request);
                lock(&self.listeners).retain(|listener| listener.send(notify.clone()).is_ok());
                200
            }
            Method::Cancel => 481,
            Method::Invite => 486,
            _ => 405,
        };
        tracing::debug!(%method, code, uri_length = uri.len(), octets = body.len(), "request outside of a dialog");
        self.reply(&request, request.message.respond(code).with("Allow", ALLOW).with_to_tag(&token())).await;
    }

    /// Answers a request and stores the answer for retransmissions.
    pub(crate) async fn reply(&self, request: &Arrived<Request>, response: Response) {
        let bytes = response.to_bytes();
        {
            let mut answered = lock(&self.answered);
            answered.push_back((retransmission_key(&request.message), bytes.clone()));
            if answered.len() > MAX_STORED_ANSWERS {
                answered.pop_front();
            }
        }
        request.flow.send(bytes).await;
    }

    /// Registers for the responses of a transaction.
    pub(crate) fn expect_responses(
        self: &Arc<Self>,
        key: TransactionKey,
    ) -> (Registration<TransactionKey, Response>, mpsc::UnboundedReceiver<Arrived<Response>>) {
        self.register(|core| &core.transactions, key)
    }

    /// Registers for the requests of a dialog.
    pub(crate) fn expect_requests(
        self: &Arc<Self>,
        key: DialogKey,
    ) -> (Registration<DialogKey, Request>, mpsc::UnboundedReceiver<Arrived<Request>>) {
        self.register(|core| &core.dialogs, key)
    }

    fn register<K: Eq + Hash + Clone, T>(
        self: &Arc<Self>,
        map: fn(&Core) -> &Receivers<K, T>,
        key: K,
    ) -> (Registration<K, T>, mpsc::UnboundedReceiver<Arrived<T>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(map(self)).insert(key.clone(), sender);
        (Registration { core: self.clone(), map, key }, receiver)
    }

    /// Sends the ACK for an INVITE's final answer, and again for each retransmission of that answer.
    pub(crate) async fn acknowledge(&self, branch: &str, bytes: Bytes, flow: Flow) {
        lock(&self.acks).insert(branch.to_owned(), (bytes.clone(), flow.clone()));
        flow.send(bytes).await;
    }

    pub(crate) fn forget_ack(&self, branch: &str) {
        lock(&self.acks).remove(branch);
    }

    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<Notify> {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.listeners).push(sender);
        receiver
    }

    /// Addresses of a SIP URI, in the order to try them (RFC 3263); at least one.
    pub(crate) async fn addresses(&self, uri: &str) -> Result<Vec<SocketAddr>, CallError> {
        let parsed = Uri::parse(uri).filter(Uri::is_sip);
        let parsed =
            parsed.ok_or_else(|| CallError::new(400, "the target is no SIP URI: use sip:user@host[:port]"))?;
        let status = |error: &ResolveError| if matches!(error, ResolveError::NoAddress(_)) { 400 } else { 503 };
        let failed = |error: ResolveError| CallError::new(status(&error), error.to_string());
        let usable = match self.wire.transport() {
            Transport::Udp => [twinbox_dns::Transport::Udp],
            Transport::Tcp => [twinbox_dns::Transport::Tcp],
        };
        if let Ok(address) = parsed.host.trim_matches(['[', ']']).parse() {
            return Ok(vec![SocketAddr::new(address, parsed.port.unwrap_or(5060))]);
        }
        let wanted = Wanted { host: parsed.host, port: parsed.port, transport: None, usable: &usable };
        let targets = self.resolver().map_err(failed)?.targets(wanted).await.map_err(failed)?;
        Ok(targets.into_iter().map(|target| target.address).collect())
    }

    /// First address of [`Self::addresses`].
    pub(crate) async fn address(&self, uri: &str) -> Result<SocketAddr, CallError> {
        let first = self.addresses(uri).await?.into_iter().next();
        first.ok_or_else(|| CallError::new(400, "the host of the target has no address"))
    }

    /// Marks an address that did not answer: other addresses of the same name come first for a while.
    pub(crate) fn silent(&self, address: SocketAddr) {
        if let Some(resolver) = self.resolver.get() {
            resolver.failed(address);
        }
    }

    fn resolver(&self) -> Result<&Resolver, ResolveError> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver);
        }
        let made = Resolver::new(&[])?;
        Ok(self.resolver.get_or_init(|| made))
    }

    /// A Via with a new branch, and the branch.
    pub(crate) fn via(&self) -> (String, String) {
        let branch = format!("{COOKIE}{}", token());
        let transport = if self.wire.transport() == Transport::Tcp { "TCP" } else { "UDP" };
        (format!("SIP/2.0/{transport} {};branch={branch};rport", self.wire.address()), branch)
    }

    /// The phone's Contact.
    pub(crate) fn contact(&self, user: &str) -> String {
        let transport = if self.wire.transport() == Transport::Tcp { ";transport=tcp" } else { "" };
        format!("<sip:{user}@{}{transport}>", self.wire.address())
    }
}

/// Converts a NOTIFY for the phone's user.
pub(crate) fn notify(request: &Arrived<Request>) -> Notify {
    let headers = &request.message.headers;
    Notify {
        arrived: request.at,
        source: request.flow.peer(),
        uri: request.message.uri.clone(),
        cseq: headers.cseq(),
        call_id: headers.call_id().to_owned(),
        state: headers.get("Subscription-State").unwrap_or_default().to_owned(),
        headers: list(headers),
        body: String::from_utf8_lossy(&request.message.body).into_owned(),
    }
}

fn retransmission_key(request: &Request) -> String {
    let headers = &request.headers;
    let branch = headers.top_via().and_then(|via| via.branch()).unwrap_or_default();
    format!("{branch} {} {} {}", request.method, headers.cseq(), headers.call_id())
}
