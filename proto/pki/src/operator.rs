//! Administrators on other machines: their certificate, and their connections to a node.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rcgen::KeyPair;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier as _},
    },
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Request;
use twinbox_ids::ClusterId;

use crate::{
    MemberKind, OperatorSubject, PkiError, bundle,
    files::{self, PUBLIC, SECRET},
    identity::{HANDSHAKE, provider},
    join_client::fingerprint,
    name,
    server_rule::{self, PresentedChain, ServerRule},
};

/// The ALPN protocol of operators: it selects the route of a connection.
pub(crate) const OPERATOR_PROTOCOL: &[u8] = b"twinbox-operator/1";

const CERTIFICATE: &str = "operator.pem";
const KEY: &str = "operator.key";
const AUTHORITIES: &str = "ca.pem";
/// Timeout of the node's first byte: a node sends it immediately after the handshake.
const FIRST_BYTE: Duration = Duration::from_secs(10);

/// The private key of an operator that has no certificate yet. It never leaves the operator's machine.
pub struct OperatorKey(KeyPair);

impl OperatorKey {
    /// Makes a new key.
    pub fn make() -> Result<Self, PkiError> {
        KeyPair::generate().map(Self).map_err(PkiError::make("operator's key"))
    }

    /// The public half: a DER-encoded SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        use rcgen::PublicKeyData;
        self.0.subject_public_key_info()
    }

    /// Whether a folder can take an operator's files: it must not hold any yet.
    pub fn fits(dir: &Path) -> Result<(), PkiError> {
        for file in [CERTIFICATE, KEY, AUTHORITIES] {
            let path = dir.join(file);
            if path.exists() {
                let source =
                    io::Error::new(io::ErrorKind::AlreadyExists, "the file exists already; use another folder");
                return Err(PkiError::Write { path, source });
            }
        }
        fs::create_dir_all(dir).map_err(|source| PkiError::Write { path: dir.to_owned(), source })
    }

    /// Writes `operator.key` (mode 0600), `operator.pem` and `ca.pem`.
    pub fn save(&self, dir: &Path, certificate_pem: &str, authorities_pem: &str) -> Result<(), PkiError> {
        files::write(dir, KEY, SECRET, &self.0.serialize_pem())?;
        files::write(dir, CERTIFICATE, PUBLIC, certificate_pem)?;
        files::write(dir, AUTHORITIES, PUBLIC, authorities_pem)
    }
}

/// An operator's certificate and key.
#[derive(Clone)]
pub struct OperatorIdentity {
    /// The subject of the certificate.
    pub subject: OperatorSubject,
    client: Arc<ClientConfig>,
}

