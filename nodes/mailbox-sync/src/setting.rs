//! The settings of mail servers and accounts: permanent numbers, words of the command line, defaults, descriptions.

use std::collections::BTreeMap;

use twinbox_mailbox::nearest;

use crate::values;

/// A setting of a mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerSetting {
    /// Accounts of the server are synchronised.
    Enabled,
    /// Name or address of the server.
    Host,
    /// TCP port.
    Port,
    /// Kind of TLS.
    Tls,
    /// File of certificates that are trusted instead of the system's.
    CaFile,
    /// Certificates are not checked.
    Insecure,
    /// Time limit of an answer.
    Timeout,
    /// Kind of the sign-in.
    Auth,
    /// Name of the master user.
    MasterUser,
    /// File with the password of the master user or of the accounts.
    PasswordFile,
    /// Address of the OAuth token endpoint.
    TokenUrl,
    /// OAuth client id.
    ClientId,
    /// File with the OAuth client secret.
    ClientSecretFile,
    /// OAuth scope.
    Scope,
    /// File with an OAuth refresh token.
    RefreshTokenFile,
    /// File with the key of a service account.
    KeyFile,
    /// Template of the name by which Twinbox signs in to an account.
    Account,
    /// Folder of voicemail.
    Folder,
    /// Folder of deleted messages.
    Trash,
    /// Users whose accounts are synchronised.
    Users,
    /// Number of connections.
    Connections,
    /// Time between two looks at an account.
    Poll,
    /// Time for which an active account is watched.
    Idle,
    /// Share of connections for watched accounts.
    Watched,
}

/// A setting of an account, which overrides that of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccountSetting {
    /// The account is synchronised.
    Enabled,
    /// Name by which Twinbox signs in.
    Account,
    /// Folder of voicemail.
    Folder,
    /// Folder of deleted messages.
    Trash,
    /// File with the password or the refresh token of the account.
    PasswordFile,
}

impl ServerSetting {
    /// All settings, in display order.
    pub const ALL: [Self; 24] = [
        Self::Enabled,
        Self::Host,
        Self::Port,
        Self::Tls,
        Self::CaFile,
        Self::Insecure,
        Self::Timeout,
        Self::Auth,
        Self::MasterUser,
        Self::PasswordFile,
        Self::TokenUrl,
        Self::ClientId,
        Self::ClientSecretFile,
        Self::Scope,
        Self::RefreshTokenFile,
        Self::KeyFile,
        Self::Account,
        Self::Folder,
        Self::Trash,
        Self::Users,
        Self::Connections,
        Self::Poll,
        Self::Idle,
        Self::Watched,
    ];

    /// Number of the setting on disk and on the wire: permanent.
    pub const fn number(self) -> u16 {
        match self {
            Self::Enabled => 1,
            Self::Host => 2,
            Self::Port => 3,
            Self::Tls => 4,
            Self::CaFile => 5,
            Self::Insecure => 6,
            Self::Timeout => 7,
            Self::Auth => 8,
            Self::MasterUser => 9,
            Self::PasswordFile => 10,
            Self::TokenUrl => 11,
            Self::ClientId => 12,
            Self::ClientSecretFile => 13,
            Self::Scope => 14,
            Self::RefreshTokenFile => 15,
            Self::KeyFile => 16,
            Self::Account => 17,
            Self::Folder => 18,
            Self::Trash => 19,
            Self::Users => 20,
            Self::Connections => 21,
            Self::Poll => 22,
            Self::Idle => 23,
            Self::Watched => 24,
        }
    }

