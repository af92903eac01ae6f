//! The cluster's certificate authority. Used when a cluster or a member is made, never on a call.

use std::{io, path::Path, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, PublicKeyData, SubjectPublicKeyInfo, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName, Timestamp};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::{
    MemberKind, PkiError,
    bundle::{self, Listed},
    files::{self, PUBLIC, SECRET},
    name,
};

pub(crate) const CA_CERTIFICATE: &str = "ca.pem";
pub(crate) const CA_KEY: &str = "ca.key";
pub(crate) const CERTIFICATE: &str = "node.pem";
pub(crate) const KEY: &str = "node.key";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates are valid from one day ago, so that members whose clocks are behind accept them.
const BACKDATED: Duration = DAY;
const CA_VALIDITY: Duration = DAY.saturating_mul(20 * 365);
/// Members renew their certificates automatically after two thirds of this time, and retry during the last third.
const MEMBER_VALIDITY: Duration = DAY.saturating_mul(365);

/// Validity period of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: Timestamp,
    /// Last moment.
    pub until: Timestamp,
}

impl Validity {
    /// The usual validity of a member's certificate that is signed at `now`.
    pub fn of_member(now: Timestamp) -> Self {
        Self::lasting(MEMBER_VALIDITY, now)
    }

    /// From a day before `now`, for `life` from `now`.
    pub fn lasting(life: Duration, now: Timestamp) -> Self {
        let backdated = u64::try_from(BACKDATED.as_millis()).unwrap_or(u64::MAX);
        Self { from: Timestamp(now.0.saturating_sub(backdated)), until: now + life }
    }

    fn apply(self, params: &mut CertificateParams) {
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(self.from.0 / 1_000);
        params.not_after = epoch + Duration::from_secs(self.until.0 / 1_000);
    }
}

/// The authority that signs the certificates of one cluster's members.
pub struct CertificateAuthority {
    cluster: ClusterId,
    cluster_name: String,
    certificate: Listed,
    issuer: Issuer<'static, KeyPair>,
}

/// An authority that replaces another one.
pub struct NextAuthority {
    /// The new authority.
    pub authority: CertificateAuthority,
    /// Its certificate, signed by the old authority: a client that knows only the old one can verify the new one with
    /// it.
    pub cross_pem: String,
}

/// A member's certificate and key, as PEM. The key is secret.
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
    /// The certificate of the authority that signed.
    pub ca_pem: String,
}

impl CertificateAuthority {
    /// Makes a new authority with a new key, valid from now on by the system's clock. `cluster_name` is for display; the id
    /// tells clusters apart.
    pub fn create(cluster: ClusterId, cluster_name: &str) -> Result<Self, PkiError> {
        Self::create_at(cluster, cluster_name, wall())
    }

    /// As [`Self::create`], at `now`.
    pub fn create_at(cluster: ClusterId, cluster_name: &str, now: Timestamp) -> Result<Self, PkiError> {
        Self::create_from(cluster, cluster_name, Self::params(cluster, cluster_name, now)?)
    }

    fn create_from(
        cluster: ClusterId,
        cluster_name: &str,
        mut params: CertificateParams,
    ) -> Result<Self, PkiError> {
        let failed = PkiError::make("certificate authority");
        // Path length 1: members, and the next authority with its members.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let key = KeyPair::generate().map_err(&failed)?;
        let certificate = Listed::one(&params.self_signed(&key).map_err(&failed)?.pem())
            .map_err(|detail| PkiError::Make { what: "certificate authority", detail })?;
        let issuer = Issuer::new(params, key);
        Ok(Self { cluster, cluster_name: cluster_name.to_owned(), certificate, issuer })
    }

    /// Creates the next authority at `now`: another key, another subject, the same cluster.
    pub fn create_next(&self, now: Timestamp) -> Result<NextAuthority, PkiError> {
        let failed = PkiError::make("next certificate authority");
        let mut params = Self::params(self.cluster, &self.cluster_name, now)?;
        let authority = Self::create_from(self.cluster, &self.cluster_name, params.clone())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        let key =
            SubjectPublicKeyInfo::from_der(&authority.issuer.key().subject_public_key_info()).map_err(&failed)?;
        let cross_pem = params.signed_by(&key, &self.issuer).map_err(&failed)?.pem();
        Ok(NextAuthority { authority, cross_pem })
    }

