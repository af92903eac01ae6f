//! The kinds of client certificates that a route accepts: all are signed by the cluster's authority, but a member is no
//! operator, and an operator no member.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{identity::provider, name};

/// Kind of client of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientKind {
    Members,
    Operators,
}

/// A certificate of the cluster, but of the other kind.
#[derive(Debug, thiserror::Error)]
#[error("not a certificate for this route: {0}")]
struct OtherKind(String);

/// The standard rules, and a check of the kind.
#[derive(Debug)]
pub(crate) struct ClientKindVerifier {
    kind: ClientKind,
    usual: Arc<dyn ClientCertVerifier>,
}

impl ClientKindVerifier {
    pub(crate) fn new(kind: ClientKind, roots: Arc<RootCertStore>) -> Result<Arc<Self>, VerifierBuilderError> {
        let usual = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        Ok(Arc::new(Self { kind, usual }))
    }
}

impl ClientCertVerifier for ClientKindVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.usual.verify_client_cert(end_entity, intermediates, now)?;
        let subject = match self.kind {
            ClientKind::Members => name::read(end_entity).map(drop),
            ClientKind::Operators => name::read_operator(end_entity).map(drop),
        };
        let other_kind =
            |why| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(OtherKind(why)))));
        subject.map_err(other_kind)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
