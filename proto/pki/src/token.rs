//! A join token: the data that a joining member needs of a cluster, and the secret that admits it once.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use twinbox_ids::{ClusterId, NodeName, Timestamp};

use crate::{
    MemberKind, PkiError,
    bundle::{self, Listed},
};

/// The prefix of every token, so that people and programs recognize one.
const PREFIX: &str = "twinbox1-";
/// Number of check bytes at the end, which detect a mistyped or cut token.
const CHECK: usize = 4;

/// Admits one joining member, once. Until then any holder of the token can join: it is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the authority's certificate.
    pub fingerprint: [u8; 32],
    /// A witness; else a node.
    pub witness: bool,
    /// Expiry, by the clock of the member that made it. The leader's clock decides.
    pub expires: Timestamp,
    /// Members that accept joining members, with their addresses (`host:port`).
    pub members: Vec<(NodeName, String)>,
    secret: [u8; 32],
}

/// A text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The prefix is missing.
    #[error("not a join token: a token begins with '{PREFIX}'; create one with 'twinbox cluster token' on a node")]
    NotOne,
    /// A part is missing or mistyped.
    #[error(
        "the join token is damaged: copy all of it, without line breaks, or create another with 'twinbox cluster token'"
    )]
    Damaged,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(for {})", self.cluster)
    }
}

impl JoinToken {
    /// A new token of the cluster whose authority has the certificate `ca_pem`.
    pub fn new(
        cluster: ClusterId,
        ca_pem: &str,
        kind: MemberKind,
        expires: Timestamp,
        members: Vec<(NodeName, String)>,
    ) -> Result<Self, PkiError> {
        let failed = |detail: String| PkiError::Make { what: "join token", detail };
        let fingerprint = Listed::one(ca_pem).map_err(failed)?.fingerprint;
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| failed("no random numbers".to_owned()))?;
        let witness = kind == MemberKind::Witness;
        Ok(Self { cluster, fingerprint, witness, expires, members, secret })
    }

    /// Node or witness.
    pub fn kind(&self) -> MemberKind {
        if self.witness { MemberKind::Witness } else { MemberKind::Node }
    }

    /// The hash that the cluster stores: it does not permit joining.
    pub fn hash(&self) -> [u8; 32] {
        Self::hash_of(&self.secret)
    }

    /// The hash of a secret.
    pub fn hash_of(secret: &[u8; 32]) -> [u8; 32] {
        blake3::derive_key("twinbox join token v1", secret)
    }

    /// The secret, shown only to a member whose certificate was verified.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Whether the authority of the token is among these (PEM).
    pub fn is_of_authority(&self, authorities_pem: &str) -> bool {
        let listed = bundle::read(authorities_pem).unwrap_or_default();
        listed.iter().any(|authority| authority.fingerprint == self.fingerprint)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = postcard::to_stdvec(self).map_err(|_| fmt::Error)?;
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK]);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::NotOne)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?;
        let (body, check) = bytes.split_last_chunk::<CHECK>().ok_or(TokenError::Damaged)?;
        if blake3::hash(body).as_bytes()[..CHECK] != check[..] {
            return Err(TokenError::Damaged);
        }
        postcard::from_bytes(body).map_err(|_| TokenError::Damaged)
    }
}
