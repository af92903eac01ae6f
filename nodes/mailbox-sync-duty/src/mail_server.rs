//! A mail server in an epoch: its limits, its tokens, and the sign-in to its accounts.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;
use twinbox_ids::MailServerId;
use twinbox_imap::{Client, Login, Secret, Security, ServerConfig, SocketOwner};
use twinbox_mailbox_sync::{Account, Auth, OAuthGrant, OAuthSettings, ServerSettings, Tls};
use twinbox_mailstore::blocking;
use twinbox_oauth::{Grant, TokenEndpoint, TokenSource};

use crate::{
    duty_lease::DutyLease, error::SyncError, folder::ImapFolder, refusals::Refusals, schedule::ServerRules,
};

/// Maximum number of mails to be appended to a server that are in memory concurrently.
const APPENDS_AT_A_TIME: usize = 8;

/// A mail server.
pub(crate) struct MailServer {
    pub id: MailServerId,
    pub name: String,
    pub settings: ServerSettings,
    pub appends: Semaphore,
    tokens: Arc<Tokens>,
    /// Sign-ins with the shared secret.
    refusals: Arc<Refusals>,
}

/// Sources of access tokens, by the file of the refresh token.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Option<PathBuf>, TokenSource>>);

impl MailServer {
    pub(crate) fn new(id: MailServerId, name: String, settings: ServerSettings) -> Self {
        let appends = Semaphore::new(APPENDS_AT_A_TIME);
        Self { id, name, settings, appends, tokens: Arc::default(), refusals: Arc::default() }
    }

    /// The same server with a new name or new settings. Tokens are kept unless the settings of their requests changed (a
    /// provider that has replaced the refresh token refuses the one in the file), refusals unless `auth` changed.
    pub(crate) fn changed(&self, name: String, settings: ServerSettings) -> Self {
        let (old, new) = (&self.settings, &settings);
        let same_auth = old.auth == new.auth;
        let same_endpoint = (&old.ca_file, old.insecure, old.timeout) == (&new.ca_file, new.insecure, new.timeout);
        let tokens = if same_auth && same_endpoint { self.tokens.clone() } else { Arc::default() };
        let refusals = if same_auth { self.refusals.clone() } else { Arc::default() };
        Self { tokens, refusals, ..Self::new(self.id, name, settings) }
    }

    /// Limits of the server.
    pub(crate) fn rules(&self) -> ServerRules {
        let settings = &self.settings;
        ServerRules {
            connections: settings.connections.max(1) as usize,
            watched: u32::from(settings.watched),
            poll: settings.poll,
            idle: settings.idle,
        }
    }

    /// Connects and signs in to an account, under the lease of the duty.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        account: &Account,
        lease: &DutyLease,
    ) -> Result<ImapFolder, SyncError> {
        let ticket = match shared_secret(&self.settings, account) {
            Some(file) => {
                let secret = secret(file.to_owned()).await?;
                let ticket = lease.unless_lost(self.refusals.ticket(account.mailbox, &secret)).await?;
                Some(ticket.map_err(SyncError::Paused)?)
            }
            None => None,
        };
        let owner = lease.owner()?;
        let client = lease.unless_lost(sign_in(&self.settings, account, &self.tokens, owner)).await?;
        match (&client, ticket) {
            (Ok(_), Some(ticket)) => ticket.succeeded(),
            (Err(SyncError::Imap(error)), Some(ticket)) if error.is_login_refused() => ticket.refused(),
            _ => {}
        }
        Ok(ImapFolder::new(client?, self.clone(), account.clone(), lease.clone()))
    }
}

/// File with the password of the account, if other accounts of the server use it too.
fn shared_secret<'a>(settings: &'a ServerSettings, account: &Account) -> Option<&'a Path> {
    match &settings.auth {
        Auth::Password { file } => file.as_deref().filter(|file| account.password_file.as_deref() == Some(*file)),
        Auth::MasterUser { file, .. } => Some(file),
        Auth::OAuth(_) => None,
    }
}

/// Connects and signs in to an account. A token that the server refuses is replaced once.
pub(crate) async fn sign_in(
    settings: &ServerSettings,
    account: &Account,
    tokens: &Tokens,
    owner: Arc<dyn SocketOwner>,
) -> Result<Client, SyncError> {
    let config = config(settings);
    let user = account.user.clone();
    let oauth = match &settings.auth {
        Auth::Password { file } => {
            let file = account.password_file.as_ref().or(file.as_ref()).ok_or(SyncError::Unset("password-file"))?;
            let login = Login::Password { user, password: secret(file.clone()).await? };
            return Ok(Client::connect(&config, &login, owner).await?);
        }
        Auth::MasterUser { user: master, file } => {
            let login = Login::MasterUser { user, master: master.clone(), password: secret(file.clone()).await? };
            return Ok(Client::connect(&config, &login, owner).await?);
        }
        Auth::OAuth(oauth) => oauth,
    };
    let source = tokens.source(settings, oauth, account)?;
    let name = user.reveal();
    let token = source.token(name).await?;
    let login = |token: &str| Login::XOAuth2 { user: user.clone(), token: Secret::new(token.to_owned()) };
    match Client::connect(&config, &login(token.reveal()), owner.clone()).await {
        Err(error) if error.is_login_refused() => {
            source.discard(name, &token).await;
            let fresh = source.token(name).await?;
            if fresh == token {
                return Err(error.into());
            }
            Ok(Client::connect(&config, &login(fresh.reveal()), owner).await?)
        }
        connected => Ok(connected?),
    }
}

