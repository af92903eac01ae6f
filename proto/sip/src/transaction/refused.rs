//! Requests refused without a transaction, stored while copies of them may arrive. A copy accepted after the client has
//! received the refusal would be a call or subscription without a client.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{Flow, Millis, ServerId, T1};
use crate::{Method, Request, Response};

/// Refusals of the last 64 T1 (32 s), a few octets each. Above `capacity` the oldest are dropped.
pub(super) struct Refusals {
    salt: u64,
    capacity: usize,
    by_key: HashMap<u64, Refusal>,
    /// Expiry times in ascending order, with their keys.
    ends: VecDeque<(Millis, u64)>,
}

#[derive(Clone, Copy)]
pub(super) struct Refusal {
    code: u16,
    retry_after: Option<u32>,
}

impl Refusals {
    pub(super) fn new(salt: u64, capacity: usize) -> Self {
        Self { salt, capacity, by_key: HashMap::new(), ends: VecDeque::new() }
    }

    /// The answer to a copy of a refused request.
    pub(super) fn repeated(&mut self, id: &ServerId, request: &Request, now: Millis) -> Option<Response> {
        self.expire(now);
        let Refusal { code, retry_after } = *self.by_key.get(&self.key(id))?;
        let response = request.respond(code);
        Some(match retry_after {
            Some(seconds) => response.with("Retry-After", seconds.to_string()),
            None => response,
        })
    }

    /// Stores a refusal of an INVITE or SUBSCRIBE over UDP; copies of other requests do no harm.
    pub(super) fn remember(
        &mut self,
        id: &ServerId,
        request: &Request,
        response: &Response,
        flow: &impl Flow,
        now: Millis,
    ) {
        let begins = matches!(request.method, Method::Invite | Method::Subscribe);
        // A refusal that depends on the request alone is repeated, with the headers that list the supported features.
        let repeats = matches!(response.code, 415 | 420);
        if !begins || repeats || response.is_success() || flow.reliable() {
            return;
        }
        self.expire(now);
        let key = self.key(id);
        let retry_after = response.headers.get("Retry-After").and_then(|seconds| seconds.trim().parse().ok());
        if self.by_key.insert(key, Refusal { code: response.code, retry_after }).is_none() {
            self.ends.push_back((now + 64 * T1, key));
        }
        if self.ends.len() > self.capacity
            && let Some((_, oldest)) = self.ends.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }

    fn expire(&mut self, now: Millis) {
        while let Some((_, key)) = self.ends.front().copied().filter(|(end, _)| *end <= now) {
            self.ends.pop_front();
            self.by_key.remove(&key);
        }
    }

    fn key(&self, id: &ServerId) -> u64 {
        let mut hash = DefaultHasher::new();
        (self.salt, id).hash(&mut hash);
        hash.finish()
    }
}
