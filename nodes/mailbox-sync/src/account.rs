//! The account of one user: the settings of the server, those of the account over them, and the user's own names.

use std::path::PathBuf;

use twinbox_ids::{MailServerId, MailboxId, Pii};

use crate::{AccountSettings, Auth, OAuthGrant, ServerSettings};

/// Maximum length of the name of an account, in bytes.
const LONGEST_USER: usize = 320;

/// An account that is to be synchronised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The mailbox here.
    pub mailbox: MailboxId,
    /// The server.
    pub server: MailServerId,
    /// An administrator added it; otherwise the setting `users` of the server includes the user.
    pub listed: bool,
    /// Name by which Twinbox signs in, or for which a master user acts.
    pub user: Pii<String>,
    /// Folder of voicemail.
    pub folder: String,
    /// Folder to which deleted messages are moved; `None`: they are expunged.
    pub trash: Option<String>,
    /// File with the password, or with the refresh token for that grant; `None` for other kinds of sign-in.
    pub password_file: Option<PathBuf>,
}

/// The names of the user of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Mail address.
    pub mail: Option<Pii<String>>,
    /// The number that callers dial.
    pub number: Option<Pii<String>>,
    /// Name by which the user signs in to the directory.
    pub login: Option<Pii<String>>,
}

/// A user has no account that could be synchronised. The texts name the remedy, and no person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The server is not enabled.
    #[error("the mail server is disabled: set enabled=yes for the server")]
    ServerDisabled,
    /// The account is not enabled.
    #[error("the account is disabled: set enabled=yes for the account")]
    Disabled,
    /// The template of the server needs a value that the user does not have.
    #[error("the user has no {what}, which the server's setting 'account' needs: set account=NAME for the account")]
    NoValue {
        /// Word of the placeholder.
        what: &'static str,
    },
    /// The name is empty, too long, or has characters that a sign-in cannot carry.
    #[error("the name of the account is not valid: use 1 to 320 bytes without control characters")]
    Name,
    /// No file with the password.
    #[error("the account has no password file: set password-file=PATH for the account or its server")]
    NoPassword,
    /// No file with the refresh token.
    #[error("the account has no refresh token: set password-file for it, or refresh-token-file for its server")]
    NoRefreshToken,
    /// Deleted messages would move into the folder that they are in, and come back.
    #[error(
        "'trash' is the folder of the messages, so deletions undo themselves: name another one, or set trash=expunge"
    )]
    TrashIsFolder,
}

/// The account of a user. `own` are the settings of the user's account if it is listed.
///
/// # Errors
/// Server or account is disabled, a name or a file is missing, or the trash is the folder of the messages.
pub fn account_of(
    server: &ServerSettings,
    id: MailServerId,
    own: Option<&AccountSettings>,
    owner: &Owner,
) -> Result<Account, AccountError> {
    if !server.enabled {
        return Err(AccountError::ServerDisabled);
    }
    if own.is_some_and(|own| !own.enabled) {
        return Err(AccountError::Disabled);
    }
    let user = match own.and_then(|own| own.account.clone()) {
        Some(name) => name,
        None => server.account.fill(owner)?,
    };
    if !(1..=LONGEST_USER).contains(&user.reveal().len()) || user.reveal().chars().any(char::is_control) {
        return Err(AccountError::Name);
    }
    let own_file = own.and_then(|own| own.password_file.clone());
    let password_file = match &server.auth {
        Auth::Password { file } => Some(own_file.or_else(|| file.clone()).ok_or(AccountError::NoPassword)?),
        Auth::OAuth(settings) => match &settings.grant {
            OAuthGrant::RefreshToken { file } => {
                Some(own_file.or_else(|| file.clone()).ok_or(AccountError::NoRefreshToken)?)
            }
            OAuthGrant::ClientCredentials | OAuthGrant::ServiceAccount { .. } => None,
        },
        Auth::MasterUser { .. } => None,
    };
    let folder = own.and_then(|own| own.folder.clone()).unwrap_or_else(|| server.folder.clone());
    let trash = own.and_then(|own| own.trash.clone());
    let trash = trash.map_or_else(|| server.trash.clone(), crate::Trash::into_folder);
    if trash.as_ref().is_some_and(|trash| is_same_folder(trash, &folder)) {
        return Err(AccountError::TrashIsFolder);
    }
    Ok(Account { mailbox: owner.mailbox, server: id, listed: own.is_some(), user, folder, trash, password_file })
}

/// Whether two names are of one folder. Only INBOX has no upper and lower case (RFC 9051 section 5.1).
fn is_same_folder(one: &str, other: &str) -> bool {
    let is_inbox = |name: &str| name.eq_ignore_ascii_case("INBOX");
    one == other || (is_inbox(one) && is_inbox(other))
}

/// Template of the name of an account: text with `{mail}`, `{number}` and `{login}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccountTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Text(String),
    Mail,
    Number,
    Login,
}

impl AccountTemplate {
    /// Reads a template; the error is the problem as text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (word, after) = after.split_once('}').ok_or("a '{' has no end")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match word {
                "mail" => Part::Mail,
                "number" => Part::Number,
                "login" => Part::Login,
                _ => return Err(format!("'{{{}}}' is unknown", crate::values::shown(word))),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            return Err("all users would have one account".to_owned());
        }
        Ok(Self(parts))
    }

    fn fill(&self, owner: &Owner) -> Result<Pii<String>, AccountError> {
        let mut filled = String::new();
        for part in &self.0 {
            let (value, what) = match part {
                Part::Text(text) => {
                    filled.push_str(text);
                    continue;
                }
                Part::Mail => (&owner.mail, "mail"),
                Part::Number => (&owner.number, "number"),
                Part::Login => (&owner.login, "login"),
            };
            let value = value.as_ref().filter(|value| !value.reveal().is_empty());
            filled.push_str(value.ok_or(AccountError::NoValue { what })?.reveal());
        }
        Ok(Pii::new(filled))
    }
}
