//! The node's side of a join: a joining member with a token's secret gets a certificate after the cluster has
//! agreed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_config::ClusterConfig;
use twinbox_ids::{ClusterId, NodeName, check_member_address};
use twinbox_pki::{JoinRoute, JoinToken, Validity};
use twinbox_roles::{
    CommandError, FeatureLevels, MemberAddress, MemberKind, Order, OrderId, Refusal, Roles, Timing,
};
use twinbox_wire::join::{Answer, Ask, Member, Refused, Welcome, answer::Result as JoinResult};

use super::{receive, send};
use crate::{certificate_kind, certificates::Signer};

/// Maximum number of joining members that wait, and that are served concurrently.
const AT_ONCE: usize = 8;
/// Timeout of one join.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time in which a token that was given on another member is known here, and the interval of looks for it.
const TOKEN_ARRIVES: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A node that admits joining members.
pub struct Host {
    /// The cluster.
    pub cluster: ClusterConfig,
    /// Role manager, which agrees on the new member.
    pub roles: Roles,
    /// Signer of the new member's certificate.
    pub signer: Arc<Signer>,
}

impl Host {
    /// Route for joining members, and the task that serves them until stopped.
    pub fn open(self: Arc<Self>, stop: CancellationToken) -> (JoinRoute, impl Future<Output = ()> + Send) {
        let (connections, mut coming) = mpsc::channel(AT_ONCE);
        let roles = self.roles.clone();
        let route = JoinRoute { open: Box::new(move || roles.expects_joining_members()), connections };
        let serving = async move {
            let mut served = JoinSet::new();
            loop {
                tokio::select! {
                    Some((stream, address)) = coming.recv(), if served.len() < AT_ONCE => {
                        let host = self.clone();
                        served.spawn(async move { host.serve(stream, address).await });
                    }
                    Some(_) = served.join_next() => {}
                    () = stop.cancelled() => return,
                }
            }
        };
        (route, serving)
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, address: SocketAddr) {
        let exchange = async {
            let ask: Ask = receive(&mut stream).await?;
            let result = match self.admit(&ask).await {
                Ok(welcome) => {
                    info!(name = %ask.name, %address, "member has joined by token");
                    JoinResult::Welcome(welcome)
                }
                Err(refused) => {
                    warn!(%address, reason = %refused.reason, "refused a joining member");
                    JoinResult::Refused(refused)
                }
            };
            send(&mut stream, &Answer { result: Some(result) }).await?;
            stream.shutdown().await
        };
        match timeout(PATIENCE, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%address, %error, "connection of a joining member ended early"),
            Err(_) => warn!(%address, "joining member timed out"),
        }
    }

    /// Whether the cluster has given this token. One that was given just now may not have reached this member yet.
    async fn knows(&self, token: &[u8; 32]) -> bool {
        let known = async {
            while !self.roles.agreed().tokens.contains_key(token) {
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout(TOKEN_ARRIVES, known).await.is_ok()
    }

    async fn admit(&self, ask: &Ask) -> Result<Welcome, Refused> {
        let refused = |reason: String| Refused { reason, ask_another: false };
        if ClusterId::from_slice(&ask.cluster) != Some(self.cluster.id) {
            return Err(refused(Refusal::ForeignToken.to_string()));
        }
        let name: NodeName = ask.name.parse().map_err(|e: twinbox_ids::ParseIdError| refused(e.to_string()))?;
        let kind = if ask.witness { MemberKind::Witness } else { MemberKind::Node };
        let secret = <&[u8; 32]>::try_from(&*ask.secret).map_err(|_| refused(Refusal::ForeignToken.to_string()))?;
        let token = JoinToken::hash_of(secret);
        // Anyone may ask while tokens are out: a secret that no member gave costs the cluster no agreement.
        if !self.knows(&token).await {
            return Err(refused(Refusal::ForeignToken.to_string()));
        }
        check_member_address(&ask.address).map_err(|error| refused(error.to_string()))?;
        if let Some(taken) = self.configured(&name, &ask.address) {
            return Err(refused(taken.to_string()));
        }
        let sign = || {
            let signed = self.signer.authority().and_then(|authority| {
                let kind = certificate_kind(kind);
                let validity = Validity::of_member(self.signer.time());
                let certificate = authority.certify(&ask.public_key, &name, kind, validity)?;
                Ok((certificate, authority.key_pem()))
            });
            signed.map_err(|error| Refused {
                reason: format!("{} cannot sign certificates: {error}", self.signer.node()),
                ask_another: true,
            })
        };
        // A token is not consumed if this node cannot sign.
        sign()?;
        let order = Order::Redeem {
            token,
            name: name.clone(),
            kind,
            address: ask.address.clone(),
            key: *blake3::hash(&ask.public_key).as_bytes(),
            feature_levels: speaks(ask),
            facts: Default::default(),
        };
        self.roles.order(OrderId(rand::random()), order).await.map_err(|error| Refused {
            ask_another: !matches!(error, CommandError::Refused(_)),
            reason: error.to_string(),
        })?;
        // The decisive signature follows the cluster's agreement. From then on a CA rotation waits for the joining
        // member, so that either CA may sign here.
        let (certificate, authority_key) = sign()?;
        let joining = MemberAddress { name: name.clone(), kind, address: ask.address.clone() };
        Ok(Welcome {
            cluster_name: self.cluster.name.clone(),
            authority: self.signer.authorities_pem(),
            certificate,
            authority_key: if kind == MemberKind::Node { authority_key } else { String::new() },
            members: self.everyone_with(joining),
            timing: if self.cluster.timing == Timing::wan() { "wan" } else { "lan" }.to_owned(),
            // For members of earlier releases, which write it into their file: a setting of the cluster counts.
            ack_timeout_ms: if self.cluster.is_wan() { 1_000 } else { 250 },
            require_two: false,
        })
    }

    /// The refusal for the name or address of a configured member that has not started yet: it is unknown to Raft. About
    /// all others the cluster decides: it leaves the name and address of a replaced or removed member to a joining one.
    fn configured(&self, name: &NodeName, address: &str) -> Option<Refusal> {
        let (agreed, removed) = (self.roles.agreed(), self.roles.removed_members());
        let has_joined =
            |name: &NodeName| removed.contains(name) || agreed.known().any(|(known, ..)| known == name);
        let mut members = self.cluster.members.iter().filter(|member| !has_joined(&member.name));
        if members.clone().any(|member| member.name == *name) {
            return Some(Refusal::NameTaken { name: name.clone() });
        }
        let by = members.find(|member| member.address == address)?;
        Some(Refusal::AddressTaken { by: by.name.clone(), address: address.to_owned() })
    }

    fn everyone_with(&self, joining: MemberAddress) -> Vec<Member> {
        let members = self.roles.members().borrow().clone();
        let mut everyone: Vec<_> = members.iter().filter(|member| member.name != joining.name).cloned().collect();
        everyone.push(joining);
        everyone
            .into_iter()
            .map(|member| Member {
                name: member.name.to_string(),
                witness: member.kind == MemberKind::Witness,
                address: member.address,
            })
            .collect()
    }
}

/// Feature levels that the joining member reports. A member that reports none is of the first release.
fn speaks(ask: &Ask) -> FeatureLevels {
    match (ask.speaks_min, ask.speaks_max) {
        (_, 0) => FeatureLevels { min: 1, max: 1 },
        (min, max) => FeatureLevels { min, max },
    }
}
