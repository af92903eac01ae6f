//! Byte streams to servers: address look-up, TCP, LDAPS and StartTLS.

use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use twinbox_directory_core::{LdapUrl, ServerSettings};

use crate::{
    Bounds, FrameChecker, LdapError,
    ber::{INTEGER, SEQUENCE, write},
    error::refusal,
    message::{self, EXTENDED_REQUEST, EXTENDED_RESPONSE},
    relay::Transport,
    tls,
};

/// Addresses of one server that are tried.
const MOST_ADDRESSES: usize = 8;

/// Name of the StartTLS operation (RFC 4511 section 4.14.1).
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// Message id of the StartTLS request, the first on its connection.
const START_TLS_ID: i32 = 1;

/// A TLS connector if the server's address or the settings ask for one.
pub(crate) async fn connector(url: &LdapUrl, settings: &ServerSettings) -> Result<Option<TlsConnector>, LdapError> {
    if !url.ldaps && !settings.start_tls {
        return Ok(None);
    }
    let (ca_file, insecure) = (settings.ca_file.clone(), settings.insecure);
    let made = tokio::task::spawn_blocking(move || tls::connector(ca_file.as_deref(), insecure)).await;
    made.map_err(|error| LdapError::Local(error.to_string()))?.map(Some)
}

/// Connects to a server. The error is the reason as text, without the server's address.
pub(crate) async fn open(
    url: &LdapUrl,
    settings: &ServerSettings,
    connector: Option<TlsConnector>,
    bounds: &Bounds,
) -> Result<Box<dyn Transport>, String> {
    let host = url.host.trim_start_matches('[').trim_end_matches(']');
    let found =
        lookup_host((host, url.port)).await.map_err(|error| format!("the name cannot be resolved: {error}"))?;
    let addresses: Vec<SocketAddr> = found.take(MOST_ADDRESSES).collect();
    let stream = connect(&addresses, settings).await?;
    // Requests are small and each waits for its answer.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let Some(connector) = connector else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("'{host}' cannot be the name in a certificate"))?;
    let stream = if url.ldaps { stream } else { start_tls(stream, bounds).await? };
    let stream = connector.connect(name, stream).await.map_err(|error| tls::explain(host, &error))?;
    Ok(Box::new(stream))
}

/// Connects to the first address that accepts; each has an equal share of the time.
async fn connect(addresses: &[SocketAddr], settings: &ServerSettings) -> Result<TcpStream, String> {
    let share = settings.timeout / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut reasons = Vec::new();
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no answer within {share:?}")),
        }
    }
    Err(if reasons.is_empty() { "the name has no address".to_owned() } else { reasons.join(", ") })
}

/// Asks for StartTLS. Text after the answer and before the handshake is refused: it could come from anyone on the way.
async fn start_tls(mut stream: TcpStream, bounds: &Bounds) -> Result<TcpStream, String> {
    stream.write_all(&start_tls_request()).await.map_err(|error| error.to_string())?;
    let mut checker = FrameChecker::new(bounds.frames);
    let mut buffer = [0; 1024];
    loop {
        let read = stream.read(&mut buffer).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("the server closed the connection at StartTLS".to_owned());
        }
        let mut input = buffer.get(..read).unwrap_or_default();
        let Some(answer) = checker.read(&mut input).map_err(|error| error.to_string())? else { continue };
        check_start_tls(&answer)?;
        if !input.is_empty() {
            return Err("the server sent plain text after StartTLS: the connection may be tampered with".to_owned());
        }
        return Ok(stream);
    }
}

fn start_tls_request() -> Vec<u8> {
    let (mut name, mut parts, mut request) = (Vec::new(), Vec::new(), Vec::new());
    write(&mut name, 0x80, START_TLS);
    crate::ber::write_number(&mut parts, INTEGER, START_TLS_ID.unsigned_abs());
    write(&mut parts, EXTENDED_REQUEST, &name);
    write(&mut request, SEQUENCE, &parts);
    request
}

fn check_start_tls(answer: &[u8]) -> Result<(), String> {
    let envelope = message::envelope(answer).map_err(|error| error.to_string())?;
    if envelope.operation != EXTENDED_RESPONSE {
        return Err("the server answered StartTLS with another operation".to_owned());
    }
    let outcome = message::outcome(envelope.content).map_err(|error| error.to_string())?;
    match (envelope.id, outcome.code) {
        (START_TLS_ID, 0) => Ok(()),
        (0, _) => Err(format!("the server ended the connection: {}", outcome.text)),
        (_, 0) => Err("the server answered a request that was not sent".to_owned()),
        (_, code) => Err(format!("the server refuses StartTLS: {}", refusal(code, &outcome.text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_that_of_the_rfc() {
        let request = start_tls_request();
        assert_eq!(request.get(..9), Some(&[0x30, 0x1d, 2, 1, 1, 0x77, 0x18, 0x80, 0x16][..]));
        assert_eq!(request.len(), 31);
        assert_eq!(message::request(&request), Ok((1, EXTENDED_REQUEST)));
    }

    #[test]
    fn only_success_under_the_same_id_begins_tls() {
        let answer = |id: u8, code: u8| [0x30, 12, 2, 1, id, 0x78, 7, 0x0a, 1, code, 4, 0, 4, 0];
        assert_eq!(check_start_tls(&answer(1, 0)), Ok(()));
        for (id, code) in [(1, 2), (2, 0), (0, 0), (0, 52)] {
            assert!(check_start_tls(&answer(id, code)).is_err(), "id {id}, code {code}");
        }
    }
}
