//! The way to another member. The certificate that is shown is the one of the moment of connecting, so that a
//! connection which comes back after years shows a renewed one.

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
#[cfg(not(feature = "simulation"))]
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Error, Uri};

use crate::incoming::ROLES_PROTOCOL;
#[cfg(feature = "simulation")]
use crate::simulation::TcpStream;

/// The TLS of this member as a client, as it is now.
#[derive(Clone)]
pub(crate) struct SharedClient {
    config: Arc<RwLock<Arc<ClientConfig>>>,
    /// How often a peer showed a certificate by an authority that is not known here.
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

/// Where a peer is reached, and as whom it must show itself.
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

    /// Connections are for calls of the role manager alone: the other side may serve them on threads of their own.
    pub fn for_roles(self) -> Self {
        Self { for_roles: true, ..self }
    }

    /// A connection that is not there by then is given up.
    pub fn connect_timeout(self, patience: Duration) -> Self {
        Self { endpoint: self.endpoint.connect_timeout(patience), ..self }
    }

    /// How often a silent connection is asked for a sign of life.
    pub fn http2_keep_alive_interval(self, interval: Duration) -> Self {
        Self { endpoint: self.endpoint.http2_keep_alive_interval(interval), ..self }
    }

    /// How long that sign may take.
    pub fn keep_alive_timeout(self, patience: Duration) -> Self {
        Self { endpoint: self.endpoint.keep_alive_timeout(patience), ..self }
    }

    /// Asks for that sign only while an answer is awaited: a link that was cut is noticed by whoever uses it.
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

    async fn dial(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
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
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak HTTP/2")),
        }
    }
}
