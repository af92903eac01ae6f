//! `cluster ca …` and `cluster operator-…`: requests of administrators to a node.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tonic::{Request, Response, Status};
use tracing::{info, warn};
use twinbox_ids::NodeName;
use twinbox_pki::{PeerIdentity, PkiError, Validity, fingerprint_of, operator_of};
use twinbox_roles::{
    CertificateOrder, CertificateRefusal, Certificates, CommandError, MemberKind, Operator, Order, OrderId,
    Refusal, Rotation, RotationStep,
};
use twinbox_wire::join::{
    AuthorityStatus, AuthorityStatusRequest, MemberProgress, OperatorCertificate, OperatorName, OperatorRequest,
    OperatorStatus, ReissueRequest, Reissued, RotateRequest, RotationStatus,
    authorities_server::{Authorities as Wire, AuthoritiesServer},
};

use crate::{Host, certificate_kind};

/// Maximum validity of an operator's certificate. `SHORTEST` is the minimum.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const SHORTEST: Duration = Duration::from_secs(1);

/// Maximum wait for an agreed change to arrive at this node; usually it arrives immediately.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// Serves requests about the CA and operators.
pub struct Authorities(Arc<Host>);

impl Authorities {
    /// Creates the service for this node's cluster.
    pub fn new(host: Arc<Host>) -> Self {
        Self(host)
    }

    /// Converts it into a service for administrators.
    pub fn server(self) -> AuthoritiesServer<Self> {
        AuthoritiesServer::new(self)
    }

    async fn order(&self, order: CertificateOrder) -> Result<(), Status> {
        let given = self.0.roles.order(OrderId(rand::random()), Order::Certificates(order)).await;
        given.map_err(command)
    }

    /// Waits until this node has the change that the cluster has just agreed on, so that the next status shows it.
    async fn heard(&self, agreed: impl Fn(&Certificates) -> bool) {
        let heard = async {
            loop {
                let seen = self.0.roles.agreed().certificates.clone();
                if agreed(&seen) {
                    return;
                }
                self.0.roles.certificates_beyond(&seen).await;
            }
        };
        // After the timeout the node shows its present state.
        let _ = tokio::time::timeout(HEARD_WITHIN, heard).await;
    }

    /// Makes the next CA, seals it here, and starts its rotation in the cluster.
    async fn begin(&self, asked_by: &str) -> Result<(), Status> {
        let Host { cluster, roles, signer } = &*self.0;
        let former = signer.authority().map_err(unable)?;
        let now = signer.time();
        let successor = former.create_next(now).map_err(unable)?;
        let next = successor.authority.fingerprint();
        signer.seal.close(&successor.authority).map_err(unable)?;
        let rotation = Rotation {
            former: former.fingerprint(),
            next,
            certificate: successor.authority.certificate_pem().to_owned(),
            cross: successor.cross_pem,
            by: signer.node().clone(),
            begun_ms: now.0,
            step: RotationStep::Trust,
            done: Default::default(),
            // A configured member that has not started yet must not be locked out.
            expected: roles.members().borrow().iter().map(|member| member.name.clone()).collect(),
            without: BTreeSet::new(),
        };
        let begun = roles.order(OrderId(rand::random()), begin_order(rotation)).await;
        match begun {
            Ok(()) => {
                warn!(cluster = %cluster.name, by = asked_by, "administrator starts a CA rotation");
                self.heard(|seen| seen.rotation.as_ref().is_some_and(|rotation| rotation.next == next)).await;
                Ok(())
            }
            Err(CommandError::Refused(refusal)) => {
                let left: Vec<_> = signer.seal.holds().into_iter().filter(|held| *held != next).collect();
                signer.seal.keep_only(&left).map_err(unable)?;
                if refusal != Refusal::Certificates(CertificateRefusal::Busy) {
                    return Err(command(refusal.into()));
                }
                // Another node began a rotation at the same time: that rotation continues.
                self.heard(|seen| seen.rotation.as_ref().is_some_and(|rotation| !rotation.step.is_end())).await;
                Ok(())
            }
            // The order may have been agreed on: the key stays, and the status shows the result.
            Err(error) => Err(command(error)),
        }
    }

