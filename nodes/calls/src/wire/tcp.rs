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
use crate::{Transport, sip_server::SipServer, stats::count};

/// Maximum number of queued messages for a slow peer; one more closes the connection.
const OUTBOX: usize = 256;
/// Maximum number of connections from trunks or opened by this node.
const MAX_CONNECTIONS: usize = 1024;
/// Maximum number of connections from strangers; separate, so that they do not block trunks.
const MAX_STRANGERS: usize = 128;
/// Timeout of a connection without received data, longer than the interval of a session timer.
const IDLE: Duration = Duration::from_secs(2_400);
/// Timeout without received data of a connection opened by this node to a peer that is not a trunk. For a stranger:
/// total time for one message and its answer.
const SHORT_IDLE: Duration = Duration::from_secs(5);
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

/// ConnectionKind of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionKind {
    /// Connection with a trunk, opened by either side.
    Trunk,
    /// Connection opened by this node to a peer that is not a trunk.
    Ours,
    /// Connection opened by a stranger.
    Stranger,
}

/// Slot of a connection limit, occupied while the socket is open.
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

    pub(crate) async fn serve(self: Arc<Self>, server: Arc<SipServer>, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, remote)) => match self.peer(&server, stream, remote, ConnectionKind::Stranger, &stop) {
                    Some(_) => {}
                    None => count(&server.stats.connections_refused),
                },
                // Out of file descriptors, or the peer has already closed: the next accept may succeed.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Opens a connection from the listener's bind address, by which PBXs and proxies know this node.
    pub(crate) async fn connect(
        &self,
        server: &Arc<SipServer>,
        to: SocketAddr,
        stop: &CancellationToken,
    ) -> io::Result<Arc<TcpPeer>> {
        let stream = self.open_stream(to).await?;
        self.peer(server, stream, to, ConnectionKind::Ours, stop)
            .ok_or_else(|| io::Error::other("too many connections"))
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

    fn peer(
        &self,
        server: &Arc<SipServer>,
        stream: TcpStream,
        remote: SocketAddr,
        mut kind: ConnectionKind,
        stop: &CancellationToken,
    ) -> Option<Arc<TcpPeer>> {
        if server.access().find(remote.ip(), Transport::Tcp).is_some() {
            kind = ConnectionKind::Trunk;
        }
        let slot = match kind {
            ConnectionKind::Trunk | ConnectionKind::Ours => Slot::take(&self.connections, MAX_CONNECTIONS)?,
            ConnectionKind::Stranger => Slot::take(&self.strangers, MAX_STRANGERS)?,
        };
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let peer =
            Arc::new(TcpPeer { remote, advertised: self.advertised.clone(), outbox, closed: stop.child_token() });
        server.tasks.spawn(write_to(write, queue, peer.closed.clone(), slot.clone()));
        let connections = self.connections.clone();
        server.tasks.spawn(read_from(read, peer.clone(), server.clone(), kind, slot, connections));
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

async fn read_from(
    mut stream: OwnedReadHalf,
    peer: Arc<TcpPeer>,
    server: Arc<SipServer>,
    kind: ConnectionKind,
    _slot: Arc<Slot>,
    connections: Arc<AtomicUsize>,
) {
    let mut framer = Framer::default();
    match kind {
        ConnectionKind::Trunk => {
            server.remember_if_trunk(&peer);
            listen(&mut stream, &mut framer, &peer, &server, IDLE, false).await;
        }
        ConnectionKind::Ours => _ = listen(&mut stream, &mut framer, &peer, &server, SHORT_IDLE, false).await,
        ConnectionKind::Stranger => {
            let first = listen(&mut stream, &mut framer, &peer, &server, SHORT_IDLE, true);
            if let Ok(ReadOutcome::InProgress) = tokio::time::timeout(SHORT_IDLE, first).await {
                // Part of a call: counts as a normal connection from now on, if a slot is free.
                let slot = Slot::take(&connections, MAX_CONNECTIONS);
                let timeout = if slot.is_some() { IDLE } else { SHORT_IDLE };
                listen(&mut stream, &mut framer, &peer, &server, timeout, false).await;
            }
        }
    }
    // Queued messages are still sent: they include the answer to a lost frame.
    server.forget(&peer);
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
    server: &Arc<SipServer>,
    timeout: Duration,
    once: bool,
) -> ReadOutcome {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        while let Some(frame) = framer.next_frame() {
            match frame {
                Frame::Ping => {
                    peer.send(Bytes::from_static(b"\r\n"));
                }
                Frame::Message(data) => {
                    let in_progress = server.framed_message(peer, &data);
                    if once {
                        return if in_progress { ReadOutcome::InProgress } else { ReadOutcome::Finished };
                    }
                }
                Frame::Lost(data) => {
                    server.framed_message(peer, &data);
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

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{ip_tos, ipv6_tclass};

    use super::*;

    #[tokio::test]
    async fn queued_answers_are_written_before_a_connection_closes() {
        for _ in 0..64 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let mut peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
            let (outbox, queue) = mpsc::channel(1);
            outbox.try_send(Bytes::from_static(b"200")).expect("queued");
            let (closed, slot) = (CancellationToken::new(), Arc::new(Slot(Arc::default())));
            closed.cancel();
            write_to(listener.accept().await.expect("accepted").0.into_split().1, queue, closed, slot).await;
            assert_eq!(peer.read(&mut [0; 8]).await.expect("read"), 3);
        }
    }

    #[tokio::test]
    async fn accepted_and_opened_connections_carry_the_dscp() {
        let bind = async |address: &str, dscp| {
            TcpEndpoint::bind(address.parse().expect("an address"), None, dscp).await.expect("bound")
        };
        let (cs3, other) = (bind("127.0.0.1:0", 24).await, bind("127.0.0.1:0", 10).await);
        let (opened, accepted) = tokio::join!(cs3.open_stream(other.local), other.listener.accept());
        let (opened, (accepted, from)) = (opened.expect("opened"), accepted.expect("accepted"));
        assert_eq!(ip_tos(&opened).expect("its octet"), 24 << 2);
        assert_eq!(ip_tos(&accepted).expect("its octet"), 10 << 2);
        assert_eq!(from.ip(), cs3.local.ip(), "from the bind address of the listener");
        // Not every machine has IPv6.
        let six = "[::1]:0".parse().expect("an address");
        let Ok(six) = TcpEndpoint::bind(six, None, 46).await else { return };
        let (opened, accepted) = tokio::join!(six.open_stream(six.local), six.listener.accept());
        let (opened, (accepted, _)) = (opened.expect("opened"), accepted.expect("accepted"));
        assert_eq!(ipv6_tclass(&opened).expect("its octet"), 46 << 2);
        assert_eq!(ipv6_tclass(&accepted).expect("its octet"), 46 << 2);
    }
}
