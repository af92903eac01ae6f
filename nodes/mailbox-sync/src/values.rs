//! The values of settings, from text.

use std::{ops::RangeInclusive, path::PathBuf};

use twinbox_mailbox::class_name;

use crate::{AccountSetting, AccountTemplate, AuthKind, ServerSetting, SettingError, Tls, Trash, Users};

/// Maximum length of a value, in bytes.
const LONGEST: usize = 4_096;
/// Maximum length of a folder's name, in bytes.
const LONGEST_FOLDER: usize = 255;
/// Maximum number of classes of service.
const MOST_CLASSES: usize = 64;

/// Word and valid values of a setting, for error texts.
#[derive(Clone, Copy)]
pub(crate) struct Spec {
    word: &'static str,
    expected: &'static str,
}

impl From<ServerSetting> for Spec {
    fn from(setting: ServerSetting) -> Self {
        Self { word: setting.word(), expected: setting.expected() }
    }
}

impl From<AccountSetting> for Spec {
    fn from(setting: AccountSetting) -> Self {
        Self { word: setting.word(), expected: setting.expected() }
    }
}

impl Spec {
    /// The error of a value, with the problem as text or an empty text.
    pub(crate) fn wrong(self, value: &str, problem: &str) -> SettingError {
        let problem = if problem.is_empty() { String::new() } else { format!("{problem}; ") };
        SettingError::Value { word: self.word, value: shown(value), problem, expected: self.expected }
    }
}

/// The value; `None`: the default. An empty name of a folder is refused: it may come from a shell variable without a value, and the
/// default of `trash` deletes.
pub(crate) fn given(spec: Spec, text: &str, is_folder: bool) -> Result<Option<&str>, SettingError> {
    match text {
        "" if is_folder => Err(spec.wrong(text, "it is empty (- is the default)")),
        "" | "-" => Ok(None),
        text => Ok(Some(text)),
    }
}

/// Checks a value of a server's setting that is set.
pub(crate) fn check_server(setting: ServerSetting, text: &str) -> Result<(), SettingError> {
    let spec = Spec::from(setting);
    plain(spec, text)?;
    match setting {
        ServerSetting::Enabled | ServerSetting::Insecure => switch(spec, text).map(drop),
        ServerSetting::Host => host(text).map(drop),
        ServerSetting::Port
        | ServerSetting::Timeout
        | ServerSetting::Connections
        | ServerSetting::Poll
        | ServerSetting::Idle
        | ServerSetting::Watched => number(setting, text).map(drop),
        ServerSetting::Tls => tls(text).map(drop),
        ServerSetting::CaFile
        | ServerSetting::PasswordFile
        | ServerSetting::ClientSecretFile
        | ServerSetting::RefreshTokenFile
        | ServerSetting::KeyFile => path(spec, text).map(drop),
        ServerSetting::Auth => auth(text).map(drop),
        ServerSetting::TokenUrl => token_url(text).map(drop),
        ServerSetting::MasterUser | ServerSetting::ClientId | ServerSetting::Scope => Ok(()),
        ServerSetting::Account => account(text).map(drop),
        ServerSetting::Folder => folder(spec, text).map(drop),
        ServerSetting::Trash => trash(spec, text).map(drop),
        ServerSetting::Users => users(text).map(drop),
    }
}

/// Checks a value of an account's setting that is set.
pub(crate) fn check_account(setting: AccountSetting, text: &str) -> Result<(), SettingError> {
    let spec = Spec::from(setting);
    plain(spec, text)?;
    match setting {
        AccountSetting::Enabled => switch(spec, text).map(drop),
        AccountSetting::Account => Ok(()),
        AccountSetting::Folder => folder(spec, text).map(drop),
        AccountSetting::Trash => trash(spec, text).map(drop),
        AccountSetting::PasswordFile => path(spec, text).map(drop),
    }
}

