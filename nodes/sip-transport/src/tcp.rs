//! SIP over TCP: accepted and opened connections with bounded framing and a short send queue. Messages that wait for room get a
//! small part of that queue; answers do not wait, and have the rest.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use rustix::net::sockopt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_places::{Places, TakenPlace};
use twinbox_sip::framing::{Frame, Framer};

use crate::{Advertised, Flow, MessageReceiver, Room, dials::Dials, lock, mark};

/// Maximum number of queued messages for a slow peer; one more closes the connection.
const OUTBOX: usize = 256;
/// Maximum number of queued messages that have waited for room.
const ROOM: usize = 32;
/// Maximum number of connections from trunks or opened by this node.
const MAX_CONNECTIONS: usize = 1024;
/// Maximum number of these with one host: a PBX needs a few, telephones behind one NAT one each.
const CONNECTIONS_SHARE: usize = 256;
/// Maximum number of connections from strangers; separate, so that they do not block trunks.
const MAX_STRANGERS: usize = 128;
/// Maximum number of these from one host.
const STRANGERS_SHARE: usize = 64;
/// Timeout of a connection without received data, longer than the interval of a session timer.
const IDLE: Duration = Duration::from_secs(2_400);
/// Timeout without received data of a connection opened by this node to a peer that is not a trunk. For a stranger:
/// total time for one message and its answer.
const SHORT_IDLE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
/// Timeout in milliseconds of data that the peer does not take or acknowledge: as long as a transaction (timer F).
const UNACKNOWLEDGED_MS: u32 = 32_000;

/// Handles that connections need.
#[derive(Clone)]
pub struct TcpHandles {
    /// Whether connections from this address are those of a trunk.
    pub is_trunk: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// The open connections of all listeners.
    pub connections: Arc<Connections>,
    /// Runs the tasks of connections.
    pub tasks: TaskTracker,
    /// Closes all connections.
    pub stop: CancellationToken,
}

/// A bound TCP address, from which connections are opened.
pub struct TcpEndpoint {
    /// Its bound address.
    pub local: SocketAddr,
    advertised: Advertised,
    dscp: u8,
    handles: TcpHandles,
    dials: Arc<Dials<Arc<TcpPeer>>>,
    connections: Arc<Places>,
    strangers: Arc<Places>,
    /// Opened connections, to be read. Their places bound the queue.
    opened: mpsc::UnboundedSender<Reading>,
}

/// The connections to be read: those that the listener accepts, and those that its endpoint opens.
pub struct TcpListening {
    listener: TcpListener,
    opened: mpsc::UnboundedReceiver<Reading>,
}

/// The reading half of a connection.
struct Reading {
    stream: OwnedReadHalf,
    peer: Arc<TcpPeer>,
    kind: ConnectionKind,
    /// Taken while the socket is open.
    place: Arc<TakenPlace>,
}

/// Kind of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionKind {
    /// Connection with a trunk, opened by either side.
    Trunk,
    /// Connection opened by this node to a peer that is not a trunk.
    Ours,
    /// Connection opened by a stranger.
    Stranger,
}

/// One connection.
pub struct TcpPeer {
    pub(crate) remote: SocketAddr,
    pub(crate) advertised: Advertised,
    outbox: mpsc::Sender<(Bytes, Room)>,
    room: Arc<Semaphore>,
    closed: CancellationToken,
}

impl TcpPeer {
    pub(crate) fn send(&self, bytes: Bytes, room: Room) -> bool {
        let sent = self.outbox.try_send((bytes, room)).is_ok();
        if !sent {
            // Close the connection of a peer that does not read: the queue is bounded.
            self.closed.cancel();
        }
        sent
    }

    /// Waits for room in the queue, in the order of the calls; `None`: the connection is closed, which returns all room.
    pub(crate) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().acquire_owned().await.ok().filter(|_| self.open())
    }

    pub(crate) fn open(&self) -> bool {
        !self.closed.is_cancelled()
    }
}

