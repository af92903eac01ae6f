//! A member's own certificate, and the TLS configurations made from it: both sides show a certificate of the cluster. A
//! renewed certificate, or another authority, replaces the old one without an interruption: open connections continue,
//! new ones use the new configuration.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::net::TcpListener;
use tonic::{
    Request,
    transport::{Endpoint, Server},
};
use twinbox_ids::{ClusterId, NodeName, Timestamp};

use crate::{
    AcceptRoutes, CertificateClock, CrossSignedCa, Incoming, MemberKind, PeerEndpoint, PeerError, PeerIdentity,
    PkiError,
    authority::{CA_CERTIFICATE, CERTIFICATE, KEY},
    bundle::{self, Listed},
    client_kind::{ClientKind, ClientKindVerifier},
    endpoint::SharedClient,
    files::{self, PUBLIC},
    join_client::JOIN_PROTOCOL,
    name,
    operator::OPERATOR_PROTOCOL,
    peer_of,
};

/// Timeout of a handshake.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// Interval between keep-alives on a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Timeout of the answer to a keep-alive: a link that was cut silently is noticed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that a peer may send in one frame of HTTP/2: few and long ones cost both sides less.
const FRAME: u32 = 64 * 1024;
/// A server sends a keep-alive on a connection that was silent for this long.
const SILENT: Duration = Duration::from_secs(15);

/// The identity of this member, with its certificate and key.
pub struct NodeIdentity {
    /// The cluster it is a member of.
    pub cluster: ClusterId,
    /// Its name.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    dir: PathBuf,
    clock: CertificateClock,
    current: SharedCurrent,
    client: SharedClient,
}

pub(crate) type SharedCurrent = Arc<RwLock<Arc<Current>>>;

/// The certificate in force, and the configurations made from it.
pub(crate) struct Current {
    subject: name::Subject,
    begins: Timestamp,
    expires: Timestamp,
    /// The accepted authorities.
    authorities: Vec<Listed>,
    /// Index of the authority that signed the own certificate.
    issuer: usize,
    /// The own certificate, and links for peers that know only another authority.
    chain: Vec<Listed>,
    /// For members, which must show a certificate.
    pub(crate) server: Arc<ServerConfig>,
    /// For joining members, which have no certificate and are also shown the authorities' certificates.
    pub(crate) join: Arc<ServerConfig>,
    /// For operators, who must show an operator's certificate.
    pub(crate) operators: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// An authority whose certificates a member accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
    /// End of validity of its certificate.
    pub expires: Timestamp,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({} of {})", self.name, self.cluster)
    }
}

