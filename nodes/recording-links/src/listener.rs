//! Connections: each carries one request, within limits of number, size and time.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use twinbox_mailstore::Mailstore;
use twinbox_places::Places;
use twinbox_runtime::accept;

use crate::{
    answer::{ConnectionContext, answer},
    minimum_rate::MinimumRate,
};

/// Maximum number of connections; more are closed.
const CONNECTIONS: usize = 256;
/// Maximum number of connections with one host. Clients behind one NAT share it.
const CONNECTIONS_OF_HOST: usize = 64;
/// Maximum number of recordings in memory; more requests are answered `503`.
const RECORDINGS: usize = 16;
/// Maximum number and size of a request's headers.
const HEADERS: usize = 64;
const HEADER_BYTES: usize = 16 * 1024;
/// Time for the TLS handshake, and for the headers.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// Requested send buffer of a connection in bytes; the kernel doubles it. The kernel takes more only when about a third of it is
/// free: a small one shows in time that a slow client reads.
const SEND_BUFFER: u32 = 64 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Maximum duration of a connection: an hour's recording at 64 kB/s.
const CONNECTION_WITHIN: Duration = Duration::from_secs(600);
/// Time that connections have to finish when the node stops.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for links (links.bind): {source}; choose a free address of this machine")]
pub struct LinkListenerError {
    address: SocketAddr,
    source: io::Error,
}

/// A bound socket.
#[derive(Debug)]
pub struct LinkListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl LinkListener {
    /// Binds the address. Clients are served by [`RecordingLinks::serve`].
    pub async fn bind(address: SocketAddr) -> Result<Self, LinkListenerError> {
        let error = |source| LinkListenerError { address, source };
        let listener = listen(address).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// The address with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Accepted connections inherit the send buffer.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves recordings by their links. Cheap to clone.
#[derive(Clone)]
pub struct RecordingLinks {
    mailstore: Mailstore,
    tls: Option<TlsAcceptor>,
    connections: Arc<Places>,
    recordings: Arc<Semaphore>,
}

impl RecordingLinks {
    /// Serves the recordings of this store; without `tls`, in clear text to a proxy.
    pub fn new(mailstore: Mailstore, tls: Option<Arc<ServerConfig>>) -> Self {
        // Behind a proxy all connections come from one host.
        let of_host = if tls.is_none() { CONNECTIONS } else { CONNECTIONS_OF_HOST };
        Self {
            mailstore,
            connections: Places::new(CONNECTIONS, of_host),
            tls: tls.map(TlsAcceptor::from),
            recordings: Arc::new(Semaphore::new(RECORDINGS)),
        }
    }

    /// Serves the clients of a socket until stopped. All connections are closed at the return, or when the future is
    /// dropped.
    pub async fn serve(self, listener: LinkListener, stop: CancellationToken) {
        let admit = |stream: TcpStream, client: SocketAddr| {
            let Some(place) = self.connections.take(client.ip()) else {
                debug!(%client, "connection refused at the limit");
                return None;
            };
            let this = self.clone();
            Some(async move {
                this.connection(stream, client).await;
                drop(place);
            })
        };
        accept(listener.listener, &stop, FINISH_WITHIN, admit).await;
    }

    async fn connection(&self, stream: TcpStream, client: SocketAddr) {
        let stream = MinimumRate::new(stream);
        let exchange = async {
            match &self.tls {
                None => self.exchange(stream, client).await,
                Some(acceptor) => match timeout(BEGIN_WITHIN, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => self.exchange(stream, client).await,
                    Ok(Err(error)) => debug!(%client, %error, "TLS handshake failed"),
                    Err(_) => debug!(%client, "TLS handshake took too long"),
                },
            }
        };
        if timeout(CONNECTION_WITHIN, exchange).await.is_err() {
            debug!(%client, "connection took too long");
        }
    }

    /// Answers one request.
    async fn exchange<S>(&self, stream: S, client: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let context = ConnectionContext {
            mailstore: self.mailstore.clone(),
            recordings: self.recordings.clone(),
            held: Arc::new(OnceLock::new()),
        };
        let router: Router = Router::new().fallback(answer).with_state(context);
        let mut server = Builder::new(TokioExecutor::new()).http1_only();
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(BEGIN_WITHIN)
            .max_headers(HEADERS)
            .max_buf_size(HEADER_BYTES)
            .keep_alive(false);
        let served = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
        if let Err(error) = served {
            debug!(%client, %error, "connection ended early");
        }
    }
}
