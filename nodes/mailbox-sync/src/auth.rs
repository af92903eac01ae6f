//! Sign-in to the accounts of a server, with the files and names that each kind needs.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    ServerSetting as Setting, SettingError,
    values::{self, Spec},
};

/// Scope of client credentials without a scope of their own: Exchange Online.
const EXCHANGE_SCOPE: &str = "https://outlook.office365.com/.default";
/// Scope of a service account without a scope of its own: Gmail.
const GMAIL_SCOPE: &str = "https://mail.google.com/";
/// Token endpoint of a service account without one of its own: Google.
const GOOGLE_TOKEN_URL: &str = "https://oauth2.googleapis.com/token";

/// Kind of the sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthKind {
    /// Password of the account.
    Password,
    /// Password of a master user.
    MasterUser,
    /// OAuth client credentials (RFC 6749 section 4.4).
    ClientCredentials,
    /// OAuth refresh token (RFC 6749 section 6).
    RefreshToken,
    /// OAuth service account (RFC 7523).
    ServiceAccount,
}

impl AuthKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Password, Self::MasterUser, Self::ClientCredentials, Self::RefreshToken, Self::ServiceAccount];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::MasterUser => "master-user",
            Self::ClientCredentials => "client-credentials",
            Self::RefreshToken => "refresh-token",
            Self::ServiceAccount => "service-account",
        }
    }
}

/// Sign-in to the accounts of a server. Secrets are in files, never here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// Name and password of the account.
    Password {
        /// File with the password of accounts that have no file of their own.
        file: Option<PathBuf>,
    },
    /// Password of a master user, who acts for the account (SASL PLAIN with an authorization identity, RFC 4616).
    MasterUser {
        /// Name of the master user.
        user: String,
        /// File with the password.
        file: PathBuf,
    },
    /// Access token (XOAUTH2, RFC 7628).
    OAuth(OAuthSettings),
}

/// Source of access tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OAuthSettings {
    /// Grant by which tokens are requested.
    pub grant: OAuthGrant,
    /// Address of the token endpoint; `http://` only with `insecure=yes`, and only to this machine.
    pub token_url: String,
    /// Client id; empty for a service account.
    pub client_id: String,
    /// File with the client secret.
    pub client_secret_file: Option<PathBuf>,
    /// Scope; empty for that of the grant.
    pub scope: String,
}

/// Grant by which tokens are requested.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OAuthGrant {
    /// Client credentials (RFC 6749 section 4.4), as for Exchange Online: one token for all accounts.
    ClientCredentials,
    /// Refresh token (RFC 6749 section 6).
    RefreshToken {
        /// File with the refresh token of accounts that have no file of their own.
        file: Option<PathBuf>,
    },
    /// Service account that acts for the user (RFC 7523), as for Gmail: a token for each account.
    ServiceAccount {
        /// File with the key (JSON).
        key_file: PathBuf,
    },
}

impl Auth {
    /// Reads the sign-in of a server's settings.
    pub(crate) fn from_settings(stored: &BTreeMap<u16, String>, insecure: bool) -> Result<Self, SettingError> {
        let kind = values::auth(Setting::Auth.text(stored))?;
        let set = |setting: Setting| Some(setting.text(stored)).filter(|text| *text != "-");
        let path = |setting: Setting| set(setting).map(|text| values::path(Spec::from(setting), text)).transpose();
        let needed = |setting: Setting, remedy: &'static str| {
            set(setting).ok_or_else(|| needs(Setting::Auth, kind.word(), setting, remedy))
        };
        let needed_path = |setting: Setting, remedy: &'static str| {
            needed(setting, remedy).and_then(|text| values::path(Spec::from(setting), text))
        };
        if let Some(user) = set(Setting::MasterUser).filter(|_| kind != AuthKind::MasterUser) {
            return Err(needs(Setting::MasterUser, user, Setting::Auth, "give auth=master-user, or master-user=-"));
        }
        let url = set(Setting::TokenUrl).map(values::token_url).transpose()?;
        if let Some(url) = url.as_deref().filter(|url| url.starts_with("http://") && !insecure) {
            let remedy =
                "give an address with https://; insecure=yes lets http:// reach only this machine (127.0.0.1)";
            return Err(needs(Setting::TokenUrl, url, Setting::Insecure, remedy));
        }
        let url_of = "give the address of the token endpoint";
        let client_of = "give the id of the OAuth client";
        let oauth = |grant, token_url: String, client_id: &str, scope: &str| -> Result<Self, SettingError> {
            Ok(Self::OAuth(OAuthSettings {
                grant,
                token_url,
                client_id: client_id.to_owned(),
                client_secret_file: path(Setting::ClientSecretFile)?,
                scope: set(Setting::Scope).unwrap_or(scope).to_owned(),
            }))
        };
        match kind {
            AuthKind::Password => Ok(Self::Password { file: path(Setting::PasswordFile)? }),
            AuthKind::MasterUser => Ok(Self::MasterUser {
                user: needed(Setting::MasterUser, "give the name of the master user")?.to_owned(),
                file: needed_path(Setting::PasswordFile, "give the path of a file with that user's password")?,
            }),
            AuthKind::ClientCredentials => {
                needed(Setting::TokenUrl, url_of)?;
                needed(Setting::ClientSecretFile, "give the path of a file with the client secret")?;
                let client = needed(Setting::ClientId, client_of)?;
                oauth(OAuthGrant::ClientCredentials, url.unwrap_or_default(), client, EXCHANGE_SCOPE)
            }
            AuthKind::RefreshToken => {
                needed(Setting::TokenUrl, url_of)?;
                let grant = OAuthGrant::RefreshToken { file: path(Setting::RefreshTokenFile)? };
                oauth(grant, url.unwrap_or_default(), needed(Setting::ClientId, client_of)?, "")
            }
            AuthKind::ServiceAccount => {
                let remedy = "give the path of the service account's key file (JSON)";
                let grant = OAuthGrant::ServiceAccount { key_file: needed_path(Setting::KeyFile, remedy)? };
                oauth(grant, url.unwrap_or_else(|| GOOGLE_TOKEN_URL.to_owned()), "", GMAIL_SCOPE)
            }
        }
    }

    /// Kind of the sign-in.
    pub const fn kind(&self) -> AuthKind {
        match self {
            Self::Password { .. } => AuthKind::Password,
            Self::MasterUser { .. } => AuthKind::MasterUser,
            Self::OAuth(settings) => match settings.grant {
                OAuthGrant::ClientCredentials => AuthKind::ClientCredentials,
                OAuthGrant::RefreshToken { .. } => AuthKind::RefreshToken,
                OAuthGrant::ServiceAccount { .. } => AuthKind::ServiceAccount,
            },
        }
    }
}

fn needs(setting: Setting, value: &str, other: Setting, remedy: &'static str) -> SettingError {
    SettingError::Needs { word: setting.word(), value: values::shown(value), other: other.word(), remedy }
}