impl TcpEndpoint {
    /// Binds a listener; `advertise` as in [`Advertised::new`], and a DSCP from 0 to 63.
    pub async fn bind(
        bind: SocketAddr,
        advertise: Option<&str>,
        dscp: u8,
        handles: TcpHandles,
    ) -> io::Result<(Arc<Self>, TcpListening)> {
        let listener = TcpListener::bind(bind).await?;
        // Accepted connections inherit the DSCP, so that the handshake has it, too.
        mark(&listener, bind.ip(), dscp);
        let local = listener.local_addr()?;
        let advertised = Advertised::new(advertise, local);
        let connections = Places::new(MAX_CONNECTIONS, CONNECTIONS_SHARE);
        let (dials, strangers) = (Dials::new(), Places::new(MAX_STRANGERS, STRANGERS_SHARE));
        let (sender, opened) = mpsc::unbounded_channel();
        let endpoint = Self { local, advertised, dscp, handles, dials, connections, strangers, opened: sender };
        Ok((Arc::new(endpoint), TcpListening { listener, opened }))
    }

    /// Passes the messages of all connections to the receiver until the SIP server stops.
    pub async fn serve(self: Arc<Self>, mut listening: TcpListening, receiver: Arc<impl MessageReceiver>) {
        let TcpHandles { tasks, stop, .. } = &self.handles;
        loop {
            let reading = tokio::select! {
                accepted = listening.listener.accept() => match accepted {
                    Ok((stream, remote)) => {
                        let reading = self.peer(stream, remote, ConnectionKind::Stranger);
                        if reading.is_none() {
                            receiver.connection_refused();
                        }
                        reading
                    }
                    // Out of file descriptors, or the peer has already closed: the next accept may succeed.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        None
                    }
                },
                opened = listening.opened.recv() => opened,
                () = stop.cancelled() => return,
            };
            if let Some(reading) = reading {
                tasks.spawn(read_from(self.clone(), reading, receiver.clone()));
            }
        }
    }

    /// Opens a connection from the listener's bind address, by which PBXs and proxies know this node.
    pub async fn connect(self: &Arc<Self>, to: SocketAddr) -> Result<Arc<TcpPeer>, Arc<io::Error>> {
        let endpoint = self.clone();
        let dial = async move {
            let stream = endpoint.open_stream(to).await?;
            let reading = endpoint.peer(stream, to, ConnectionKind::Ours);
            let reading =
                reading.ok_or_else(|| io::Error::other("too many connections, in all or with this host"))?;
            let peer = reading.peer.clone();
            let stopped = |_| io::Error::other("the SIP server stops");
            endpoint.opened.send(reading).map_err(stopped).map(|()| peer)
        };
        self.dials.join(to, &self.handles.tasks, &self.handles.stop, dial).await
    }

    async fn open_stream(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        mark(&socket, to.ip(), self.dscp);
        let own = self.local.ip();
        if !own.is_unspecified() && own.is_ipv4() == to.is_ipv4() {
            socket.bind(SocketAddr::new(own, 0))?;
        }
        tokio::time::timeout(CONNECT, socket.connect(to)).await?
    }

    /// Begins to write to a connection; `None`: there are too many, in all or with its host.
    fn peer(&self, stream: TcpStream, remote: SocketAddr, mut kind: ConnectionKind) -> Option<Reading> {
        let TcpHandles { is_trunk, connections, tasks, stop } = &self.handles;
        if is_trunk(remote.ip()) {
            kind = ConnectionKind::Trunk;
        }
        let places = match kind {
            ConnectionKind::Trunk | ConnectionKind::Ours => &self.connections,
            ConnectionKind::Stranger => &self.strangers,
        };
        let place = Arc::new(places.take(remote.ip())?);
        let _ = stream.set_nodelay(true);
        // Messages that wait for room do not overflow the queue, so the kernel closes the connection of a silent peer.
        let _ = sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS);
        let (read, write) = stream.into_split();
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let (closed, room) = (stop.child_token(), Arc::new(Semaphore::new(ROOM)));
        let peer = Arc::new(TcpPeer { remote, advertised: self.advertised.clone(), outbox, room, closed });
        if kind == ConnectionKind::Trunk {
            connections.remember(&peer);
        }
        tasks.spawn(write_to(write, queue, peer.closed.clone(), place.clone()));
        Some(Reading { stream: read, peer, kind, place })
    }
}

