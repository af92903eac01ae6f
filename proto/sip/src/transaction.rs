//! Transactions (RFC 3261 section 17, RFC 6026), without sockets or clock.
//!
//! [`Layer`] takes received messages, the user's messages and the time. It returns [`Event`]s: octets to send and
//! notifications for the user. It also retransmits a `2xx` until its ACK, over every transport (section 13.3.1.4), a
//! task that RFC 3261 leaves to the user.
//!
//! Tables are bounded. When the table of server transactions is full, a request that would create a dialog is refused
//! without a transaction. Requests within dialogs have as much room again, so that a flood of new calls does not block
//! a BYE.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;

use crate::{Method, Request, Response, via::COOKIE};

mod client;
mod refused;
mod server;

use client::Client;
use refused::Refusals;
use server::Server;

/// Milliseconds on the user's clock.
pub type Millis = u64;

/// Round-trip estimate, base of the other timers, in milliseconds.
pub const T1: Millis = 500;
/// Maximum retransmission interval, in milliseconds.
pub const T2: Millis = 4_000;
/// Maximum time of a message in the network, in milliseconds.
pub const T4: Millis = 5_000;
/// Time without a response after which a `100` is sent automatically, in milliseconds (section 17.2.1).
const TRYING_AFTER: Millis = 200;

/// Path to a peer. A reliable path needs no retransmissions.
pub trait Flow: Clone {
    /// Whether the transport is reliable: TCP and TLS, not UDP.
    fn reliable(&self) -> bool;
}

/// Check before each transmission, retransmissions included; `false` prevents the transmission (rule R6).
#[derive(Clone)]
pub struct Guard(pub Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

/// ID of a server transaction: topmost branch and sent-by, and, beyond section 17.2.3, all values that a retransmission
/// cannot change. Calls of a client that reuses branches therefore stay separate.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerId(Arc<str>);

impl ServerId {
    /// The transaction of this request. ACK and CANCEL belong to the INVITE's transaction.
    fn of(request: &Request) -> Option<Self> {
        let headers = &request.headers;
        let via = headers.top_via()?;
        let kind = match &request.method {
            Method::Invite | Method::Ack | Method::Cancel => "INVITE",
            other => other.as_str(),
        };
        let branch = via.branch().unwrap_or_default();
        // A branch without the cookie is not unique (RFC 2543): the Request-URI is added.
        let extra = if branch.starts_with(COOKIE) { "" } else { request.uri.as_str() };
        let text = format!(
            "{branch}\n{}\n{}\n{kind}\n{}\n{}\n{}\n{extra}",
            via.sent_by.host,
            via.sent_by.port.unwrap_or(5060),
            headers.cseq(),
            headers.call_id(),
            headers.tag("From").unwrap_or_default(),
        );
        Some(Self(text.into()))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hash = DefaultHasher::new();
        self.0.hash(&mut hash);
        write!(f, "server:{:016x}", hash.finish())
    }
}

/// ID of a client transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// An action or a notification for the user.
#[derive(Debug)]
pub enum Event<F> {
    /// Send these octets.
    Send {
        /// Destination.
        flow: F,
        /// Message.
        bytes: Bytes,
        /// Guard to check before the write. If it refuses, pass the transaction to [`Layer::withdraw`].
        guard: Option<(Guard, ClientId)>,
    },
    /// A new request: answer it with [`Layer::respond`].
    Request {
        /// Its transaction.
        id: ServerId,
        /// The request.
        request: Request,
    },
    /// The INVITE was cancelled (its CANCEL is answered): answer it `487`.
    Cancelled(ServerId),
    /// The `2xx` to the INVITE was acknowledged.
    Acknowledged {
        /// The INVITE's transaction.
        id: ServerId,
        /// The ACK: it may carry an SDP answer.
        ack: Request,
    },
    /// The `2xx` to the INVITE was never acknowledged: end the call.
    Unacknowledged(ServerId),
    /// A response to a sent request. A final response is the last one.
    Response(ClientId, Response),
    /// No final response arrived.
    TimedOut(ClientId),
    /// The guard refused before a final response: there are no more transmissions.
    Withdrawn(ClientId),
}

/// Decision about a request that belongs to no known transaction.
pub enum Admission {
    /// Open a transaction.
    Accept,
    /// Answer with this response without a transaction; the To tag is added. UDP copies of a refused INVITE or
    /// SUBSCRIBE get the same answer for 32 s.
    Refuse(Response),
    /// Send no answer.
    Ignore,
}

/// Sizes of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Server transactions.
    pub servers: usize,
    /// Client transactions.
    pub clients: usize,
}