    fn status(&self) -> AuthorityStatus {
        let Host { roles, signer, .. } = &*self.0;
        let agreed = roles.agreed();
        let rotation = agreed.certificates.rotation.as_ref();
        let leaving = rotation.filter(|rotation| !rotation.step.is_end()).map(|rotation| rotation.former);
        let names = |rotation: &Rotation| -> BTreeSet<NodeName> {
            let known = agreed.known().map(|(name, ..)| name).chain(&rotation.expected);
            known.chain(rotation.done.keys()).chain(&rotation.without).cloned().collect()
        };
        AuthorityStatus {
            answered_by: signer.node().to_string(),
            authority: hex(&signer.tls.issuer()),
            authority_ends_ms: signer.tls.authority_expires().0,
            certificate_ends_ms: signer.tls.expires().0,
            trusted: signer.tls.authorities().iter().map(|trusted| hex(&trusted.fingerprint)).collect(),
            rotation: rotation.map(|rotation| RotationStatus {
                former: hex(&rotation.former),
                next: hex(&rotation.next),
                step: rotation.step.as_str().to_owned(),
                begun_by: rotation.by.to_string(),
                begun_ms: rotation.begun_ms,
                waits_for: agreed.awaited().iter().map(ToString::to_string).collect(),
                members: names(rotation)
                    .into_iter()
                    .map(|name| MemberProgress {
                        done: rotation.done.get(&name).map_or("", |step| step.as_str()).to_owned(),
                        given_up: rotation.without.contains(&name),
                        name: name.to_string(),
                    })
                    .collect(),
            }),
            operators: agreed
                .certificates
                .operators
                .iter()
                .map(|(name, operator)| OperatorStatus {
                    name: name.to_string(),
                    certificate: hex(&operator.certificate),
                    made_ms: operator.made_ms,
                    ends_ms: operator.ends_ms,
                    made_by: operator.by.clone(),
                    ends_with_rotation: leaving == Some(operator.authority),
                })
                .collect(),
        }
    }
}

#[tonic::async_trait]
impl Wire for Authorities {
    async fn status(&self, _: Request<AuthorityStatusRequest>) -> Result<Response<AuthorityStatus>, Status> {
        Ok(Response::new(Authorities::status(self)))
    }

    async fn rotate(&self, request: Request<RotateRequest>) -> Result<Response<AuthorityStatus>, Status> {
        let asked_by = asked_by(&request);
        let RotateRequest { without, call_off } = request.into_inner();
        if call_off {
            self.order(CertificateOrder::CallOff).await?;
            self.heard(|seen| seen.rotation.as_ref().is_none_or(|rotation| rotation.step.is_end())).await;
            warn!(by = asked_by, "administrator calls the CA rotation off");
            return Ok(Response::new(Authorities::status(self)));
        }
        let without = without.iter().map(|name| node_name(name)).collect::<Result<Vec<_>, _>>()?;
        for name in &without {
            self.order(CertificateOrder::Without(name.clone())).await?;
            self.heard(|seen| seen.rotation.as_ref().is_none_or(|rotation| rotation.without.contains(name))).await;
            warn!(member = %name, by = asked_by, "administrator continues the CA rotation without a member");
        }
        let agreed = self.0.roles.agreed();
        let going_on = agreed.certificates.rotation.as_ref().is_some_and(|rotation| !rotation.step.is_end());
        if !going_on && without.is_empty() {
            self.begin(&asked_by).await?;
        }
        Ok(Response::new(Authorities::status(self)))
    }

