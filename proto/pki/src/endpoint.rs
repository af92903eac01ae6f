//! Connections to another member. Each connection uses the certificate in force when it is made, so that a reconnect
//! after years shows a renewed one.

use std::{
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::io::BufReader;
#[cfg(not(feature = "simulation"))]
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Error, Uri};

use crate::incoming::ROLES_PROTOCOL;
#[cfg(feature = "simulation")]
use crate::simulation::TcpStream;

/// Bytes that are read from a connection at once. rustls alone reads 4 kB with each system call.
const READ_AT_ONCE: usize = 64 * 1024;

/// The current TLS configuration of this member as a client.
#[derive(Clone)]
pub(crate) struct SharedClient {
    config: Arc<RwLock<Arc<ClientConfig>>>,
    /// Number of times a peer showed a certificate by an unknown authority.
    unknown: Arc<AtomicU64>,
}

impl SharedClient {
    pub(crate) fn new(config: Arc<ClientConfig>) -> Self {
        Self { config: Arc::new(RwLock::new(config)), unknown: Arc::default() }
    }

    pub(crate) fn set(&self, config: Arc<ClientConfig>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(crate) fn unknown_authorities(&self) -> u64 {
        self.unknown.load(Relaxed)
    }
}

/// Address of a peer, and the name that its certificate must have.
#[derive(Clone)]
pub struct PeerEndpoint {
    endpoint: Endpoint,
    address: String,
    server: ServerName<'static>,
    tls: SharedClient,
    for_roles: bool,
}

impl PeerEndpoint {
    pub(crate) fn new(endpoint: Endpoint, address: &str, server: ServerName<'static>, tls: SharedClient) -> Self {
        Self { endpoint, address: address.to_owned(), server, tls, for_roles: false }
    }

    /// Marks the connections as used only for calls of the role manager: the server may serve them on separate threads.
    pub fn for_roles(self) -> Self {
        Self { for_roles: true, ..self }
    }

    /// Timeout of a connection attempt.
    pub fn connect_timeout(self, patience: Duration) -> Self {
        Self { endpoint: self.endpoint.connect_timeout(patience), ..self }
    }

    /// Interval between keep-alives on a silent connection.
    pub fn http2_keep_alive_interval(self, interval: Duration) -> Self {
        Self { endpoint: self.endpoint.http2_keep_alive_interval(interval), ..self }
    }

    /// Timeout of the answer to a keep-alive.
    pub fn keep_alive_timeout(self, patience: Duration) -> Self {
        Self { endpoint: self.endpoint.keep_alive_timeout(patience), ..self }
    }

    /// Sends keep-alives only while an answer is awaited: a cut link is noticed by the caller that uses it.
    pub fn silent_while_idle(self) -> Self {
        Self { endpoint: self.endpoint.keep_alive_while_idle(false), ..self }
    }

    /// Connects now.
    pub async fn connect(&self) -> Result<Channel, Error> {
        let this = self.clone();
        let connector = tower::service_fn(move |_: Uri| this.clone().dial());
        self.endpoint.connect_with_connector(connector).await
    }

    /// Connects when it is first used, and again whenever the connection is lost.
    pub fn connect_lazy(&self) -> Channel {
        let this = self.clone();
        self.endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| this.clone().dial()))
    }

    async fn dial(self) -> io::Result<TokioIo<TlsStream<BufReader<TcpStream>>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let stream = BufReader::with_capacity(READ_AT_ONCE, stream);
        let mut config = self.tls.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        if self.for_roles {
            Arc::make_mut(&mut config).alpn_protocols.insert(0, ROLES_PROTOCOL.to_vec());
        }
        let connected = TlsConnector::from(config).connect(self.server, stream).await;
        let stream = connected.inspect_err(|error| {
            let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if let Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) = tls {
                self.tls.unknown.fetch_add(1, Relaxed);
            }
        })?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(TokioIo::new(stream)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not support HTTP/2")),
        }
    }
}
