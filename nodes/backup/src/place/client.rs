//! The HTTP client of a bucket: TLS as for all servers outside the cluster, no redirects, no proxy of the environment.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use object_store::{
    BackoffConfig, ClientOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    client::{HttpClient, HttpConnector},
};
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::runtime::Runtime;
use twinbox_tls::{Trust, connector, system_connector};

use super::settings::S3Settings;
use crate::BackupError;

/// Idle connections that are kept for further requests.
const IDLE: usize = 8;
/// Maximum duration of a connection's setup.
const CONNECT: Duration = Duration::from_secs(10);
/// Repetitions of a request.
const RETRIES: usize = 5;
/// Pause before the first repetition; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Maximum pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The runtime of all requests to stores, on a thread of its own: encryption of large files delays no call, and callers
/// may wait for it on any thread.
pub(super) fn runtime() -> Result<&'static Runtime, BackupError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let made = builder.worker_threads(1).thread_name("twinbox-s3").enable_all().build();
    let made = made.map_err(|error| BackupError::S3Setup(format!("no thread for requests: {error}")))?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// Client of a bucket. Makes no connection.
pub(super) fn bucket(settings: &S3Settings, name: &str) -> Result<AmazonS3, BackupError> {
    settings.check().map_err(|error| BackupError::S3Setup(error.to_string()))?;
    let mut url = settings.url().map_err(|error| BackupError::S3Setup(error.to_string()))?;
    if settings.virtual_host {
        let host = format!("{name}.{}", url.host_str().unwrap_or_default());
        url.set_host(Some(&host)).map_err(|error| BackupError::S3Setup(format!("'{host}': {error}")))?;
    }
    let is_plain = url.scheme() == "http";
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls(settings, is_plain)?)
        .https_only(!is_plain)
        .no_proxy()
        .http1_only()
        .redirect(Policy::none())
        .pool_max_idle_per_host(IDLE)
        .connect_timeout(settings.timeout.min(CONNECT))
        .timeout(settings.timeout)
        .build();
    let http = http.map_err(|error| BackupError::S3Setup(error.to_string()))?;
    AmazonS3Builder::new()
        .with_endpoint(url.as_str().trim_end_matches('/'))
        .with_allow_http(is_plain)
        .with_virtual_hosted_style_request(settings.virtual_host)
        .with_region(&settings.region)
        .with_bucket_name(name)
        .with_access_key_id(&settings.access_key)
        .with_secret_access_key(&settings.secret_key)
        .with_retry(RetryConfig {
            backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2. },
            max_retries: RETRIES,
            retry_timeout: settings.timeout,
        })
        .with_http_connector(Connector(http))
        .build()
        .map_err(|error| BackupError::S3Setup(error.to_string()))
}

/// TLS by the CA certificates of the file or of the system. A store in clear text needs none.
fn tls(settings: &S3Settings, is_plain: bool) -> Result<ClientConfig, BackupError> {
    if is_plain {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| BackupError::S3Setup(error.to_string()))?;
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let connector = match &settings.ca_file {
        Some(file) => connector(Trust::File(file)),
        None => system_connector(),
    };
    let connector = connector.map_err(|error| BackupError::S3Setup(error.to_string()))?;
    Ok(ClientConfig::clone(connector.config()))
}

#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}