    async fn reissue(&self, request: Request<ReissueRequest>) -> Result<Response<Reissued>, Status> {
        let Host { cluster, roles, signer } = &*self.0;
        let asked_by = asked_by(&request);
        let no_member = |why: String| Status::invalid_argument(format!("not a member's certificate: {why}"));
        let (PeerIdentity { cluster: of, name, kind }, key) =
            PeerIdentity::from_pem(&request.get_ref().certificate).map_err(|e| no_member(e.to_string()))?;
        if of != cluster.id {
            return Err(no_member(format!("{name} is a member of another cluster, {of}")));
        }
        let members = roles.members().borrow().clone();
        let known = members.iter().find(|member| member.name == name).map(|member| member.kind);
        if known.map(certificate_kind) != Some(kind) {
            return Err(Status::failed_precondition(format!("this cluster knows no {kind} '{name}'")));
        }
        let validity = Validity::of_member(signer.time());
        let signed = signer.authority().and_then(|ca| ca.certify(&key, &name, kind, validity));
        let certificate = signed.map_err(unable)?;
        warn!(%name, by = asked_by, "administrator reissues a member's certificate");
        Ok(Response::new(Reissued { name: name.to_string(), certificate, authorities: signer.authorities_pem() }))
    }

    async fn make_operator(
        &self,
        request: Request<OperatorRequest>,
    ) -> Result<Response<OperatorCertificate>, Status> {
        let Host { roles, signer, .. } = &*self.0;
        let by = match operator_of(&request) {
            Some((operator, _)) => format!("{}, asked by operator {}", signer.node(), operator.name),
            None => signer.node().to_string(),
        };
        let OperatorRequest { name, public_key, valid_ms } = request.into_inner();
        let name = node_name(&name)?;
        let life = Duration::from_millis(valid_ms);
        if !(SHORTEST..=LONGEST).contains(&life) {
            return Err(Status::invalid_argument(
                "an operator's certificate is good for at least a second and at most 365 days (--valid)",
            ));
        }
        let now = signer.time();
        let validity = Validity::lasting(life, now);
        let authority = signer.authority().map_err(unable)?;
        let certificate = authority.certify_operator(&public_key, &name, validity).map_err(unable)?;
        let operator = Operator {
            certificate: fingerprint_of(&certificate).map_err(unable)?,
            authority: authority.fingerprint(),
            made_ms: now.0,
            ends_ms: validity.until.0,
            by: by.clone(),
        };
        self.order(CertificateOrder::Admit { name: name.clone(), operator, now_ms: now.0 }).await?;
        warn!(%name, by, days = life.as_secs() / 86_400, "operator admitted");
        let members = roles.members().borrow().clone();
        let nodes = members.iter().filter(|member| member.kind == MemberKind::Node);
        Ok(Response::new(OperatorCertificate {
            certificate,
            authorities: signer.authorities_pem(),
            ends_ms: validity.until.0,
            nodes: nodes.map(|member| member.address.clone()).collect(),
        }))
    }

    async fn revoke_operator(&self, request: Request<OperatorName>) -> Result<Response<AuthorityStatus>, Status> {
        let asked_by = asked_by(&request);
        let name = node_name(&request.get_ref().name)?;
        self.order(CertificateOrder::Dismiss(name.clone())).await?;
        self.heard(|seen| !seen.operators.contains_key(&name)).await;
        info!(%name, by = asked_by, "operator revoked");
        Ok(Response::new(Authorities::status(self)))
    }
}

fn begin_order(rotation: Rotation) -> Order {
    Order::Certificates(CertificateOrder::Begin(Box::new(rotation)))
}

/// Requester for the log: name of the operator, or this machine.
fn asked_by<T>(request: &Request<T>) -> String {
    operator_of(request).map_or_else(|| "this machine".to_owned(), |(operator, _)| operator.name.to_string())
}

fn node_name(text: &str) -> Result<NodeName, Status> {
    text.parse().map_err(|e: twinbox_ids::ParseIdError| Status::invalid_argument(e.to_string()))
}

fn unable(error: PkiError) -> Status {
    Status::failed_precondition(error.to_string())
}

fn command(error: CommandError) -> Status {
    Status::failed_precondition(error.to_string())
}

/// Format of `openssl x509 -fingerprint -sha256`.
fn hex(fingerprint: &[u8; 32]) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
