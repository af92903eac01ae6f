//! Tokens of one mail server, remembered, with one request at a time for each user.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};
use twinbox_clock::BootInstant;

use crate::{
    cache::{CachedToken, SourcePause, TokenStep},
    error::TokenError,
    grant::{Grant, GrantClient},
    http::TokenEndpoint,
    secret::AccessToken,
};

/// Maximum number of concurrent requests of a source.
const CONCURRENT: usize = 4;
/// Number of users from which those are forgotten that have neither a valid token nor a pause.
const MANY_USERS: usize = 1_000;

/// Source of the access tokens of one mail server. Clones share tokens and pauses. After a change of settings, make a
/// new one: it asks without a pause.
#[derive(Clone)]
pub struct TokenSource {
    inner: Arc<TokenCache>,
}

struct TokenCache {
    client: GrantClient,
    users: Mutex<HashMap<String, Arc<AsyncMutex<CachedToken>>>>,
    pause: Mutex<SourcePause>,
    turns: Semaphore,
}

impl TokenSource {
    /// Source of this grant. Files with secrets are read later, at each request.
    ///
    /// # Errors
    /// The URL or the file of CA certificates cannot be used.
    pub fn new(grant: Grant, endpoint: &TokenEndpoint) -> Result<Self, TokenError> {
        let client = GrantClient::new(grant, endpoint)?;
        let turns = Semaphore::new(CONCURRENT);
        Ok(Self { inner: Arc::new(TokenCache { client, users: Mutex::default(), pause: Mutex::default(), turns }) })
    }

    /// A token that is valid now for `user`, the name at the mail server. A request that has begun ends even if the
    /// caller does not wait for it: the refresh token that its answer may have is not lost.
    ///
    /// # Errors
    /// There is no token. The same error is returned without a request until a pause has passed.
    pub async fn token(&self, user: &str) -> Result<AccessToken, TokenError> {
        let cached = self.inner.cached(user).lock_owned().await;
        match cached.step(BootInstant::now()) {
            TokenStep::Use(token) => return Ok(token),
            TokenStep::Wait(error) => return Err(error),
            TokenStep::Ask => {}
        }
        let (inner, user) = (Arc::clone(&self.inner), user.to_owned());
        let request = tokio::spawn(async move { inner.ask(&user, cached).await });
        match request.await {
            Ok(answer) => answer,
            Err(error) => {
                let host = self.inner.client.host().to_owned();
                Err(TokenError::Unreachable { host, reason: error.to_string() })
            }
        }
    }

    /// Forgets a token that the mail server refused: the next caller gets another one. One of the last 10 s stays, so
    /// that accounts without a permission do not cause a request each.
    pub async fn discard(&self, user: &str, token: &AccessToken) {
        self.inner.cached(user).lock().await.discard(BootInstant::now(), token);
    }

    /// The endpoint has given a new refresh token in place of the one in the file. It is kept in memory only: if the
    /// provider refuses the old one after a restart, the file needs a new token.
    pub fn has_rotated(&self) -> bool {
        self.inner.client.has_rotated()
    }
}

impl TokenCache {
    /// The memory of a user; one for all if the grant has one token for all.
    fn cached(&self, user: &str) -> Arc<AsyncMutex<CachedToken>> {
        let user = if self.client.is_per_user() { user } else { "" };
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = users.get(user) {
            return Arc::clone(cached);
        }
        if users.len() >= MANY_USERS && users.len().is_power_of_two() {
            let now = BootInstant::now();
            // One that is locked or was handed out is in use.
            users.retain(|_, cached| {
                Arc::strong_count(cached) > 1 || cached.try_lock().map_or(true, |cached| !cached.is_over(now))
            });
        }
        Arc::clone(users.entry(user.to_owned()).or_default())
    }

    async fn ask(&self, user: &str, mut cached: OwnedMutexGuard<CachedToken>) -> Result<AccessToken, TokenError> {
        let _turn = self.turns.acquire().await;
        let asked = BootInstant::now();
        let paused = self.pause().reason(asked);
        if let Some(error) = paused {
            return cached.valid(asked).ok_or(error);
        }
        let answer = self.client.request(user).await;
        let now = BootInstant::now();
        match answer {
            Ok(granted) => {
                self.pause().granted();
                let token = granted.token.clone();
                cached.granted(asked, granted);
                Ok(token)
            }
            Err(error) => {
                self.pause().failed(asked, now, &error);
                cached.failed(now, error.clone());
                cached.valid(now).ok_or(error)
            }
        }
    }

    fn pause(&self) -> MutexGuard<'_, SourcePause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSource({})", self.inner.client.host())
    }
}
