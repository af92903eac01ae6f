//! Connections: each carries one request, within limits of number, size and time.

use std::{fmt::Debug, net::IpAddr, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::{net::Listener, sync::CancellationToken};
use tracing::debug;
use twinbox_places::Places;
use twinbox_runtime::accept;

/// Limits of a listener. Each listener counts its own connections: clients in the network do not lock out this machine.
pub(crate) const LIMITS: Limits = Limits {
    connections: 64,
    of_host: 16,
    headers_within: Duration::from_secs(5),
    connection_within: Duration::from_secs(30),
};
/// Limits of a listener for this machine alone, which is one host.
pub(crate) const LOCAL_LIMITS: Limits = Limits { of_host: LIMITS.connections, ..LIMITS };
/// Maximum number and size of a request's headers.
const HEADERS: usize = 64;
const HEADER_BYTES: usize = 16 * 1024;
/// Time that connections have to finish when the node stops.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// Limits of number and time.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Maximum number of connections; more are closed.
    connections: usize,
    /// Maximum number of connections with one host (IPv6: one /64).
    of_host: usize,
    /// Time for the headers of the request.
    headers_within: Duration,
    /// Maximum duration of a connection, with its answer.
    connection_within: Duration,
}

/// Serves the clients of a socket, each on the `host` of its address, until stopped. All connections are closed at the
/// return, or when the future is dropped.
pub(crate) async fn serve<L>(
    listener: L,
    host: fn(&L::Addr) -> IpAddr,
    router: Router,
    limits: Limits,
    stop: &CancellationToken,
) where
    L: Listener<Io: Send + Unpin + 'static, Addr: Debug + Send + 'static>,
{
    let places = Places::new(limits.connections, limits.of_host);
    let admit = move |stream: L::Io, client: L::Addr| {
        let Some(place) = places.take(host(&client)) else {
            debug!(?client, "connection refused at the limit");
            return None;
        };
        let router = router.clone();
        Some(async move {
            connection(stream, client, router, limits).await;
            drop(place);
        })
    };
    accept(listener, stop, FINISH_WITHIN, admit).await;
}

/// Answers one request.
async fn connection<S, C>(stream: S, client: C, router: Router, limits: Limits)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C: Debug,
{
    let mut server = Builder::new(TokioExecutor::new()).http1_only();
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers_within)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false);
    let served = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(limits.connection_within, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(?client, %error, "connection ended early"),
        Err(_) => debug!(?client, "connection took too long"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        io,
        net::{Ipv4Addr, SocketAddr},
    };

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket, TcpStream},
        time::sleep,
    };

    use super::*;

    /// A limit that is reached in the test.
    const SHORT: Duration = Duration::from_millis(50);
    /// A limit that is not reached in the test.
    const LONG: Duration = Duration::from_secs(3600);
    /// Time after which the test fails.
    const WITHIN: Duration = Duration::from_secs(10);

    async fn start(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/livez", get(|| async { "alive\n" })).route("/hangs", get(pending::<()>));
        let host = |client: &SocketAddr| client.ip();
        tokio::spawn(async move { serve(listener, host, router, limits, &CancellationToken::new()).await });
        address
    }

    /// These connections, all of one host, for a long time.
    fn limits(connections: usize) -> Limits {
        Limits { connections, of_host: connections, headers_within: LONG, connection_within: LONG }
    }

    /// Sends the text on a new connection.
    async fn send(address: SocketAddr, text: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(text.as_bytes()).await?;
        Ok(stream)
    }

    /// Text that arrives until the server closes the connection.
    async fn read_until_closed(mut stream: TcpStream) -> String {
        let mut text = String::new();
        // A connection may also be closed by a reset.
        let _ = timeout(WITHIN, stream.read_to_string(&mut text)).await.expect("the connection is closed");
        text
    }

    /// Asks again until the answer is `200`: the server refuses connections while others have all places.
    async fn until_answered(address: SocketAddr) {
        let asking = async {
            loop {
                if let Ok(stream) = send(address, "GET /livez HTTP/1.1\r\nHost: twinbox\r\n\r\n").await
                    && read_until_closed(stream).await.starts_with("HTTP/1.1 200")
                {
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(WITHIN, asking).await.expect("answered");
    }

    #[tokio::test]
    async fn connections_without_a_whole_header_are_closed_and_others_are_answered() {
        let address = start(Limits { headers_within: SHORT, ..limits(2) }).await;
        let silent = send(address, "").await.expect("connected");
        let half = send(address, "GET /livez HTTP/1.1\r\nHost:").await.expect("connected");
        until_answered(address).await;
        read_until_closed(silent).await;
        read_until_closed(half).await;
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_is_closed_and_one_within_is_answered_once() {
        let address = start(limits(1)).await;
        let mut within = send(address, "GET /livez HTTP/1.1\r\n").await.expect("connected");
        let over = send(address, "").await.expect("connected");
        assert_eq!(read_until_closed(over).await, "");
        within.write_all(b"Host: twinbox\r\n\r\n").await.expect("sent");
        let answer = read_until_closed(within).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_host_that_holds_its_share_does_not_keep_another_out() {
        let address = start(Limits { of_host: 2, ..limits(3) }).await;
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(send(address, "").await.expect("connected"));
        }
        let over = send(address, "").await.expect("connected");
        assert_eq!(read_until_closed(over).await, "");
        // Another address of this machine.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).expect("bound");
        let mut other = socket.connect(address).await.expect("connected");
        other.write_all(b"GET /livez HTTP/1.1\r\nHost: twinbox\r\n\r\n").await.expect("sent");
        assert!(read_until_closed(other).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_connection_is_closed_in_time_although_its_answer_hangs() {
        let address = start(Limits { connection_within: SHORT, ..limits(1) }).await;
        let hanging = send(address, "GET /hangs HTTP/1.1\r\nHost: twinbox\r\n\r\n").await.expect("connected");
        assert_eq!(read_until_closed(hanging).await, "");
    }
}
