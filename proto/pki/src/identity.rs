//! A member's own certificate, and the TLS that is made from it: both sides show a certificate of the cluster. A
//! renewed certificate, and another authority, take the place of the old ones without an interruption: connections that
//! are open go on, new ones are made with what holds then.

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
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::net::TcpListener;
use tonic::{
    Request,
    transport::{Endpoint, Server},
};
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName, Timestamp};

use crate::{
    Appointment, Doors, Incoming, MemberKind, PeerEndpoint, PeerError, PeerIdentity, PkiError,
    authority::{CA_CERTIFICATE, CERTIFICATE, KEY},
    bundle::{self, Listed},
    endpoint::SharedClient,
    files::{self, PUBLIC},
    name,
    newcomer::JOIN_PROTOCOL,
    operator::OPERATOR_PROTOCOL,
    peer_of,
    visitors::{Porter, Visitors},
};

/// A handshake that takes longer is given up.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection on which nothing comes is asked for a sign of life this often …
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// … and is cut when none comes for this long: a link that was cut silently is noticed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// A server asks a client on whose connection nothing has come for this long.
const SILENT: Duration = Duration::from_secs(15);

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
    /// Whose certificates are taken.
    authorities: Vec<Listed>,
    /// Which of them signed the own certificate.
    issuer: usize,
    /// The own certificate, and links to an authority that others may know alone.
    chain: Vec<Listed>,
    /// For members, who must show a certificate.
    pub(crate) server: Arc<ServerConfig>,
    /// For newcomers, who have none and are shown the authorities', too.
    pub(crate) join: Arc<ServerConfig>,
    /// For operators, who must show a certificate of theirs.
    pub(crate) operators: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// An authority whose certificates a member takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
    /// When its certificate ends.
    pub expires: Timestamp,
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
        let current = Current::read(dir, &files::read(dir, CA_CERTIFICATE)?, &files::read(dir, CERTIFICATE)?)?;
        let name::Subject { cluster, name, kind, .. } = current.subject.clone();
        let client = SharedClient::new(current.client.clone());
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

    /// When the certificate of the authority that signed this member's ends.
    pub fn authority_expires(&self) -> Timestamp {
        let now = self.now();
        now.authorities.get(now.issuer).map_or(now.expires, ending)
    }

    /// Whose certificates it takes: one authority, and two while one takes the other's place.
    pub fn authorities(&self) -> Vec<Trusted> {
        let trusted = |listed: &Listed| Trusted { fingerprint: listed.fingerprint, expires: ending(listed) };
        self.now().authorities.iter().map(trusted).collect()
    }

    /// The authority that signed its certificate.
    pub fn issuer(&self) -> [u8; 32] {
        let now = self.now();
        now.authorities.get(now.issuer).map_or([0; 32], |listed| listed.fingerprint)
    }

    /// Whether it shows the link from a former authority to its own one, too.
    pub fn is_linked(&self) -> bool {
        self.now().chain.len() > 1
    }

    /// How often a peer showed a certificate by an authority that is unknown here.
    pub fn unknown_authorities(&self) -> u64 {
        self.client.unknown_authorities()
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

    /// The certificate of the authority that signed its own, as PEM.
    pub fn authority_pem(&self) -> String {
        let now = self.now();
        now.authorities.get(now.issuer).map(|listed| listed.pem.clone()).unwrap_or_default()
    }

    /// The certificates of all authorities that it takes, as PEM, its own one's first.
    pub fn authorities_pem(&self) -> String {
        let now = self.now();
        let (own, others): (Vec<_>, Vec<_>) =
            now.authorities.iter().enumerate().partition(|(at, _)| *at == now.issuer);
        bundle::text(own.into_iter().chain(others).map(|(_, listed)| listed))
    }

    /// Takes a new certificate for the same member and key: refused unless it is as good as one that is loaded at the
    /// start. It is on disk and in use from now on; connections that are open go on with the old one.
    pub fn renew(&self, certificate_pem: &str) -> Result<(), PkiError> {
        let now = self.now();
        let links = bundle::text(now.chain.iter().skip(1));
        self.take(&bundle::text(&now.authorities), &format!("{certificate_pem}{links}"))
    }

    /// Takes certificates of the next authority, too. It must be appointed by one that is known.
    pub fn trust(&self, next: &Appointment) -> Result<(), PkiError> {
        let now = self.now();
        if now.authorities.contains(&next.next) {
            return Ok(());
        }
        if !next.is_by(&now.authorities) {
            let detail = "no authority that is known here has signed it".to_owned();
            return Err(PkiError::Appointment { detail });
        }
        self.take(&bundle::text(now.authorities.iter().chain([&next.next])), &bundle::text(&now.chain))
    }

    /// Shows a certificate by the next authority, with the link to it from the one before.
    pub fn show(&self, certificate_pem: &str, next: &Appointment) -> Result<(), PkiError> {
        let now = self.now();
        let wrong = |detail| PkiError::Unusable { path: self.dir.join(CERTIFICATE), what: "certificate", detail };
        let own = Listed::one(certificate_pem).map_err(wrong)?;
        if issuer_of(&own.der, std::slice::from_ref(&next.next)).is_err() {
            return Err(wrong("it is not by the next authority".to_owned()));
        }
        self.take(&bundle::text(&now.authorities), &format!("{}{}", own.pem, next.cross.pem))
    }

    /// Takes certificates of this authority no longer, and shows no link from another to its own one. Refused for the
    /// authority that signed its own certificate.
    pub fn forget(&self, authority: &[u8; 32]) -> Result<(), PkiError> {
        let now = self.now();
        let left = now.authorities.iter().filter(|listed| listed.fingerprint != *authority);
        self.take(&bundle::text(left), &bundle::text(now.chain.first()))
    }

    /// Makes these certificates the current ones, on disk and in use. One file changes what it says after the other, and
    /// what is there after a crash between them fits together: neither names an authority that the other lacks.
    fn take(&self, authorities_pem: &str, chain_pem: &str) -> Result<(), PkiError> {
        let (next, now) = (Current::read(&self.dir, authorities_pem, chain_pem)?, self.now());
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

    /// Takes what is on disk now, if that is another certificate: one that another process of this member has renewed.
    /// Says whether it was. What is no good is refused, and the old one stays.
    pub fn reload(&self) -> Result<bool, PkiError> {
        let (chain_pem, authorities_pem) =
            (files::read(&self.dir, CERTIFICATE)?, files::read(&self.dir, CA_CERTIFICATE)?);
        let now = self.now();
        let same = |text: &str, known: &Vec<Listed>| bundle::read(text).is_ok_and(|read| read == *known);
        if same(&chain_pem, &now.chain) && same(&authorities_pem, &now.authorities) {
            return Ok(false);
        }
        let next = Current::read(&self.dir, &authorities_pem, &chain_pem)?;
        self.is_ours(&next)?;
        self.replace(next);
        Ok(true)
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

    /// A tonic server to be served with [`Self::listen`]. Connections of whoever has vanished are closed in time: who is
    /// alive speaks or asks by itself.
    pub fn server(&self) -> Server {
        Server::builder().http2_keepalive_interval(Some(SILENT)).http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
    }

    /// Accepts members on a bound socket; a stranger is refused in the handshake, counted and logged.
    pub fn listen(&self, listener: TcpListener) -> Incoming {
        self.listen_with(listener, Doors::default())
    }

    /// As [`Self::listen`], with doors beside it for newcomers and operators.
    pub fn listen_with(&self, listener: TcpListener, doors: Doors) -> Incoming {
        Incoming::start(listener, self.current.clone(), doors)
    }

    /// Accepts a member on a connection of a simulated machine; a stranger is refused in the handshake.
    #[cfg(feature = "simulation")]
    pub async fn accept<S>(&self, stream: S) -> std::io::Result<tokio_rustls::server::TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        tokio_rustls::TlsAcceptor::from(self.now().server.clone()).accept(stream).await
    }

    /// The member of this cluster that sent a request, or why it is not let in.
    pub fn admit<T>(&self, request: &Request<T>) -> Result<PeerIdentity, PeerError> {
        peer_of(request)?.of_cluster(self.cluster)
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
    /// These certificates, with the key that is in `dir`.
    fn read(dir: &Path, authorities_pem: &str, chain_pem: &str) -> Result<Self, PkiError> {
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
        let issuer = issuer_of(own, &authorities).map_err(|e| match e {
            Unvouched::Authority(detail) => bad_ca(detail),
            Unvouched::Certificate(detail) => bad(format!("{CA_CERTIFICATE} does not vouch for it now: {detail}")),
        })?;

        let roots = roots(authorities.iter().map(|a| a.der.clone())).map_err(|e| bad_ca(e.to_string()))?;
        let porter = |visitors| Porter::new(visitors, roots.clone()).map_err(|e| bad_ca(e.to_string()));
        let shown: Vec<_> = chain.iter().map(|listed| listed.der.clone()).collect();
        let server = |porter: Option<Arc<Porter>>, shown: Vec<CertificateDer<'static>>, protocol: &[u8]| {
            let builder = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|e| bad(e.to_string()))?;
            let builder = match porter {
                Some(porter) => builder.with_client_cert_verifier(porter as Arc<dyn ClientCertVerifier>),
                None => builder.with_no_client_auth(),
            };
            let mut config =
                builder.with_single_cert(shown, key.clone_key()).map_err(|e| bad_key(e.to_string()))?;
            config.alpn_protocols = vec![protocol.to_vec()];
            // Whoever comes back shows the certificate again: one that has ended opens nothing.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok::<_, PkiError>(Arc::new(config))
        };
        let members = server(Some(porter(Visitors::Members)?), shown.clone(), b"h2")?;
        let operators = server(Some(porter(Visitors::Operators)?), shown.clone(), OPERATOR_PROTOCOL)?;
        // A newcomer knows the fingerprint of one authority, and nothing else.
        let all = shown.iter().cloned().chain(authorities.iter().map(|a| a.der.clone())).collect();
        let join = server(None, all, JOIN_PROTOCOL)?;
        let mut client = ClientConfig::builder_with_provider(provider())
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

/// Why no authority vouches for a certificate.
enum Unvouched {
    /// One of the authorities is none.
    Authority(String),
    /// None of them does.
    Certificate(String),
}

/// Which of the authorities signed a certificate that is good now.
fn issuer_of(own: &CertificateDer<'_>, authorities: &[Listed]) -> Result<usize, Unvouched> {
    let now = UnixTime::since_unix_epoch(Duration::from_millis(wall().0));
    let mut reasons = Vec::new();
    for (at, authority) in authorities.iter().enumerate() {
        let roots = roots([authority.der.clone()]).map_err(|e| Unvouched::Authority(e.to_string()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|e| Unvouched::Authority(e.to_string()))?;
        match verifier.verify_client_cert(own, &[], now) {
            Ok(_) => return Ok(at),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(Unvouched::Certificate(reasons.join("; ")))
}

fn ending(listed: &Listed) -> Timestamp {
    name::end_of(&listed.der).map_or(Timestamp(0), millis)
}

fn millis(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000))
}

/// These authorities, and no other.
pub(crate) fn roots(
    authorities: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    Ok(Arc::new(roots))
}

/// The same cryptography everywhere, also where a library asks for the process's default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    // An error says that a default is installed already, which is as good.
    let _ = ring::default_provider().install_default();
    Arc::new(ring::default_provider())
}