    /// The common parameters of all authority certificates of a cluster. The subject has a random part, so that two
    /// authorities of one cluster are never confused.
    fn params(cluster: ClusterId, cluster_name: &str, now: Timestamp) -> Result<CertificateParams, PkiError> {
        let mut random = [0; 4];
        let no_random =
            |_| PkiError::Make { what: "certificate authority", detail: "no random numbers".to_owned() };
        SystemRandom::new().fill(&mut random).map_err(no_random)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, cluster_name);
        params.distinguished_name.push(DnType::OrganizationName, cluster.to_string());
        let which = format!("authority {:08x}", u32::from_be_bytes(random));
        params.distinguished_name.push(DnType::OrganizationalUnitName, which);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(name::domain(cluster))],
            excluded_subtrees: Vec::new(),
        });
        Validity::lasting(CA_VALIDITY, now).apply(&mut params);
        Ok(params)
    }

    /// Reads `ca.pem` and `ca.key`, as [`Self::save`] wrote them.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let (certificate_pem, key_pem) = (files::read(dir, CA_CERTIFICATE)?, files::read(dir, CA_KEY)?);
        Self::from_pem(dir, certificate_pem, &key_pem)
    }

    /// The authority with this key and its certificate among `certificates_pem`; `dir` is their folder, for error
    /// texts.
    pub fn from_pem(dir: &Path, certificates_pem: String, key_pem: &str) -> Result<Self, PkiError> {
        let unusable = |file: &str, what, detail: String| PkiError::Unusable { path: dir.join(file), what, detail };
        let bad = |detail: &str| unusable(CA_CERTIFICATE, "certificate of an authority", detail.to_owned());
        let key = KeyPair::from_pem(key_pem).map_err(|e| unusable(CA_KEY, "private key", e.to_string()))?;
        let listed = bundle::read(&certificates_pem).map_err(|e| bad(&e))?;
        let its = |listed: &Listed| {
            let read = X509Certificate::from_der(&listed.der);
            read.is_ok_and(|(_, c)| key.public_key_raw() == c.public_key().subject_public_key.data.as_ref())
        };
        let listed = listed
            .into_iter()
            .find(its)
            .ok_or_else(|| unusable(CA_KEY, "private key", format!("it is not the key of {CA_CERTIFICATE}")))?;
        let (_, certificate) = X509Certificate::from_der(&listed.der).map_err(|e| bad(&e.to_string()))?;
        if !certificate.is_ca() {
            return Err(bad("it may not sign"));
        }
        let subject = certificate.subject();
        let cluster = text(subject, X509Name::iter_organization).ok_or_else(|| bad("it names no cluster"))?;
        let cluster = cluster.parse().map_err(|_| bad("its organization is not a cluster id"))?;
        let cluster_name = text(subject, X509Name::iter_common_name).ok_or_else(|| bad("it has no name"))?;
        let issuer = Issuer::from_ca_cert_pem(&listed.pem, key).map_err(|e| bad(&e.to_string()))?;
        Ok(Self { cluster, cluster_name, certificate: listed, issuer })
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600) durably. Never overwrites an existing authority: its key, and with it
    /// every certificate that it signed, would be lost.
    pub fn save(&self, dir: &Path) -> Result<(), PkiError> {
        for file in [CA_KEY, CA_CERTIFICATE] {
            let path = dir.join(file);
            if path.exists() {
                let source = io::Error::new(io::ErrorKind::AlreadyExists, "an authority exists already");
                return Err(PkiError::Write { path, source });
            }
        }
        files::write(dir, CA_KEY, SECRET, &self.issuer.key().serialize_pem())?;
        files::write(dir, CA_CERTIFICATE, PUBLIC, &self.certificate.pem)
    }

    /// The cluster it signs for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The cluster's name, for display.
    pub fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    /// The authority's certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate.pem
    }

    /// SHA-256 of its certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.certificate.fingerprint
    }

    /// The private key, as PEM: to be sealed, or handed to a node that has just joined.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a key and signs a certificate for a member, valid from now on by the system's clock.
    pub fn issue(&self, node: &NodeName, kind: MemberKind) -> Result<Issued, PkiError> {
        self.issue_for(node, kind, Validity::of_member(wall()))
    }

    /// As [`Self::issue`], with the given validity.
    pub fn issue_for(&self, node: &NodeName, kind: MemberKind, validity: Validity) -> Result<Issued, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::make("member's key"))?;
        Ok(Issued {
            cert_pem: self.sign(&key, node, kind, validity)?,
            key_pem: key.serialize_pem(),
            ca_pem: self.certificate.pem.clone(),
        })
    }

    /// Signs a certificate for a member that keeps its private key. `public_key` is a DER-encoded SubjectPublicKeyInfo;
    /// nothing else is taken from the request.
    pub fn certify(
        &self,
        public_key: &[u8],
        node: &NodeName,
        kind: MemberKind,
        validity: Validity,
    ) -> Result<String, PkiError> {
        let key =
            SubjectPublicKeyInfo::from_der(public_key).map_err(PkiError::make("certificate of that public key"))?;
        self.sign(&key, node, kind, validity)
    }

    /// Signs a certificate for an operator, who keeps the private key: valid for TLS clients only, under a name that no
    /// member can have.
    pub fn certify_operator(
        &self,
        public_key: &[u8],
        operator: &NodeName,
        validity: Validity,
    ) -> Result<String, PkiError> {
        let key =
            SubjectPublicKeyInfo::from_der(public_key).map_err(PkiError::make("certificate of that public key"))?;
        let dns = name::operator_dns_name(self.cluster, operator);
        self.sign_as(&key, dns, operator, name::OPERATOR, vec![ExtendedKeyUsagePurpose::ClientAuth], validity)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        node: &NodeName,
        kind: MemberKind,
        validity: Validity,
    ) -> Result<String, PkiError> {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_as(key, name::dns_name(self.cluster, node), node, kind.as_str(), usages, validity)
    }

    fn sign_as(
        &self,
        key: &impl PublicKeyData,
        dns: String,
        subject: &NodeName,
        unit: &str,
        usages: Vec<ExtendedKeyUsagePurpose>,
        validity: Validity,
    ) -> Result<String, PkiError> {
        let failed = PkiError::make("certificate");
        let mut params = CertificateParams::new(vec![dns]).map_err(&failed)?;
        params.distinguished_name.push(DnType::CommonName, subject.as_str());
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        validity.apply(&mut params);
        Ok(params.signed_by(key, &self.issuer).map_err(&failed)?.pem())
    }
}