    /// Word of the setting on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Host => "host",
            Self::Port => "port",
            Self::Tls => "tls",
            Self::CaFile => "ca-file",
            Self::Insecure => "insecure",
            Self::Timeout => "timeout",
            Self::Auth => "auth",
            Self::MasterUser => "master-user",
            Self::PasswordFile => "password-file",
            Self::TokenUrl => "token-url",
            Self::ClientId => "client-id",
            Self::ClientSecretFile => "client-secret-file",
            Self::Scope => "scope",
            Self::RefreshTokenFile => "refresh-token-file",
            Self::KeyFile => "key-file",
            Self::Account => "account",
            Self::Folder => "folder",
            Self::Trash => "trash",
            Self::Users => "users",
            Self::Connections => "connections",
            Self::Poll => "poll",
            Self::Idle => "idle",
            Self::Watched => "watched",
        }
    }

    /// The text of an unset setting; `-` stands for none, or for a value that follows from other settings.
    pub const fn default_text(self) -> &'static str {
        match self {
            Self::Enabled => "yes",
            Self::Host | Self::Port | Self::CaFile | Self::MasterUser | Self::PasswordFile | Self::TokenUrl => "-",
            Self::ClientId | Self::ClientSecretFile | Self::Scope | Self::RefreshTokenFile | Self::KeyFile => "-",
            Self::Tls => "implicit",
            Self::Insecure => "no",
            Self::Timeout => "30",
            Self::Auth => "password",
            Self::Account => "{mail}",
            Self::Folder => "INBOX",
            Self::Trash => "expunge",
            Self::Users => "listed",
            Self::Connections => "8",
            Self::Poll => "60",
            Self::Idle => "30",
            Self::Watched => "50",
        }
    }

    /// Description of the valid values, as it follows `give`.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Enabled | Self::Insecure => "yes or no",
            Self::Host => "the name or address of a server, such as imap.example.com",
            Self::Port => "1 to 65535; - is 993 with tls=implicit, else 143",
            Self::Tls => "implicit, starttls, or none for a connection that anyone on the way can read",
            Self::CaFile | Self::PasswordFile | Self::ClientSecretFile | Self::RefreshTokenFile | Self::KeyFile => {
                "the absolute path of a file that each node has"
            }
            Self::Timeout => "1 to 300 seconds",
            Self::Auth => "password, master-user, client-credentials, refresh-token or service-account",
            Self::MasterUser => "the name of the server's master user",
            Self::TokenUrl => "an address such as https://login.example.com/oauth2/token",
            Self::ClientId => "the id of the OAuth client",
            Self::Scope => "an OAuth scope such as https://outlook.office365.com/.default",
            Self::Account => "a template of {mail}, {number} and {login}, such as {login}@example.com",
            Self::Folder => "the name of a folder, such as INBOX or INBOX/Voicemail",
            Self::Trash => "expunge, or the name of a folder, such as Trash",
            Self::Users => "listed, all, or names of classes of service separated by commas",
            Self::Connections => "1 to 200 connections",
            Self::Poll => "10 to 86400 seconds",
            Self::Idle => "0 to 1440 minutes; 0 watches none",
            Self::Watched => "0 to 100 percent of the connections",
        }
    }

    /// The setting of a word.
    ///
    /// # Errors
    /// There is no such setting.
    pub fn find(word: &str) -> Result<Self, SettingError> {
        find(word, &Self::ALL, Self::word)
    }

    /// The text that counts: the stored one, or the default.
    pub fn text(self, stored: &BTreeMap<u16, String>) -> &str {
        stored.get(&self.number()).map_or(self.default_text(), String::as_str)
    }
}

impl AccountSetting {
    /// All settings, in display order.
    pub const ALL: [Self; 5] = [Self::Enabled, Self::Account, Self::Folder, Self::Trash, Self::PasswordFile];

    /// Number of the setting on disk and on the wire: permanent.
    pub const fn number(self) -> u16 {
        match self {
            Self::Enabled => 1,
            Self::Account => 2,
            Self::Folder => 3,
            Self::Trash => 4,
            Self::PasswordFile => 5,
        }
    }

    /// Word of the setting on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Account => "account",
            Self::Folder => "folder",
            Self::Trash => "trash",
            Self::PasswordFile => "password-file",
        }
    }

    /// The text of an unset setting; `-` stands for the setting of the server.
    pub const fn default_text(self) -> &'static str {
        match self {
            Self::Enabled => "yes",
            Self::Account | Self::Folder | Self::Trash | Self::PasswordFile => "-",
        }
    }

    /// Description of the valid values, as it follows `give`.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Enabled => "yes or no",
            Self::Account => "the name of the account, such as anna@example.com; - is the server's template",
            Self::Folder => "the name of a folder, such as INBOX or INBOX/Voicemail; - is the server's",
            Self::Trash => "expunge, or the name of a folder, such as Trash; - is the server's",
            Self::PasswordFile => "the absolute path of a file that each node has",
        }
    }

    /// The setting of a word.
    ///
    /// # Errors
    /// There is no such setting.
    pub fn find(word: &str) -> Result<Self, SettingError> {
        find(word, &Self::ALL, Self::word)
    }

    /// The text that counts: the stored one, or the default.
    pub fn text(self, stored: &BTreeMap<u16, String>) -> &str {
        stored.get(&self.number()).map_or(self.default_text(), String::as_str)
    }
}

