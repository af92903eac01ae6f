//! Delivery by HTTP POST: JSON, one request per transition, over TLS if the URL is `https`.

use std::{io, os::fd::AsFd, path::PathBuf, pin::pin, sync::Arc, time::Duration};

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
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::{
    notice::Notice,
    outbound::{Permit, TellError},
};

/// Timeout of one request, from the look-up of the name to the response.
const WITHIN: Duration = Duration::from_secs(10);

/// Reason why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL is not valid.
    #[error("'{0}' is no URL that alarms can be sent to: write http://HOST/PATH or https://HOST/PATH")]
    Url(String),
    /// The authorization header is not valid.
    #[error("it has characters that no header may have")]
    Authorization,
    /// The file of CA certificates cannot be read.
    #[error("cannot read certificates of authorities from '{path}': {reason}")]
    Authorities {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        reason: String,
    },
    /// The system has no CA certificates.
    #[error(
        "this machine has no certificates of authorities: install ca-certificates, or name a file of them as ca_file"
    )]
    NoAuthorities,
}

/// Receiver of alarms by HTTP.
#[derive(Clone)]
pub struct Webhook {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authorization: Option<HeaderValue>,
}

impl Webhook {
    /// Receiver at this URL. `authorization` is the value of the header, such as `Bearer …`; `authorities` is a PEM
    /// file in place of the system's CA certificates.
    pub fn new(url: &str, authorization: Option<&str>, authorities: Option<PathBuf>) -> Result<Self, WebhookError> {
        let wrong = || WebhookError::Url(url.to_owned());
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
                (443, Some((connector(authorities)?, name)))
            }
            _ => return Err(wrong()),
        };
        let port = uri.port_u16().unwrap_or(port);
        let authorization = authorization
            .map(|value| {
                let mut value = HeaderValue::from_str(value).map_err(|_| WebhookError::Authorization)?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        Ok(Self { uri, host, port, tls, authorization })
    }

    pub(crate) async fn tell(&self, notice: &Notice, permit: &Permit) -> Result<(), TellError> {
        let later = |error: &dyn std::fmt::Display| TellError::Later(format!("{}: {error}", self.host));
        match timeout(WITHIN, self.post(notice, permit)).await {
            Ok(Ok(status)) => judge(status),
            Ok(Err(PostError::NotHolder)) => Err(TellError::NotHolder),
            Ok(Err(PostError::Io(error))) => Err(later(&error)),
            Ok(Err(PostError::Http(error))) => Err(later(&error)),
            Err(_) => Err(later(&format!("no answer within {WITHIN:?}"))),
        }
    }

    async fn post(&self, notice: &Notice, permit: &Permit) -> Result<StatusCode, PostError> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await?;
        // The gate owns the connection: it is reset when the duty ends, independent of this task (rule R6).
        let _owned = permit.own(stream.as_fd()).map_err(|_| PostError::NotHolder)?;
        match &self.tls {
            None => self.exchange(stream, notice).await,
            Some((connector, name)) => self.exchange(connector.connect(name.clone(), stream).await?, notice).await,
        }
    }

    async fn exchange<S>(&self, stream: S, notice: &Notice) -> Result<StatusCode, PostError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.uri.authority().map_or(self.host.as_str(), |authority| authority.as_str());
        let mut request = Request::post(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("twinbox/", env!("CARGO_PKG_VERSION")))
            .header("idempotency-key", notice.key());
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::from(notice.json().to_string())))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
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

#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("not the holder")]
    NotHolder,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

fn judge(status: StatusCode) -> Result<(), TellError> {
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    match status {
        status if status.is_success() => Ok(()),
        // The receiver already has this key.
        StatusCode::CONFLICT => Ok(()),
        status if status.is_server_error() || again.contains(&status) => {
            Err(TellError::Later(format!("it answered {status}")))
        }
        status => Err(TellError::Refused(format!("it answered {status}"))),
    }
}

fn connector(authorities: Option<PathBuf>) -> Result<TlsConnector, WebhookError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let wrong = |reason: String| WebhookError::Authorities { path: path.clone(), reason };
            let certificates = CertificateDer::pem_file_iter(&path).map_err(|error| wrong(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("there is none in it".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(WebhookError::NoAuthorities);
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| WebhookError::Url(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Shows only the host: the path of the URL may contain a secret.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Webhook({}:{})", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_an_http_url_without_a_password() {
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
            assert_eq!(Webhook::new(url, None, None).is_ok(), fine, "{url}");
        }
        assert!(matches!(Webhook::new("http://h", Some("a\nb"), None), Err(WebhookError::Authorization)));
        let missing = Webhook::new("https://h", None, Some("/nowhere/ca.pem".into())).expect_err("no such file");
        assert!(missing.to_string().contains("/nowhere/ca.pem"), "{missing}");
    }

    #[test]
    fn an_answer_says_whether_to_try_again() {
        for (status, expected) in [
            (200, "ok"),
            (204, "ok"),
            (409, "ok"),
            (400, "refused"),
            (404, "refused"),
            (429, "later"),
            (503, "later"),
        ] {
            let judged = match judge(StatusCode::from_u16(status).expect("a status")) {
                Ok(()) => "ok",
                Err(TellError::Refused(_)) => "refused",
                Err(_) => "later",
            };
            assert_eq!(judged, expected, "{status}");
        }
    }
}
