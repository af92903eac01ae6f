//! Changes of single settings: read from a command line, written as edits.

use std::net::{Ipv4Addr, Ipv6Addr};

use twinbox_ids::Pii;
use twinbox_mailbox::{class_name, is_mail_address};
use twinbox_replication_core::Edit;

use crate::{
    CallerPattern, DEFAULT_LINK_HOURS, Device, DeviceId, Kind, KindName, Repeat, Schedule, Setting, SettingError,
    link::MOST_LINK_HOURS,
    schema::device as tag,
    setting::Hint,
    value::{set_byte, set_device, set_number, set_repeat, set_text},
};

/// A new value of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChange {
    /// Name in lists.
    Name(String),
    /// Mail address.
    Address(Pii<String>),
    /// Telephone number for SMS.
    Number(Pii<String>),
    /// URL of the webhook.
    Url(Pii<String>),
    /// Key of the webhook's signatures.
    Secret(Pii<String>),
    /// Notifications have a link to the recording.
    Link(bool),
    /// Validity of the links, in hours.
    LinkHours(u32),
    /// The recording is attached to the mail.
    Audio(bool),
    /// Notifications are sent.
    Enabled(bool),
    /// Language of the texts; `None`: that of the mailbox.
    Language(Option<String>),
    /// Times of notifications; `None`: always.
    When(Option<Schedule>),
    /// Urgent messages only.
    UrgentOnly(bool),
    /// Patterns of callers; empty: all callers.
    From(Vec<CallerPattern>),
    /// Minimum length of a message, in seconds.
    MinSeconds(u32),
    /// Delay of the first notification, in seconds.
    Delay(u32),
    /// Repeats until the message was heard.
    Repeat(Option<Repeat>),
    /// The device that follows when this one fails.
    Fallback(Option<DeviceId>),
    /// Maximum number of notifications in an hour; 0: no limit.
    PerHour(u32),
    /// The message is deleted once the mail with its recording is delivered.
    DeleteAfter(bool),
}

impl DeviceChange {
    /// Reads `word=value` for a device of that kind; `-` as the value unsets a setting that has a default. `devices` are
    /// the names of the mailbox's devices, for `fallback`.
    pub fn parse(text: &str, kind: KindName, devices: &[(&str, DeviceId)]) -> Result<Self, SettingError> {
        let shape = || SettingError::Shape { text: text.to_owned() };
        let (word, value) = text.split_once('=').ok_or_else(shape)?;
        let setting = Setting::find(word.trim(), kind)?;
        let value = value.trim();
        let wrong = || SettingError::Value {
            word: setting.word(),
            value: match setting {
                Setting::Secret => "•••".to_owned(),
                // It may have a password.
                Setting::Url if value.contains('@') => "•••".to_owned(),
                _ => value.to_owned(),
            },
            expected: setting.expected().to_owned(),
        };
        let unset = value == "-";
        let switch = |default: bool| match value {
            "-" => Ok(default),
            "yes" | "on" => Ok(true),
            "no" | "off" => Ok(false),
            _ => Err(wrong()),
        };
        let number = |most: u32| match value {
            "-" => Ok(0),
            digits => digits.parse::<u32>().ok().filter(|n| *n <= most).ok_or_else(wrong),
        };
        let private = |fine: bool| if fine { Ok(Pii::new(value.to_owned())) } else { Err(wrong()) };
        Ok(match setting {
            Setting::Name => Self::Name(class_name(value).map_err(|_| wrong())?),
            Setting::Address => Self::Address(private(is_mail_address(value))?),
            Setting::Number => Self::Number(private(is_number(value))?),
            Setting::Url => Self::Url(private(is_url(value))?),
            Setting::Secret => Self::Secret(private(is_secret(value))?),
            Setting::Link => Self::Link(switch(false)?),
            Setting::LinkHours if unset => Self::LinkHours(DEFAULT_LINK_HOURS),
            Setting::LinkHours => match number(MOST_LINK_HOURS)? {
                0 => return Err(wrong()),
                hours => Self::LinkHours(hours),
            },
            Setting::Audio => Self::Audio(switch(false)?),
            Setting::Enabled => Self::Enabled(switch(true)?),
            Setting::Language if unset => Self::Language(None),
            Setting::Language => match is_language(value) {
                true => Self::Language(Some(value.to_ascii_lowercase())),
                false => return Err(wrong()),
            },
            Setting::When if unset => Self::When(None),
            Setting::When => Self::When(Some(value.parse::<Schedule>().map_err(|error| SettingError::Value {
                word: setting.word(),
                value: value.to_owned(),
                expected: format!("{}: {error}", setting.expected()),
            })?)),
            Setting::UrgentOnly => Self::UrgentOnly(switch(false)?),
            Setting::From if unset => Self::From(Vec::new()),
            Setting::From => Self::From(CallerPattern::list(value).ok_or_else(wrong)?),
            Setting::MinSeconds => Self::MinSeconds(number(7_200)?),
            Setting::Delay => Self::Delay(number(604_800)?),
            Setting::Repeat if unset => Self::Repeat(None),
            Setting::Repeat => Self::Repeat(Some(repeat(value).ok_or_else(wrong)?)),
            Setting::Fallback if unset => Self::Fallback(None),
            Setting::Fallback => Self::Fallback(Some(fallback(value, devices)?)),
            Setting::PerHour => Self::PerHour(number(3_600)?),
            Setting::DeleteAfter => Self::DeleteAfter(switch(false)?),
        })
    }

