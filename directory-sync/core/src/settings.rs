//! The settings of a directory as types.

use std::{collections::BTreeMap, time::Duration};

use crate::{AttributeMap, FirstPin, LdapUrl, Limits, Setting, SettingError, values};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3_600_000;

/// Kind of a server: it decides which attribute is the stable id, and how changes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The server tells by its root entry.
    Auto,
    /// `entryUUID`, and changes by RFC 4533.
    OpenLdap,
    /// `objectGUID`, and changes by `uSNChanged`.
    ActiveDirectory,
}

impl Flavour {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Auto, Self::OpenLdap, Self::ActiveDirectory];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::OpenLdap => "openldap",
            Self::ActiveDirectory => "active-directory",
        }
    }
}

/// Answer to callers of a user whom the directory disabled or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisabledCallers {
    /// As usual: the greeting of the user, and callers may leave a message.
    Greeting,
    /// The announcement that the person is not available; callers cannot leave a message.
    Unavailable,
}

impl DisabledCallers {
    /// All answers.
    pub const ALL: [Self; 2] = [Self::Greeting, Self::Unavailable];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The servers of a directory and the sign-in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Servers, tried in order; at least one.
    pub urls: Vec<LdapUrl>,
    /// TLS is started on connections of `ldap://`.
    pub start_tls: bool,
    /// Path of certificates that are trusted instead of the system's, as PEM.
    pub ca_file: Option<String>,
    /// Certificates are not checked.
    pub insecure: bool,
    /// Name by which Twinbox signs in; empty for an anonymous search.
    pub bind_dn: String,
    /// Path of the file with the password for that name.
    pub password_file: Option<String>,
    /// Time limit of a connection and of each answer.
    pub timeout: Duration,
    /// Referrals to other servers are followed.
    pub referrals: bool,
    /// Kind of the servers.
    pub flavour: Flavour,
}

/// The search for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSettings {
    /// Names below which people are searched; at least one.
    pub bases: Vec<String>,
    /// Filter of people (RFC 4515).
    pub filter: String,
    /// Entries of a page, 1 to 10000.
    pub page: u32,
    /// Attributes that the map needs, in lower case. The stable id is not among them.
    pub attributes: Vec<String>,
}

/// All settings of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySettings {
    /// The directory is synchronised without an order.
    pub enabled: bool,
    /// The servers.
    pub servers: ServerSettings,
    /// The search.
    pub search: SearchSettings,
    /// From attributes to users.
    pub map: AttributeMap,
    /// Limits of deletions and disablings.
    pub limits: Limits,
    /// Time in days after which a user whose entry is gone loses its binding, 1 to 3650. The user stays disabled and
    /// keeps its messages.
    pub grace_days: u32,
    /// Answer to callers of a disabled user.
    pub disabled_callers: DisabledCallers,
    /// First PIN of a new user.
    pub first_pin: FirstPin,
    /// Maximum age in hours of a remembered password, which counts while no server answers, 0 to 8760; 0: none is
    /// remembered.
    pub password_hours: u32,
    /// Time between two searches for changes.
    pub interval: Duration,
    texts: BTreeMap<Setting, String>,
}

