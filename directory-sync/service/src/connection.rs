//! A connection to one server, through the relay.

use std::{
    os::unix::net::UnixStream as StdUnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, StdStream};
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};
use twinbox_directory_core::{LdapUrl, ServerSettings};

use crate::{
    Bounds, LdapError, Notes, ServerDescription, description,
    error::refusal,
    link,
    message::{OperationResult, shown},
    relay::{Shared, relay},
};

/// Request of a receiver of entries to end the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

/// A signed-in connection to one server. After an error, or after an operation that was cancelled, every further one
/// fails: connect again.
pub struct DirectoryConnection {
    pub(crate) server: String,
    pub(crate) settings: Arc<ServerSettings>,
    pub(crate) bounds: Bounds,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ldap: Ldap,
    notes: Mutex<Notes>,
    /// An operation is under way, or was cut off.
    busy: AtomicBool,
    _tasks: [Task; 2],
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reason why a server does not serve.
pub(crate) enum Failure {
    /// Another server may.
    Next(String),
    /// None will.
    Final(LdapError),
}

impl From<LdapError> for Failure {
    fn from(error: LdapError) -> Self {
        match error {
            LdapError::Timeout { .. } | LdapError::Ended { .. } | LdapError::Protocol { .. } => {
                Self::Next(error.to_string())
            }
            error => Self::Final(error),
        }
    }
}

impl DirectoryConnection {
    /// Connects to a server, without signing in.
    pub(crate) async fn open(
        url: &LdapUrl,
        settings: &Arc<ServerSettings>,
        bounds: Bounds,
    ) -> Result<Self, Failure> {
        let connector = link::connector(url, settings).await?;
        let server = link::open(url, settings, connector, &bounds).await.map_err(Failure::Next)?;
        let local = |error: &dyn std::fmt::Display| Failure::Final(LdapError::Local(error.to_string()));
        let (ours, theirs) = StdUnixStream::pair().map_err(|error| local(&error))?;
        ours.set_nonblocking(true).map_err(|error| local(&error))?;
        let ours = UnixStream::from_std(ours).map_err(|error| local(&error))?;
        let connection = LdapConnSettings::new().set_std_stream(StdStream::Unix(theirs));
        let (driver, ldap) =
            LdapConnAsync::with_settings(connection, "ldapi:///").await.map_err(|error| local(&error))?;
        let shared = Arc::new(Shared::default());
        let relayed = {
            let shared = shared.clone();
            tokio::spawn(async move { relay(server, ours, &shared, bounds).await })
        };
        // Its result says no more than that the socket pair has closed: the relay has the reason.
        let driven = tokio::spawn(async move { drop(driver.drive().await) });
        Ok(Self {
            server: url.to_string(),
            settings: settings.clone(),
            bounds,
            shared,
            ldap,
            notes: Mutex::default(),
            busy: AtomicBool::new(false),
            _tasks: [Task(relayed), Task(driven)],
        })
    }

    /// Connects to a server and signs in within the directory's time limit.
    pub(crate) async fn signed_in(
        url: &LdapUrl,
        settings: &Arc<ServerSettings>,
        bounds: Bounds,
        password: Option<&str>,
    ) -> Result<Self, Failure> {
        let limit = settings.timeout;
        let connect = async {
            let connection = Self::open(url, settings, bounds).await?;
            let Some(password) = password else { return Ok(connection) };
            let outcome = connection.bind(&settings.bind_dn, password).await?;
            let reason = refusal(outcome.code, &outcome.text);
            match outcome.code {
                0 => Ok(connection),
                51 | 52 => Err(Failure::Next(reason)),
                // Another server would count a wrong password once more.
                _ => Err(Failure::Final(LdapError::SignIn {
                    server: connection.server.clone(),
                    name: settings.bind_dn.clone(),
                    reason,
                })),
            }
        };
        timeout(limit, connect).await.unwrap_or_else(|_| Err(Failure::Next(format!("no answer within {limit:?}"))))
    }

    /// Signs in.
    pub(crate) async fn bind(&self, name: &str, password: &str) -> Result<OperationResult, LdapError> {
        let mut ldap = self.ldap.clone();
        let answer = timeout(self.settings.timeout, ldap.simple_bind(name, password)).await;
        let result = answer.map_err(|_| self.timed_out())?.map_err(|_| self.ended())?;
        Ok(OperationResult { code: result.rc, text: shown(&result.text) })
    }

    /// Address of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Bounds on its answers.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Results that were left out so far.
    pub fn notes(&self) -> Notes {
        self.noted().clone()
    }

    pub(crate) fn noted(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server's description of itself (root DSE, RFC 4512 section 5.1).
    pub async fn describe(&self) -> Result<ServerDescription, LdapError> {
        self.operation(description::describe(self)).await
    }

    /// Ends the connection in order. A failure changes nothing: the server notices the end in any case.
    pub async fn close(mut self) {
        let _ = timeout(self.settings.timeout, self.ldap.unbind()).await;
    }

    /// Runs one operation within the time for all of it.
    pub(crate) async fn operation<T>(
        &self,
        work: impl Future<Output = Result<T, LdapError>>,
    ) -> Result<T, LdapError> {
        self.begin()?;
        let limit = self.bounds.operation;
        let slow = |_| LdapError::TooSlow { server: self.server.clone(), limit };
        let done = timeout(limit, work).await.map_err(slow)??;
        self.busy.store(false, Ordering::Release);
        Ok(done)
    }

    /// Marks the connection as in use until the operation has succeeded.
    pub(crate) fn begin(&self) -> Result<(), LdapError> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(LdapError::Interrupted(self.server.clone()));
        }
        Ok(())
    }

    pub(crate) fn timed_out(&self) -> LdapError {
        LdapError::Timeout { server: self.server.clone(), limit: self.settings.timeout }
    }

    pub(crate) fn ended(&self) -> LdapError {
        LdapError::Ended { server: self.server.clone(), reason: self.shared.ending() }
    }

    pub(crate) fn protocol(&self, reason: impl ToString) -> LdapError {
        LdapError::Protocol { server: self.server.clone(), reason: reason.to_string() }
    }

    pub(crate) fn refused(&self, operation: String, outcome: &OperationResult) -> LdapError {
        LdapError::Refused {
            server: self.server.clone(),
            operation,
            code: outcome.code,
            reason: refusal(outcome.code, &outcome.text),
        }
    }
}
