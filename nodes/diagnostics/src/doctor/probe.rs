//! Sends OPTIONS (RFC 3261 section 11) as the node would: from its address, with its name servers. Any response
//! counts, whatever its code.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    time::{sleep, timeout},
};
use twinbox_config::NodeConfig;
use twinbox_dns::{Resolver, Transport, Wanted};
use twinbox_sip::via::COOKIE;

use super::findings::Unreachable;
use crate::options::options;

/// Interval of repeats (RFC 3261, T1).
const RETRY: Duration = Duration::from_millis(500);

/// Splits `host`, `host:port` or `[address]:port`.
pub fn host_and_port(text: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|p| p.parse().ok()));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port.parse().ok()),
        _ => (text, None),
    }
}

/// Transports of the node, the preferred one first.
pub fn usable(config: &NodeConfig) -> Vec<Transport> {
    let spoken = |t: &Transport| config.calls.listeners.iter().any(|l| l.transport == *t);
    [Transport::Udp, Transport::Tcp].into_iter().filter(spoken).collect()
}

/// Targets of a name, resolved as the node would.
pub async fn targets(
    config: &NodeConfig,
    host: &str,
    port: Option<u16>,
    transport: Option<Transport>,
) -> Result<Vec<twinbox_dns::Target>, Unreachable> {
    let failed = |error: twinbox_dns::ResolveError| Unreachable::Name(error.to_string());
    let resolver = Resolver::new(&config.calls.dns_servers).map_err(failed)?;
    resolver.targets(Wanted { host, port, transport, usable: &usable(config) }).await.map_err(failed)
}

/// Probes the targets of a name until one answers; error: reason why none does.
pub async fn ask(
    config: &NodeConfig,
    (host, port, transport): (&str, Option<u16>, Option<Transport>),
    limit: Duration,
) -> Result<(), Unreachable> {
    let targets = targets(config, host, port, transport).await?;
    let mut why = "no address".to_owned();
    for target in targets {
        let own = config
            .calls
            .listeners
            .iter()
            .filter(|l| l.transport == target.transport && l.bind.is_ipv4() == target.address.is_ipv4())
            .map(|l| l.bind.ip())
            .find(|ip| !ip.is_unspecified());
        let asked = async {
            match target.transport {
                Transport::Udp => over_udp(own, target.address).await,
                Transport::Tcp => over_tcp(own, target.address).await,
            }
        };
        match timeout(limit, asked).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => why = format!("{}: {error}", target.address),
            Err(_) => why = format!("{}: no answer in {:.0} s", target.address, limit.as_secs_f64()),
        }
    }
    Err(Unreachable::Silent(why))
}

fn request(transport: Transport, to: SocketAddr, local: SocketAddr) -> Bytes {
    let branch = format!("{COOKIE}{:016x}", rand::random::<u64>());
    options("doctor", format!("sip:{to}"), (transport, to), local, &branch)
}

fn from(own: Option<IpAddr>, to: SocketAddr) -> SocketAddr {
    let any = if to.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { IpAddr::from([0u16; 8]) };
    SocketAddr::new(own.unwrap_or(any), 0)
}

async fn over_udp(own: Option<IpAddr>, to: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind(from(own, to)).await?;
    socket.connect(to).await?;
    let request = request(Transport::Udp, to, socket.local_addr()?);
    let mut buffer = vec![0; 4096];
    loop {
        socket.send(&request).await?;
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                let length = received?;
                if buffer.get(..length).is_some_and(|b| b.starts_with(b"SIP/2.0 ")) {
                    return Ok(());
                }
            }
            () = sleep(RETRY) => {}
        }
    }
}

async fn over_tcp(own: Option<IpAddr>, to: SocketAddr) -> std::io::Result<()> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(from(own, to))?;
    let mut stream = socket.connect(to).await?;
    let request = request(Transport::Tcp, to, stream.local_addr()?);
    stream.write_all(&request).await?;
    let mut begin = [0; 8];
    stream.read_exact(&mut begin).await?;
    match &begin == b"SIP/2.0 " {
        true => Ok(()),
        false => Err(std::io::Error::other("the answer is not SIP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_of_a_proxy_is_optional() {
        for (text, expected) in [
            ("pbx", ("pbx", None)),
            ("pbx:5070", ("pbx", Some(5070))),
            ("[2001:db8::1]:5070", ("2001:db8::1", Some(5070))),
            ("[2001:db8::1]", ("2001:db8::1", None)),
            ("2001:db8::1", ("2001:db8::1", None)),
        ] {
            assert_eq!(host_and_port(text), expected);
        }
    }
}
