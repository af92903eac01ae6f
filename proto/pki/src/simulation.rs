//! The network of simulated machines, under the same TLS as real ones.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection of a simulated machine.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection attempt in progress.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send>>;

/// A function that makes connections.
pub type Connect = fn(&str) -> Connecting;

thread_local! {
    static NETWORK: Cell<Option<Connect>> = const { Cell::new(None) };
}

/// From now on `connect` makes the connections to other members on this thread.
pub fn install(connect: Connect) {
    NETWORK.set(Some(connect));
}

/// A connection of this machine, or of a simulated one.
pub(crate) enum TcpStream {
    Real(tokio::net::TcpStream),
    Simulated(Box<dyn Wire>),
}

impl TcpStream {
    pub(crate) async fn connect(address: &str) -> io::Result<Self> {
        match NETWORK.get() {
            Some(connect) => connect(address).await.map(Self::Simulated),
            None => tokio::net::TcpStream::connect(address).await.map(Self::Real),
        }
    }

    pub(crate) fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Real(stream) => stream.set_nodelay(on),
            Self::Simulated(_) => Ok(()),
        }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut dyn Wire> {
        match self.get_mut() {
            Self::Real(stream) => Pin::new(stream),
            Self::Simulated(stream) => Pin::new(&mut **stream),
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
