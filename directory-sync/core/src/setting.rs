//! The settings of a directory: permanent numbers, words of the command line, defaults and descriptions.

use std::collections::BTreeMap;

use twinbox_mailbox::nearest;

use crate::values;

/// A setting of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// The directory is synchronised.
    Enabled,
    /// Servers, tried in order.
    Url,
    /// TLS is started on connections of `ldap://`.
    StartTls,
    /// File of certificates that are trusted instead of the system's.
    CaFile,
    /// Certificates are not checked.
    Insecure,
    /// Name by which Twinbox signs in.
    BindDn,
    /// File with the password for that name.
    PasswordFile,
    /// Time limit of an answer.
    Timeout,
    /// Referrals to other servers are followed.
    Referrals,
    /// Kind of the server.
    Flavour,
    /// Names below which people are searched.
    Base,
    /// Filter of people.
    Filter,
    /// Size of a page of results.
    Page,
    /// Template of the number.
    Number,
    /// Template of the name.
    Name,
    /// Template of the mail address.
    Mail,
    /// Template of the language.
    Language,
    /// Template of the time zone.
    Timezone,
    /// Template of the name by which the owner signs in.
    Login,
    /// Classes of service by group.
    Class,
    /// Attribute that lists the groups of an entry.
    GroupAttribute,
    /// Share of losses.
    LossPercent,
    /// Number of losses.
    LossCount,
    /// Grace time.
    GraceDays,
    /// Answer to callers of a disabled user.
    DisabledCallers,
    /// First PIN of a new user.
    FirstPin,
    /// Age of a remembered password.
    PasswordHours,
    /// Time between two searches for changes.
    Interval,
}

impl Setting {
    /// All settings, in display order.
    pub const ALL: [Self; 28] = [
        Self::Enabled,
        Self::Url,
        Self::StartTls,
        Self::CaFile,
        Self::Insecure,
        Self::BindDn,
        Self::PasswordFile,
        Self::Timeout,
        Self::Referrals,
        Self::Flavour,
        Self::Base,
        Self::Filter,
        Self::Page,
        Self::Number,
        Self::Name,
        Self::Mail,
        Self::Language,
        Self::Timezone,
        Self::Login,
        Self::Class,
        Self::GroupAttribute,
        Self::LossPercent,
        Self::LossCount,
        Self::GraceDays,
        Self::DisabledCallers,
        Self::FirstPin,
        Self::PasswordHours,
        Self::Interval,
    ];

    /// Number of the setting on disk and on the wire: permanent.
    pub const fn number(self) -> u16 {
        match self {
            Self::Enabled => 1,
            Self::Url => 2,
            Self::StartTls => 3,
            Self::CaFile => 4,
            Self::Insecure => 5,
            Self::BindDn => 6,
            Self::PasswordFile => 7,
            Self::Timeout => 8,
            Self::Referrals => 9,
            Self::Flavour => 10,
            Self::Base => 11,
            Self::Filter => 12,
            Self::Page => 13,
            Self::Number => 14,
            Self::Name => 15,
            Self::Mail => 16,
            Self::Language => 17,
            Self::Timezone => 18,
            Self::Login => 19,
            Self::Class => 20,
            Self::GroupAttribute => 21,
            Self::LossPercent => 22,
            Self::LossCount => 23,
            Self::GraceDays => 24,
            Self::DisabledCallers => 25,
            Self::FirstPin => 26,
            Self::PasswordHours => 27,
            Self::Interval => 28,
        }
    }

