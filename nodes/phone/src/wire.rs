//! SIP transports: one UDP socket, or TCP connections by address.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use twinbox_sip::framing::{Frame, Framer};

use crate::Transport;

/// Source of a message and path for answers.
#[derive(Clone)]
pub(crate) enum Flow {
    Udp(Arc<UdpSocket>, SocketAddr),
    Tcp(mpsc::UnboundedSender<Bytes>, SocketAddr),
}

impl Flow {
    pub(crate) async fn send(&self, bytes: Bytes) {
        match self {
            // A datagram that cannot be sent counts as lost: the retransmission repairs it.
            Self::Udp(socket, to) => drop(socket.send_to(&bytes, to).await),
            Self::Tcp(connection, _) => drop(connection.send(bytes)),
        }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        match self {
            Self::Udp(_, peer) | Self::Tcp(_, peer) => *peer,
        }
    }
}

/// A received message.
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) flow: Flow,
}

/// The phone's SIP socket.
pub(crate) struct Wire {
    address: SocketAddr,
    kind: Kind,
    received: mpsc::UnboundedSender<Received>,
    stop: CancellationToken,
}

enum Kind {
    Udp(Arc<UdpSocket>),
    Tcp(Connections),
}

type Connections = Arc<Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<Bytes>>>>;

impl Wire {
    /// Opens the socket and passes received messages to `received`, until `stop`.
    pub(crate) async fn open(
        address: SocketAddr,
        transport: Transport,
        received: mpsc::UnboundedSender<Received>,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let (address, kind) = match transport {
            Transport::Udp => {
                let socket = Arc::new(UdpSocket::bind(address).await?);
                tokio::spawn(
                    stop.clone().run_until_cancelled_owned(read_datagrams(socket.clone(), received.clone())),
                );
                (socket.local_addr()?, Kind::Udp(socket))
            }
            Transport::Tcp => {
                let listener = TcpListener::bind(address).await?;
                let address = listener.local_addr()?;
                let connections = Connections::default();
                let accept = accept(listener, connections.clone(), received.clone(), stop.clone());
                tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
                (address, Kind::Tcp(connections))
            }
        };
        Ok(Self { address, kind, received, stop })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn transport(&self) -> Transport {
        match self.kind {
            Kind::Udp(_) => Transport::Udp,
            Kind::Tcp(_) => Transport::Tcp,
        }
    }

    /// The flow to an address; over TCP the open connection, or a new one.
    pub(crate) async fn flow(&self, to: SocketAddr) -> io::Result<Flow> {
        match &self.kind {
            Kind::Udp(socket) => Ok(Flow::Udp(socket.clone(), to)),
            Kind::Tcp(connections) => {
                if let Some(open) = lock(connections).get(&to).filter(|c| !c.is_closed()) {
                    return Ok(Flow::Tcp(open.clone(), to));
                }
                let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                // The node knows its trunks by their addresses.
                if self.address.is_ipv4() == to.is_ipv4() {
                    socket.bind(SocketAddr::new(self.address.ip(), 0))?;
                }
                let stream = socket.connect(to).await?;
                let sender = connect(stream, to, connections.clone(), self.received.clone(), self.stop.clone());
                Ok(Flow::Tcp(sender, to))
            }
        }
    }
}

fn lock(connections: &Connections) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, mpsc::UnboundedSender<Bytes>>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_datagrams(socket: Arc<UdpSocket>, received: mpsc::UnboundedSender<Received>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error reports an ICMP answer to a sent datagram.
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            if received.send(Received { bytes, flow: Flow::Udp(socket.clone(), from) }).is_err() {
                return;
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    connections: Connections,
    received: mpsc::UnboundedSender<Received>,
    stop: CancellationToken,
) {
    while let Ok((stream, peer)) = listener.accept().await {
        connect(stream, peer, connections.clone(), received.clone(), stop.clone());
    }
}

/// Runs a connection; returns the channel for writing to it.
fn connect(
    stream: TcpStream,
    peer: SocketAddr,
    connections: Connections,
    received: mpsc::UnboundedSender<Received>,
    stop: CancellationToken,
) -> mpsc::UnboundedSender<Bytes> {
    let (sender, to_write) = mpsc::unbounded_channel();
    lock(&connections).insert(peer, sender.clone());
    let flow = Flow::Tcp(sender.clone(), peer);
    tokio::spawn(async move {
        stop.run_until_cancelled(serve(stream, flow, to_write, received)).await;
        lock(&connections).remove(&peer);
    });
    sender
}

async fn serve(
    mut stream: TcpStream,
    flow: Flow,
    mut to_write: mpsc::UnboundedReceiver<Bytes>,
    received: mpsc::UnboundedSender<Received>,
) {
    // A small request must not wait for the ACK of the last segment.
    let _ = stream.set_nodelay(true);
    let (mut read, mut write) = stream.split();
    let reading = async {
        let mut framer = Framer::default();
        let mut buffer = vec![0; 16_384];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            framer.push(buffer.get(..length).unwrap_or_default());
            while let Some(frame) = framer.next_frame() {
                match frame {
                    Frame::Message(bytes) => {
                        if received.send(Received { bytes, flow: flow.clone() }).is_err() {
                            return;
                        }
                    }
                    Frame::Ping => flow.send(Bytes::from_static(b"\r\n")).await,
                    Frame::Lost(_) => return,
                }
            }
        }
    };
    let writing = async {
        while let Some(bytes) = to_write.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}
