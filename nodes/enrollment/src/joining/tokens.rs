//! `cluster token`: requests of administrators to a node.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};
use tracing::info;
use twinbox_ids::{NodeName, ParseIdError};
use twinbox_pki::JoinToken;
use twinbox_roles::{MemberKind, Order, OrderId, Refusal};
use twinbox_wire::join::{
    Token, TokenRequest,
    tokens_server::{Tokens as TokensRpc, TokensServer},
};

use super::Host;
use crate::certificate_kind;

/// Makes join tokens.
pub struct Tokens(Arc<Host>);

impl Tokens {
    /// Creates the service for this node's cluster.
    pub fn new(host: Arc<Host>) -> Self {
        Self(host)
    }

    /// Converts it into a service of the administrators' socket.
    pub fn server(self) -> TokensServer<Self> {
        TokensServer::new(self)
    }
}

#[tonic::async_trait]
impl TokensRpc for Tokens {
    async fn make(&self, request: Request<TokenRequest>) -> Result<Response<Token>, Status> {
        let TokenRequest { witness, valid_ms, replaces } = request.into_inner();
        let kind = if witness { MemberKind::Witness } else { MemberKind::Node };
        let replaces: Option<NodeName> = match replaces.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|e: ParseIdError| Status::invalid_argument(e.to_string()))?),
        };
        let Host { cluster, roles, signer } = &*self.0;
        let failed = |error: twinbox_pki::PkiError| Status::failed_precondition(error.to_string());
        // A token is useless if this node cannot sign.
        signer.authority().map_err(failed)?;
        let members = roles.members().borrow().clone();
        // A second witness would be refused at the join; report that when the token is made.
        if let Some(there) = members.iter().find(|m| m.kind == MemberKind::Witness)
            && witness
            && replaces.is_none()
        {
            let refusal = Refusal::SecondWitness { by: there.name.clone() };
            return Err(Status::failed_precondition(refusal.to_string()));
        }
        let (own, others): (Vec<_>, Vec<_>) =
            members.iter().filter(|m| m.kind == MemberKind::Node).partition(|m| m.name == *signer.node());
        let nodes = own.into_iter().chain(others).map(|m| (m.name.clone(), m.address.clone())).collect();
        let expires = signer.time() + Duration::from_millis(valid_ms);
        let kind_of_certificate = certificate_kind(kind);
        let token = JoinToken::new(cluster.id, &signer.authority_pem(), kind_of_certificate, expires, nodes);
        let token = token.map_err(failed)?;
        let order = Order::Invite { token: token.hash(), kind, valid_ms, replaces, facts: Default::default() };
        let made = roles.order(OrderId(rand::random()), order).await;
        made.map_err(|error| Status::failed_precondition(error.to_string()))?;
        info!(%kind, valid_ms, "administrator creates a join token");
        Ok(Response::new(Token { token: token.to_string(), expires_ms: expires.0, witness }))
    }
}
