//! Join tokens: made by one order, consumed by another, each a commit. So one token admits one joining member, even
//! with concurrent requests to several members.
//!
//! The cluster stores only a hash of a token's secret. The time is the leader's, passed with each order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{CommandOutcome, MemberKind, Refusal, State, orders::Facts, settings::is_address};

/// The longest validity of a token.
const LONGEST_VALIDITY_DAYS: u64 = 7;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Time for which a token is remembered after its expiry, so that a late user gets the exact reason.
const REMEMBERED_MS: u64 = 7 * DAY_MS;
/// Time after a token's expiry for which joining members are still answered.
const EXPLAINED_MS: u64 = DAY_MS;
/// Maximum number of remembered tokens.
const MOST_TOKENS: usize = 100;

/// Hash of a token's secret.
pub type TokenHash = [u8; 32];

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The kind of member that it admits.
    pub kind: MemberKind,
    /// Its expiry, in milliseconds since 1970 by the clock of the leader at that time.
    pub expires_ms: u64,
    /// Its use, if a member has joined with it.
    pub used: Option<Used>,
    /// The member that the joining member replaces.
    #[serde(default)]
    pub replaces: Option<NodeName>,
}

/// The one use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Name of the member that joined.
    pub by: NodeName,
    /// Digest of its public key.
    pub key: [u8; 32],
}

/// A joining member that was admitted and has not come yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// Node or witness.
    pub kind: MemberKind,
    /// `host:port` of its node-to-node listener.
    pub address: String,
    /// The member that it replaces.
    #[serde(default)]
    pub replaces: Option<NodeName>,
}

impl State {
    /// All names that may be members by the agreed state: members, and admitted ones that have not come yet.
    pub fn known(&self) -> impl Iterator<Item = (&NodeName, MemberKind, &str)> {
        let members = self.members.iter().map(|(name, m)| (name, m.kind, m.address.as_str()));
        members.chain(self.invited.iter().map(|(name, i)| (name, i.kind, i.address.as_str())))
    }

    /// Whether joining members may come at this time of the wall clock: a token is valid, or expired so recently that
    /// its user gets the reason. Admits no member on its own.
    pub fn accepts_joining_members(&self, now_ms: u64) -> bool {
        self.tokens.values().any(|token| token.expires_ms.saturating_add(EXPLAINED_MS) > now_ms)
    }

    pub(crate) fn invite(
        &mut self,
        token: TokenHash,
        kind: MemberKind,
        valid_ms: u64,
        replaces: Option<NodeName>,
        facts: Facts,
    ) -> Result<CommandOutcome, Refusal> {
        let at_ms = facts.at_ms;
        if !(1_000..=LONGEST_VALIDITY_DAYS * DAY_MS).contains(&valid_ms) {
            return Err(Refusal::TokenValidity { days: LONGEST_VALIDITY_DAYS });
        }
        if let Some(name) = &replaces {
            let member = self.known_member(name)?;
            if member.kind != kind {
                return Err(Refusal::TokenKind { kind: member.kind, wanted: kind });
            }
            if facts.live {
                return Err(Refusal::StillThere { name: name.clone() });
            }
        }
        self.tokens.retain(|_, known| known.expires_ms.saturating_add(REMEMBERED_MS) > at_ms);
        if self.tokens.len() >= MOST_TOKENS {
            // Tokens that cannot be used any more are removed early.
            let unusable = |known: &Token| known.used.is_some() || known.expires_ms <= at_ms;
            let oldest = self.tokens.iter().filter(|(_, t)| unusable(t)).min_by_key(|(_, t)| t.expires_ms);
            match oldest.map(|(hash, _)| *hash) {
                Some(hash) => drop(self.tokens.remove(&hash)),
                None => return Err(Refusal::TooManyTokens { count: MOST_TOKENS as u64 }),
            }
        }
        let expires_ms = at_ms.saturating_add(valid_ms);
        self.tokens.insert(token, Token { kind, expires_ms, used: None, replaces });
        Ok(CommandOutcome::Done)
    }

    pub(crate) fn redeem(
        &mut self,
        token: TokenHash,
        name: &NodeName,
        kind: MemberKind,
        address: &str,
        key: [u8; 32],
        facts: Facts,
    ) -> Result<CommandOutcome, Refusal> {
        let known = self.tokens.get(&token).ok_or(Refusal::ForeignToken)?;
        if let Some(used) = &known.used {
            // The answer was lost on the way: the same joining member may get it again, until it has come. Afterwards it
            // would give a member that was removed a new certificate.
            let same = used.by == *name && used.key == key && self.invited.contains_key(name);
            return match same {
                true => Ok(CommandOutcome::Unchanged),
                false => Err(Refusal::UsedToken { by: used.by.clone() }),
            };
        }
        if let Some(refusal) = self.refusal(known, name, kind, address, facts.at_ms) {
            return Err(refusal);
        }
        let replaces = known.replaces.clone();
        // It may have come back since the token was made.
        if let Some(name) = replaces.clone().filter(|_| facts.live) {
            return Err(Refusal::StillThere { name });
        }
        // A token of a former member of this name is not one of the member that is admitted now.
        self.tokens.retain(|_, known| known.used.as_ref().is_none_or(|used| used.by != *name));
        if let Some(known) = self.tokens.get_mut(&token) {
            known.used = Some(Used { by: name.clone(), key });
        }
        self.invited.insert(name.clone(), Invited { kind, address: address.to_owned(), replaces });
        Ok(CommandOutcome::Done)
    }

    fn refusal(
        &self,
        token: &Token,
        name: &NodeName,
        kind: MemberKind,
        address: &str,
        at_ms: u64,
    ) -> Option<Refusal> {
        if at_ms >= token.expires_ms {
            return Some(Refusal::ExpiredToken { seconds: (at_ms - token.expires_ms) / 1_000 });
        }
        if kind != token.kind {
            return Some(Refusal::TokenKind { kind: token.kind, wanted: kind });
        }
        if !is_address(address) {
            return Some(Refusal::BadAddress { address: address.chars().take(255).collect() });
        }
        // A replaced member leaves its name and address to the joining member.
        let others = || self.known().filter(|(other, ..)| Some(*other) != token.replaces.as_ref());
        if others().any(|(other, ..)| other == name) {
            return Some(Refusal::NameTaken { name: name.clone() });
        }
        if let Some((by, ..)) = others().find(|(.., other)| *other == address) {
            return Some(Refusal::AddressTaken { by: by.clone(), address: address.to_owned() });
        }
        if kind == MemberKind::Witness {
            if let Some((by, ..)) = others().find(|(_, kind, _)| *kind == MemberKind::Witness) {
                return Some(Refusal::SecondWitness { by: by.clone() });
            }
            let nodes = others().count() as u64;
            if nodes % 2 == 1 {
                return Some(Refusal::OddNodes { nodes });
            }
        }
        None
    }
}

/// JSON keys must be strings, so the map is serialized as a list.
pub(crate) mod as_list {
    use serde::{Deserializer, Serializer};

    use super::*;

    pub(crate) fn serialize<S: Serializer>(map: &BTreeMap<TokenHash, Token>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.iter())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<TokenHash, Token>, D::Error> {
        Ok(Vec::<(TokenHash, Token)>::deserialize(from)?.into_iter().collect())
    }
}
