//! Encoding of a member's name, kind and cluster in a certificate.

use std::fmt;

use twinbox_ids::{ClusterId, NodeName, Timestamp};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The last label of every name in a Twinbox certificate; not a public top-level domain.
const SUFFIX: &str = "twinbox";

/// The label between an operator's name and the cluster's: no member's name contains it.
pub(crate) const OPERATOR: &str = "operator";

/// Kind of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// Serves calls and holds the data.
    Node,
    /// Votes, and holds no data.
    Witness,
}

impl MemberKind {
    /// The name in the certificate (the subject's organizational unit).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Witness => "witness",
        }
    }
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The domain below which the authority of a cluster may sign.
pub(crate) fn domain(cluster: ClusterId) -> String {
    format!("{cluster}.{SUFFIX}")
}

/// The DNS name of a member.
pub(crate) fn dns_name(cluster: ClusterId, node: &NodeName) -> String {
    format!("{node}.{}", domain(cluster))
}

/// The DNS name of an operator.
pub(crate) fn operator_dns_name(cluster: ClusterId, operator: &NodeName) -> String {
    format!("{operator}.{OPERATOR}.{}", domain(cluster))
}

/// The subject of an operator's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSubject {
    /// The cluster that it may administrate.
    pub cluster: ClusterId,
    /// The operator's name.
    pub name: NodeName,
    /// Last moment of validity.
    pub expires: Timestamp,
}

/// Reads an operator's certificate (DER). Does not check its signature: the handshake does.
pub(crate) fn read_operator(der: &[u8]) -> Result<OperatorSubject, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| format!("not X.509: {e}"))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| format!("unreadable names: {e}"))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let [GeneralName::DNSName(dns)] = names else {
        return Err(format!("it has {} names, not one", names.len()));
    };
    let no_operator = || format!("'{dns}' is not <operator>.{OPERATOR}.<cluster id>.{SUFFIX}");
    let (name, rest) = dns.split_once(&format!(".{OPERATOR}.")).ok_or_else(no_operator)?;
    let (cluster, _) = split(&format!("x.{rest}")).ok_or_else(no_operator)?;
    let unit = certificate.subject().iter_organizational_unit().next().and_then(|unit| unit.as_str().ok());
    if unit != Some(OPERATOR) || certificate.is_ca() {
        return Err("it is not an operator's certificate".to_owned());
    }
    let ends = certificate.validity().not_after.timestamp();
    Ok(OperatorSubject {
        cluster,
        name: name.parse().map_err(|_| no_operator())?,
        expires: Timestamp(u64::try_from(ends).unwrap_or(0).saturating_mul(1_000)),
    })
}

/// The subject of a member's certificate.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) cluster: ClusterId,
    pub(crate) name: NodeName,
    pub(crate) kind: MemberKind,
    /// First and last moment of validity, seconds since 1970.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// The certified key: a DER-encoded SubjectPublicKeyInfo.
    pub(crate) public_key: Vec<u8>,
}

/// Reads a member's certificate (DER). Does not check its signature: the handshake did.
pub(crate) fn read(der: &[u8]) -> Result<Subject, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| format!("not X.509: {e}"))?;
    if certificate.is_ca() {
        return Err("it is an authority's certificate, not a member's".into());
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| format!("unreadable names: {e}"))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let [GeneralName::DNSName(dns)] = names else {
        return Err(format!("it has {} names, not one", names.len()));
    };
    let (cluster, name) = split(dns).ok_or_else(|| format!("'{dns}' is not <node>.<cluster id>.{SUFFIX}"))?;
    let unit = certificate.subject().iter_organizational_unit().next().and_then(|unit| unit.as_str().ok());
    let kind = match unit {
        Some("node") => MemberKind::Node,
        Some("witness") => MemberKind::Witness,
        other => return Err(format!("its kind is {other:?}, neither node nor witness")),
    };
    Ok(Subject {
        cluster,
        name,
        kind,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

/// End of validity of a certificate (DER), in seconds since 1970.
pub(crate) fn end_of(der: &[u8]) -> Result<i64, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| format!("not X.509: {e}"))?;
    Ok(certificate.validity().not_after.timestamp())
}

fn split(dns: &str) -> Option<(ClusterId, NodeName)> {
    let mut labels = dns.split('.');
    let (name, cluster) = (labels.next()?.parse().ok()?, labels.next()?.parse().ok()?);
    (labels.next() == Some(SUFFIX) && labels.next().is_none()).then_some((cluster, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip_and_others_are_refused() {
        let cluster = ClusterId::random();
        let name: NodeName = "node-a".parse().unwrap();
        assert_eq!(split(&dns_name(cluster, &name)), Some((cluster, name)));
        for dns in ["", "a", "a.b.twinbox", &format!("a.{cluster}"), &format!("a.{cluster}.twinbox.example")] {
            assert_eq!(split(dns), None, "{dns}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        for der in [&b""[..], b"0", &[0x30, 0x82, 0xff, 0xff, 0x00]] {
            assert!(read(der).is_err());
        }
    }
}
