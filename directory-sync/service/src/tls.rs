//! TLS to directory servers: certificates are verified against the system's authorities or a file, unless the settings
//! say `insecure`.

use std::{io, path::Path};

use tokio_rustls::TlsConnector;
use twinbox_tls::{Remedies, TlsError, Trust};

use crate::{LdapError, message::shown};

const REMEDIES: Remedies = Remedies {
    unknown_authority: "name a file with the certificate of its authority",
    other_name: "use the name in the certificate as the server's address",
};

/// A connector for these settings. Reads files: for a thread that may block.
pub(crate) fn connector(ca_file: Option<&str>, insecure: bool) -> Result<TlsConnector, LdapError> {
    let trust = match ca_file {
        _ if insecure => Trust::Any,
        Some(path) => Trust::File(Path::new(path)),
        None => Trust::System,
    };
    twinbox_tls::connector(trust).map_err(|error| match error {
        TlsError::NoAuthorities => LdapError::NoAuthorities,
        TlsError::Authorities { path, reason } => {
            LdapError::Authorities { path: path.display().to_string(), reason }
        }
        TlsError::Setup(error) => LdapError::Local(error.to_string()),
    })
}

/// Reason of a failed handshake with `host`, with the remedy.
pub(crate) fn explain(host: &str, error: &io::Error) -> String {
    shown(&twinbox_tls::explain(host, error, REMEDIES))
}
