//! A member's own certificate, and the TLS that is made from it: both sides show a certificate of the cluster. A
//! renewed certificate takes the place of the old one without an interruption.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tonic::{
    Request,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig},
};
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName, Timestamp};

use crate::{
    Incoming, JoinDoor, MemberKind, PeerEndpoint, PeerError, PeerIdentity, PkiError,
    authority::{CA_CERTIFICATE, CERTIFICATE, KEY},
    endpoint::SharedClient,
    files::{self, PUBLIC},
    name,
    newcomer::JOIN_PROTOCOL,
    peer_of,
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
    dir: PathBuf,
    current: SharedCurrent,
    client: SharedClient,
}

pub(crate) type SharedCurrent = Arc<RwLock<Arc<Current>>>;

/// The certificate of the moment, and what is made from it.
pub(crate) struct Current {
    subject: name::Subject,
    begins: Timestamp,
    expires: Timestamp,
    authority_expires: Timestamp,
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
    /// For members, who must show a certificate.
    pub(crate) server: Arc<ServerConfig>,
    /// For newcomers, who have none and are shown the authority's, too.
    pub(crate) join: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
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
        let current = Current::read(dir, files::read(dir, CERTIFICATE)?)?;
        let name::Subject { cluster, name, kind, .. } = current.subject.clone();
        let client = Arc::new(RwLock::new(current.client.clone()));
        Ok(Self {
            cluster,
            name,
            kind,
            dir: dir.to_owned(),
            current: Arc::new(RwLock::new(Arc::new(current))),
            client,
        })
    }

    /// When its certificate began.
    pub fn begins(&self) -> Timestamp {
        self.now().begins
    }

    /// When its certificate ends.
    pub fn expires(&self) -> Timestamp {
        self.now().expires
    }

    /// When the authority's certificate ends, and every member's with it.
    pub fn authority_expires(&self) -> Timestamp {
        self.now().authority_expires
    }

    /// When the certificate is to be renewed: when two thirds of its life are over.
    pub fn renew_at(&self) -> Timestamp {
        let Current { begins, expires, .. } = &*self.now();
        Timestamp(begins.0 + expires.0.saturating_sub(begins.0) / 3 * 2)
    }

    /// The public half of its key: a DER-encoded SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        self.now().subject.public_key.clone()
    }

    /// The authority's certificate, as PEM.
    pub fn authority_pem(&self) -> String {
        self.now().ca_pem.clone()
    }

    /// Takes a new certificate for the same member and key: refused unless it is as good as one that is loaded at the
    /// start. It is on disk and in use from now on; connections that are open go on with the old one.
    pub fn renew(&self, certificate_pem: String) -> Result<(), PkiError> {
        let next = Current::read(&self.dir, certificate_pem)?;
        let name::Subject { cluster, name, kind, .. } = &next.subject;
        if (*cluster, name, *kind) != (self.cluster, &self.name, self.kind) {
            return Err(PkiError::Unusable {
                path: self.dir.join(CERTIFICATE),
                what: "renewed certificate",
                detail: format!("it is for {kind} {name} of cluster {cluster}"),
            });
        }
        // One file, put in place in one step: after a crash there is the old certificate or the new one.
        files::write(&self.dir, CERTIFICATE, PUBLIC, &next.certificate_pem)?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = next.client.clone();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(())
    }

    /// TLS for a tonic server: a client without a certificate of this cluster is refused. [`Self::listen`] does
    /// the same and also logs whom it refused.
    pub fn server_tls(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity())
            .client_ca_root(Certificate::from_pem(&self.now().ca_pem))
            .client_auth_optional(false)
            .timeout(HANDSHAKE)
    }

    /// TLS for a tonic client that talks to `peer` and to nobody else.
    pub fn client_tls(&self, peer: &NodeName) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity())
            .ca_certificate(Certificate::from_pem(&self.now().ca_pem))
            .domain_name(name::dns_name(self.cluster, peer))
            .timeout(HANDSHAKE)
    }

    /// Where `peer` is reached (`host:port`): mutual TLS, no Nagle delay, and keep-alives that notice a link
    /// which was cut silently.
    pub fn endpoint(&self, peer: &NodeName, address: &str) -> Result<PeerEndpoint, PkiError> {
        let wrong = |detail: String| PkiError::Address { address: address.to_owned(), detail };
        // TLS is ours: to tonic this is a connection like any other.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| wrong(std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)))?
            .connect_timeout(HANDSHAKE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let server = ServerName::try_from(name::dns_name(self.cluster, peer)).map_err(|e| wrong(e.to_string()))?;
        Ok(PeerEndpoint::new(endpoint, address, server, self.client.clone()))
    }

    /// A tonic server with the same keep-alives, to be served with [`Self::listen`].
    pub fn server(&self) -> Server {
        Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
    }

    /// Accepts members on a bound socket; a stranger is refused in the handshake, counted and logged.
    pub fn listen(&self, listener: TcpListener) -> Incoming {
        Incoming::start(listener, self.current.clone(), None)
    }

    /// As [`Self::listen`], with a door beside it for newcomers.
    pub fn listen_with(&self, listener: TcpListener, door: JoinDoor) -> Incoming {
        Incoming::start(listener, self.current.clone(), Some(door))
    }

    /// The member of this cluster that sent a request, or why it is not let in.
    pub fn admit<T>(&self, request: &Request<T>) -> Result<PeerIdentity, PeerError> {
        peer_of(request)?.of_cluster(self.cluster)
    }

    fn identity(&self) -> Identity {
        let now = self.now();
        Identity::from_pem(&now.certificate_pem, &now.key_pem)
    }

    fn now(&self) -> Arc<Current> {
        now(&self.current)
    }
}

