//! SIP over TCP: accepted and opened connections with bounded framing and a short send queue.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use twinbox_sip::framing::{Frame, Framer};

use super::{Advertised, mark};
use crate::{Transport, door::Door, stats::count};

/// Maximum number of queued messages for a slow peer; one more closes the connection.
const OUTBOX: usize = 256;
/// Maximum number of connections from trunks or opened by this node.
const MAX_CONNECTIONS: usize = 1024;
/// Maximum number of connections from strangers; separate, so that they do not block trunks.
const MAX_STRANGERS: usize = 128;
/// Timeout of a connection without received data.
const IDLE: Duration = Duration::from_secs(900);
/// Timeout without received data of a connection opened by this node to a peer that is not a trunk. For a stranger:
/// total time for one message and its answer.
const BRIEF: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);

/// A bound TCP socket.
pub(crate) struct TcpEndpoint {
    listener: TcpListener,
    pub(crate) local: SocketAddr,
    pub(crate) advertised: Advertised,
    dscp: u8,
    connections: Arc<AtomicUsize>,
    strangers: Arc<AtomicUsize>,
}

/// Origin of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Connection with a trunk, opened by either side.
    Trunk,
    /// Connection opened by this node to a peer that is not a trunk.
    Ours,
    /// Connection opened by a stranger.
    Stranger,
}

/// Place in a connection limit, held while the socket is open.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Arc<Self>> {
        let one_more = |n: usize| (n < most).then_some(n + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Arc::new(Self(taken.clone())))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection.
pub(crate) struct TcpPeer {
    pub(crate) remote: SocketAddr,
    pub(crate) advertised: Advertised,
    outbox: mpsc::Sender<Bytes>,
    closed: CancellationToken,
}

impl TcpPeer {
    pub(crate) fn send(&self, bytes: Bytes) -> bool {
        let sent = self.outbox.try_send(bytes).is_ok();
        if !sent {
            // Close the connection of a peer that does not read: the queue is bounded.
            self.closed.cancel();
        }
        sent
    }

    pub(crate) fn open(&self) -> bool {
        !self.closed.is_cancelled()
    }
}

impl TcpEndpoint {
    pub(crate) async fn bind(bind: SocketAddr, advertise: Option<&str>, dscp: u8) -> io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        // Accepted connections inherit the DSCP, so that the handshake has it, too.
        mark(&listener, bind.ip(), dscp);
        let local = listener.local_addr()?;
        let advertised = Advertised::new(advertise, local);
        Ok(Self { listener, local, advertised, dscp, connections: Arc::default(), strangers: Arc::default() })
    }

    pub(crate) async fn serve(self: Arc<Self>, door: Arc<Door>, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, remote)) => match self.peer(&door, stream, remote, Origin::Stranger, &stop) {
                    Some(_) => {}
                    None => count(&door.stats.connections_refused),
                },
                // Out of file descriptors, or the peer has already closed: the next accept may succeed.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Opens a connection from the listener's bind address, by which PBXs and proxies know this node.
    pub(crate) async fn connect(
        &self,
        door: &Arc<Door>,
        to: SocketAddr,
        stop: &CancellationToken,
    ) -> io::Result<Arc<TcpPeer>> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        mark(&socket, to.ip(), self.dscp);
        let own = self.local.ip();
        if !own.is_unspecified() && own.is_ipv4() == to.is_ipv4() {
            socket.bind(SocketAddr::new(own, 0))?;
        }
        let stream = tokio::time::timeout(CONNECT, socket.connect(to)).await??;
        self.peer(door, stream, to, Origin::Ours, stop).ok_or_else(|| io::Error::other("too many connections"))
    }

    fn peer(
        &self,
        door: &Arc<Door>,
        stream: TcpStream,
        remote: SocketAddr,
        mut origin: Origin,
        stop: &CancellationToken,
    ) -> Option<Arc<TcpPeer>> {
        if door.access.find(remote.ip(), Transport::Tcp).is_some() {
            origin = Origin::Trunk;
        }
        let slot = match origin {
            Origin::Trunk | Origin::Ours => Slot::take(&self.connections, MAX_CONNECTIONS)?,
            Origin::Stranger => Slot::take(&self.strangers, MAX_STRANGERS)?,
        };
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let peer =
            Arc::new(TcpPeer { remote, advertised: self.advertised.clone(), outbox, closed: stop.child_token() });
        door.tasks.spawn(write_to(write, queue, peer.closed.clone(), slot.clone()));
        let places = self.connections.clone();
        door.tasks.spawn(read_from(read, peer.clone(), door.clone(), origin, slot, places));
        Some(peer)
    }
}