/// All transactions of one SIP element.
pub struct Layer<F> {
    servers: HashMap<ServerId, Server<F>>,
    clients: HashMap<ClientId, Client<F>>,
    branches: HashMap<String, ClientId>,
    /// (Call-ID, To tag, CSeq) of answered INVITEs: the ACK of a `2xx` has its own branch.
    acks: HashMap<(String, String, u32), ServerId>,
    refusals: Refusals,
    timers: BinaryHeap<Reverse<(Millis, u64, Owner)>>,
    next: u64,
    salt: u64,
    capacity: usize,
}

#[derive(Clone, PartialEq, Eq)]
enum Owner {
    Server(ServerId),
    Client(ClientId),
}

// Timers with equal times are ordered by their number, never by their owner.
impl PartialOrd for Owner {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Owner {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<F: Flow> Layer<F> {
    /// An empty layer. `salt` is random and makes the To tags unguessable. `capacity` bounds each table; the table of
    /// server transactions holds as many again for requests within dialogs.
    pub fn new(salt: u64, capacity: usize) -> Self {
        Self {
            servers: HashMap::new(),
            clients: HashMap::new(),
            branches: HashMap::new(),
            acks: HashMap::new(),
            refusals: Refusals::new(salt, capacity),
            timers: BinaryHeap::new(),
            next: 0,
            salt,
            capacity,
        }
    }

    /// The local To tag for this request: the same for every retransmission, for its CANCEL, and for stateless answers
    /// (RFC 3261 section 8.2.7).
    pub fn tag(&self, request: &Request) -> String {
        let mut parts = [0u64; 2];
        for (n, part) in parts.iter_mut().enumerate() {
            let mut hash = DefaultHasher::new();
            (self.salt, n).hash(&mut hash);
            let headers = &request.headers;
            headers.call_id().hash(&mut hash);
            headers.get("From").hash(&mut hash);
            headers.cseq().hash(&mut hash);
            headers.top_via().and_then(|v| v.branch()).hash(&mut hash);
            *part = hash.finish();
        }
        let [a, b] = parts;
        format!("{a:016x}{:08x}", b as u32)
    }

    /// Handles a received request. Its responses go to `flow`. `admit` decides only about requests that begin a
    /// transaction: not about retransmissions, ACK and CANCEL.
    pub fn request_received(
        &mut self,
        request: Request,
        flow: F,
        now: Millis,
        admit: impl FnOnce(&Request) -> Admission,
    ) -> Vec<Event<F>> {
        let mut out = Vec::new();
        let Some(id) = ServerId::of(&request) else { return out };
        match request.method {
            Method::Ack => self.acknowledged(id, request, now, &mut out),
            Method::Cancel => self.cancelled(id, request, flow, &mut out),
            _ if self.servers.contains_key(&id) => self.repeated(&id, &mut out),
            _ => {
                let tag = self.tag(&request);
                let room = match request.headers.tag("To") {
                    Some(_) => 2 * self.capacity,
                    None => self.capacity,
                };
                let admission = match self.refusals.repeated(&id, &request, now) {
                    Some(refusal) => Admission::Refuse(refusal),
                    None if self.servers.len() >= room => {
                        Admission::Refuse(request.respond(503).with("Retry-After", "5"))
                    }
                    None => admit(&request),
                };
                match admission {
                    Admission::Accept => {
                        self.open_server(id.clone(), &request, flow, now);
                        out.push(Event::Request { id, request });
                    }
                    Admission::Refuse(response) => {
                        self.refusals.remember(&id, &request, &response, &flow, now);
                        out.push(send(flow, response.with_to_tag(&tag).to_bytes()));
                    }
                    Admission::Ignore => {}
                }
            }
        }
        out
    }

    /// Whether a request belongs to a known transaction: as a retransmission, a CANCEL, or the ACK of a refusal.
    pub fn knows(&self, request: &Request) -> bool {
        ServerId::of(request).is_some_and(|id| self.servers.contains_key(&id))
    }

    /// Runs the timers that are due.
    pub fn tick(&mut self, now: Millis) -> Vec<Event<F>> {
        let mut out = Vec::new();
        while let Some(Reverse((due, _, _))) = self.timers.peek() {
            if *due > now {
                break;
            }
            let Some(Reverse((due, _, owner))) = self.timers.pop() else { break };
            match owner {
                Owner::Server(id) => self.server_timer(id, due, now, &mut out),
                Owner::Client(id) => self.client_timer(id, due, now, &mut out),
            }
        }
        out
    }

    /// Time of the next due timer for [`Layer::tick`].
    pub fn next_due(&self) -> Option<Millis> {
        self.timers.peek().map(|Reverse((due, _, _))| *due)
    }

    /// Sizes of the tables.
    pub fn load(&self) -> Load {
        Load { servers: self.servers.len(), clients: self.clients.len() }
    }

    fn arm(&mut self, due: Millis, owner: Owner) {
        self.next += 1;
        self.timers.push(Reverse((due, self.next, owner)));
    }
}

fn send<F>(flow: F, bytes: Bytes) -> Event<F> {
    Event::Send { flow, bytes, guard: None }
}