impl NodeIdentity {
    /// Reads `ca.pem`, `node.pem` and `node.key`. Refuses a certificate that is not valid now, is not signed by that
    /// authority, or does not belong to that key.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        Self::load_with(dir, CertificateClock::default())
    }

    /// As [`Self::load`], by another clock than that of the system. Handshakes go by it, too.
    pub fn load_with(dir: &Path, clock: CertificateClock) -> Result<Self, PkiError> {
        let (authorities_pem, chain_pem) = (files::read(dir, CA_CERTIFICATE)?, files::read(dir, CERTIFICATE)?);
        let current = Current::read(dir, &authorities_pem, &chain_pem, &clock)?;
        let name::Subject { cluster, name, kind, .. } = current.subject.clone();
        let client = SharedClient::new(current.client.clone());
        Ok(Self {
            cluster,
            name,
            kind,
            dir: dir.to_owned(),
            clock,
            current: Arc::new(RwLock::new(Arc::new(current))),
            client,
        })
    }

    /// Present time by the clock of its certificates.
    pub fn time(&self) -> Timestamp {
        self.clock.now()
    }

    /// Begin of validity of its certificate.
    pub fn begins(&self) -> Timestamp {
        self.now().begins
    }

    /// End of validity of its certificate.
    pub fn expires(&self) -> Timestamp {
        self.now().expires
    }

    /// End of validity of the certificate of the authority that signed this member's.
    pub fn authority_expires(&self) -> Timestamp {
        let now = self.now();
        now.authorities.get(now.issuer).map_or(now.expires, ending)
    }

    /// The accepted authorities: one, or two during a CA rotation.
    pub fn authorities(&self) -> Vec<Trusted> {
        let trusted = |listed: &Listed| Trusted { fingerprint: listed.fingerprint, expires: ending(listed) };
        self.now().authorities.iter().map(trusted).collect()
    }

    /// Fingerprint of the authority that signed its certificate.
    pub fn issuer(&self) -> [u8; 32] {
        let now = self.now();
        now.authorities.get(now.issuer).map_or([0; 32], |listed| listed.fingerprint)
    }

    /// Whether it also shows the link from a former authority to its own one.
    pub fn is_linked(&self) -> bool {
        self.now().chain.len() > 1
    }

    /// Number of times a peer showed a certificate by an unknown authority.
    pub fn unknown_authorities(&self) -> u64 {
        self.client.unknown_authorities()
    }

    /// Time at which the certificate is to be renewed: after two thirds of its validity.
    pub fn renew_at(&self) -> Timestamp {
        let Current { begins, expires, .. } = &*self.now();
        Timestamp(begins.0 + expires.0.saturating_sub(begins.0) / 3 * 2)
    }

    /// The public half of its key: a DER-encoded SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        self.now().subject.public_key.clone()
    }

    /// The certificate of the authority that signed its own, as PEM.
    pub fn authority_pem(&self) -> String {
        let now = self.now();
        now.authorities.get(now.issuer).map(|listed| listed.pem.clone()).unwrap_or_default()
    }

    /// The certificates of all accepted authorities, as PEM, the issuer's first.
    pub fn authorities_pem(&self) -> String {
        let now = self.now();
        let (own, others): (Vec<_>, Vec<_>) =
            now.authorities.iter().enumerate().partition(|(at, _)| *at == now.issuer);
        bundle::text(own.into_iter().chain(others).map(|(_, listed)| listed))
    }

    /// Installs a new certificate for the same member and key, with the checks of [`Self::load`]. It is on disk and in
    /// use from now on; open connections continue with the old one.
    pub fn renew(&self, certificate_pem: &str) -> Result<(), PkiError> {
        let now = self.now();
        let links = bundle::text(now.chain.iter().skip(1));
        self.take(&bundle::text(&now.authorities), &format!("{certificate_pem}{links}"))
    }

    /// Also accepts certificates of the next authority. A known authority must have cross-signed it.
    pub fn trust(&self, next: &CrossSignedCa) -> Result<(), PkiError> {
        let now = self.now();
        if now.authorities.contains(&next.next) {
            return Ok(());
        }
        if !next.is_by(&now.authorities) {
            let detail = "no known authority has signed it".to_owned();
            return Err(PkiError::CrossSignedCa { detail });
        }
        self.take(&bundle::text(now.authorities.iter().chain([&next.next])), &bundle::text(&now.chain))
    }

    /// Shows a certificate by the next authority, with the link to it from the former one.
    pub fn show(&self, certificate_pem: &str, next: &CrossSignedCa) -> Result<(), PkiError> {
        let now = self.now();
        let wrong = |detail| PkiError::Unusable { path: self.dir.join(CERTIFICATE), what: "certificate", detail };
        let own = Listed::one(certificate_pem).map_err(wrong)?;
        if issuer_of(&own.der, std::slice::from_ref(&next.next), &self.clock).is_err() {
            return Err(wrong("it is not signed by the next authority".to_owned()));
        }
        self.take(&bundle::text(&now.authorities), &format!("{}{}", own.pem, next.cross.pem))
    }

    /// Stops accepting certificates of this authority, and stops showing a link from another authority to the own one.
    /// Refused for the authority that signed the own certificate.
    pub fn forget(&self, authority: &[u8; 32]) -> Result<(), PkiError> {
        let now = self.now();
        let left = now.authorities.iter().filter(|listed| listed.fingerprint != *authority);
        self.take(&bundle::text(left), &bundle::text(now.chain.first()))
    }

    /// Installs these certificates, on disk and in use. The two files change one after the other, and their contents
    /// fit together after a crash between the two writes: neither names an authority that the other lacks.
    fn take(&self, authorities_pem: &str, chain_pem: &str) -> Result<(), PkiError> {
        let (next, now) = (Current::read(&self.dir, authorities_pem, chain_pem, &self.clock)?, self.now());
        self.is_ours(&next)?;
        if next.chain != now.chain {
            files::write(&self.dir, CERTIFICATE, PUBLIC, &bundle::text(&next.chain))?;
        }
        if next.authorities != now.authorities {
            files::write(&self.dir, CA_CERTIFICATE, PUBLIC, &bundle::text(&next.authorities))?;
        }
        self.replace(next);
        Ok(())
    }

    fn is_ours(&self, next: &Current) -> Result<(), PkiError> {
        let name::Subject { cluster, name, kind, .. } = &next.subject;
        if (*cluster, name, *kind) == (self.cluster, &self.name, self.kind) {
            return Ok(());
        }
        Err(PkiError::Unusable {
            path: self.dir.join(CERTIFICATE),
            what: "renewed certificate",
            detail: format!("it is for {kind} {name} of cluster {cluster}"),
        })
    }

    fn replace(&self, next: Current) {
        self.client.set(next.client.clone());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    /// Installs the certificate on disk if it differs from the one in use: another process of this member may have
    /// renewed it. Returns whether it differed. An invalid one is refused, and the old one stays.
    pub fn reload(&self) -> Result<bool, PkiError> {
        let (chain_pem, authorities_pem) =
            (files::read(&self.dir, CERTIFICATE)?, files::read(&self.dir, CA_CERTIFICATE)?);
        let now = self.now();
        let same = |text: &str, known: &Vec<Listed>| bundle::read(text).is_ok_and(|read| read == *known);
        if same(&chain_pem, &now.chain) && same(&authorities_pem, &now.authorities) {
            return Ok(false);
        }
        let next = Current::read(&self.dir, &authorities_pem, &chain_pem, &self.clock)?;
        self.is_ours(&next)?;
        self.replace(next);
        Ok(true)
    }

    /// Connections to `peer` at `address` (`host:port`): mutual TLS, no Nagle delay, and keep-alives that notice a link
    /// which was cut silently.
    pub fn endpoint(&self, peer: &NodeName, address: &str) -> Result<PeerEndpoint, PkiError> {
        let wrong = |detail: String| PkiError::Address { address: address.to_owned(), detail };
        // TLS is done here: for tonic this is a plain connection.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| wrong(std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)))?
            .connect_timeout(HANDSHAKE)
            .max_frame_size(FRAME)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let server = ServerName::try_from(name::dns_name(self.cluster, peer)).map_err(|e| wrong(e.to_string()))?;
        Ok(PeerEndpoint::new(endpoint, address, server, self.client.clone()))
    }

    /// A tonic server to be served with [`Self::listen`]. It closes connections of vanished peers in time; a live peer
    /// answers keep-alives automatically.
    pub fn server(&self) -> Server {
        Server::builder().http2_keepalive_interval(Some(SILENT)).http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
    }

    /// Accepts members on a bound socket; other clients are refused in the handshake, counted and logged.
    pub fn listen(&self, listener: TcpListener) -> Incoming {
        self.listen_with(listener, AcceptRoutes::default())
    }

    /// As [`Self::listen`], with separate routes for joining members and operators.
    pub fn listen_with(&self, listener: TcpListener, routes: AcceptRoutes) -> Incoming {
        Incoming::start(listener, self.current.clone(), routes)
    }

    /// Accepts a member on a connection of a simulated machine; other clients are refused in the handshake.
    #[cfg(feature = "simulation")]
    pub async fn accept<S>(&self, stream: S) -> std::io::Result<tokio_rustls::server::TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        tokio_rustls::TlsAcceptor::from(self.now().server.clone()).accept(stream).await
    }

    /// The member of this cluster that sent a request, or the reason for the refusal.
    pub fn admit<T>(&self, request: &Request<T>) -> Result<PeerIdentity, PeerError> {
        peer_of(request)?.of_cluster(self.cluster)
    }

    fn now(&self) -> Arc<Current> {
        now(&self.current)
    }
}