async fn write_to(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::Receiver<(Bytes, Room)>,
    closed: CancellationToken,
    _place: Arc<TakenPlace>,
) {
    loop {
        let next = tokio::select! {
            biased;
            next = queue.recv() => next,
            () = closed.cancelled() => break,
        };
        let Some((bytes, _room)) = next else { break };
        let written = tokio::select! {
            biased;
            written = stream.write_all(&bytes) => written.is_ok(),
            () = closed.cancelled() => false,
        };
        if !written {
            break;
        }
    }
    closed.cancel();
    let _ = stream.shutdown().await;
}

async fn read_from(endpoint: Arc<TcpEndpoint>, reading: Reading, receiver: Arc<impl MessageReceiver>) {
    let Reading { mut stream, peer, kind, place: _place } = reading;
    let mut framer = Framer::default();
    match kind {
        ConnectionKind::Trunk => _ = listen(&mut stream, &mut framer, &peer, &receiver, IDLE, false).await,
        ConnectionKind::Ours => _ = listen(&mut stream, &mut framer, &peer, &receiver, SHORT_IDLE, false).await,
        ConnectionKind::Stranger => {
            let first = listen(&mut stream, &mut framer, &peer, &receiver, SHORT_IDLE, true);
            if let Ok(ReadOutcome::InProgress) = tokio::time::timeout(SHORT_IDLE, first).await {
                // Part of a call: counts as a normal connection from now on, if a place is free. It keeps that of a stranger,
                // so strangers never have more connections than those.
                let place = endpoint.connections.take(peer.remote.ip());
                let timeout = if place.is_some() { IDLE } else { SHORT_IDLE };
                listen(&mut stream, &mut framer, &peer, &receiver, timeout, false).await;
            }
        }
    }
    // Queued messages are still sent: they include the answer to a lost frame.
    endpoint.handles.connections.forget(&peer);
    let closed = peer.closed.clone();
    drop(peer);
    tokio::select! {
        () = closed.cancelled() => {}
        () = tokio::time::sleep(Duration::from_millis(200)) => closed.cancel(),
    }
}

/// Reason for the end of reading from a connection.
enum ReadOutcome {
    /// Closed, timed out, framing lost, or a stranger's single message was read.
    Finished,
    /// A stranger's message that belongs to a call or subscription in progress.
    InProgress,
}

/// Reads messages until the peer closes or times out; from a stranger (`once`) one message.
async fn listen(
    stream: &mut OwnedReadHalf,
    framer: &mut Framer,
    peer: &Arc<TcpPeer>,
    receiver: &Arc<impl MessageReceiver>,
    timeout: Duration,
    once: bool,
) -> ReadOutcome {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        while let Some(frame) = framer.next_frame() {
            match frame {
                Frame::Ping => {
                    peer.send(Bytes::from_static(b"\r\n"), None);
                }
                Frame::Message(data) => {
                    let in_progress = receiver.handle_message(&data, Flow::Tcp(peer.clone()));
                    if once {
                        return if in_progress { ReadOutcome::InProgress } else { ReadOutcome::Finished };
                    }
                }
                Frame::Lost(data) => {
                    receiver.handle_message(&data, Flow::Tcp(peer.clone()));
                    return ReadOutcome::Finished;
                }
            }
        }
        tokio::task::yield_now().await;
        let read = tokio::select! {
            read = tokio::time::timeout(timeout, stream.read(&mut buffer)) => read,
            () = peer.closed.cancelled() => return ReadOutcome::Finished,
        };
        let Ok(Ok(length @ 1..)) = read else { return ReadOutcome::Finished };
        framer.push(buffer.get(..length).unwrap_or_default());
    }
}

/// Connections by remote address, for requests sent by this node.
#[derive(Default)]
pub struct Connections(Mutex<HashMap<SocketAddr, Weak<TcpPeer>>>);

impl Connections {
    fn remember(&self, peer: &Arc<TcpPeer>) {
        lock(&self.0).insert(peer.remote, Arc::downgrade(peer));
    }

    /// The open connection with this address.
    pub fn find(&self, remote: SocketAddr) -> Option<Arc<TcpPeer>> {
        lock(&self.0).get(&remote)?.upgrade().filter(|peer| peer.open())
    }

    fn forget(&self, peer: &Arc<TcpPeer>) {
        let mut map = lock(&self.0);
        if map.get(&peer.remote).is_some_and(|p| std::ptr::eq(p.as_ptr(), Arc::as_ptr(peer))) {
            map.remove(&peer.remote);
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/tcp.rs"]
mod tests;
