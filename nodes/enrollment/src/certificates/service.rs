//! Requests of members to a node: new certificates, and a CA key for a node that lacks it.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::{info, warn};
use twinbox_ids::NodeName;
use twinbox_pki::{CertificateAuthority, MemberKind as CertificateKind, Validity};
use twinbox_roles::Roles;
use twinbox_wire::join::{
    AuthorityKey, AuthorityRequest, RenewRequest, Renewed,
    certificates_server::{Certificates, CertificatesServer},
};

use super::Signer;

/// Signs for members of the cluster.
#[derive(Clone)]
pub struct CertificateService {
    signer: Arc<Signer>,
    roles: Roles,
}

impl CertificateService {
    /// Creates the service with this node's keys.
    pub fn new(signer: Arc<Signer>, roles: Roles) -> Self {
        Self { signer, roles }
    }

    /// Converts it into a tonic service.
    pub fn into_server(self) -> CertificatesServer<Self> {
        CertificatesServer::new(self)
    }

    /// Name and kind of the caller by its certificate; the caller must be a member.
    fn caller<T>(&self, request: &Request<T>) -> Result<(NodeName, CertificateKind), Status> {
        let peer = self.signer.tls.admit(request)?;
        let members = self.roles.members().borrow().clone();
        match members.iter().any(|member| member.name == peer.name) {
            true => Ok((peer.name, peer.kind)),
            false => Err(Status::permission_denied(format!("'{}' is not among the members known here", peer.name))),
        }
    }

    /// CA with this fingerprint; without a fingerprint, this node's CA.
    fn wanted(&self, fingerprint: &[u8]) -> Result<CertificateAuthority, Status> {
        let opened = match <[u8; 32]>::try_from(fingerprint) {
            Ok(fingerprint) => self.signer.seal.open(&fingerprint),
            Err(_) if fingerprint.is_empty() => self.signer.authority(),
            Err(_) => return Err(Status::invalid_argument("a fingerprint has 32 bytes")),
        };
        opened.map_err(|error| Status::failed_precondition(error.to_string()))
    }
}

#[tonic::async_trait]
impl Certificates for CertificateService {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Renewed>, Status> {
        let (name, kind) = self.caller(&request)?;
        let RenewRequest { public_key, authority } = request.get_ref();
        let validity = Validity::of_member(self.signer.time());
        let certificate = self.wanted(authority)?.certify(public_key, &name, kind, validity);
        let certificate = certificate.map_err(|error| Status::invalid_argument(error.to_string()))?;
        info!(peer = %name, "signed a member's new certificate");
        Ok(Response::new(Renewed { certificate }))
    }

    async fn authority(&self, request: Request<AuthorityRequest>) -> Result<Response<AuthorityKey>, Status> {
        let (name, kind) = self.caller(&request)?;
        if kind != CertificateKind::Node {
            return Err(Status::permission_denied("a witness does not store the CA key"));
        }
        let key = self.wanted(&request.get_ref().authority)?.key_pem();
        warn!(peer = %name, "sent the CA key to a node without it");
        Ok(Response::new(AuthorityKey { key }))
    }
}
