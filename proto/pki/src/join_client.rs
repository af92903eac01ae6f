//! The joining member's side of the handshake: it has no certificate, and knows the cluster only by its token.

use std::{io, sync::Arc};

use ring::digest::{SHA256, digest};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, OtherError,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier as _},
    },
    pki_types::ServerName,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use twinbox_ids::NodeName;

use crate::{
    JoinToken,
    identity::{HANDSHAKE, provider, roots},
    name,
    server_rule::{self, PresentedChain, ServerRule},
};

/// The ALPN protocol of joining members: it selects the route of a connection.
pub(crate) const JOIN_PROTOCOL: &[u8] = b"twinbox-join/1";

/// The member does not show the authority whose fingerprint is in the token.
#[derive(Debug, thiserror::Error)]
#[error(
    "the member is not of the cluster that made the token, or the cluster has replaced its authority since: the \
     authority's fingerprint differs"
)]
pub struct Unverified;

/// SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it.
pub(crate) fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, certificate).as_ref());
    fingerprint
}

/// Connects to a member's join route. The member must show a certificate for its name, signed by the authority of the
/// token; no data is sent before.
pub async fn connect(token: &JoinToken, member: &NodeName, address: &str) -> io::Result<TlsStream<TcpStream>> {
    let verifier = server_rule::verifier(ByFingerprint { fingerprint: token.fingerprint });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN_PROTOCOL.to_vec()];
    let server = ServerName::try_from(name::dns_name(token.cluster, member)).map_err(io::Error::other)?;
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(server, stream).await
    };
    timeout(HANDSHAKE, connecting).await?
}

/// Accepts a server whose chain ends in the authority with this fingerprint, by the standard rules.
#[derive(Debug)]
struct ByFingerprint {
    fingerprint: [u8; 32],
}

impl ServerRule for ByFingerprint {
    fn verify(&self, shown: &PresentedChain<'_>) -> Result<ServerCertVerified, Error> {
        let authority = shown.intermediates.iter().find(|shown| fingerprint(shown) == self.fingerprint);
        let unverified = || Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Unverified))));
        let authority = authority.ok_or_else(unverified)?;
        let roots = roots([authority.clone().into_owned()])?;
        let usual = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
        let usual = usual.map_err(|e| Error::General(e.to_string()))?;
        // During a CA rotation the member's certificate may be signed by the next authority.
        let PresentedChain { end_entity, intermediates, name, ocsp_response, now } = *shown;
        usual.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }
}

/// Reason for a failed connection of a joining member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinObstacle {
    /// It shows another authority than the token's.
    OtherAuthority,
    /// It expects no joining member.
    NotExpected,
}

impl JoinObstacle {
    /// The reason, if it is known, from an error of [`connect`].
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref::<Error>()? {
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) if other.is::<Unverified>() => {
                Some(Self::OtherAuthority)
            }
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Some(Self::NotExpected),
            _ => None,
        }
    }
}
