//! A connection: bounded responses, and blocks of data that are written only under the permit of the duty.

use std::{any::Any, os::fd::AsFd, sync::Arc, time::Duration};

use imap_codec::fragmentizer::{FragmentInfo, Fragmentizer, LiteralAnnouncement};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use crate::{ImapError, Security, ServerConfig, SocketOwner, error::shown, tls};

/// Largest response without literals, in bytes: a list of UIDs may be long.
pub(crate) const MAX_RESPONSE: usize = 1 << 20;

/// Largest response with literals, in bytes.
const MAX_WITH_LITERALS: usize = 65_536;

/// Size of one read, in bytes.
const READ_SIZE: usize = 2_048;

/// Size of one written block, in bytes.
const BLOCK_SIZE: usize = 16_384;

/// Byte stream of a connection.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// An open connection.
pub(crate) struct Wire {
    stream: Box<dyn Transport>,
    received: Received,
    owner: Arc<dyn SocketOwner>,
    limit: Duration,
    // After the stream: the duty is released when the connection has ended.
    _owned: Box<dyn Any + Send>,
}

impl Wire {
    /// Connects to the server, with TLS if it is implicit.
    pub async fn open(config: &ServerConfig, owner: Arc<dyn SocketOwner>) -> Result<Self, ImapError> {
        let limit = config.timeout;
        let failure = |reason: String| ImapError::Connect { host: config.host.clone(), port: config.port, reason };
        if !owner.may_write() {
            return Err(ImapError::NotHolder);
        }
        let connected = twinbox_tls::connect(&config.host, config.port, limit).await;
        let stream = connected.map_err(|error| failure(error.to_string()))?;
        // Commands are small and each waits for its answer.
        stream.set_nodelay(true).map_err(|error| failure(error.to_string()))?;
        let owned = owner.own(stream.as_fd()).ok_or(ImapError::NotHolder)?;
        let wire = Self { stream: Box::new(stream), received: Received::new(), owner, limit, _owned: owned };
        match config.security {
            Security::Implicit => wire.secure(config).await,
            Security::StartTls | Security::None => Ok(wire),
        }
    }

    /// Begins TLS. Fails if the server sent plain text that no command has taken yet: it would be taken as part of the
    /// protected connection (CVE-2011-0411).
    pub async fn secure(mut self, config: &ServerConfig) -> Result<Self, ImapError> {
        if !self.received.is_empty() {
            let text = "plain text after the answer: the connection may be tampered with".to_owned();
            return Err(ImapError::Protocol { step: "STARTTLS", text });
        }
        if !self.owner.may_write() {
            return Err(ImapError::NotHolder);
        }
        let Self { stream, received, owner, limit, _owned } = self;
        let stream = tls::secure(config, stream).await?;
        Ok(Self { stream, received, owner, limit, _owned })
    }

    /// Time limit of one step.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Reads one response, with its literals, within the time limit of a step.
    pub async fn response(&mut self, step: &'static str) -> Result<Vec<u8>, ImapError> {
        self.response_within(step, self.limit).await
    }

    /// Reads one response, with its literals, within this time limit.
    pub async fn response_within(&mut self, step: &'static str, limit: Duration) -> Result<Vec<u8>, ImapError> {
        timeout(limit, self.next(step)).await.map_err(|_| ImapError::TimedOut { step, limit })?
    }

    /// Waits for one response, with its literals. Nothing is lost if the returned future is dropped.
    pub async fn next(&mut self, step: &'static str) -> Result<Vec<u8>, ImapError> {
        loop {
            if let Some(response) = self.received.response().ok_or(ImapError::TooLarge { step })? {
                return Ok(response);
            }
            let mut block = [0; READ_SIZE];
            let read = self.stream.read(&mut block).await.map_err(|error| closed(step, &error.to_string()))?;
            match block.get(..read) {
                Some(bytes) if !bytes.is_empty() => self.received.fragments.enqueue_bytes(bytes),
                _ => return Err(closed(step, "the server closed it")),
            }
        }
    }

    /// Writes in blocks, each if this node still holds the duty.
    pub async fn write(&mut self, step: &'static str, bytes: &[u8]) -> Result<(), ImapError> {
        let limit = self.limit;
        for block in bytes.chunks(BLOCK_SIZE) {
            if !self.owner.may_write() {
                return Err(ImapError::NotHolder);
            }
            let written = async {
                self.stream.write_all(block).await?;
                self.stream.flush().await
            };
            timeout(limit, written)
                .await
                .map_err(|_| ImapError::TimedOut { step, limit })?
                .map_err(|error| closed(step, &error.to_string()))?;
        }
        Ok(())
    }
}

/// Bytes of the server, of which no complete response was taken yet.
struct Received {
    fragments: Fragmentizer,
    /// The response under way has a literal.
    has_literal: bool,
}

impl Received {
    fn new() -> Self {
        let most = u32::try_from(MAX_RESPONSE).unwrap_or(u32::MAX);
        Self { fragments: Fragmentizer::new(most), has_literal: false }
    }

    /// Whether nothing was received after the last response.
    fn is_empty(&mut self) -> bool {
        self.fragments.progress().is_none() && self.fragments.message_bytes().is_empty()
    }

    /// The next complete response, if it has come; the outer `None`: it exceeds its bound.
    fn response(&mut self) -> Option<Option<Vec<u8>>> {
        while let Some(fragment) = self.fragments.progress() {
            if let FragmentInfo::Line { announcement: Some(LiteralAnnouncement { length, .. }), .. } = fragment {
                self.has_literal = true;
                if usize::try_from(length).map_or(true, |length| length > MAX_WITH_LITERALS) {
                    return None;
                }
            }
            self.within_bound()?;
            if self.fragments.is_message_complete() {
                self.has_literal = false;
                return Some(Some(self.fragments.message_bytes().to_vec()));
            }
        }
        self.within_bound()?;
        Some(None)
    }

    fn within_bound(&self) -> Option<()> {
        let most = if self.has_literal { MAX_WITH_LITERALS } else { MAX_RESPONSE };
        let fits = !self.fragments.is_max_message_size_exceeded() && self.fragments.message_bytes().len() <= most;
        fits.then_some(())
    }
}

fn closed(step: &'static str, reason: &str) -> ImapError {
    ImapError::Closed { step, reason: shown(reason) }
}