    /// Word of the setting on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Url => "url",
            Self::StartTls => "start-tls",
            Self::CaFile => "ca-file",
            Self::Insecure => "insecure",
            Self::BindDn => "bind-dn",
            Self::PasswordFile => "password-file",
            Self::Timeout => "timeout",
            Self::Referrals => "referrals",
            Self::Flavour => "flavour",
            Self::Base => "base",
            Self::Filter => "filter",
            Self::Page => "page",
            Self::Number => "number",
            Self::Name => "name",
            Self::Mail => "mail",
            Self::Language => "language",
            Self::Timezone => "timezone",
            Self::Login => "login",
            Self::Class => "class",
            Self::GroupAttribute => "group-attribute",
            Self::LossPercent => "loss-percent",
            Self::LossCount => "loss-count",
            Self::GraceDays => "grace-days",
            Self::DisabledCallers => "disabled-callers",
            Self::FirstPin => "first-pin",
            Self::PasswordHours => "password-hours",
            Self::Interval => "interval",
        }
    }

    /// The text of an unset setting; `-` stands for none.
    pub const fn default_text(self) -> &'static str {
        match self {
            Self::Enabled | Self::StartTls => "yes",
            Self::Insecure | Self::Referrals => "no",
            Self::Url | Self::CaFile | Self::BindDn | Self::PasswordFile | Self::Base => "-",
            Self::Language | Self::Timezone | Self::Class => "-",
            Self::Timeout => "10",
            Self::Flavour => "auto",
            Self::Filter => "(objectClass=person)",
            Self::Page => "500",
            Self::Number => "{telephoneNumber}|{ipPhone}",
            Self::Name => "{displayName}|{cn}",
            Self::Mail => "{mail}",
            Self::Login => "{sAMAccountName}|{uid}",
            Self::GroupAttribute => "memberOf",
            Self::LossPercent => "10",
            Self::LossCount => "5",
            Self::GraceDays => "30",
            Self::DisabledCallers => "unavailable",
            Self::FirstPin => "none",
            Self::PasswordHours => "24",
            Self::Interval => "300",
        }
    }

    /// Description of the valid values, as it follows `give`.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Enabled | Self::Insecure | Self::Referrals => "yes or no",
            Self::StartTls => "yes, or no for a connection that anyone on the way can read",
            Self::Url => "1 to 8 servers separated by commas, such as ldaps://dc1.example.com,ldaps://dc2.example",
            Self::CaFile | Self::PasswordFile => "the absolute path of a file that each node has",
            Self::BindDn => "a name such as cn=twinbox,ou=services,dc=example,dc=com or twinbox@example.com",
            Self::Timeout => "1 to 300 seconds",
            Self::Flavour => "auto, openldap or active-directory",
            Self::Base => "1 to 16 names separated by ';', such as ou=people,dc=example,dc=com",
            Self::Filter => "a search filter in parentheses, such as (&(objectClass=user)(objectCategory=person))",
            Self::Page => "1 to 10000 entries",
            Self::Number => "a template such as {telephoneNumber:digits:last(4)}|{ipPhone}",
            Self::Name => "a template such as {displayName}|{givenName} {sn}",
            Self::Mail => "a template such as {mail}",
            Self::Language => "a template such as {preferredLanguage:first(2)}",
            Self::Timezone => "a template such as {timezone}|Europe/Berlin",
            Self::Login => "a template such as {uid}",
            Self::Class => {
                "up to 64 rules separated by ';', such as cn=sales,ou=groups,dc=example -> sales; the first counts"
            }
            Self::GroupAttribute => "the name of an attribute, such as memberOf",
            Self::LossPercent => "0 to 100 percent of the users in 24 hours",
            Self::LossCount => "0 to 1000000 users in 24 hours",
            Self::GraceDays => "1 to 3650 days",
            Self::DisabledCallers => "greeting or unavailable",
            Self::FirstPin => "none, mail, or a template such as {number:last(4)}77",
            Self::PasswordHours => "0 to 8760 hours; 0 remembers none",
            Self::Interval => "10 to 86400 seconds",
        }
    }

    /// The setting of a word.
    pub fn find(word: &str) -> Result<Self, SettingError> {
        Self::ALL.into_iter().find(|setting| setting.word() == word).ok_or_else(|| {
            let words = Self::ALL.map(Self::word);
            let hint = nearest(word, &words).map(|near| format!("; did you mean '{near}'?"));
            let word = values::shown(word);
            SettingError::Unknown { word, words: words.join(", "), hint: hint.unwrap_or_default() }
        })
    }

    /// Reads `word=value`; `-` as the value, or none, is the default (`None`), but for `name`, `mail` and `login` it
    /// says that the directory does not supply the field. The value is checked alone;
    /// [`crate::DirectorySettings::from_settings`] checks that all settings fit together.
    pub fn parse(text: &str) -> Result<(Self, Option<String>), SettingError> {
        let (word, value) = text.split_once('=').ok_or_else(|| SettingError::Shape(values::shown(text)))?;
        let (setting, value) = (Self::find(word.trim())?, value.trim());
        if matches!(value, "" | "-") && setting.may_be_none() {
            // The directory does not supply the field.
            return Ok((setting, Some("-".to_owned())));
        }
        if matches!(value, "" | "-") {
            return Ok((setting, None));
        }
        values::check(setting, value)?;
        Ok((setting, Some(value.to_owned())))
    }

    /// The text that counts: the stored one, or the default.
    pub fn text(self, stored: &BTreeMap<u16, String>) -> &str {
        stored.get(&self.number()).map_or(self.default_text(), String::as_str)
    }

    /// Whether `-` is a value of its own beside the default.
    const fn may_be_none(self) -> bool {
        matches!(self, Self::Name | Self::Mail | Self::Login)
    }
}

/// A setting could not be read, or settings do not fit together. The texts name the word, the value and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No `=` in the text.
    #[error("'{0}' is not a setting: write word=value, such as url=ldaps://ldap.example.com")]
    Shape(String),
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
    /// A setting that a directory needs is missing.
    #[error("the directory has no {word}: give {word}=VALUE with {expected}")]
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