impl Tokens {
    fn source(
        &self,
        settings: &ServerSettings,
        oauth: &OAuthSettings,
        account: &Account,
    ) -> Result<TokenSource, SyncError> {
        let file = match &oauth.grant {
            OAuthGrant::RefreshToken { file } => account.password_file.clone().or_else(|| file.clone()),
            OAuthGrant::ClientCredentials | OAuthGrant::ServiceAccount { .. } => None,
        };
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get(&file) {
            return Ok(source.clone());
        }
        let endpoint = TokenEndpoint {
            url: oauth.token_url.clone(),
            ca_file: settings.ca_file.clone(),
            timeout: settings.timeout,
        };
        let source = TokenSource::new(grant(oauth, file.clone())?, &endpoint)?;
        sources.insert(file, source.clone());
        Ok(source)
    }
}

fn grant(oauth: &OAuthSettings, token_file: Option<PathBuf>) -> Result<Grant, SyncError> {
    let (client_id, secret_file) = (oauth.client_id.clone(), oauth.client_secret_file.clone());
    let scope = oauth.scope.clone();
    Ok(match &oauth.grant {
        OAuthGrant::ClientCredentials => {
            let secret_file = secret_file.ok_or(SyncError::Unset("client-secret-file"))?;
            Grant::ClientCredentials { client_id, secret_file, scope }
        }
        OAuthGrant::RefreshToken { .. } => Grant::RefreshToken {
            client_id,
            secret_file,
            token_file: token_file.ok_or(SyncError::Unset("refresh-token-file"))?,
            scope: Some(scope).filter(|scope| !scope.is_empty()),
        },
        OAuthGrant::ServiceAccount { key_file } => Grant::ServiceAccount { key_file: key_file.clone(), scope },
    })
}

fn config(settings: &ServerSettings) -> ServerConfig {
    ServerConfig {
        host: settings.host.clone(),
        port: settings.port,
        security: match settings.tls {
            Tls::Implicit => Security::Implicit,
            Tls::StartTls => Security::StartTls,
            Tls::None => Security::None,
        },
        ca_file: settings.ca_file.clone(),
        insecure: settings.insecure,
        timeout: settings.timeout,
    }
}

/// A secret of a file, which is read again at each sign-in: it may have been replaced.
async fn secret(file: PathBuf) -> Result<Secret, SyncError> {
    Ok(blocking(move || Secret::read_file(&file)).await??)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use twinbox_ids::{MailboxId, Pii};
    use twinbox_mailbox_sync::{AccountSettings, Owner, account_change, account_of, server_change};

    use super::*;

    fn settings(texts: &[&str]) -> ServerSettings {
        let changes = texts.iter().map(|text| server_change(text).expect(text));
        let stored = changes.filter_map(|(number, value)| Some((number, value?))).collect();
        ServerSettings::from_settings(&stored).expect("valid settings")
    }

    fn account(settings: &ServerSettings, own: &[&str]) -> Account {
        let changes = own.iter().map(|text| account_change(text).expect(text));
        let stored: BTreeMap<_, _> = changes.filter_map(|(number, value)| Some((number, value?))).collect();
        let own = AccountSettings::from_settings(&stored).expect("valid settings");
        let mail = Some(Pii::new("anna@mail.example".to_owned()));
        let owner = Owner { mailbox: MailboxId(1), mail, number: None, login: None };
        account_of(settings, MailServerId(1), Some(&own), &owner).expect("an account")
    }

    #[test]
    fn change_of_other_settings_keeps_tokens_and_refusals() {
        let settings = |texts: &[&str]| {
            let usual = ["host=a", "auth=refresh-token", "token-url=https://a/", "client-id=x"];
            settings(&[&usual, texts].concat())
        };
        let known = MailServer::new(MailServerId(1), "mail".to_owned(), settings(&[]));
        for (change, keeps_tokens, keeps_refusals) in [
            ("poll=30", true, true),
            ("folder=Voice", true, true),
            ("timeout=20", false, true),
            ("ca-file=/ca.pem", false, true),
            ("insecure=yes", false, true),
            ("client-id=y", false, false),
        ] {
            let server = known.changed("other".to_owned(), settings(&[change]));
            assert_eq!((server.name.as_str(), server.id), ("other", known.id));
            assert_eq!(Arc::ptr_eq(&server.tokens, &known.tokens), keeps_tokens, "{change}");
            assert_eq!(Arc::ptr_eq(&server.refusals, &known.refusals), keeps_refusals, "{change}");
        }
    }

    #[test]
    fn secret_is_shared_unless_the_account_has_its_own() {
        let usual = settings(&["host=a", "password-file=/p"]);
        let shared = |settings: &ServerSettings, own: &[&str]| {
            shared_secret(settings, &account(settings, own)).map(Path::to_owned)
        };
        assert_eq!(shared(&usual, &[]), Some(PathBuf::from("/p")));
        assert_eq!(shared(&usual, &["password-file=/own"]), None);
        assert_eq!(shared(&settings(&["host=a"]), &["password-file=/own"]), None);
        let master = settings(&["host=a", "auth=master-user", "master-user=m", "password-file=/p"]);
        assert_eq!(shared(&master, &[]), Some(PathBuf::from("/p")));
    }
}
