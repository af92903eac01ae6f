//! The cluster of a renewer: agreed state, and other nodes that sign.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tonic::{Response, Status, transport::Channel};
use twinbox_ids::NodeName;
use twinbox_pki::NodeIdentity;
use twinbox_roles::{CertificateOrder, Certificates, Fingerprint, MemberKind, Order, OrderId, Roles};
use twinbox_wire::join::{AuthorityRequest, RenewRequest, certificates_client::CertificatesClient};

/// Timeout for another member to sign.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The part of a cluster that a renewer needs. Errors are reasons as text.
pub trait CertificateCluster: Send + Sync + 'static {
    /// CA rotation and operators, as agreed as far as this member knows.
    fn certificates(&self) -> Certificates;

    /// Waits until the agreed certificates differ from `seen`.
    fn certificates_beyond(&self, seen: &Certificates) -> impl Future<Output = ()> + Send;

    /// Has the cluster agree on this order.
    fn order(&self, order: CertificateOrder) -> impl Future<Output = Result<(), String>> + Send;

    /// Names of the other nodes, in the order in which they are asked.
    fn other_nodes(&self) -> Vec<NodeName>;

    /// Certificate of this CA for this public key (a DER-encoded SubjectPublicKeyInfo), signed by that node, as PEM.
    fn certificate_from(
        &self,
        node: &NodeName,
        public_key: &[u8],
        authority: Fingerprint,
    ) -> impl Future<Output = Result<String, String>> + Send;

    /// Private key of this CA from that node, as PEM.
    fn key_from(
        &self,
        node: &NodeName,
        authority: Fingerprint,
    ) -> impl Future<Output = Result<String, String>> + Send;
}

/// A cluster by its role manager, with connections to its nodes.
pub struct MemberCluster {
    /// Source of the other members and of the agreed state.
    pub roles: Roles,
    /// Certificate that this member shows to others.
    pub tls: Arc<NodeIdentity>,
}

impl MemberCluster {
    fn client(&self, node: &NodeName) -> Result<CertificatesClient<Channel>, String> {
        let members = self.roles.members().borrow().clone();
        let member = members.iter().find(|member| member.name == *node);
        let address = &member.ok_or_else(|| "no member any more".to_owned())?.address;
        let endpoint = self.tls.endpoint(node, address).map_err(|error| error.to_string())?;
        Ok(CertificatesClient::new(endpoint.connect_lazy()))
    }
}

impl CertificateCluster for MemberCluster {
    fn certificates(&self) -> Certificates {
        self.roles.agreed().certificates.clone()
    }

    async fn certificates_beyond(&self, seen: &Certificates) {
        self.roles.certificates_beyond(seen).await;
    }

    async fn order(&self, order: CertificateOrder) -> Result<(), String> {
        let given = self.roles.order(OrderId(rand::random()), Order::Certificates(order)).await;
        given.map_err(|error| error.to_string())
    }

    fn other_nodes(&self) -> Vec<NodeName> {
        let members = self.roles.members().borrow().clone();
        let others =
            members.iter().filter(|member| member.kind == MemberKind::Node && member.name != self.tls.name);
        others.map(|member| member.name.clone()).collect()
    }

    async fn certificate_from(
        &self,
        node: &NodeName,
        public_key: &[u8],
        authority: Fingerprint,
    ) -> Result<String, String> {
        let request = RenewRequest { public_key: public_key.to_vec().into(), authority: authority.to_vec().into() };
        let renewed = answer(self.client(node)?.renew(request)).await?;
        Ok(renewed.certificate)
    }

    async fn key_from(&self, node: &NodeName, authority: Fingerprint) -> Result<String, String> {
        let request = AuthorityRequest { authority: authority.to_vec().into() };
        Ok(answer(self.client(node)?.authority(request)).await?.key)
    }
}

async fn answer<T>(asked: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
    match timeout(ANSWER_WITHIN, asked).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| status.message().to_owned()),
        Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
    }
}
