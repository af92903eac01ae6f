//! Verification of server certificates by a client, where the standard rules are not enough. Signatures are checked as
//! usual.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::identity::provider;

/// A rule for the servers that a client accepts.
pub(crate) trait ServerRule: fmt::Debug + Send + Sync {
    /// Whether this chain, shown under this name, is accepted.
    fn verify(&self, shown: &PresentedChain<'_>) -> Result<ServerCertVerified, Error>;
}

/// The certificates that a server shows in the handshake, and the time of the check.
pub(crate) struct PresentedChain<'a> {
    pub end_entity: &'a CertificateDer<'a>,
    pub intermediates: &'a [CertificateDer<'a>],
    pub name: &'a ServerName<'a>,
    pub ocsp_response: &'a [u8],
    pub now: UnixTime,
}

/// A rustls verifier that applies `rule`.
pub(crate) fn verifier(rule: impl ServerRule + 'static) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Verifier(rule))
}

#[derive(Debug)]
struct Verifier<H>(H);

impl<H: ServerRule> ServerCertVerifier for Verifier<H> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify(&PresentedChain { end_entity, intermediates, name, ocsp_response, now })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
