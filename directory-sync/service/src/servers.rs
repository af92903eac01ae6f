//! The servers of a directory.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use tokio::time::timeout;
use twinbox_directory_core::{LdapUrl, SearchSettings, ServerSettings};

use crate::{
    BindVerdict, Bounds, Cursor, DirectoryConnection, LdapError, connection::Failure, error::refusal, password,
};

/// The servers of a directory, tried in order. Each has the directory's time limit to connect and to sign in.
#[derive(Clone)]
pub struct DirectoryServers {
    settings: Arc<ServerSettings>,
    bounds: Bounds,
}

/// Result of one server in the check of a password.
enum Answer {
    Verdict(BindVerdict),
    /// It answered, but not about the password.
    Refused(LdapError),
    /// It did not answer; with the reason.
    None(String),
}

impl DirectoryServers {
    /// The servers of these settings.
    pub fn new(settings: ServerSettings) -> Self {
        Self { settings: Arc::new(settings), bounds: Bounds::default() }
    }

    /// With other bounds.
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Connects to the first server that accepts, and signs in with the directory's own name and password.
    pub fn connect(&self) -> BoxFuture<'_, Result<DirectoryConnection, LdapError>> {
        self.first(None).boxed()
    }

    /// Connects as [`Self::connect`] does, to a server whose data are not known to be older than those at the cursor of a search.
    /// Entries that such a server lacks may exist.
    pub fn connect_current<'a>(
        &'a self,
        search: &'a SearchSettings,
        cursor: &'a Cursor,
    ) -> BoxFuture<'a, Result<DirectoryConnection, LdapError>> {
        self.first(Some((search, cursor))).boxed()
    }

    async fn first(&self, since: Option<(&SearchSettings, &Cursor)>) -> Result<DirectoryConnection, LdapError> {
        let password = password::own(&self.settings).await?;
        let (mut reasons, mut behind) = (Vec::new(), None);
        for url in &self.settings.urls {
            match self.current(url, password.as_deref(), since).await {
                Ok(Some(connection)) => return Ok(connection),
                Ok(None) => behind = behind.or(Some(url)),
                Err(Failure::Next(reason)) => reasons.push(format!("{url}: {reason}")),
                Err(Failure::Final(error)) => return Err(error),
            }
        }
        Err(behind.map_or_else(|| unreachable(&reasons), |url| LdapError::Behind { server: url.to_string() }))
    }

    /// A connection to this server; `None` if its data are older than those at the cursor.
    async fn current(
        &self,
        url: &LdapUrl,
        password: Option<&str>,
        since: Option<(&SearchSettings, &Cursor)>,
    ) -> Result<Option<DirectoryConnection>, Failure> {
        let mut connection = DirectoryConnection::signed_in(url, &self.settings, self.bounds, password).await?;
        let is_behind = match since {
            Some((search, cursor)) => connection.is_behind(search, cursor).await?,
            None => false,
        };
        Ok(Some(connection).filter(|_| !is_behind))
    }

    /// Checks a password by a simple bind on a connection of its own. An empty name or password is wrong before any
    /// connection: servers accept both without a proof (RFC 4513 section 5.1). The error `Unreachable` means that no
    /// server gave an answer; any other error means that the password is neither right nor wrong.
    pub async fn check_password(&self, dn: &str, password: &str) -> Result<BindVerdict, LdapError> {
        if dn.is_empty() || password.is_empty() {
            return Ok(BindVerdict::Wrong);
        }
        let (mut reasons, mut refused) = (Vec::new(), None);
        for url in &self.settings.urls {
            let limit = self.settings.timeout;
            let answer = timeout(limit, self.ask(url, dn, password)).await;
            match answer.unwrap_or_else(|_| Answer::None(format!("no answer within {limit:?}"))) {
                Answer::Verdict(verdict) => return Ok(verdict),
                Answer::Refused(error) => refused = refused.or(Some(error)),
                Answer::None(reason) => reasons.push(format!("{url}: {reason}")),
            }
        }
        Err(refused.unwrap_or_else(|| unreachable(&reasons)))
    }

    async fn ask(&self, url: &LdapUrl, dn: &str, password: &str) -> Answer {
        let connection = match DirectoryConnection::open(url, &self.settings, self.bounds).await {
            Ok(connection) => connection,
            Err(Failure::Next(reason)) => return Answer::None(reason),
            Err(Failure::Final(error)) => return Answer::Refused(error),
        };
        let outcome = match connection.bind(dn, password).await {
            Ok(outcome) => outcome,
            Err(error) => return Answer::None(error.to_string()),
        };
        match (BindVerdict::of(&outcome), outcome.code) {
            (Some(verdict), _) => Answer::Verdict(verdict),
            (None, 51 | 52) => Answer::None(refusal(outcome.code, &outcome.text)),
            (None, _) => Answer::Refused(connection.refused("to check a password".to_owned(), &outcome)),
        }
    }
}

fn unreachable(reasons: &[String]) -> LdapError {
    if reasons.is_empty() { LdapError::NoServer } else { LdapError::Unreachable(reasons.join("; ")) }
}
