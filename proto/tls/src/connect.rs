//! TCP connections to servers by their name.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// Longest time for the connection to one of several addresses; the last one has the rest of the time.
const PER_ADDRESS: Duration = Duration::from_secs(3);

/// Connects to the first address of a host that answers, within this time. An address that is silent, such as an IPv6
/// address whose packets a firewall drops, leaves time for the others. An IPv6 address may have its brackets.
///
/// # Errors
/// The name has no address, or none of them took the connection.
pub async fn connect(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connecting = async { connect_to(lookup_host((host, port)).await?.collect(), limit).await };
    timeout(limit, connecting).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {limit:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, reason))
    })
}

/// Connects to the first of these addresses that answers.
async fn connect_to(addresses: Vec<SocketAddr>, limit: Duration) -> io::Result<TcpStream> {
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let share = PER_ADDRESS.min(limit / count.saturating_add(1));
    let mut failure = io::Error::other("the name has no address");
    let last = addresses.len().saturating_sub(1);
    for (at, address) in addresses.into_iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let connected = match at == last {
            true => connecting.await,
            false => timeout(share, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn silent_address_leaves_time_for_the_next() {
        // Its queue of connections is full.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let full = socket.listen(1).expect("listens");
        let silent = full.local_addr().expect("an address");
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(silent)).await {
            waiting.push(stream);
        }
        let answering = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let expected = answering.local_addr().expect("an address");
        let limit = Duration::from_secs(3);
        let connected = timeout(limit, connect_to(vec![silent, expected], limit)).await.expect("in time");
        assert_eq!(connected.and_then(|stream| stream.peer_addr()).expect("connected"), expected);
        assert!(connect_to(Vec::new(), limit).await.is_err());

        let failed = connect("127.0.0.1", silent.port(), Duration::from_millis(100)).await.expect_err("silent");
        assert_eq!(
            (failed.kind(), failed.to_string().as_str()),
            (io::ErrorKind::TimedOut, "no answer within 100ms")
        );
    }

    #[tokio::test]
    async fn address_in_brackets_is_one() {
        let refused = connect("[::1]", 1, Duration::from_secs(3)).await.expect_err("nobody listens");
        assert_ne!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
    }
}
