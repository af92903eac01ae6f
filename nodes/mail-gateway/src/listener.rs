//! Listening sockets of a gateway.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::BytesMut;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use twinbox_clock::BootInstant;
use twinbox_runtime::accept;

use crate::{
    connection::{Connection, Transfer},
    counts::{Counter, GatewayCounts},
    handler::MailHandler,
    limits::Limits,
    session::{GatewaySettings, Protocol, Session, Start},
    slots::{Memory, Slots},
};

/// Failure of a gateway.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for mail: {source}; choose a free address, or allow ports below 1024")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Reason.
        source: io::Error,
    },
}

/// A bound socket with its protocol.
#[derive(Debug)]
pub struct MailListener {
    listener: TcpListener,
    protocol: Protocol,
    address: SocketAddr,
}

impl MailListener {
    /// Binds the address. Clients can connect from now on, and are served by [`Gateway::serve`].
    pub async fn bind(address: SocketAddr, protocol: Protocol) -> Result<Self, GatewayError> {
        let error = |source| GatewayError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, protocol, address })
    }

    /// The address with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Takes mails on any number of sockets. Clones are one.
#[derive(Clone)]
pub struct Gateway<H> {
    handler: H,
    limits: Arc<Limits>,
    settings: Arc<RwLock<Arc<GatewaySettings>>>,
    tls: Option<Arc<ServerConfig>>,
    counts: Arc<GatewayCounts>,
    slots: Arc<Slots>,
    memory: Arc<Memory>,
}

impl<H: MailHandler> Gateway<H> {
    /// A gateway without a certificate.
    pub fn new(handler: H, settings: GatewaySettings, limits: Limits) -> Self {
        Self {
            handler,
            memory: Memory::new(limits.memory),
            limits: Arc::new(limits),
            settings: Arc::new(RwLock::new(Arc::new(settings))),
            tls: None,
            counts: Arc::default(),
            slots: Arc::default(),
        }
    }

    /// The gateway with this TLS. Without, `STARTTLS` is not offered, and users cannot sign in.
    pub fn with_tls(self, tls: Option<Arc<ServerConfig>>) -> Self {
        Self { tls, ..self }
    }

    /// Counts since the start.
    pub fn counts(&self) -> Arc<GatewayCounts> {
        self.counts.clone()
    }

    /// Number of open connections.
    pub fn connections(&self) -> usize {
        self.slots.open()
    }

    /// Replaces the settings for new connections.
    pub fn set_settings(&self, settings: GatewaySettings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Serves the clients of a socket until stopped. Then clients without an arriving mail are told `421`; mails may
    /// finish within [`Limits::finish`]. All connections are closed at the return, or when the future is dropped.
    pub async fn serve(&self, listener: MailListener, stop: CancellationToken) {
        let MailListener { listener, protocol, .. } = listener;
        let admit = |stream: TcpStream, client: SocketAddr| {
            self.admit(stream, client, protocol, &stop).map(Connection::run)
        };
        accept(listener, &stop, self.limits.finish, admit).await;
    }

    /// A connection within the limits; others are told `421`.
    fn admit(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        protocol: Protocol,
        stop: &CancellationToken,
    ) -> Option<Connection<H>> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner).clone();
        let trusted = settings.networks.contains(client.ip());
        let Some(slot) = self.slots.enter(&self.limits, client.ip(), trusted) else {
            self.counts.count(Counter::ConnectionsRefused);
            debug!(%client, "connection refused at a limit");
            refuse(stream);
            return None;
        };
        self.counts.count(Counter::Connections);
        // Replies are short and waited for. Without the option they are later, not wrong.
        let _ = stream.set_nodelay(true);
        let tls = self.tls.clone();
        let start = Start { protocol, address: client.ip(), tls_offered: tls.is_some(), id: rand::random() };
        Some(Connection {
            handler: self.handler.clone(),
            limits: self.limits.clone(),
            counts: self.counts.clone(),
            session: Session::new(settings, self.limits.clone(), start),
            stream: Box::new(stream),
            tls,
            share: self.memory.share(),
            slot,
            stop: stop.clone(),
            opened: BootInstant::now(),
            transfer: Transfer { since: BootInstant::now(), received: 0 },
            input: BytesMut::new(),
            output: Vec::new(),
        })
    }
}

/// Tells a client that there are too many connections, as far as that needs no waiting.
fn refuse(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(b"421 4.7.0 too many connections; try again later\r\n");
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{Delivery, Mail, PasswordCheck, RecipientError, Sender};

    #[derive(Clone)]
    struct Nothing;

    impl MailHandler for Nothing {
        type Recipient = ();

        async fn recipient(&self, _: &str, _: &Sender) -> Result<(), RecipientError> {
            Err(RecipientError::Unknown)
        }

        async fn deliver(&self, _: Mail<()>) -> Vec<Delivery> {
            Vec::new()
        }

        async fn check_password(&self, _: &str, _: &str, _: IpAddr) -> PasswordCheck {
            PasswordCheck::Wrong
        }

        fn ready(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn waiting_connection_needs_little_memory() {
        let listener = MailListener::bind("127.0.0.1:0".parse().unwrap(), Protocol::Smtp).await.unwrap();
        let settings = GatewaySettings {
            hostname: "localhost".into(),
            networks: Default::default(),
            open: false,
            reports: false,
        };
        let gateway = Gateway::new(Nothing, settings, Limits::default());
        let _client = TcpStream::connect(listener.address()).await.unwrap();
        let (stream, client) = listener.listener.accept().await.unwrap();
        let connection = gateway.admit(stream, client, Protocol::Smtp, &CancellationToken::new()).unwrap();
        let task = connection.run();
        assert!(size_of_val(&task) < 8 * 1024, "{} bytes", size_of_val(&task));
    }
}
