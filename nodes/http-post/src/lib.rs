//! One HTTP POST to an outside receiver, over TLS if the URL is `https`; the connection belongs to the holder of a duty.

use std::{
    any::Any,
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use twinbox_tls::{TlsError, Trust, connect};

/// Timeout of one request, from the look-up of the name to the response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why a receiver cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The URL is not valid.
    #[error("'{0}' is not a usable URL: write http://HOST/PATH or https://HOST/PATH, without a password")]
    Url(String),
    /// The authorization header is not valid.
    #[error("the value has characters that are not allowed in an HTTP header")]
    Authorization,
    /// The file of CA certificates cannot be read.
    #[error("cannot read CA certificates from '{path}': {reason}")]
    Authorities {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        reason: String,
    },
    /// The system has no CA certificates.
    #[error("this machine has no CA certificates: install ca-certificates, or set ca_file")]
    NoAuthorities,
}

/// Result of a request that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostFailure {
    /// The receiver was not reached.
    #[error("{0}")]
    Unreachable(String),
    /// The receiver has not taken the request: to be retried later.
    #[error("{0}")]
    Later(String),
    /// The request was sent and not answered: the receiver may have taken it.
    #[error("{0}")]
    Unanswered(String),
    /// The answer does not tell whether the receiver has taken the request: a proxy gave up its wait, or the receiver failed
    /// while it worked on it.
    #[error("{0}")]
    Unclear(String),
    /// The receiver refused the request for good.
    #[error("refused: {0}")]
    Refused(String),
    /// This node does not hold the duty any more. Nothing of the request was sent.
    #[error("this node no longer holds the duty")]
    NotHolder,
}