impl DirectorySettings {
    /// Reads stored settings. Missing ones have their defaults; numbers of a newer release are left out.
    pub fn from_settings(stored: &BTreeMap<u16, String>) -> Result<Self, SettingError> {
        let set = |setting: Setting| Some(setting.text(stored)).filter(|text| *text != "-");
        let needed = |setting: Setting| {
            set(setting).ok_or(SettingError::Missing { word: setting.word(), expected: setting.expected() })
        };
        let switch = |setting: Setting| values::switch(setting, setting.text(stored));
        let number = |setting: Setting| values::number(setting, setting.text(stored));
        let path = |setting: Setting| set(setting).map(|text| values::path(setting, text)).transpose();
        let template = |setting: Setting| set(setting).map(|text| values::template(setting, text)).transpose();
        for setting in Setting::ALL {
            set(setting).map_or(Ok(()), |text| values::check(setting, text))?;
        }

        let servers = ServerSettings {
            urls: values::urls(needed(Setting::Url)?)?,
            start_tls: switch(Setting::StartTls)?,
            ca_file: path(Setting::CaFile)?,
            insecure: switch(Setting::Insecure)?,
            bind_dn: set(Setting::BindDn).unwrap_or_default().to_owned(),
            password_file: path(Setting::PasswordFile)?,
            timeout: Duration::from_secs(u64::from(number(Setting::Timeout)?)),
            referrals: switch(Setting::Referrals)?,
            flavour: values::flavour(Setting::Flavour.text(stored))?,
        };
        check_sign_in(&servers)?;
        let first_pin = values::first_pin(Setting::FirstPin.text(stored))?;
        let map = AttributeMap {
            number: values::template(Setting::Number, needed(Setting::Number)?)?,
            name: template(Setting::Name)?,
            mail: template(Setting::Mail)?,
            language: template(Setting::Language)?,
            timezone: template(Setting::Timezone)?,
            login: template(Setting::Login)?,
            pin: match &first_pin {
                FirstPin::Pattern(template) => Some(template.clone()),
                FirstPin::None | FirstPin::Mail => None,
            },
            classes: set(Setting::Class).map_or(Ok(Vec::new()), values::classes)?,
            group_attribute: values::attribute(Setting::GroupAttribute.text(stored))?,
        };
        if first_pin == FirstPin::Mail && map.mail.is_none() {
            return Err(needs(Setting::FirstPin, "mail", Setting::Mail, "give a template such as mail={mail}"));
        }
        let search = SearchSettings {
            bases: values::bases(needed(Setting::Base)?)?,
            filter: values::filter(Setting::Filter.text(stored))?,
            page: number(Setting::Page)?,
            attributes: map.attributes(),
        };
        let percent = number(Setting::LossPercent)?;
        Ok(Self {
            enabled: switch(Setting::Enabled)?,
            servers,
            search,
            map,
            limits: Limits {
                percent: u8::try_from(percent).unwrap_or(100),
                count: u64::from(number(Setting::LossCount)?),
            },
            grace_days: number(Setting::GraceDays)?,
            disabled_callers: values::disabled_callers(Setting::DisabledCallers.text(stored))?,
            first_pin,
            password_hours: number(Setting::PasswordHours)?,
            interval: Duration::from_secs(u64::from(number(Setting::Interval)?)),
            texts: Setting::ALL.into_iter().map(|setting| (setting, setting.text(stored).to_owned())).collect(),
        })
    }

    /// Reads the settings of a new directory, each as `word=value`.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, SettingError> {
        Self::changed(&BTreeMap::new(), texts).map(|(settings, _)| settings)
    }

    /// Changes stored settings, each as `word=value`: the settings after the change, and the changes by number; `None`
    /// is the default.
    pub fn changed<T: AsRef<str>>(
        stored: &BTreeMap<u16, String>,
        texts: &[T],
    ) -> Result<(Self, BTreeMap<u16, Option<String>>), SettingError> {
        let mut changes = BTreeMap::new();
        for text in texts {
            let (setting, value) = Setting::parse(text.as_ref())?;
            changes.insert(setting.number(), value);
        }
        let mut after = stored.clone();
        for (number, value) in &changes {
            match value {
                Some(value) => after.insert(*number, value.clone()),
                None => after.remove(number),
            };
        }
        Ok((Self::from_settings(&after)?, changes))
    }

    /// Every setting with its text, as [`Self::parse`] reads it; `-` for none. No secret is among them.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        Setting::ALL.into_iter().filter_map(|s| Some((s.word(), self.texts.get(&s)?.clone()))).collect()
    }

    /// Maximum age of a remembered password; zero: none is remembered.
    pub fn password_age(&self) -> Duration {
        Duration::from_secs(u64::from(self.password_hours) * 3_600)
    }

    /// The grace time, in milliseconds.
    pub fn grace_ms(&self) -> u64 {
        u64::from(self.grace_days) * DAY_MS
    }
}

/// A name without a password would be an anonymous sign-in (RFC 4513 section 5.1.2), and a password needs a name.
fn check_sign_in(servers: &ServerSettings) -> Result<(), SettingError> {
    match (servers.bind_dn.as_str(), servers.password_file.as_deref()) {
        ("", Some(file)) => {
            Err(needs(Setting::PasswordFile, file, Setting::BindDn, "give the name that the password is for"))
        }
        (name, None) if !name.is_empty() => {
            Err(needs(Setting::BindDn, name, Setting::PasswordFile, "give the path of a file with the password"))
        }
        _ => Ok(()),
    }
}

fn needs(setting: Setting, value: &str, other: Setting, remedy: &'static str) -> SettingError {
    SettingError::Needs { word: setting.word(), value: values::shown(value), other: other.word(), remedy }
}