fn find<T: Copy>(word: &str, all: &[T], word_of: fn(T) -> &'static str) -> Result<T, SettingError> {
    all.iter().copied().find(|setting| word_of(*setting) == word).ok_or_else(|| {
        let words: Vec<&'static str> = all.iter().map(|setting| word_of(*setting)).collect();
        let hint = nearest(word, &words).map(|near| format!("; did you mean '{near}'?"));
        SettingError::Unknown { word: values::shown(word), words: words.join(", "), hint: hint.unwrap_or_default() }
    })
}

/// Reads `word=value` of a server: the permanent number and the text. `-` is the default (`None`), and so is an empty value, which
/// folders refuse. The value is checked alone; [`crate::ServerSettings::from_settings`] checks that all settings fit together.
///
/// # Errors
/// The text is no setting, or its value is not valid.
pub fn server_change(text: &str) -> Result<(u16, Option<String>), SettingError> {
    let (word, value) = split(text, "host=imap.example.com")?;
    let setting = ServerSetting::find(word)?;
    let is_folder = matches!(setting, ServerSetting::Folder | ServerSetting::Trash);
    let value = values::given(setting.into(), value, is_folder)?;
    if let Some(value) = value {
        values::check_server(setting, value)?;
    }
    Ok((setting.number(), value.map(str::to_owned)))
}

/// Reads `word=value` of an account: the permanent number and the text. `-` is the default (`None`), and so is an empty value,
/// which folders refuse.
///
/// # Errors
/// The text is no setting, or its value is not valid.
pub fn account_change(text: &str) -> Result<(u16, Option<String>), SettingError> {
    let (word, value) = split(text, "folder=INBOX/Voicemail")?;
    let setting = AccountSetting::find(word)?;
    let is_folder = matches!(setting, AccountSetting::Folder | AccountSetting::Trash);
    let value = values::given(setting.into(), value, is_folder)?;
    if let Some(value) = value {
        values::check_account(setting, value)?;
    }
    Ok((setting.number(), value.map(str::to_owned)))
}

fn split<'a>(text: &'a str, example: &'static str) -> Result<(&'a str, &'a str), SettingError> {
    let pair = text.split_once('=');
    let (word, value) = pair.ok_or_else(|| SettingError::Shape { text: values::shown(text), example })?;
    Ok((word.trim(), value.trim()))
}

/// A setting could not be read, or settings do not fit together. The texts name the word, the value and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No `=` in the text.
    #[error("'{text}' is not a setting: write word=value, such as {example}")]
    Shape {
        /// The given text.
        text: String,
        /// A setting as it is written.
        example: &'static str,
    },
    /// There is no such setting.
    #[error("setting '{word}' does not exist: use one of {words}{hint}")]
    Unknown {
        /// The given word.
        word: String,
        /// All words.
        words: String,
        /// The nearest word, if there is one.
        hint: String,
    },
    /// The value is not valid.
    #[error("'{value}' is not a value of {word}: {problem}give {expected}")]
    Value {
        /// Word of the setting.
        word: &'static str,
        /// The given value.
        value: String,
        /// The reason, if there is more to say.
        problem: String,
        /// The expected values.
        expected: &'static str,
    },
    /// A setting that an enabled server needs is missing.
    #[error("the mail server has no {word}: give {word}=VALUE with {expected}")]
    Missing {
        /// Word of the setting.
        word: &'static str,
        /// The expected values.
        expected: &'static str,
    },
    /// A setting needs another one.
    #[error("{word}={value} needs {other}: {remedy}")]
    Needs {
        /// Word of the setting.
        word: &'static str,
        /// Its value.
        value: String,
        /// The other setting.
        other: &'static str,
        /// The remedy.
        remedy: &'static str,
    },
}
