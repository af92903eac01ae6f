//! TLS of connections: the certificate, and the handshake after `STARTTLS`.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// The certificate of a gateway with its key, for new connections. Clones are one.
#[derive(Clone, Default)]
pub struct TlsSwitch(Arc<RwLock<Option<Arc<ServerConfig>>>>);

impl TlsSwitch {
    /// Replaces the certificate. Without one, `STARTTLS` is not offered, and users cannot sign in.
    pub fn set(&self, config: Option<Arc<ServerConfig>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(crate) fn current(&self) -> Option<Arc<ServerConfig>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The bytes of a connection, in clear or encrypted.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection that changes from clear to encrypted.
pub(crate) type Stream = Box<dyn Transport>;

/// Shakes hands as the server.
pub(crate) async fn accept(stream: Stream, config: Arc<ServerConfig>) -> io::Result<Stream> {
    Ok(Box::new(TlsAcceptor::from(config).accept(stream).await?))
}