impl OperatorIdentity {
    /// Reads the files that `cluster operator-cert` wrote to a folder.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        Self::load_files(&dir.join(CERTIFICATE), &dir.join(KEY), &dir.join(AUTHORITIES))
    }

    /// The same with separate file names.
    pub fn load_files(certificate: &Path, key: &Path, authorities: &Path) -> Result<Self, PkiError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| PkiError::ReadOperator { path: path.to_owned(), source })
        };
        let unusable =
            |path: &Path, what, detail: String| PkiError::UnusableOperator { path: path.to_owned(), what, detail };
        let shown = bundle::read(&read(certificate)?).map_err(|e| unusable(certificate, "certificate", e))?;
        let subject =
            name::read_operator(&shown[0].der).map_err(|e| unusable(certificate, "operator's certificate", e))?;
        let listed = bundle::read(&read(authorities)?).map_err(|e| unusable(authorities, "certificate", e))?;
        let mut roots = RootCertStore::empty();
        for authority in &listed {
            roots.add(authority.der.clone()).map_err(|e| unusable(authorities, "certificate", e.to_string()))?;
        }
        let wrong_key = |detail: String| unusable(key, "private key of that certificate", detail);
        let key_der = PrivateKeyDer::from_pem_slice(read(key)?.as_bytes()).map_err(|e| wrong_key(e.to_string()))?;
        let nodes = AnyNode::new(subject.cluster, roots).map_err(|e| unusable(authorities, "certificate", e))?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| wrong_key(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(server_rule::verifier(nodes))
            .with_client_auth_cert(shown.into_iter().map(|listed| listed.der).collect(), key_der)
            .map_err(|e| wrong_key(e.to_string()))?;
        client.alpn_protocols = vec![OPERATOR_PROTOCOL.to_vec()];
        Ok(Self { subject, client: Arc::new(client) })
    }

    /// Connects to a node at `HOST:PORT`, its address for members, and waits until the node has accepted the operator:
    /// a refusal is reported here and not at the first request.
    pub async fn connect(&self, address: &str) -> io::Result<TokioIo<BufReader<TlsStream<TcpStream>>>> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            // The verifier accepts any node of the cluster, whatever its name.
            let server = ServerName::try_from(name::domain(self.subject.cluster)).map_err(io::Error::other)?;
            TlsConnector::from(self.client.clone()).connect(server, stream).await
        };
        let mut stream = BufReader::new(timeout(HANDSHAKE, connecting).await??);
        if timeout(FIRST_BYTE, stream.fill_buf()).await??.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(TokioIo::new(stream))
    }
}

/// The operator that sent this request, and its certificate's fingerprint, by the handshake.
pub fn operator_of<T>(request: &Request<T>) -> Option<(OperatorSubject, [u8; 32])> {
    let certificates = request.peer_certs()?;
    let shown = certificates.first()?;
    Some((name::read_operator(shown).ok()?, fingerprint(shown)))
}

/// Accepts any node of one cluster: the operator names an address, not a node.
#[derive(Debug)]
struct AnyNode {
    cluster: ClusterId,
    usual: Arc<WebPkiServerVerifier>,
}

impl AnyNode {
    fn new(cluster: ClusterId, roots: RootCertStore) -> Result<Self, String> {
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        Ok(Self { cluster, usual: usual.map_err(|e| e.to_string())? })
    }
}

impl ServerRule for AnyNode {
    fn verify(&self, shown: &PresentedChain<'_>) -> Result<ServerCertVerified, Error> {
        let unfit = || Error::InvalidCertificate(CertificateError::NotValidForName);
        let subject = name::read(shown.end_entity).map_err(|_| unfit())?;
        if subject.cluster != self.cluster || subject.kind != MemberKind::Node {
            return Err(unfit());
        }
        let own = ServerName::try_from(name::dns_name(subject.cluster, &subject.name)).map_err(|_| unfit())?;
        let PresentedChain { end_entity, intermediates, ocsp_response, now, .. } = *shown;
        self.usual.verify_server_cert(end_entity, intermediates, &own, ocsp_response, now)
    }
}

/// Reason for a failed connection of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorObstacle {
    /// The node's certificate is not signed by an authority that the operator knows.
    OtherAuthority,
    /// The node's certificate is not valid at this machine's time of day.
    OtherTime,
    /// It is a member of another cluster, or no node.
    OtherMember,
    /// The node reports that the operator's certificate has expired.
    Expired,
    /// The node does not accept the operator's certificate.
    NotAccepted,
    /// No listener for operators at that address.
    NoOperatorRoute,
}

impl OperatorObstacle {
    /// The reason, if it is known, from an error of [`OperatorIdentity::connect`].
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref::<Error>()? {
            Error::InvalidCertificate(CertificateError::NotValidForName) => Some(Self::OtherMember),
            Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Some(Self::OtherTime),
            Error::InvalidCertificate(_) => Some(Self::OtherAuthority),
            Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Some(Self::NoOperatorRoute),
            Error::AlertReceived(AlertDescription::CertificateExpired) => Some(Self::Expired),
            Error::AlertReceived(_) => Some(Self::NotAccepted),
            _ => None,
        }
    }
}
