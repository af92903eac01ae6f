//! The way to another member. The certificate that is shown is the one of the moment of connecting, so that a
//! connection which comes back after years shows a renewed one.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Error, Uri};

/// The TLS of this member as a client, as it is now.
pub(crate) type SharedClient = Arc<RwLock<Arc<ClientConfig>>>;

/// Where a peer is reached, and as whom it must show itself.
#[derive(Clone)]
pub struct PeerEndpoint {
    endpoint: Endpoint,
    address: String,
    server: ServerName<'static>,
    tls: SharedClient,
}

impl PeerEndpoint {
    pub(crate) fn new(endpoint: Endpoint, address: &str, server: ServerName<'static>, tls: SharedClient) -> Self {
        Self { endpoint, address: address.to_owned(), server, tls }
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
        let config = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = TlsConnector::from(config).connect(self.server, stream).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(TokioIo::new(stream)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak HTTP/2")),
        }
    }
}
