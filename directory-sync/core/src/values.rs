//! The values of settings, from text.

use std::{ops::RangeInclusive, str::FromStr};

use twinbox_mailbox::class_name;

use crate::{
    ClassRule, DisabledCallers, Dn, FirstPin, Flavour, LdapUrl, Setting, SettingError, Template, is_filter,
};

/// Maximum length of a value, in bytes.
const LONGEST: usize = 16_384;
/// Maximum number of servers.
const MOST_URLS: usize = 8;
/// Maximum number of bases.
const MOST_BASES: usize = 16;
/// Maximum number of rules for classes.
const MOST_RULES: usize = 64;

/// Checks a value of a setting that is set.
pub(crate) fn check(setting: Setting, text: &str) -> Result<(), SettingError> {
    if text.len() > LONGEST {
        return Err(wrong(setting, text, "it is too long"));
    }
    if text.chars().any(char::is_control) {
        return Err(wrong(setting, text, "it has control characters"));
    }
    match setting {
        Setting::Enabled | Setting::StartTls | Setting::Insecure | Setting::Referrals => {
            switch(setting, text).map(drop)
        }
        Setting::Url => urls(text).map(drop),
        Setting::CaFile | Setting::PasswordFile => path(setting, text).map(drop),
        Setting::BindDn => Ok(()),
        Setting::Timeout
        | Setting::Page
        | Setting::LossPercent
        | Setting::LossCount
        | Setting::GraceDays
        | Setting::PasswordHours
        | Setting::Interval => number(setting, text).map(drop),
        Setting::Flavour => flavour(text).map(drop),
        Setting::Base => bases(text).map(drop),
        Setting::Filter => filter(text).map(drop),
        Setting::Number
        | Setting::Name
        | Setting::Mail
        | Setting::Language
        | Setting::Timezone
        | Setting::Login => template(setting, text).map(drop),
        Setting::Class => classes(text).map(drop),
        Setting::GroupAttribute => attribute(text).map(drop),
        Setting::DisabledCallers => disabled_callers(text).map(drop),
        Setting::FirstPin => first_pin(text).map(drop),
    }
}

pub(crate) fn switch(setting: Setting, text: &str) -> Result<bool, SettingError> {
    match text {
        "yes" | "on" => Ok(true),
        "no" | "off" => Ok(false),
        _ => Err(wrong(setting, text, "")),
    }
}

/// A number in the range of the setting.
pub(crate) fn number(setting: Setting, text: &str) -> Result<u32, SettingError> {
    let number = text.parse::<u32>().ok().filter(|number| range(setting).contains(number));
    number.ok_or_else(|| wrong(setting, text, ""))
}

fn range(setting: Setting) -> RangeInclusive<u32> {
    match setting {
        Setting::Timeout => 1..=300,
        Setting::Page => 1..=10_000,
        Setting::LossPercent => 0..=100,
        Setting::LossCount => 0..=1_000_000,
        Setting::GraceDays => 1..=3_650,
        Setting::PasswordHours => 0..=8_760,
        Setting::Interval => 10..=86_400,
        _ => 0..=0,
    }
}

pub(crate) fn urls(text: &str) -> Result<Vec<LdapUrl>, SettingError> {
    let mut urls = Vec::new();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let url = LdapUrl::from_str(part);
        urls.push(url.map_err(|error| wrong(Setting::Url, part, &error.to_string()))?);
    }
    match urls.len() {
        1..=MOST_URLS => Ok(urls),
        _ => Err(wrong(Setting::Url, text, "")),
    }
}

pub(crate) fn path(setting: Setting, text: &str) -> Result<String, SettingError> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err(wrong(setting, text, "")) }
}

pub(crate) fn flavour(text: &str) -> Result<Flavour, SettingError> {
    let found = Flavour::ALL.into_iter().find(|flavour| flavour.word() == text);
    found.ok_or_else(|| wrong(Setting::Flavour, text, ""))
}

pub(crate) fn disabled_callers(text: &str) -> Result<DisabledCallers, SettingError> {
    let found = DisabledCallers::ALL.into_iter().find(|answer| answer.word() == text);
    found.ok_or_else(|| wrong(Setting::DisabledCallers, text, ""))
}

pub(crate) fn bases(text: &str) -> Result<Vec<String>, SettingError> {
    let bases = parts(text);
    for base in &bases {
        if Dn::parse(base).is_none_or(|dn| dn.is_root()) {
            return Err(wrong(Setting::Base, base, "it is no distinguished name"));
        }
    }
    match bases.len() {
        1..=MOST_BASES => Ok(bases.into_iter().map(str::to_owned).collect()),
        _ => Err(wrong(Setting::Base, text, "")),
    }
}

pub(crate) fn filter(text: &str) -> Result<String, SettingError> {
    match is_filter(text) {
        true => Ok(text.to_owned()),
        false => Err(wrong(Setting::Filter, text, "its parentheses or items are not right")),
    }
}

pub(crate) fn attribute(text: &str) -> Result<String, SettingError> {
    let fine = (1..=128).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fine { Ok(text.to_ascii_lowercase()) } else { Err(wrong(Setting::GroupAttribute, text, "")) }
}

pub(crate) fn template(setting: Setting, text: &str) -> Result<Template, SettingError> {
    text.parse().map_err(|error: crate::TemplateError| wrong(setting, text, &error.to_string()))
}

pub(crate) fn classes(text: &str) -> Result<Vec<ClassRule>, SettingError> {
    let mut rules = Vec::new();
    for part in parts(text) {
        let wrong = |problem: &str| wrong(Setting::Class, part, problem);
        let (group, class) = part.rsplit_once("->").ok_or_else(|| wrong("it has no '->'"))?;
        let group = Dn::parse(group.trim()).filter(|dn| !dn.is_root());
        let group = group.ok_or_else(|| wrong("the group is no distinguished name"))?;
        let class = class_name(class).map_err(|error| wrong(&error.to_string()))?;
        rules.push(ClassRule { group, class });
    }
    match rules.len() {
        1..=MOST_RULES => Ok(rules),
        _ => Err(wrong(Setting::Class, text, "")),
    }
}

pub(crate) fn first_pin(text: &str) -> Result<FirstPin, SettingError> {
    match text {
        "none" => Ok(FirstPin::None),
        "mail" => Ok(FirstPin::Mail),
        text if text.contains('{') => template(Setting::FirstPin, text).map(FirstPin::Pattern),
        text => Err(wrong(Setting::FirstPin, text, "one PIN for all users is no secret")),
    }
}

/// The parts between semicolons that no `\` precedes, trimmed and without empty ones.
fn parts(text: &str) -> Vec<&str> {
    let mut escaped = false;
    let is_end = |c: char| {
        let ends = c == ';' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    };
    text.split(is_end).map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Input for an error text: escaped, at most 200 characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

/// The error of a value, with the problem in words or an empty text.
pub(crate) fn wrong(setting: Setting, value: &str, problem: &str) -> SettingError {
    let problem = if problem.is_empty() { String::new() } else { format!("{problem}; ") };
    SettingError::Value { word: setting.word(), value: shown(value), problem, expected: setting.expected() }
}