/// The certificate in force.
pub(crate) fn now(current: &SharedCurrent) -> Arc<Current> {
    current.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Current {
    /// These certificates, with the key in `dir`.
    fn read(
        dir: &Path,
        authorities_pem: &str,
        chain_pem: &str,
        clock: &CertificateClock,
    ) -> Result<Self, PkiError> {
        let unusable = |file: &str, what, detail: String| PkiError::Unusable { path: dir.join(file), what, detail };
        let bad_ca = |detail: String| unusable(CA_CERTIFICATE, "certificate of an authority", detail);
        let bad = |detail: String| unusable(CERTIFICATE, "certificate", detail);
        let bad_key = |detail: String| unusable(KEY, "private key", detail);

        let key_pem = files::read(dir, KEY)?;
        let authorities = bundle::read(authorities_pem).map_err(bad_ca)?;
        let chain = bundle::read(chain_pem).map_err(bad)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad_key(e.to_string()))?;
        let own = &chain[0].der;

        let subject = name::read(own).map_err(bad)?;
        for authority in &authorities {
            name::end_of(&authority.der).map_err(bad_ca)?;
        }
        let issuer = issuer_of(own, &authorities, clock).map_err(|e| match e {
            IssuerError::Authority(detail) => bad_ca(detail),
            IssuerError::Certificate(detail) => bad(format!("{CA_CERTIFICATE} does not verify it: {detail}")),
            IssuerError::NotNow(detail) => PkiError::NotNow { path: dir.join(CERTIFICATE), detail },
        })?;

        let roots = roots(authorities.iter().map(|a| a.der.clone())).map_err(|e| bad_ca(e.to_string()))?;
        let verifier = |kind| ClientKindVerifier::new(kind, roots.clone()).map_err(|e| bad_ca(e.to_string()));
        let shown: Vec<_> = chain.iter().map(|listed| listed.der.clone()).collect();
        let server = |client_verifier: Option<Arc<ClientKindVerifier>>,
                      shown: Vec<CertificateDer<'static>>,
                      protocol: &[u8]| {
            let builder = ServerConfig::builder_with_details(provider(), Arc::new(clock.clone()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|e| bad(e.to_string()))?;
            let builder = match client_verifier {
                Some(client_verifier) => {
                    builder.with_client_cert_verifier(client_verifier as Arc<dyn ClientCertVerifier>)
                }
                None => builder.with_no_client_auth(),
            };
            let mut config =
                builder.with_single_cert(shown, key.clone_key()).map_err(|e| bad_key(e.to_string()))?;
            config.alpn_protocols = vec![protocol.to_vec()];
            // A client shows its certificate at every connection: an expired one is never accepted by resumption.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok::<_, PkiError>(Arc::new(config))
        };
        let members = server(Some(verifier(ClientKind::Members)?), shown.clone(), b"h2")?;
        let operators = server(Some(verifier(ClientKind::Operators)?), shown.clone(), OPERATOR_PROTOCOL)?;
        // A joining member knows the fingerprint of one authority, and nothing else.
        let all = shown.iter().cloned().chain(authorities.iter().map(|a| a.der.clone())).collect();
        let join = server(None, all, JOIN_PROTOCOL)?;
        let mut client = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| bad(e.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(shown, key)
            .map_err(|e| bad_key(e.to_string()))?;
        client.alpn_protocols = vec![b"h2".to_vec()];

        Ok(Self {
            begins: millis(subject.not_before),
            expires: millis(subject.not_after),
            subject,
            authorities,
            issuer,
            chain,
            server: members,
            join,
            operators,
            client: Arc::new(client),
        })
    }
}

/// Reason why the issuer of a certificate was not found.
enum IssuerError {
    /// An authority's certificate is not valid.
    Authority(String),
    /// None of the authorities signed the certificate.
    Certificate(String),
    /// One of them did, for another time.
    NotNow(String),
}

/// Index of the authority that signed a certificate which is valid now.
fn issuer_of(
    own: &CertificateDer<'_>,
    authorities: &[Listed],
    clock: &CertificateClock,
) -> Result<usize, IssuerError> {
    let now = clock.unix_time();
    let mut reasons = Vec::new();
    for (at, authority) in authorities.iter().enumerate() {
        let roots = roots([authority.der.clone()]).map_err(|e| IssuerError::Authority(e.to_string()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|e| IssuerError::Authority(e.to_string()))?;
        match verifier.verify_client_cert(own, &[], now) {
            Ok(_) => return Ok(at),
            Err(error) if is_of_another_time(&error) => return Err(IssuerError::NotNow(error.to_string())),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(IssuerError::Certificate(reasons.join("; ")))
}

fn is_of_another_time(error: &rustls::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let rustls::Error::InvalidCertificate(error) = error else { return false };
    matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

fn ending(listed: &Listed) -> Timestamp {
    name::end_of(&listed.der).map_or(Timestamp(0), millis)
}

fn millis(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000))
}

/// A root store of these authorities only.
pub(crate) fn roots(
    authorities: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    Ok(Arc::new(roots))
}

/// The cryptography provider for all TLS, also for libraries that ask for the process's default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    // An error means that a default is installed already, which is fine.
    let _ = ring::default_provider().install_default();
    Arc::new(ring::default_provider())
}
