//! One HTTP POST to a token endpoint: bounded in time and size, over TLS unless the endpoint is on this machine.

use std::{
    error::Error,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{HOST, HeaderValue, USER_AGENT},
    http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use twinbox_tls::{Remedies, TlsError, Trust};

use crate::error::{TokenError, shown};

/// Longest answer of an endpoint, head and body each, in bytes.
const LONGEST_ANSWER: usize = 64 * 1_024;

const REMEDIES: Remedies = Remedies {
    unknown_authority: "set ca-file to that of its authority",
    other_name: "write the name that the certificate has into the URL",
};

/// Token endpoint (RFC 6749 §3.2).
#[derive(Debug, Clone)]
pub struct TokenEndpoint {
    /// URL of the endpoint. `http://` is accepted only for an address of this machine, since secrets are sent.
    pub url: String,
    /// PEM file of CA certificates in place of those of the system.
    pub ca_file: Option<PathBuf>,
    /// Timeout of one request, from the look-up of the name to the end of the answer.
    pub timeout: Duration,
}

/// Client of the endpoints of one provider.
pub(crate) struct HttpClient {
    /// `None`: all endpoints are on this machine and without TLS.
    tls: Option<TlsConnector>,
    timeout: Duration,
}

/// Parts of a URL that the client needs.
struct Target {
    host: String,
    port: u16,
    tls: bool,
}

impl HttpClient {
    /// Client of these endpoints.
    pub(crate) fn new(urls: &[&str], ca_file: Option<&Path>, timeout: Duration) -> Result<Self, TokenError> {
        let mut tls = false;
        for url in urls {
            tls |= parse(url)?.tls;
        }
        let tls = tls.then(|| connector(ca_file)).transpose()?;
        Ok(Self { tls, timeout })
    }

    /// Sends a request, once. Redirects are not followed.
    pub(crate) async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, TokenError> {
        let target = target(request.uri()).ok_or_else(|| TokenError::Url(request.uri().to_string()))?;
        let unreachable = |reason: String| TokenError::Unreachable { host: target.host.clone(), reason };
        let response = match timeout(self.timeout, self.connect_and_send(&target, request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {:?}", self.timeout))),
        };
        let status = response.status();
        let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        if status.is_server_error() || again.contains(&status) {
            return Err(unreachable(format!("it answers {status}")));
        }
        Ok(response)
    }

    async fn connect_and_send(&self, target: &Target, request: HttpRequest) -> Result<HttpResponse, SendError> {
        let host = target.host.trim_start_matches('[').trim_end_matches(']');
        let stream = twinbox_tls::connect(host, target.port, self.timeout).await?;
        match (&self.tls, target.tls) {
            (_, false) => send(stream, target, request).await,
            (Some(connector), true) => {
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let stream = connector.connect(name, stream).await;
                send(stream.map_err(|error| SendError::Tls(explain(host, &error)))?, target, request).await
            }
            (None, true) => Err(io::Error::other("this client was made without TLS").into()),
        }
    }
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = TokenError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, TokenError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.exchange(request))
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Tls(String),
    #[error("its answer cannot be read: {0}")]
    Body(Box<dyn Error + Send + Sync>),
}

async fn send<S>(stream: S, target: &Target, request: HttpRequest) -> Result<HttpResponse, SendError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(LONGEST_ANSWER).handshake(TokioIo::new(stream)).await?;
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map_or(target.host.as_str(), |authority| authority.as_str());
    let authority = HeaderValue::from_str(authority).map_err(io::Error::other)?;
    parts.headers.insert(HOST, authority);
    parts.headers.insert(USER_AGENT, HeaderValue::from_static(concat!("twinbox/", env!("CARGO_PKG_VERSION"))));
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(path);
    let request = Request::from_parts(parts, Full::new(Bytes::from(body)));
    let mut answered = pin!(async move {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(SendError::Body)?;
        Ok::<_, SendError>(Response::from_parts(parts, body.to_bytes().to_vec()))
    });
    // The connection is driven here and ends with this function. The answer also counts when the endpoint closes the
    // connection after it.
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        _ = connection => answered.await,
    }
}

/// Checks the URL of an endpoint.
fn parse(url: &str) -> Result<Target, TokenError> {
    // Without a password, which an error would show.
    let wrong = || TokenError::Url(url.rsplit('@').next().unwrap_or_default().to_owned());
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    target(&uri).ok_or_else(wrong)
}

fn target(uri: &Uri) -> Option<Target> {
    let host = uri.host()?.to_owned();
    if host.is_empty() || uri.authority()?.as_str().contains('@') {
        return None;
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let local = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let (port, tls) = match uri.scheme_str()? {
        "https" => (443, true),
        "http" if local => (80, false),
        _ => return None,
    };
    Some(Target { port: uri.port_u16().unwrap_or(port), host, tls })
}

/// The host of an endpoint, for errors.
pub(crate) fn host_of(url: &str) -> Result<String, TokenError> {
    Ok(parse(url)?.host)
}

/// Reason of a failed handshake, with the remedy.
fn explain(host: &str, error: &io::Error) -> String {
    shown(&twinbox_tls::explain(host, error, REMEDIES), &[])
}

/// Connector that verifies endpoints. All clients without a file share that of the system's certificates.
fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, TokenError> {
    let made = match ca_file {
        Some(path) => twinbox_tls::connector(Trust::File(path)),
        None => twinbox_tls::system_connector(),
    };
    made.map_err(|error| match error {
        TlsError::NoAuthorities => TokenError::NoAuthorities,
        TlsError::Authorities { path, reason } => TokenError::Authorities { path, reason },
        TlsError::Setup(error) => TokenError::Tls(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_this_machine_only_over_tls() {
        for (url, fine) in [
            ("https://login.microsoftonline.com/t/oauth2/v2.0/token", true),
            ("https://[2001:db8::1]:8443/token", true),
            ("http://127.0.0.1:8080/token", true),
            ("http://[::1]:8080/token", true),
            ("http://localhost/token", true),
            ("http://192.0.2.7/token", false),
            ("http://example.com/token", false),
            ("https://user:password@example.com/token", false),
            ("ftp://127.0.0.1/", false),
            ("example.com", false),
            ("", false),
        ] {
            assert_eq!(parse(url).is_ok(), fine, "{url}");
        }
        let error = host_of("https://user:password@example.com/").expect_err("a password").to_string();
        assert!(!error.contains("password"), "{error}");
    }

    #[test]
    fn missing_ca_file_is_named() {
        let result = HttpClient::new(&["https://h/"], Some(Path::new("/nowhere/ca.pem")), Duration::from_secs(1));
        let error = result.err().expect("no such file").to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn clients_share_the_certificates_of_the_system() {
        let client = || HttpClient::new(&["https://h/"], None, Duration::from_secs(1)).map(|client| client.tls);
        match (client(), client()) {
            (Ok(Some(one)), Ok(Some(other))) => assert!(std::sync::Arc::ptr_eq(one.config(), other.config())),
            // The machine of the test has no certificates: this failure is reported each time.
            (one, other) => {
                assert_eq!(one.err(), Some(TokenError::NoAuthorities));
                assert_eq!(other.err(), Some(TokenError::NoAuthorities));
            }
        }
    }
}
