//! The settings of a mail server as types.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    AccountTemplate, Auth, ServerSetting as Setting, SettingError,
    values::{self, Spec},
};

/// Kind of TLS of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tls {
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// TLS by the command STARTTLS (RFC 9051 section 6.2.1).
    StartTls,
    /// No TLS.
    None,
}

impl Tls {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Implicit, Self::StartTls, Self::None];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Implicit => "implicit",
            Self::StartTls => "starttls",
            Self::None => "none",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Implicit => 993,
            Self::StartTls | Self::None => 143,
        }
    }
}

/// Users whose accounts are synchronised.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Users {
    /// Those that an administrator added.
    Listed,
    /// All users with a mail address.
    All,
    /// Users with a mail address in these classes of service, by name in lower case.
    Classes(Vec<String>),
}

/// All settings of a mail server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Accounts of the server are synchronised.
    pub enabled: bool,
    /// Name or address of the server; empty only if it is not enabled.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Kind of TLS.
    pub tls: Tls,
    /// Path of certificates that are trusted instead of the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Certificates are not checked.
    pub insecure: bool,
    /// Time limit of a connection and of each answer.
    pub timeout: Duration,
    /// Sign-in to the accounts.
    pub auth: Auth,
    /// Template of the name by which Twinbox signs in to an account.
    pub account: AccountTemplate,
    /// Folder of voicemail.
    pub folder: String,
    /// Folder to which deleted messages are moved; `None`: they are expunged.
    pub trash: Option<String>,
    /// Users whose accounts are synchronised.
    pub users: Users,
    /// Maximum number of connections, 1 to 200.
    pub connections: u32,
    /// Time between two looks at an account.
    pub poll: Duration,
    /// Time for which an active account is watched by IDLE.
    pub idle: Duration,
    /// Maximum share of the connections for watched accounts, 0 to 100 percent.
    pub watched: u8,
}

impl ServerSettings {
    /// Reads stored settings and checks that they fit together.
    ///
    /// # Errors
    /// A value is not valid, or a setting that others need is missing.
    pub fn from_settings(stored: &BTreeMap<u16, String>) -> Result<Self, SettingError> {
        let set = |setting: Setting| Some(setting.text(stored)).filter(|text| *text != "-");
        let switch = |setting: Setting| values::switch(Spec::from(setting), setting.text(stored));
        let number = |setting: Setting| values::number(setting, setting.text(stored));
        let seconds = |setting: Setting| number(setting).map(|count| Duration::from_secs(u64::from(count)));
        let (enabled, insecure) = (switch(Setting::Enabled)?, switch(Setting::Insecure)?);
        let missing = SettingError::Missing { word: Setting::Host.word(), expected: Setting::Host.expected() };
        let host = match set(Setting::Host) {
            Some(host) => values::host(host)?,
            None if enabled => return Err(missing),
            None => String::new(),
        };
        let tls = values::tls(Setting::Tls.text(stored))?;
        let port = set(Setting::Port).map(|text| values::number(Setting::Port, text)).transpose()?;
        let ca_file = set(Setting::CaFile).map(|text| values::path(Spec::from(Setting::CaFile), text));
        let trash = values::trash(Spec::from(Setting::Trash), Setting::Trash.text(stored))?;
        Ok(Self {
            enabled,
            host,
            port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(tls.port()),
            tls,
            ca_file: ca_file.transpose()?,
            insecure,
            timeout: seconds(Setting::Timeout)?,
            auth: Auth::from_settings(stored, insecure)?,
            account: values::account(Setting::Account.text(stored))?,
            folder: values::folder(Spec::from(Setting::Folder), Setting::Folder.text(stored))?,
            trash: trash.into_folder(),
            users: values::users(Setting::Users.text(stored))?,
            connections: number(Setting::Connections)?,
            poll: seconds(Setting::Poll)?,
            idle: Duration::from_secs(60 * u64::from(number(Setting::Idle)?)),
            watched: u8::try_from(number(Setting::Watched)?).unwrap_or(100),
        })
    }
}
