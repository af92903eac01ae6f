//! The listener for other members: accepts TCP, does TLS, refuses other clients. While a member is expected to join,
//! there is a separate route for joining members: they ask for it by ALPN in the first message of the handshake, need
//! no certificate, and never reach the services between members. Operators also choose their route by ALPN, and show a
//! certificate that is valid only there. Members that call the role manager use ALPN, too: a server may serve these
//! connections on separate threads.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::server::Acceptor;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_stream::Stream;
use tracing::{debug, warn};
use twinbox_clock::BootInstant;

use crate::{
    handshake_slots::{HandshakeSlots, SLOTS},
    identity::{self, HANDSHAKE, SharedCurrent},
    join_client::JOIN_PROTOCOL,
    operator::OPERATOR_PROTOCOL,
};

/// Timeout of a client's first byte: members send theirs immediately.
const FIRST_BYTE: Duration = Duration::from_secs(2);
/// Refusals are logged at most once in this time, with a count.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Connections of verified members, for `serve_with_incoming`. Dropping it closes the listener.
pub struct Incoming {
    ready: mpsc::Receiver<io::Result<TlsStream<TcpStream>>>,
    refused: Arc<AtomicU64>,
}

/// The route for joining members.
pub struct JoinRoute {
    /// Whether a joining member is expected now. Otherwise joining members are refused like any other client.
    pub open: Box<dyn Fn() -> bool + Send + Sync>,
    /// Receives their connections. When it is full they are closed.
    pub connections: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
}

/// The route for operators of other machines: receives connections whose certificate is an operator's. When it is full
/// they are closed.
pub type OperatorRoute = mpsc::Sender<OperatorConnection>;

/// An item of an [`OperatorRoute`], as tonic takes it.
pub type OperatorConnection = io::Result<TlsStream<TcpStream>>;

/// The ALPN protocol that members offer, in addition to HTTP/2, on a connection only for the role manager. Earlier
/// releases neither offer nor know it: their connections come with all others of members, and they treat ours the same
/// way.
pub(crate) const ROLES_PROTOCOL: &[u8] = b"twinbox-roles/1";

/// Receives the connections of members on which only the role manager is called. When it is full they wait.
pub type RolesRoute = mpsc::Sender<MemberConnection>;

/// An item of a [`RolesRoute`], as tonic takes it.
pub type MemberConnection = io::Result<TlsStream<TcpStream>>;

/// The routes in addition to the one for members.
#[derive(Default)]
pub struct AcceptRoutes {
    /// For members that call the role manager; without this route they come with the others.
    pub roles: Option<RolesRoute>,
    /// For joining members.
    pub joining: Option<JoinRoute>,
    /// For operators.
    pub operators: Option<OperatorRoute>,
}

impl Incoming {
    pub(crate) fn start(listener: TcpListener, current: SharedCurrent, routes: AcceptRoutes) -> Self {
        let (sender, ready) = mpsc::channel(SLOTS);
        let refused = Arc::new(AtomicU64::new(0));
        tokio::spawn(accept(listener, current, Arc::new(routes), sender, refused.clone()));
        Self { ready, refused }
    }

    /// A counter of connections refused since the start; it stays readable while `self` is being served.
    pub fn refused(&self) -> Arc<AtomicU64> {
        self.refused.clone()
    }
}

impl Stream for Incoming {
    type Item = io::Result<TlsStream<TcpStream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(context)
    }
}

async fn accept(
    listener: TcpListener,
    current: SharedCurrent,
    routes: Arc<AcceptRoutes>,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
    refused: Arc<AtomicU64>,
) {
    let slots = Arc::new(HandshakeSlots::default());
    let log = Arc::new(RefusalLog::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely no descriptors are left: wait for some to be closed instead of spinning.
                warn!(%error, "connection cannot be accepted; retrying");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(slot) = slots.take(address.ip()) else {
            refused.fetch_add(1, Relaxed);
            log.refused(address, &io::Error::other("too many handshakes with this machine, or in total"));
            continue;
        };
        let (current, routes) = (current.clone(), routes.clone());
        let (ready, refused, log) = (ready.clone(), refused.clone(), log.clone());
        tokio::spawn(async move {
            match handshake(&current, &routes, stream).await {
                Ok(Client::Member(stream, route)) => {
                    slot.note_member();
                    // The receiver is dropped only when the listener is closed.
                    let _ = route.unwrap_or(&ready).send(Ok(stream)).await;
                }
                Ok(Client::Joining(stream, route)) => {
                    if route.connections.try_send((stream, address)).is_err() {
                        debug!(%address, "too many joining members; connection closed");
                    }
                }
                Ok(Client::Operator(stream, route)) => {
                    if route.try_send(Ok(stream)).is_err() {
                        debug!(%address, "too many operators; connection closed");
                    }
                }
                Err(error) => {
                    refused.fetch_add(1, Relaxed);
                    log.refused(address, &error);
                }
            }
        });
    }
}

/// An accepted client.
enum Client<'a> {
    Member(TlsStream<TcpStream>, Option<&'a RolesRoute>),
    Joining(TlsStream<TcpStream>, &'a JoinRoute),
    Operator(TlsStream<TcpStream>, &'a OperatorRoute),
}

/// The first message selects the route; the certificate that a member must show depends on nothing else.
async fn handshake<'a>(
    current: &SharedCurrent,
    routes: &'a AcceptRoutes,
    stream: TcpStream,
) -> io::Result<Client<'a>> {
    stream.set_nodelay(true)?;
    let shake = async {
        if timeout(FIRST_BYTE, stream.peek(&mut [0])).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let started = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let current = identity::now(current);
        let hello = started.client_hello();
        let offers = |protocol: &[u8]| hello.alpn().is_some_and(|mut offered| offered.any(|p| p == protocol));
        let joining = routes.joining.as_ref().filter(|route| offers(JOIN_PROTOCOL) && (route.open)());
        let operators = routes.operators.as_ref().filter(|_| offers(OPERATOR_PROTOCOL));
        match (joining, operators) {
            (Some(route), _) => Ok(Client::Joining(started.into_stream(current.join.clone()).await?, route)),
            (None, Some(route)) => {
                Ok(Client::Operator(started.into_stream(current.operators.clone()).await?, route))
            }
            (None, None) => {
                let route = routes.roles.as_ref().filter(|_| offers(ROLES_PROTOCOL));
                Ok(Client::Member(started.into_stream(current.server.clone()).await?, route))
            }
        }
    };
    timeout(HANDSHAKE, shake).await?
}

/// Logs refusals without letting a flood of them fill the log.
#[derive(Default)]
struct RefusalLog {
    /// Nanoseconds of boot time of the last line.
    last: AtomicU64,
    unlogged: AtomicU64,
}

impl RefusalLog {
    fn refused(&self, address: SocketAddr, error: &io::Error) {
        // A connection that closes without data is a port probe or a health check.
        if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
            debug!(%address, %error, "connection closed before the handshake");
            return;
        }
        let now = BootInstant::now();
        let last = self.last.load(Relaxed);
        let due = last == 0 || now.since(BootInstant::from_nanos(last)) >= LOG_EVERY;
        if due && self.last.compare_exchange(last, now.as_nanos(), Relaxed, Relaxed).is_ok() {
            let others = self.unlogged.swap(0, Relaxed);
            warn!(%address, %error, others, "connection refused: no certificate of this cluster");
        } else {
            self.unlogged.fetch_add(1, Relaxed);
        }
    }
}
