//! Certificates while the process runs: renewed at two thirds of their life, an alarm 30 days before an end, and the
//! authority's key on every node.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Channel};
use tracing::{info, warn};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{NodeName, Timestamp};
use twinbox_pki::{CertificateAuthority, MemberKind as CertificateKind, NodeIdentity, PkiError, Seal, Validity};
use twinbox_roles::{MemberKind, Roles};
use twinbox_wire::join::{
    AuthorityKey, AuthorityRequest, RenewRequest, Renewed,
    certificates_client::CertificatesClient,
    certificates_server::{Certificates, CertificatesServer},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before an end it is an alarm.
const ALARM: Duration = DAY.saturating_mul(30);
/// An alarm is repeated in the log after this time.
const ALARM_AGAIN: Duration = DAY;
/// How often certificates are looked at when nothing is due.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
/// What failed is tried again after this time, sooner when little is left.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// A certificate that is due to end is looked at no more often than this.
const SOONEST: Duration = Duration::from_secs(1);
/// How long another member may take to sign.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A node's means to sign certificates.
pub struct Signer {
    tls: Arc<NodeIdentity>,
    seal: Seal,
}

impl Signer {
    /// With the authority sealed beside the certificates, and the secret that opens it.
    pub fn new(tls: Arc<NodeIdentity>, tls_dir: &Path, secret: &Path) -> Self {
        Self { tls, seal: Seal::new(tls_dir, secret) }
    }

    /// This node.
    pub fn node(&self) -> &NodeName {
        &self.tls.name
    }

    /// The authority's certificate, as PEM.
    pub fn authority_pem(&self) -> String {
        self.tls.authority_pem()
    }

    /// The authority, unsealed for this one use.
    pub fn authority(&self) -> Result<CertificateAuthority, PkiError> {
        self.seal.open()
    }
}

/// What members ask a node: new certificates, and the authority for a node that has lost it.
#[derive(Clone)]
pub struct Service {
    signer: Arc<Signer>,
    roles: Roles,
}

impl Service {
    /// Signs for members that the cluster knows.
    pub fn new(signer: Arc<Signer>, roles: Roles) -> Self {
        Self { signer, roles }
    }

    /// As tonic wants it.
    pub fn into_server(self) -> CertificatesServer<Self> {
        CertificatesServer::new(self)
    }

    /// The caller's name and kind, by the certificate that it shows; it must be a member.
    fn caller<T>(&self, request: &Request<T>) -> Result<(NodeName, CertificateKind), Status> {
        let peer = self.signer.tls.admit(request)?;
        let members = self.roles.members().borrow().clone();
        match members.iter().any(|member| member.name == peer.name) {
            true => Ok((peer.name, peer.kind)),
            false => Err(Status::permission_denied(format!("'{}' is not among the members known here", peer.name))),
        }
    }

    fn authority(&self) -> Result<CertificateAuthority, Status> {
        self.signer.authority().map_err(|error| Status::failed_precondition(error.to_string()))
    }
}

#[tonic::async_trait]
impl Certificates for Service {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Renewed>, Status> {
        let (name, kind) = self.caller(&request)?;
        let key = &request.get_ref().public_key;
        let certificate = self.authority()?.certify(key, &name, kind, Validity::of_member());
        let certificate = certificate.map_err(|error| Status::invalid_argument(error.to_string()))?;
        info!(peer = %name, "renewed a member's certificate");
        Ok(Response::new(Renewed { certificate }))
    }

    async fn authority(&self, request: Request<AuthorityRequest>) -> Result<Response<AuthorityKey>, Status> {
        let (name, kind) = self.caller(&request)?;
        if kind != CertificateKind::Node {
            return Err(Status::permission_denied("a witness does not keep the authority's key"));
        }
        let key = Self::authority(self)?.key_pem();
        warn!(peer = %name, "gave the authority's key to a node that has lost it");
        Ok(Response::new(AuthorityKey { key }))
    }
}

/// One member's care for its certificate.
pub struct Care {
    /// The certificate.
    pub tls: Arc<NodeIdentity>,
    /// Where it lies.
    pub tls_dir: std::path::PathBuf,
    /// On a node.
    pub signer: Option<Arc<Signer>>,
    /// Who else there is.
    pub roles: Roles,
}

impl Care {
    /// Looks after the certificate until stopped.
    pub async fn watch(self, stop: CancellationToken) {
        let mut alarmed = None;
        let mut said = String::new();
        loop {
            let next = async {
                self.keep_authority(&mut said).await;
                let next = self.keep_certificate().await;
                self.alarm(&mut alarmed);
                next
            };
            let pause = tokio::select! {
                pause = next => pause,
                () = stop.cancelled() => return,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Renews the certificate when that is due; says when to look again.
    async fn keep_certificate(&self) -> Duration {
        if left(self.tls.renew_at()).is_zero() {
            match self.renew().await {
                Ok(by) => {
                    let days = left(self.tls.expires()).as_secs() / DAY.as_secs();
                    info!(%by, days, "this member's certificate is renewed");
                }
                Err(reason) => warn!(%reason, "this member's certificate could not be renewed; trying on"),
            }
        }
        match left(self.tls.renew_at()) {
            Duration::ZERO => (left(self.tls.expires()) / 10).clamp(SOONEST, TRY_AGAIN),
            until => until.clamp(SOONEST, LOOK_EVERY),
        }
    }

    /// By this node's own authority, or another node's.
    async fn renew(&self) -> Result<NodeName, String> {
        let key = self.tls.public_key();
        let mut reasons = Vec::new();
        if let Some(signer) = &self.signer {
            let (name, kind) = (&self.tls.name, self.tls.kind);
            let signed = signer.authority().and_then(|ca| ca.certify(&key, name, kind, Validity::of_member()));
            match signed.and_then(|certificate| self.tls.renew(certificate)) {
                Ok(()) => return Ok(name.clone()),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        for (name, channel) in self.other_nodes() {
            let request = RenewRequest { public_key: key.clone().into() };
            let mut client = CertificatesClient::new(channel);
            match timeout(ANSWER_WITHIN, client.renew(request)).await {
                Ok(Ok(answer)) => match self.tls.renew(answer.into_inner().certificate) {
                    Ok(()) => return Ok(name),
                    Err(error) => reasons.push(format!("{name}: {error}")),
                },
                Ok(Err(status)) => reasons.push(format!("{name}: {}", status.message())),
                Err(_) => reasons.push(format!("{name}: no answer within {ANSWER_WITHIN:?}")),
            }
        }
        Err(reasons.join("; "))
    }

    /// A node that cannot sign gets the authority: from `ca.key` beside its certificate, where an administrator put it,
    /// else from another node. What is in the way is said once.
    async fn keep_authority(&self, said: &mut String) {
        let Some(signer) = &self.signer else { return };
        let Err(unusable) = signer.authority() else {
            said.clear();
            return;
        };
        let plain = self.tls_dir.join("ca.key");
        if plain.exists() {
            let sealed =
                CertificateAuthority::load(&self.tls_dir).and_then(|authority| signer.seal.close(&authority));
            match sealed
                .map_err(|e| e.to_string())
                .and_then(|()| std::fs::remove_file(&plain).map_err(|e| e.to_string()))
            {
                Ok(()) => return info!("the authority's key is sealed now; the plain file is gone"),
                Err(error) => warn!(file = %plain.display(), %error, "the authority's key cannot be sealed"),
            }
        }
        for (name, channel) in self.other_nodes() {
            let mut client = CertificatesClient::new(channel);
            let Ok(Ok(answer)) = timeout(ANSWER_WITHIN, client.authority(AuthorityRequest {})).await else {
                continue;
            };
            let key = answer.into_inner().key;
            let authority = CertificateAuthority::from_pem(&self.tls_dir, signer.authority_pem(), &key);
            match authority.and_then(|authority| signer.seal.close(&authority)) {
                Ok(()) => return info!(from = %name, "this node has the authority's key again"),
                Err(error) => warn!(from = %name, %error, "another node's authority is not usable here"),
            }
        }
        let reason = unusable.to_string();
        if *said != reason {
            warn!(%reason, "this node cannot sign certificates; another node that can will be asked");
            *said = reason;
        }
    }

    fn other_nodes(&self) -> Vec<(NodeName, Channel)> {
        let members = self.roles.members().borrow().clone();
        members
            .iter()
            .filter(|member| member.kind == MemberKind::Node && member.name != self.tls.name)
            .filter_map(|m| Some((m.name.clone(), self.tls.endpoint(&m.name, &m.address).ok()?.connect_lazy())))
            .collect()
    }

    fn alarm(&self, alarmed: &mut Option<BootInstant>) {
        let due = left(self.tls.renew_at()).is_zero();
        let certificate = Some(left(self.tls.expires())).filter(|left| due && *left < ALARM);
        let authority = Some(left(self.tls.authority_expires())).filter(|left| *left < ALARM);
        if certificate.is_none() && authority.is_none() {
            *alarmed = None;
            return;
        }
        if alarmed.is_some_and(|at| at.elapsed() < ALARM_AGAIN) {
            return;
        }
        *alarmed = Some(BootInstant::now());
        if let Some(left) = certificate {
            let (days, hours) = (left.as_secs() / DAY.as_secs(), left.as_secs() % DAY.as_secs() / 3_600);
            warn!(days, hours, "ALARM: this member's certificate ends soon and could not be renewed");
        }
        if let Some(left) = authority {
            let days = left.as_secs() / DAY.as_secs();
            warn!(days, "ALARM: the certificate of the cluster's authority ends soon");
        }
    }
}

/// From now until then; zero when that is over.
pub fn left(until: Timestamp) -> Duration {
    Duration::from_millis(until.0.saturating_sub(wall().0))
}