/// Takes over a new connection, which is reset when the duty ends (rule R6); `None`: this node does not hold the duty.
pub type Owner<'a> = &'a (dyn Fn(BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> + Send + Sync);

/// Body of a request with its further headers.
#[derive(Debug, Clone)]
pub struct Post {
    /// Type of the body, such as `application/json`.
    pub content_type: &'static str,
    /// Further headers: name in lower case, value.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

/// Receiver of requests.
#[derive(Clone)]
pub struct HttpTarget {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Tls>,
    authorization: Option<HeaderValue>,
}

/// TLS to the receiver.
#[derive(Clone)]
struct Tls {
    /// Of the host.
    name: ServerName<'static>,
    /// The connector, or the reason why this node has none.
    connector: Result<TlsConnector, String>,
}

impl HttpTarget {
    /// Receiver at this URL. `authorization` is the value of the header, such as `Bearer …`; `authorities` is a PEM
    /// file in place of the system's CA certificates.
    pub fn new(url: &str, authorization: Option<&str>, authorities: Option<PathBuf>) -> Result<Self, TargetError> {
        Self::with(url, authorization, || connector(authorities.as_deref()).map(Ok))
    }

    /// Receiver at a URL that every node is to use. A node that cannot verify its certificate, because it has no CA
    /// certificates, does not reach it.
    pub fn of_user(url: &str) -> Result<Self, TargetError> {
        let connector = || twinbox_tls::system_connector().map_err(|error| error.to_string());
        Self::with(url, None, || Ok(connector()))
    }

    fn with(
        url: &str,
        authorization: Option<&str>,
        connector: impl FnOnce() -> Result<Result<TlsConnector, String>, TargetError>,
    ) -> Result<Self, TargetError> {
        let wrong = || TargetError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let (scheme, host) = (uri.scheme_str().ok_or_else(wrong)?, uri.host().ok_or_else(wrong)?.to_owned());
        // A name and password in the URL would appear in every log.
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(wrong());
        }
        let (port, tls) = match scheme {
            "http" => (80, None),
            "https" => {
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(bare).map_err(|_| wrong())?;
                (443, Some(Tls { name, connector: connector()? }))
            }
            _ => return Err(wrong()),
        };
        let port = uri.port_u16().unwrap_or(port);
        let authorization = authorization
            .map(|value| {
                let mut value = HeaderValue::from_str(value).map_err(|_| TargetError::Authorization)?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        Ok(Self { uri, host, port, tls, authorization })
    }

    /// Host of the receiver.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Sends a request, once. A conflict (`409`) is success: the receiver has its key already.
    ///
    /// `lost` resolves when this node loses the duty. A request of which nothing was sent by then is not sent, however
    /// long the receiver's name, connection or TLS handshake would still take: the next holder of the duty sends it.
    pub async fn post(
        &self,
        post: &Post,
        owner: Owner<'_>,
        lost: impl Future<Output = ()>,
    ) -> Result<(), PostFailure> {
        let sent = AtomicBool::new(false);
        let failure = |error: &dyn fmt::Display| {
            let text = format!("{}: {error}", self.host);
            match sent.load(Relaxed) {
                true => PostFailure::Unanswered(text),
                false => PostFailure::Unreachable(text),
            }
        };
        let mut posting = pin!(timeout(TIMEOUT, self.connect_and_post(post, owner, &sent)));
        let posted = tokio::select! {
            biased;
            () = lost => match sent.load(Relaxed) {
                true => posting.await,
                false => return Err(PostFailure::NotHolder),
            },
            posted = &mut posting => posted,
        };
        match posted {
            Ok(Ok(status)) => classify(status),
            Ok(Err(PostError::NotHolder)) => Err(PostFailure::NotHolder),
            Ok(Err(PostError::Io(error))) => Err(failure(&error)),
            Ok(Err(PostError::Http(error))) => Err(failure(&error)),
            Err(_) => Err(failure(&format!("no answer within {TIMEOUT:?}"))),
        }
    }

    async fn connect_and_post(
        &self,
        post: &Post,
        owner: Owner<'_>,
        sent: &AtomicBool,
    ) -> Result<StatusCode, PostError> {
        let tls = self.tls.as_ref().map(Tls::ready).transpose()?;
        let stream = connect(&self.host, self.port, TIMEOUT).await?;
        let _owned = owner(stream.as_fd()).ok_or(PostError::NotHolder)?;
        match tls {
            None => self.exchange(stream, post, sent).await,
            Some((connector, name)) => self.exchange(connector.connect(name, stream).await?, post, sent).await,
        }
    }

    async fn exchange<S>(&self, stream: S, post: &Post, sent: &AtomicBool) -> Result<StatusCode, PostError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.uri.authority().map_or(self.host.as_str(), |authority| authority.as_str());
        let mut request = Request::post(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, post.content_type)
            .header(USER_AGENT, concat!("twinbox/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &post.headers {
            request = request.header(*name, value);
        }
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(post.body.clone()))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        sent.store(true, Relaxed);
        // The connection is driven here and ends with this block: the body of the response is not needed. The
        // response also counts when the receiver closes the connection after it.
        let mut answered = pin!(async move { sender.send_request(request).await.map(|answer| answer.status()) });
        tokio::select! {
            biased;
            status = &mut answered => Ok(status?),
            _ = connection => Ok(answered.await?),
        }
    }
}

impl Tls {
    fn ready(&self) -> io::Result<(TlsConnector, ServerName<'static>)> {
        let connector = self.connector.clone().map_err(io::Error::other)?;
        Ok((connector, self.name.clone()))
    }
}

#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("this node no longer holds the duty")]
    NotHolder,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

fn classify(status: StatusCode) -> Result<(), PostFailure> {
    // By RFC 9110 section 15.6.4, RFC 8470 section 5.2 and RFC 6585 section 4 the server did not work on the request.
    let not_taken = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    match status {
        status if status.is_success() => Ok(()),
        // The receiver already has this key.
        StatusCode::CONFLICT => Ok(()),
        status if not_taken.contains(&status) => Err(PostFailure::Later(format!("the receiver answered {status}"))),
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Err(PostFailure::Unclear(format!("the receiver answered {status}")))
        }
        status => Err(PostFailure::Refused(format!("the receiver answered {status}"))),
    }
}

fn connector(authorities: Option<&Path>) -> Result<TlsConnector, TargetError> {
    let connector = match authorities {
        Some(path) => twinbox_tls::connector(Trust::File(path)),
        None => twinbox_tls::system_connector(),
    };
    connector.map_err(|error| match error {
        TlsError::NoAuthorities => TargetError::NoAuthorities,
        TlsError::Authorities { path, reason } => TargetError::Authorities { path, reason },
        TlsError::Setup(error) => TargetError::Url(error.to_string()),
    })
}

/// Shows only the host: the path of the URL may contain a secret.
impl std::fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpTarget({}:{})", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        io::{Read, Write},
        net::{SocketAddr, TcpListener},
        sync::Arc,
    };

    use tokio::{net::TcpStream, sync::Notify};

    use super::*;

    const OWNER: Owner<'_> = &|_| Some(Box::new(()));

    fn post() -> Post {
        Post { content_type: "application/json", headers: Vec::new(), body: Bytes::from_static(b"{}") }
    }

    /// A receiver that reads a request, calls `received`, writes `answer` and closes the connection.
    fn receiver_after(answer: &'static str, received: impl FnOnce() + Send + 'static) -> HttpTarget {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"{}") {
                let mut bytes = [0; 1_024];
                let n = stream.read(&mut bytes).unwrap();
                request.extend_from_slice(&bytes[..n]);
            }
            received();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        HttpTarget::new(&url, None, None).unwrap()
    }

    /// Sends a request to such a receiver, with the duty.
    async fn sent(answer: &'static str) -> Result<(), PostFailure> {
        receiver_after(answer, || ()).post(&post(), OWNER, pending()).await
    }

    /// A socket whose queue of connections is full: a further one is not answered.
    async fn silent() -> (SocketAddr, impl Sized) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            waiting.push(stream);
        }
        (address, (full, waiting))
    }

    #[tokio::test]
    async fn request_without_an_answer_may_have_been_taken() {
        assert_eq!(sent("HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        let busy = sent("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(busy, Err(PostFailure::Later(_))), "{busy:?}");
        let unanswered = sent("").await;
        assert!(matches!(unanswered, Err(PostFailure::Unanswered(_))), "{unanswered:?}");
        let nobody = HttpTarget::new("http://127.0.0.1:1/", None, None).unwrap();
        let unreachable = nobody.post(&post(), OWNER, pending()).await;
        assert!(matches!(unreachable, Err(PostFailure::Unreachable(_))), "{unreachable:?}");
    }

    /// A text message of which nothing left must not be given up because the duty moved.
    #[tokio::test]
    async fn duty_lost_before_the_request_is_sent_ends_the_wait_for_the_receiver() {
        let (address, _full) = silent().await;
        let target = HttpTarget::new(&format!("http://{address}/"), None, None).unwrap();
        let request = post();
        let connecting = target.post(&request, OWNER, tokio::task::yield_now());
        assert_eq!(connecting.await, Err(PostFailure::NotHolder));

        // It accepts the connection, and does not answer the handshake.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let any = || Ok(twinbox_tls::connector(Trust::Any).map_err(|error| error.to_string()));
        let connected = Notify::new();
        let owner: Owner<'_> = &|_| {
            connected.notify_one();
            Some(Box::new(()))
        };
        let shaking = HttpTarget::with(&url, None, any).unwrap();
        let lost = connected.notified();
        assert_eq!(shaking.post(&post(), owner, lost).await, Err(PostFailure::NotHolder));
    }

    #[tokio::test]
    async fn request_that_was_sent_before_the_duty_was_lost_has_its_outcome() {
        let received = Arc::new(Notify::new());
        let (seen, loss) = std::sync::mpsc::channel();
        let arrived = received.clone();
        let target = receiver_after("HTTP/1.1 204 No Content\r\n\r\n", move || {
            arrived.notify_one();
            loss.recv().unwrap();
        });
        let lost = async {
            received.notified().await;
            seen.send(()).unwrap();
        };
        assert_eq!(target.post(&post(), OWNER, lost).await, Ok(()));
    }

    #[tokio::test]
    async fn node_without_ca_certificates_does_not_reach_a_receiver_with_tls() {
        let reason = || TlsError::NoAuthorities.to_string();
        let target = HttpTarget::with("https://127.0.0.1:1/", None, || Ok(Err(reason()))).unwrap();
        let failed = target.post(&post(), OWNER, pending()).await;
        let Err(PostFailure::Unreachable(text)) = failed else { panic!("{failed:?}") };
        assert!(text.contains(&reason()), "{text}");
    }

    #[test]
    fn receiver_must_be_an_http_url_without_a_password() {
        for (url, fine) in [
            ("http://10.0.0.9:8080/alarms?of=twinbox", true),
            ("http://[::1]:8080/", true),
            ("http://host", true),
            ("https://", false),
            ("ftp://host/", false),
            ("host/path", false),
            ("http://user:secret@host/", false),
            ("", false),
        ] {
            assert_eq!(HttpTarget::new(url, None, None).is_ok(), fine, "{url}");
        }
        assert!(matches!(HttpTarget::new("http://h", Some("a\nb"), None), Err(TargetError::Authorization)));
        let missing = HttpTarget::new("https://h", None, Some("/nowhere/ca.pem".into())).expect_err("no such file");
        assert!(missing.to_string().contains("/nowhere/ca.pem"), "{missing}");
    }

    #[test]
    fn status_decides_between_success_retry_unknown_result_and_refusal() {
        for (status, expected) in [
            (200, "ok"),
            (204, "ok"),
            (409, "ok"),
            (400, "refused"),
            (404, "refused"),
            (425, "later"),
            (429, "later"),
            (503, "later"),
            (408, "unclear"),
            (500, "unclear"),
            (501, "unclear"),
            (502, "unclear"),
            (504, "unclear"),
            (507, "unclear"),
            (599, "unclear"),
        ] {
            let classified = match classify(StatusCode::from_u16(status).expect("a status")) {
                Ok(()) => "ok",
                Err(PostFailure::Refused(_)) => "refused",
                Err(PostFailure::Unclear(_)) => "unclear",
                Err(_) => "later",
            };
            assert_eq!(classified, expected, "{status}");
        }
    }
}