async fn write_to(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    closed: CancellationToken,
    _slot: Arc<Slot>,
) {
    loop {
        let next = tokio::select! {
            biased;
            next = queue.recv() => next,
            () = closed.cancelled() => break,
        };
        let Some(bytes) = next else { break };
        let written = tokio::select! {
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

async fn read_from(
    mut stream: OwnedReadHalf,
    peer: Arc<TcpPeer>,
    door: Arc<Door>,
    origin: Origin,
    _slot: Arc<Slot>,
    places: Arc<AtomicUsize>,
) {
    let mut framer = Framer::default();
    match origin {
        Origin::Trunk => {
            door.knows(&peer);
            listen(&mut stream, &mut framer, &peer, &door, IDLE, false).await;
        }
        Origin::Ours => {
            listen(&mut stream, &mut framer, &peer, &door, BRIEF, false).await;
        }
        Origin::Stranger => {
            let first = listen(&mut stream, &mut framer, &peer, &door, BRIEF, true);
            if let Ok(Ended::InProgress) = tokio::time::timeout(BRIEF, first).await {
                // Part of a call: counts as a normal connection from now on, if there is a place.
                let place = Slot::take(&places, MAX_CONNECTIONS);
                let patience = if place.is_some() { IDLE } else { BRIEF };
                listen(&mut stream, &mut framer, &peer, &door, patience, false).await;
            }
        }
    }
    // Queued messages are still sent: they include the answer to a lost frame.
    door.forget(&peer);
    let closed = peer.closed.clone();
    drop(peer);
    tokio::select! {
        () = closed.cancelled() => {}
        () = tokio::time::sleep(Duration::from_millis(200)) => closed.cancel(),
    }
}

/// Reason for the end of reading from a connection.
enum Ended {
    /// Closed, timed out, framing lost, or a stranger's single message was read.
    Over,
    /// A stranger's message that belongs to a call or subscription in progress.
    InProgress,
}

/// Reads messages until the peer closes or times out; from a stranger (`once`) one message.
async fn listen(
    stream: &mut OwnedReadHalf,
    framer: &mut Framer,
    peer: &Arc<TcpPeer>,
    door: &Arc<Door>,
    patience: Duration,
    once: bool,
) -> Ended {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        while let Some(frame) = framer.next_frame() {
            match frame {
                Frame::Ping => {
                    peer.send(Bytes::from_static(b"\r\n"));
                }
                Frame::Message(data) => {
                    let in_progress = door.framed(peer, &data);
                    if once {
                        return if in_progress { Ended::InProgress } else { Ended::Over };
                    }
                }
                Frame::Lost(data) => {
                    door.framed(peer, &data);
                    return Ended::Over;
                }
            }
        }
        tokio::task::yield_now().await;
        let read = tokio::select! {
            read = tokio::time::timeout(patience, stream.read(&mut buffer)) => read,
            () = peer.closed.cancelled() => return Ended::Over,
        };
        let Ok(Ok(length @ 1..)) = read else { return Ended::Over };
        framer.push(buffer.get(..length).unwrap_or_default());
    }
}

/// Connections by remote address, for requests sent by this node.
#[derive(Default)]
pub(crate) struct Connections(std::sync::Mutex<std::collections::HashMap<SocketAddr, Weak<TcpPeer>>>);

impl Connections {
    pub(crate) fn remember(&self, peer: &Arc<TcpPeer>) {
        let mut map = self.0.lock().unwrap_or_else(|e| e.into_inner());
        map.insert(peer.remote, Arc::downgrade(peer));
    }

    pub(crate) fn find(&self, remote: SocketAddr) -> Option<Arc<TcpPeer>> {
        let map = self.0.lock().unwrap_or_else(|e| e.into_inner());
        map.get(&remote)?.upgrade().filter(|peer| peer.open())
    }

    pub(crate) fn forget(&self, peer: &Arc<TcpPeer>) {
        let mut map = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if map.get(&peer.remote).is_some_and(|p| std::ptr::eq(p.as_ptr(), Arc::as_ptr(peer))) {
            map.remove(&peer.remote);
        }
    }
}
