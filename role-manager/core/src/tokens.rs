//! Join tokens: made by an order, consumed by another, each of them a commit; so one token lets in one newcomer,
//! whoever asks whom at the same time.
//!
//! Of a token the cluster knows a hash of its secret alone. Time is the leader's, handed in with each order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{MemberKind, Outcome, Refusal, State, orders::Facts, settings::is_address};

/// The longest life of a token.
const LONGEST_LIFE_DAYS: u64 = 7;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// A token is remembered for so long after its end, so that whoever comes with it is told what is wrong with it.
const REMEMBERED_MS: u64 = 7 * DAY_MS;
/// For so long newcomers with a token that has ended are answered at all.
const EXPLAINED_MS: u64 = DAY_MS;
/// How many tokens are remembered.
const MOST_TOKENS: usize = 100;

/// What the cluster knows of a token's secret.
pub type TokenHash = [u8; 32];

/// A join token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What the newcomer may be.
    pub kind: MemberKind,
    /// Its end, in milliseconds since 1970 by the clock of the leader of then.
    pub expires_ms: u64,
    /// Who joined with it.
    pub used: Option<Used>,
    /// The member whose place the newcomer takes.
    #[serde(default)]
    pub replaces: Option<NodeName>,
}

/// The one use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Who.
    pub by: NodeName,
    /// Digest of its public key.
    pub key: [u8; 32],
}

/// Somebody who was let in and has not come yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// Node or witness.
    pub kind: MemberKind,
    /// `host:port` of its node-to-node listener.
    pub address: String,
    /// The member whose place it takes.
    #[serde(default)]
    pub replaces: Option<NodeName>,
}

impl State {
    /// Everyone who may be a member by what has been agreed: members, and who was let in and has not come yet.
    pub fn known(&self) -> impl Iterator<Item = (&NodeName, MemberKind, &str)> {
        let members = self.members.iter().map(|(name, m)| (name, m.kind, m.address.as_str()));
        members.chain(self.invited.iter().map(|(name, i)| (name, i.kind, i.address.as_str())))
    }

    /// Whether somebody with a token may come, at this moment of the wall clock: one is out, or has ended so recently
    /// that whoever comes with it is told why it will not do. Lets nobody in by itself.
    pub fn expects_newcomers(&self, now_ms: u64) -> bool {
        self.tokens.values().any(|token| token.expires_ms.saturating_add(EXPLAINED_MS) > now_ms)
    }

    pub(crate) fn invite(
        &mut self,
        token: TokenHash,
        kind: MemberKind,
        valid_ms: u64,
        replaces: Option<NodeName>,
        facts: Facts,
    ) -> Result<Outcome, Refusal> {
        let at_ms = facts.at_ms;
        if !(1_000..=LONGEST_LIFE_DAYS * DAY_MS).contains(&valid_ms) {
            return Err(Refusal::TokenLife { days: LONGEST_LIFE_DAYS });
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
            // Those that cannot be used any more go before their time.
            let over = |known: &Token| known.used.is_some() || known.expires_ms <= at_ms;
            let oldest = self.tokens.iter().filter(|(_, t)| over(t)).min_by_key(|(_, t)| t.expires_ms);
            match oldest.map(|(hash, _)| *hash) {
                Some(hash) => drop(self.tokens.remove(&hash)),
                None => return Err(Refusal::TooManyTokens { count: MOST_TOKENS as u64 }),
            }
        }
        let expires_ms = at_ms.saturating_add(valid_ms);
        self.tokens.insert(token, Token { kind, expires_ms, used: None, replaces });
        Ok(Outcome::Done)
    }

    pub(crate) fn redeem(
        &mut self,
        token: TokenHash,
        name: &NodeName,
        kind: MemberKind,
        address: &str,
        key: [u8; 32],
        at_ms: u64,
    ) -> Result<Outcome, Refusal> {
        let known = self.tokens.get(&token).ok_or(Refusal::ForeignToken)?;
        if let Some(used) = &known.used {
            // Its answer was lost on the way: the same newcomer may have it again.
            let same = used.by == *name && used.key == key;
            return match same {
                true => Ok(Outcome::Unchanged),
                false => Err(Refusal::UsedToken { by: used.by.clone() }),
            };
        }
        if let Some(refusal) = self.why_not(known, name, kind, address, at_ms) {
            return Err(refusal);
        }
        let replaces = known.replaces.clone();
        if let Some(known) = self.tokens.get_mut(&token) {
            known.used = Some(Used { by: name.clone(), key });
        }
        self.invited.insert(name.clone(), Invited { kind, address: address.to_owned(), replaces });
        Ok(Outcome::Done)
    }

    fn why_not(
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
        // Who is replaced leaves its name and address to the newcomer.
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

/// JSON's keys are texts: the map travels as a list.
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
