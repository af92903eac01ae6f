//! A connection to a mail server: bounded reads and writes, owned by the holder of the duty.

use std::{any::Any, io, net::SocketAddr, os::fd::AsFd, time::Duration};

use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    SocketOwner,
    reply::{Reply, ReplyError, ReplyReader},
    tls,
};

/// Size of one read, in bytes.
const READ_SIZE: usize = 4_096;

/// Reason why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("this node no longer holds the duty")]
    NotHolder,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the server closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server does not speak SMTP: {0}")]
    Reply(#[from] ReplyError),
    #[error("the server sent plain text after its reply to STARTTLS: the connection may be tampered with")]
    PlainAfterStartTls,
    #[error("{0}")]
    Handshake(String),
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// An open connection.
pub(crate) struct Connection<'a> {
    stream: Box<dyn Transport>,
    received: BytesMut,
    reader: ReplyReader,
    owner: &'a dyn SocketOwner,
    // After the stream: the duty is released when the connection has ended.
    _owned: Box<dyn Any + Send>,
}

impl<'a> Connection<'a> {
    /// Connects to an address.
    pub async fn open(address: SocketAddr, limit: Duration, owner: &'a dyn SocketOwner) -> Result<Self, Broken> {
        let stream = within(limit, TcpStream::connect(address)).await?;
        // Commands are small and each waits for its reply.
        stream.set_nodelay(true)?;
        let owned = owner.own(stream.as_fd()).ok_or(Broken::NotHolder)?;
        Ok(Self {
            stream: Box::new(stream),
            received: BytesMut::new(),
            reader: ReplyReader::default(),
            owner,
            _owned: owned,
        })
    }

    /// Begins TLS with the server of this name. Also returns the certificate as text.
    pub async fn secure(
        self,
        connector: &TlsConnector,
        host: &str,
        limit: Duration,
    ) -> Result<(Self, String), Broken> {
        if !self.received.is_empty() {
            return Err(Broken::PlainAfterStartTls);
        }
        self.check()?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare)
            .map_err(|_| Broken::Handshake(format!("'{host}' cannot be the name in a certificate")))?;
        let Self { stream, received, reader, owner, _owned } = self;
        let connected = timeout(limit, connector.connect(name, stream)).await;
        let connected = connected.map_err(|_| Broken::Timeout(limit))?;
        let stream = connected.map_err(|error| Broken::Handshake(tls::explain(host, &error)))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(tls::describe);
        let certificate = certificate.unwrap_or_else(|| "no certificate".to_owned());
        Ok((Self { stream: Box::new(stream), received, reader, owner, _owned }, certificate))
    }

    /// Reads one reply.
    pub async fn reply(&mut self, limit: Duration) -> Result<Reply, Broken> {
        within(limit, async {
            loop {
                let (used, reply) = self.reader.read(&self.received)?;
                self.received.advance(used);
                if let Some(reply) = reply {
                    return Ok(reply);
                }
                self.received.reserve(READ_SIZE);
                if self.stream.read_buf(&mut self.received).await? == 0 {
                    return Err(Broken::Closed);
                }
            }
        })
        .await
    }

    /// Writes a command or a block of data, if this node still holds the duty.
    pub async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), Broken> {
        self.check()?;
        within(limit, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Ends the dialogue. The outcome is known already: a failure here changes nothing.
    pub async fn quit(mut self, limit: Duration) {
        if self.write(b"QUIT\r\n", limit).await.is_ok() {
            let _ = self.reply(limit).await;
        }
    }

    fn check(&self) -> Result<(), Broken> {
        if self.owner.may_write() { Ok(()) } else { Err(Broken::NotHolder) }
    }
}

async fn within<T, E: Into<Broken>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Broken> {
    timeout(limit, work).await.map_err(|_| Broken::Timeout(limit))?.map_err(Into::into)
}