    /// The edits of the device's record.
    pub fn edits(&self) -> Vec<Edit> {
        let switch = |tag, on: &bool| set_byte(tag, u8::from(*on));
        vec![match self {
            Self::Name(name) => set_text(tag::NAME, name),
            Self::Address(address) => set_text(tag::ADDRESS, address.reveal()),
            Self::Number(number) => set_text(tag::NUMBER, number.reveal()),
            Self::Url(url) => set_text(tag::URL, url.reveal()),
            Self::Secret(secret) => set_text(tag::SECRET, secret.reveal()),
            Self::Link(on) => switch(tag::LINK, on),
            Self::LinkHours(hours) => set_number(tag::LINK_HOURS, *hours),
            Self::Audio(on) => switch(tag::AUDIO, on),
            Self::Enabled(on) => switch(tag::ENABLED, on),
            Self::Language(language) => set_text(tag::LANGUAGE, language.as_deref().unwrap_or_default()),
            Self::When(schedule) => {
                set_text(tag::SCHEDULE, &schedule.as_ref().map(ToString::to_string).unwrap_or_default())
            }
            Self::UrgentOnly(on) => switch(tag::URGENT_ONLY, on),
            Self::From(callers) => set_text(tag::CALLERS, &CallerPattern::show(callers)),
            Self::MinSeconds(seconds) => set_number(tag::MIN_SECONDS, *seconds),
            Self::Delay(seconds) => set_number(tag::DELAY, *seconds),
            Self::Repeat(repeat) => set_repeat(tag::REPEAT, *repeat),
            Self::Fallback(device) => set_device(tag::FALLBACK, *device),
            Self::PerHour(most) => set_number(tag::PER_HOUR, *most),
            Self::DeleteAfter(on) => switch(tag::DELETE_AFTER, on),
        }]
    }

    /// Applies the change to a device. A setting that its kind does not have changes nothing.
    pub fn apply(&self, device: &mut Device) {
        match (self, &mut device.kind) {
            (
                Self::Address(new),
                Kind::Mail { address, .. } | Kind::Pager { address } | Kind::SmsMail { address },
            ) => address.clone_from(new),
            (Self::Number(new), Kind::SmsHttp { number }) => number.clone_from(new),
            (Self::Url(new), Kind::Webhook { url, .. }) => url.clone_from(new),
            (Self::Secret(new), Kind::Webhook { secret, .. }) => secret.clone_from(new),
            (Self::Link(on), Kind::Webhook { link, .. }) => *link = *on,
            (Self::LinkHours(hours), Kind::Webhook { link_hours, .. }) => *link_hours = *hours,
            (Self::Audio(on), Kind::Mail { audio, .. }) => *audio = *on,
            (Self::Address(_) | Self::Number(_) | Self::Url(_) | Self::Secret(_), _) => {}
            (Self::Link(_) | Self::LinkHours(_) | Self::Audio(_), _) => {}
            (Self::Name(name), _) => device.name.clone_from(name),
            (Self::Enabled(on), _) => device.enabled = *on,
            (Self::Language(language), _) => device.language.clone_from(language),
            (Self::When(schedule), _) => device.schedule.clone_from(schedule),
            (Self::UrgentOnly(on), _) => device.filter.urgent_only = *on,
            (Self::From(callers), _) => device.filter.callers.clone_from(callers),
            (Self::MinSeconds(seconds), _) => device.filter.min_seconds = *seconds,
            (Self::Delay(seconds), _) => device.delay_s = *seconds,
            (Self::Repeat(repeat), _) => device.repeat = *repeat,
            (Self::Fallback(fallback), _) => device.fallback = *fallback,
            (Self::PerHour(most), _) => device.per_hour = *most,
            (Self::DeleteAfter(on), _) => device.delete_after = *on,
        }
    }
}

/// `900x3`: every 900 seconds, at most 3 times.
fn repeat(value: &str) -> Option<Repeat> {
    let (every, most) = value.split_once('x')?;
    let repeat = Repeat { every_s: every.trim().parse().ok()?, most: most.trim().parse().ok()? };
    ((60..=86_400).contains(&repeat.every_s) && (1..=100).contains(&repeat.most)).then_some(repeat)
}

fn fallback(value: &str, devices: &[(&str, DeviceId)]) -> Result<DeviceId, SettingError> {
    let names: Vec<&str> = devices.iter().map(|(name, _)| *name).collect();
    devices.iter().find(|(name, _)| name.eq_ignore_ascii_case(value)).map(|(_, id)| *id).ok_or_else(|| {
        SettingError::Device {
            value: value.to_owned(),
            known: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
            hint: Hint::of(value, &names),
        }
    })
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or(text);
    (3..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether requests can be sent to a URL. A name and password in it would be in logs.
fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
        Some(at) => (&authority[..at], authority[at + 1..].parse().ok()),
        None => (authority, Some(1)),
    };
    let path_fits = |byte: u8| byte.is_ascii_graphic() && !b"<>\\^`".contains(&byte);
    text.len() <= 2_000 && is_host(host) && port.is_some_and(|port: u16| port > 0) && path.bytes().all(path_fits)
}

/// A name or an address; an IPv6 address is in brackets.
fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_name = || {
        let mut labels = text.strip_suffix('.').unwrap_or(text).rsplit('.');
        labels.next().is_some_and(|last| is_label(last) && !last.bytes().all(|byte| byte.is_ascii_digit()))
            && labels.all(is_label)
    };
    text.len() <= 253 && (text.parse::<Ipv4Addr>().is_ok() || is_name())
}

fn is_secret(text: &str) -> bool {
    (16..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A language tag such as `de` or `pt-br`.
pub(crate) fn is_language(text: &str) -> bool {
    let mut parts = text.split('-');
    let first = parts.next().unwrap_or_default();
    (2..=3).contains(&first.len())
        && first.bytes().all(|byte| byte.is_ascii_alphabetic())
        && text.len() <= 20
        && parts.all(|part| (2..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}
