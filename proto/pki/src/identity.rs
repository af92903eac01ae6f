//! A member's own certificate, and the TLS that is made from it: both sides show a certificate of the cluster.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::net::TcpListener;
use tonic::{
    Request,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig},
};
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName, Timestamp};

use crate::{
    Incoming, MemberKind, PeerError, PeerIdentity, PkiError,
    authority::{CA_CERTIFICATE, CERTIFICATE, KEY},
    files, name, peer_of,
};

/// A handshake that takes longer is given up.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection on which nothing comes is asked for a sign of life this often …
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// … and is cut when none comes for this long: a link that was cut silently is noticed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Who this member is, and the means to prove it.
pub struct NodeIdentity {
    /// The cluster it is a member of.
    pub cluster: ClusterId,
    /// Its name.
    pub name: NodeName,
    /// What it is.
    pub kind: MemberKind,
    /// When its certificate ends.
    pub expires: Timestamp,
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({} of {})", self.name, self.cluster)
    }
}

impl NodeIdentity {
    /// Reads `ca.pem`, `node.pem` and `node.key`, and refuses them unless the certificate is good now, signed by
    /// that authority, and belongs to that key.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let unusable = |file: &str, what, detail: String| PkiError::Unusable { path: dir.join(file), what, detail };
        let bad_ca = |detail: String| unusable(CA_CERTIFICATE, "certificate of an authority", detail);
        let bad = |detail: String| unusable(CERTIFICATE, "certificate", detail);
        let bad_key = |detail: String| unusable(KEY, "private key", detail);

        let ca_pem = files::read(dir, CA_CERTIFICATE)?;
        let certificate_pem = files::read(dir, CERTIFICATE)?;
        let key_pem = files::read(dir, KEY)?;
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| bad_ca(e.to_string()))?;
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad_key(e.to_string()))?;

        let name::Subject { cluster, name, kind, not_after } = name::read(&certificate).map_err(bad)?;
        let verifier = verifier(ca).map_err(|e| bad_ca(e.to_string()))?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(wall().0));
        verifier
            .verify_client_cert(&certificate, &[], now)
            .map_err(|e| bad(format!("{CA_CERTIFICATE} does not vouch for it now: {e}")))?;

        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| bad(e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .map_err(|e| bad_key(e.to_string()))?;
        server.alpn_protocols = vec![b"h2".to_vec()];

        let expires = Timestamp(u64::try_from(not_after).unwrap_or(0).saturating_mul(1_000));
        Ok(Self { cluster, name, kind, expires, ca_pem, certificate_pem, key_pem, server: Arc::new(server) })
    }

    /// TLS for a tonic server: a client without a certificate of this cluster is refused. [`Self::listen`] does
    /// the same and also logs whom it refused.
    pub fn server_tls(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity())
            .client_ca_root(Certificate::from_pem(&self.ca_pem))
            .client_auth_optional(false)
            .timeout(HANDSHAKE)
    }

    /// TLS for a tonic client that talks to `peer` and to nobody else.
    pub fn client_tls(&self, peer: &NodeName) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity())
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .domain_name(name::dns_name(self.cluster, peer))
            .timeout(HANDSHAKE)
    }

    /// Where `peer` is reached (`host:port`): mutual TLS, no Nagle delay, and keep-alives that notice a link
    /// which was cut silently.
    pub fn endpoint(&self, peer: &NodeName, address: &str) -> Result<Endpoint, PkiError> {
        let wrong = |e: tonic::transport::Error| PkiError::Address {
            address: address.to_owned(),
            detail: std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string),
        };
        Ok(Endpoint::from_shared(format!("https://{address}"))
            .map_err(wrong)?
            .tls_config(self.client_tls(peer))
            .map_err(wrong)?
            .tcp_nodelay(true)
            .connect_timeout(HANDSHAKE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }

    /// A tonic server with the same keep-alives, to be served with [`Self::listen`].
    pub fn server(&self) -> Server {
        Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
    }

    /// Accepts members on a bound socket; a stranger is refused in the handshake, counted and logged.
    pub fn listen(&self, listener: TcpListener) -> Incoming {
        Incoming::start(listener, self.server.clone())
    }

    /// The member of this cluster that sent a request, or why it is not let in.
    pub fn admit<T>(&self, request: &Request<T>) -> Result<PeerIdentity, PeerError> {
        peer_of(request)?.of_cluster(self.cluster)
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate_pem, &self.key_pem)
    }
}

/// Takes the certificates that this one authority signed for clients, and no others.
fn verifier(ca: CertificateDer<'static>) -> Result<Arc<dyn ClientCertVerifier>, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build()?)
}

/// The same cryptography everywhere, also where a library asks for the process's default.
fn provider() -> Arc<CryptoProvider> {
    // An error says that a default is installed already, which is as good.
    let _ = ring::default_provider().install_default();
    Arc::new(ring::default_provider())
}