/// The private key of a joining member.
pub struct MemberKey(KeyPair);

impl MemberKey {
    /// The key that an earlier attempt left in `dir`, else a new one, written there durably (mode 0600): a retry after
    /// an interruption is the same joining member.
    pub fn load_or_make(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join(KEY);
        if path.exists() {
            let pem = files::read(dir, KEY)?;
            let unusable =
                |e: rcgen::Error| PkiError::Unusable { path, what: "private key", detail: e.to_string() };
            return KeyPair::from_pem(&pem).map(Self).map_err(unusable);
        }
        let key = KeyPair::generate().map_err(PkiError::make("member's key"))?;
        files::write(dir, KEY, SECRET, &key.serialize_pem())?;
        Ok(Self(key))
    }

    /// The public half: a DER-encoded SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The private half, as PEM.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }
}

impl Issued {
    /// Writes `node.pem`, `node.key` (mode 0600) and `ca.pem` durably, replacing existing files.
    pub fn save(&self, dir: &Path) -> Result<(), PkiError> {
        files::write(dir, KEY, SECRET, &self.key_pem)?;
        files::write(dir, CERTIFICATE, PUBLIC, &self.cert_pem)?;
        files::write(dir, CA_CERTIFICATE, PUBLIC, &self.ca_pem)
    }
}

/// The first value of one attribute of a subject.
fn text<'a, 'b: 'a, I>(subject: &'a X509Name<'b>, attribute: impl Fn(&'a X509Name<'b>) -> I) -> Option<String>
where
    I: Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'b>>,
{
    attribute(subject).next()?.as_str().ok().map(str::to_owned)
}
