//! TLS of connections: verified, or with any certificate if the administrator says so.

use std::{io, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{task::spawn_blocking, time::timeout};
use tokio_rustls::TlsConnector;
use twinbox_tls::{Remedies, TlsError, Trust};

use crate::{ImapError, ServerConfig, error::shown, wire::Transport};

/// Name of this step in errors.
const STEP: &str = "TLS handshake";

const REMEDIES: Remedies = Remedies {
    unknown_authority: "set ca-file to that of its authority",
    other_name: "configure the name that the certificate has",
};

/// Begins TLS on a connection.
pub(crate) async fn secure(
    config: &ServerConfig,
    stream: Box<dyn Transport>,
) -> Result<Box<dyn Transport>, ImapError> {
    let failure = |reason: String| ImapError::Tls { host: config.host.clone(), reason };
    let connector = connector(config).await?;
    let name = ServerName::try_from(config.host.trim_start_matches('[').trim_end_matches(']').to_owned())
        .map_err(|_| failure(format!("'{}' cannot be the name in a certificate: correct it", config.host)))?;
    let limit: Duration = config.timeout;
    match timeout(limit, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(failure(explain(&config.host, &error))),
        Err(_) => Err(ImapError::TimedOut { step: STEP, limit }),
    }
}

/// Connector for a server. The files of certificates are read in a thread that may block: a disk or network file system
/// may answer late.
async fn connector(config: &ServerConfig) -> Result<TlsConnector, ImapError> {
    let (insecure, ca_file) = (config.insecure, config.ca_file.clone());
    let failure = |reason: String| ImapError::Tls { host: config.host.clone(), reason };
    let made = spawn_blocking(move || match (insecure, &ca_file) {
        (true, _) => twinbox_tls::connector(Trust::Any),
        (false, Some(path)) => twinbox_tls::connector(Trust::File(path)),
        (false, None) => twinbox_tls::system_connector(),
    });
    made.await.map_err(|error| failure(error.to_string()))?.map_err(|error| match error {
        TlsError::NoAuthorities => ImapError::NoAuthorities,
        TlsError::Authorities { path, reason } => ImapError::Authorities { path, reason },
        TlsError::Setup(error) => failure(error.to_string()),
    })
}

/// Reason of a failed handshake, with the remedy.
fn explain(host: &str, error: &io::Error) -> String {
    shown(&twinbox_tls::explain(host, error, REMEDIES))
}
