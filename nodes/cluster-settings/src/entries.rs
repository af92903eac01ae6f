//! The content of a register: its keys that are set, with their values.

use std::collections::BTreeMap;

use crate::{Key, Register, Values};

/// Keys of one register that are set, each with a checked value. Absent keys have their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries(BTreeMap<Key, String>);

/// Values that do not go together. The text begins with the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Every message would be discarded.
    #[error(
        "voicemail.max_message_seconds is {max_seconds}, not above voicemail.min_message_ms = {min_ms}: every message \
         would be discarded; set both in one command"
    )]
    MessageLength {
        /// Longest message.
        max_seconds: u64,
        /// Shortest message.
        min_ms: u64,
    },
    /// The interval that is offered would be refused.
    #[error("sip.session_seconds is {offered}, below sip.min_session_seconds = {least}: set both in one command")]
    Session {
        /// Interval that is offered.
        offered: u64,
        /// Shortest interval.
        least: u64,
    },
    /// A number would lead to two menus.
    #[error("'{0}' is in sip.pilot and in sip.pilot_ask: keep it in one of them; set both in one command")]
    Pilot(String),
    /// Two ways of mails out.
    #[error(
        "mail.direct is true beside mail.smarthost = {0}: keep one of them; '-' as value unsets the other in one command"
    )]
    TwoRoutes(String),
    /// TLS that this way of mails out does not have.
    #[error("mail.tls '{word}' is not one of {known} (with {route}): set both in one command")]
    Tls {
        /// The value.
        word: String,
        /// The words that fit.
        known: &'static str,
        /// The way of mails out.
        route: &'static str,
    },
    /// A part of a receiver without the receiver.
    #[error("{0} is set without {1}: set both in one command, or unset it")]
    Without(&'static str, &'static str),
}

impl Entries {
    /// Sets a key; the value must have passed [`Key::check`].
    pub fn set(&mut self, key: Key, value: String) {
        self.0.insert(key, value);
    }

    /// Gives a key its default.
    pub fn unset(&mut self, key: Key) {
        self.0.remove(&key);
    }

    /// The value of a key, if it is set.
    pub fn get(&self, key: Key) -> Option<&str> {
        self.0.get(&key).map(String::as_str)
    }

    /// All keys that are set.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &str)> {
        self.0.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// True when no key is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content as the store has it: a line `key=value` for each key, in the order of the names.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> = self.iter().map(|(key, value)| format!("{}={value}\n", key.name())).collect();
        lines.sort_unstable();
        lines.concat()
    }

    /// Reads the content of a register, and the lines that this release does not know: of another release, or damaged.
    pub fn read(register: Register, text: &str) -> (Self, Vec<String>) {
        let (mut entries, mut unknown) = (Self::default(), Vec::new());
        for line in text.lines() {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            let key = register.keys().find(|key| key.name() == name);
            match key.map(|key| (key, key.check(value))) {
                Some((key, Ok(value))) => entries.set(key, value),
                _ => unknown.push(name.to_owned()),
            }
        }
        (entries, unknown)
    }

    /// Checks that the values go together.
    pub fn check(&self, register: Register) -> Result<(), GroupError> {
        // The profile decides on no value that is part of a group.
        let values = Values::of(self.iter(), false);
        let number = |key| values.number(key);
        match register {
            Register::MessageLength => {
                let (max_seconds, min_ms) = (number(Key::MaxMessageSeconds), number(Key::MinMessageMs));
                if max_seconds.saturating_mul(1_000) <= min_ms {
                    return Err(GroupError::MessageLength { max_seconds, min_ms });
                }
            }
            Register::Session => {
                let (offered, least) = (number(Key::SessionSeconds), number(Key::MinSessionSeconds));
                if offered < least {
                    return Err(GroupError::Session { offered, least });
                }
            }
            Register::Pilots => {
                let ask = values.list(Key::PilotAsk);
                if let Some(both) = values.list(Key::Pilot).into_iter().find(|number| ask.contains(number)) {
                    return Err(GroupError::Pilot(both));
                }
            }
            Register::Webhook if self.get(Key::WebhookUrl).is_none() && self.get(Key::WebhookCaFile).is_some() => {
                return Err(GroupError::Without(Key::WebhookCaFile.name(), Key::WebhookUrl.name()));
            }
            Register::Sms if self.get(Key::SmsUrl).is_none() && self.get(Key::SmsCaFile).is_some() => {
                return Err(GroupError::Without(Key::SmsCaFile.name(), Key::SmsUrl.name()));
            }
            Register::MailIdentity if self.get(Key::MailDomain).is_none() && self.get(Key::MailFrom).is_some() => {
                return Err(GroupError::Without(Key::MailFrom.name(), Key::MailDomain.name()));
            }
            Register::MailRoute => self.check_mail_route()?,
            Register::MailSignature if self.get(Key::DkimSelector).is_none() => {
                let part = [Key::DkimKeyFile, Key::DkimDomain].into_iter().find(|key| self.get(*key).is_some());
                if let Some(part) = part {
                    return Err(GroupError::Without(part.name(), Key::DkimSelector.name()));
                }
            }
            Register::Trap if self.get(Key::TrapReceivers).is_none() => {
                let part = [Key::TrapUser, Key::TrapAuth].into_iter().find(|key| self.get(*key).is_some());
                if let Some(part) = part {
                    return Err(GroupError::Without(part.name(), Key::TrapReceivers.name()));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check_mail_route(&self) -> Result<(), GroupError> {
        if self.get(Key::MailPasswordFile).is_some() && self.get(Key::MailUser).is_none() {
            return Err(GroupError::Without(Key::MailPasswordFile.name(), Key::MailUser.name()));
        }
        let (known, route) = match (self.get(Key::MailSmarthost), self.get(Key::MailDirect) == Some("true")) {
            (Some(host), true) => return Err(GroupError::TwoRoutes(host.to_owned())),
            (Some(_), false) => ("starttls, tls, opportunistic, off", Key::MailSmarthost.name()),
            (None, true) => ("opportunistic, required", "mail.direct = true"),
            (None, false) => return Ok(()),
        };
        match self.get(Key::MailTls).filter(|word| !known.split(", ").any(|fits| fits == *word)) {
            Some(word) => Err(GroupError::Tls { word: word.to_owned(), known, route }),
            None => Ok(()),
        }
    }
}
