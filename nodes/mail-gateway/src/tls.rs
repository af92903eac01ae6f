//! TLS of connections: the handshake after `STARTTLS`.

use std::{io, sync::Arc};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// The bytes of a connection, in clear or encrypted.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection that changes from clear to encrypted.
pub(crate) type Stream = Box<dyn Transport>;

/// Shakes hands as the server.
pub(crate) async fn accept(stream: Stream, config: Arc<ServerConfig>) -> io::Result<Stream> {
    Ok(Box::new(TlsAcceptor::from(config).accept(stream).await?))
}