/// What holds now.
pub(crate) fn now(current: &SharedCurrent) -> Arc<Current> {
    current.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Current {
    /// This certificate, with the key and the authority that are in `dir`.
    fn read(dir: &Path, certificate_pem: String) -> Result<Self, PkiError> {
        let unusable = |file: &str, what, detail: String| PkiError::Unusable { path: dir.join(file), what, detail };
        let bad_ca = |detail: String| unusable(CA_CERTIFICATE, "certificate of an authority", detail);
        let bad = |detail: String| unusable(CERTIFICATE, "certificate", detail);
        let bad_key = |detail: String| unusable(KEY, "private key", detail);

        let ca_pem = files::read(dir, CA_CERTIFICATE)?;
        let key_pem = files::read(dir, KEY)?;
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| bad_ca(e.to_string()))?;
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad_key(e.to_string()))?;

        let subject = name::read(&certificate).map_err(bad)?;
        let authority_expires = millis(name::end_of(&ca).map_err(bad_ca)?);
        let roots = roots(ca.clone()).map_err(|e| bad_ca(e.to_string()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|e| bad_ca(e.to_string()))?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(wall().0));
        verifier
            .verify_client_cert(&certificate, &[], now)
            .map_err(|e| bad(format!("{CA_CERTIFICATE} does not vouch for it now: {e}")))?;

        let server_builder = || {
            ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|e| bad(e.to_string()))
        };
        let mut server = server_builder()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .map_err(|e| bad_key(e.to_string()))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        let mut join = server_builder()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone(), ca], key.clone_key())
            .map_err(|e| bad_key(e.to_string()))?;
        join.alpn_protocols = vec![JOIN_PROTOCOL.to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| bad(e.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .map_err(|e| bad_key(e.to_string()))?;
        client.alpn_protocols = vec![b"h2".to_vec()];

        Ok(Self {
            begins: millis(subject.not_before),
            expires: millis(subject.not_after),
            authority_expires,
            subject,
            ca_pem,
            certificate_pem,
            key_pem,
            server: Arc::new(server),
            join: Arc::new(join),
            client: Arc::new(client),
        })
    }
}

fn millis(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000))
}

/// This one authority, and no other.
pub(crate) fn roots(ca: CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(Arc::new(roots))
}

/// The same cryptography everywhere, also where a library asks for the process's default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    // An error says that a default is installed already, which is as good.
    let _ = ring::default_provider().install_default();
    Arc::new(ring::default_provider())
}