fn plain(spec: Spec, text: &str) -> Result<(), SettingError> {
    if text.len() > LONGEST {
        return Err(spec.wrong(text, "it is too long"));
    }
    if text.chars().any(char::is_control) {
        return Err(spec.wrong(text, "it has control characters"));
    }
    Ok(())
}

pub(crate) fn switch(spec: Spec, text: &str) -> Result<bool, SettingError> {
    match text {
        "yes" | "on" => Ok(true),
        "no" | "off" => Ok(false),
        _ => Err(spec.wrong(text, "")),
    }
}

/// A number in the range of the setting.
pub(crate) fn number(setting: ServerSetting, text: &str) -> Result<u32, SettingError> {
    let number = text.parse::<u32>().ok().filter(|number| range(setting).contains(number));
    number.ok_or_else(|| Spec::from(setting).wrong(text, ""))
}

fn range(setting: ServerSetting) -> RangeInclusive<u32> {
    match setting {
        ServerSetting::Port => 1..=65_535,
        ServerSetting::Timeout => 1..=300,
        ServerSetting::Connections => 1..=200,
        ServerSetting::Poll => 10..=86_400,
        ServerSetting::Idle => 0..=1_440,
        ServerSetting::Watched => 0..=100,
        _ => 0..=0,
    }
}

pub(crate) fn host(text: &str) -> Result<String, SettingError> {
    let fine = (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_'));
    if fine { Ok(text.to_owned()) } else { Err(Spec::from(ServerSetting::Host).wrong(text, "")) }
}

pub(crate) fn tls(text: &str) -> Result<Tls, SettingError> {
    let found = Tls::ALL.into_iter().find(|tls| tls.word() == text);
    found.ok_or_else(|| Spec::from(ServerSetting::Tls).wrong(text, ""))
}

pub(crate) fn auth(text: &str) -> Result<AuthKind, SettingError> {
    let found = AuthKind::ALL.into_iter().find(|kind| kind.word() == text);
    found.ok_or_else(|| Spec::from(ServerSetting::Auth).wrong(text, ""))
}

pub(crate) fn path(spec: Spec, text: &str) -> Result<PathBuf, SettingError> {
    if text.starts_with('/') { Ok(PathBuf::from(text)) } else { Err(spec.wrong(text, "")) }
}

pub(crate) fn token_url(text: &str) -> Result<String, SettingError> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let fine = !host.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) && !host.contains('@');
    if fine { Ok(text.to_owned()) } else { Err(Spec::from(ServerSetting::TokenUrl).wrong(text, "")) }
}

pub(crate) fn account(text: &str) -> Result<AccountTemplate, SettingError> {
    AccountTemplate::parse(text).map_err(|problem| Spec::from(ServerSetting::Account).wrong(text, &problem))
}

pub(crate) fn folder(spec: Spec, text: &str) -> Result<String, SettingError> {
    if text.len() > LONGEST_FOLDER {
        return Err(spec.wrong(text, "it is longer than 255 bytes"));
    }
    if text.contains(['*', '%']) {
        return Err(spec.wrong(text, "'*' and '%' are wildcards"));
    }
    Ok(text.to_owned())
}

pub(crate) fn trash(spec: Spec, text: &str) -> Result<Trash, SettingError> {
    match text {
        "expunge" => Ok(Trash::Expunge),
        name => folder(spec, name).map(Trash::Folder),
    }
}

pub(crate) fn users(text: &str) -> Result<Users, SettingError> {
    let wrong = |part: &str, problem: &str| Spec::from(ServerSetting::Users).wrong(part, problem);
    match text {
        "listed" => return Ok(Users::Listed),
        "all" => return Ok(Users::All),
        _ => {}
    }
    let mut classes = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        classes.push(class_name(part).map_err(|error| wrong(part, &error.to_string()))?);
    }
    match classes.len() {
        1..=MOST_CLASSES => Ok(Users::Classes(classes)),
        _ => Err(wrong(text, "there are 1 to 64 classes")),
    }
}

/// Input for an error text: escaped, at most 200 characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
