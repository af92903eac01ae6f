//! The kinds of values, and the check of one.

use std::ops::RangeInclusive;

use twinbox_mailbox::is_timezone;

/// Maximum length of a value, in bytes.
const LONGEST: usize = 1_024;
/// Maximum number of items in a list.
const MOST_ITEMS: usize = 32;

/// Kind of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Whole number of this range.
    Number(RangeInclusive<u64>),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
    /// IANA name of a time zone.
    Zone,
    /// Items, separated by commas; the text describes an item.
    List(&'static str),
    /// Absolute path of a file, the same on all nodes.
    Path,
    /// URL, `http` or `https`.
    Url,
    /// Name of a domain, in lower case.
    Domain,
    /// Name or address of a server, with or without a port.
    Server,
    /// Any text of one line.
    Text,
}

/// Reason why a value is refused. The text follows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a number of the range.
    #[error("is {value}, expected a whole number from {low} to {high}")]
    Number {
        /// The given value.
        value: String,
        /// The smallest number.
        low: u64,
        /// The largest number.
        high: u64,
    },
    /// Neither `true` nor `false`.
    #[error("is {0}, expected true or false")]
    Flag(String),
    /// None of the words.
    #[error("'{value}' is not one of {known}")]
    Word {
        /// The given value.
        value: String,
        /// All words.
        known: String,
    },
    /// No time zone.
    #[error("'{0}' is no time zone: write an IANA name such as \"Europe/Berlin\"")]
    Zone(String),
    /// An item of a list is empty, or has a blank or a quote.
    #[error("'{value}' will not do: write {expected}; separate several with commas, at most {MOST_ITEMS}")]
    List {
        /// The given value.
        value: String,
        /// Description of an item.
        expected: &'static str,
    },
    /// Not an absolute path.
    #[error("'{0}' is not the absolute path of a file, which every node needs under that name")]
    Path(String),
    /// Not a URL. Its text may hold a secret, and is not repeated.
    #[error("is not a URL: write http://HOST/PATH or https://HOST/PATH, without a user or a password")]
    Url,
    /// Not the name of a domain.
    #[error("'{0}' is no domain: write a name such as voicemail.example.com")]
    Domain(String),
    /// Not a server.
    #[error("'{0}' is no server: write HOST or HOST:PORT, such as mail.example.com:587")]
    Server(String),
    /// Empty, too long, or of several lines.
    #[error("is empty, has more than {LONGEST} bytes or several lines: write a short text")]
    Text,
}

impl Kind {
    /// The value as it is stored and shown.
    pub fn check(&self, text: &str) -> Result<String, ValueError> {
        let text = text.trim();
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(ValueError::Text);
        }
        match self {
            Self::Number(range) => match text.parse::<u64>() {
                Ok(number) if range.contains(&number) => Ok(number.to_string()),
                _ => Err(ValueError::Number { value: text.to_owned(), low: *range.start(), high: *range.end() }),
            },
            Self::Flag => match text {
                "true" | "yes" | "on" => Ok("true".to_owned()),
                "false" | "no" | "off" => Ok("false".to_owned()),
                _ => Err(ValueError::Flag(text.to_owned())),
            },
            Self::Word(words) if words.contains(&text) => Ok(text.to_owned()),
            Self::Word(words) => Err(ValueError::Word { value: text.to_owned(), known: words.join(", ") }),
            Self::Zone if is_timezone(text) => Ok(text.to_owned()),
            Self::Zone => Err(ValueError::Zone(text.to_owned())),
            Self::List(expected) => {
                let items: Vec<&str> = text.split(',').map(str::trim).collect();
                let good =
                    |item: &&str| !item.is_empty() && !item.contains(|c: char| c.is_whitespace() || c == '"');
                match items.len() <= MOST_ITEMS && items.iter().all(good) {
                    true => Ok(items.join(",")),
                    false => Err(ValueError::List { value: text.to_owned(), expected }),
                }
            }
            Self::Path if text.starts_with('/') => Ok(text.to_owned()),
            Self::Path => Err(ValueError::Path(text.to_owned())),
            Self::Url => {
                let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
                let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
                match host.is_empty() || host.contains('@') || text.contains(char::is_whitespace) {
                    true => Err(ValueError::Url),
                    false => Ok(text.to_owned()),
                }
            }
            Self::Domain if is_domain(text) => Ok(text.to_ascii_lowercase()),
            Self::Domain => Err(ValueError::Domain(text.to_owned())),
            Self::Server => match host_and_port(text) {
                Some(_) => Ok(text.to_owned()),
                None => Err(ValueError::Server(text.to_owned())),
            },
            Self::Text => Ok(text.to_owned()),
        }
    }

    /// Description of the values, for lists.
    pub fn expected(&self) -> String {
        match self {
            Self::Number(range) => format!("{} to {}", range.start(), range.end()),
            Self::Flag => "true, false".to_owned(),
            Self::Word(words) => words.join(", "),
            Self::Zone => "IANA name, such as Europe/Berlin".to_owned(),
            Self::List(item) => format!("list of {item}"),
            Self::Path => "absolute path".to_owned(),
            Self::Url => "http://… or https://…".to_owned(),
            Self::Domain => "domain, such as voicemail.example.com".to_owned(),
            Self::Server => "HOST or HOST:PORT".to_owned(),
            Self::Text => "text".to_owned(),
        }
    }
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let fits = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        fits && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Host and port of a server, if the text has a port; `None`: it names no server. An IPv6 address has brackets.
pub fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, Some(port.parse().ok().filter(|port| *port > 0)?))
        }
        Some(_) if !text.starts_with('[') => return None,
        _ => (text, None),
    };
    (!host.is_empty() && host.chars().all(|c| c.is_ascii_graphic())).then_some((host, port))
}
