//! Mails of the system to users and administrators. Facts are stored with the effect that sends the mail; its text is made
//! when it is sent. A secret is removed when the effect is done, or given up after its time.

use twinbox_ids::{DeviceId, MailboxId, MessageId, Pii, Timestamp};
use twinbox_replication_core::{Edit, Record};

use crate::{Cause, Channel, Effect, NewEffect, Transition, effect::set, schema};

/// Text of a report that makes up for missed ones, after its other values.
const MAKES_UP: &str = "makes up";
/// Time after which a mail that cannot be sent is given up, in milliseconds.
const LIFE_MS: u64 = 3 * 24 * 3_600 * 1_000;

/// A mail of the system to one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemMail {
    /// Address of the recipient.
    pub to: Pii<String>,
    /// Facts of the mail.
    pub content: SystemContent,
}

/// Facts of a mail of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemContent {
    /// The first PIN of a new user.
    FirstPin {
        /// Number of the mailbox.
        number: String,
        /// The owner; may be empty.
        name: Pii<String>,
        /// The PIN.
        pin: Pii<String>,
    },
    /// The mailbox is nearly full, or full.
    Quota {
        /// Number of the mailbox.
        number: String,
        /// The owner; may be empty.
        name: Pii<String>,
        /// Used share of the capacity, in percent.
        percent: u64,
    },
    /// Messages are about to be deleted by their age.
    Ageing {
        /// Number of the mailbox.
        number: String,
        /// The owner; may be empty.
        name: Pii<String>,
        /// Number of the messages.
        messages: u64,
        /// Time from which the first of them may be deleted.
        first: Timestamp,
        /// IANA name of the owner's time zone.
        zone: String,
    },
    /// A report of calls.
    CallReport {
        /// Name of the job.
        job: String,
        /// Word of the report, such as `traffic`.
        report: String,
        /// Begin of its range.
        from: Timestamp,
        /// End of its range, not included.
        to: Timestamp,
        /// IANA name of the job's time zone.
        zone: String,
        /// Its range begins earlier than usual, because earlier reports were missed.
        makes_up: bool,
    },
}

impl SystemMail {
    /// The effect that sends it. `owner` is the mailbox, of a report of calls the id of the job. `occasion` numbers the
    /// occasions of one owner: the same occasion makes the same effect on every node, so that it is sent once.
    pub fn effect(&self, owner: MailboxId, occasion: u64, now: Timestamp) -> NewEffect {
        NewEffect {
            cause: Cause {
                mailbox: owner,
                message: MessageId(u128::from(occasion)),
                transition: self.content.transition(),
            },
            channel: Channel::System,
            target: self.target(),
            repeat: 0,
            retry: 0,
            created: now,
            not_before: now,
            expires: Timestamp(now.0.saturating_add(LIFE_MS)),
        }
    }

    /// The edits that add it to the record of its effect.
    pub fn edits(&self) -> Vec<Edit> {
        let mut bytes = vec![self.content.transition().byte()];
        for text in std::iter::once(self.to.reveal().clone()).chain(self.content.texts()) {
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        vec![set(schema::SYSTEM_MAIL, bytes)]
    }

    /// The mail in the record of an effect; `None` if there is none that this release can read, or if its content was
    /// removed.
    pub fn read(record: &Record) -> Option<Self> {
        let (transition, mut rest) = record.bytes(schema::SYSTEM_MAIL)?.split_first()?;
        let mut texts = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_at_checked(4)?;
            let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
            let (text, after) = after.split_at_checked(length)?;
            rest = after;
            texts.push(str::from_utf8(text).ok()?);
        }
        let (to, values) = texts.split_first()?;
        let content = SystemContent::of(Transition::from_byte(*transition)?, values)?;
        Some(Self { to: private(to), content })
    }

    /// Target of its effect: the same for each mail to one address.
    fn target(&self) -> DeviceId {
        let mut hasher = blake3::Hasher::new_derive_key("twinbox 2026 address of a system mail");
        hasher.update(self.to.reveal().as_bytes());
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        DeviceId(u128::from_be_bytes(id))
    }
}

impl SystemContent {
    /// The event that causes it.
    pub const fn transition(&self) -> Transition {
        match self {
            Self::FirstPin { .. } => Transition::FirstPin,
            Self::Quota { .. } => Transition::Quota,
            Self::Ageing { .. } => Transition::Ageing,
            Self::CallReport { .. } => Transition::CallReport,
        }
    }

    fn texts(&self) -> Vec<String> {
        match self.clone() {
            Self::FirstPin { number, name, pin } => vec![number, name.into_revealed(), pin.into_revealed()],
            Self::Quota { number, name, percent } => vec![number, name.into_revealed(), percent.to_string()],
            Self::Ageing { number, name, messages, first, zone } => {
                vec![number, name.into_revealed(), messages.to_string(), first.0.to_string(), zone]
            }
            Self::CallReport { job, report, from, to, zone, makes_up } => {
                let mut texts = vec![job, report, from.0.to_string(), to.0.to_string(), zone];
                texts.extend(makes_up.then(|| MAKES_UP.to_owned()));
                texts
            }
        }
    }

    /// The content with these values; further ones are of a newer release.
    fn of(transition: Transition, values: &[&str]) -> Option<Self> {
        let text = |text: &str| text.to_owned();
        let time = |text: &str| text.parse().ok().map(Timestamp);
        Some(match (transition, values) {
            (Transition::FirstPin, [number, name, pin, ..]) => {
                Self::FirstPin { number: text(number), name: private(name), pin: private(pin) }
            }
            (Transition::Quota, [number, name, percent, ..]) => {
                Self::Quota { number: text(number), name: private(name), percent: percent.parse().ok()? }
            }
            (Transition::Ageing, [number, name, messages, first, zone, ..]) => Self::Ageing {
                number: text(number),
                name: private(name),
                messages: messages.parse().ok()?,
                first: time(first)?,
                zone: text(zone),
            },
            (Transition::CallReport, [job, report, from, to, zone, rest @ ..]) => Self::CallReport {
                job: text(job),
                report: text(report),
                from: time(from)?,
                to: time(to)?,
                zone: text(zone),
                makes_up: rest.first() == Some(&MAKES_UP),
            },
            _ => return None,
        })
    }
}

/// The edit that removes the secret of an effect which is at its end; `None` for an effect without a secret.
pub fn forget_secret(effect: &Effect) -> Option<Edit> {
    (effect.new.cause.transition == Transition::FirstPin).then(|| set(schema::SYSTEM_MAIL, Vec::new()))
}

fn private(text: &str) -> Pii<String> {
    Pii::new(text.to_owned())
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{Origin, Stamp};
    use twinbox_replication_core::Value;

    use super::*;

    fn record(edits: Vec<Edit>) -> Record {
        let mut record = Record::new();
        for (n, edit) in (1..).zip(edits) {
            let stamp = Stamp { wall: n, counter: 0, origin: Origin(1) };
            record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
        }
        record
    }

    fn contents() -> [SystemContent; 4] {
        let (number, name, zone) = ("1001".to_owned(), private("Zoë"), "Europe/Berlin".to_owned());
        [
            SystemContent::FirstPin { number: number.clone(), name: name.clone(), pin: private("482913") },
            SystemContent::Quota { number: number.clone(), name: name.clone(), percent: 104 },
            SystemContent::Ageing { number, name, messages: 3, first: Timestamp(7), zone: zone.clone() },
            SystemContent::CallReport {
                job: "weekly".to_owned(),
                report: "traffic".to_owned(),
                from: Timestamp(1),
                to: Timestamp(9),
                zone,
                makes_up: false,
            },
        ]
    }

    #[test]
    fn mail_is_read_back_and_a_cut_one_is_none() {
        for content in contents() {
            let mail = SystemMail { to: private("a@example.org"), content };
            let written = record(mail.edits());
            assert_eq!(SystemMail::read(&written), Some(mail));
            let bytes = written.bytes(schema::SYSTEM_MAIL).expect("written");
            for length in 0..bytes.len() {
                let cut = Edit::Set(schema::SYSTEM_MAIL, Value::Bytes(bytes[..length].to_vec()));
                assert_eq!(SystemMail::read(&record(vec![cut])), None, "{length}");
            }
        }
        assert_eq!(SystemMail::read(&Record::new()), None);
    }

    #[test]
    fn report_that_makes_up_for_missed_ones_is_read_back_as_one() {
        let [.., mut content] = contents();
        if let SystemContent::CallReport { makes_up, .. } = &mut content {
            *makes_up = true;
        }
        assert!(matches!(content, SystemContent::CallReport { makes_up: true, .. }), "{content:?}");
        let mail = SystemMail { to: private("a@example.org"), content };
        assert_eq!(SystemMail::read(&record(mail.edits())), Some(mail));
    }

    #[test]
    fn one_occasion_is_one_effect_and_shows_neither_pin_nor_address_in_a_log() {
        let [first_pin, quota, ..] = contents();
        let mail = SystemMail { to: private("a@example.org"), content: quota };
        let id = |mail: &SystemMail, occasion, at| mail.effect(MailboxId(1), occasion, Timestamp(at)).id();
        assert_eq!(id(&mail, 4, 1), id(&mail, 4, 2), "whenever it is made");
        let elsewhere = SystemMail { to: private("b@example.org"), ..mail.clone() };
        assert!(id(&mail, 4, 1) != id(&mail, 5, 1) && id(&mail, 4, 1) != id(&elsewhere, 4, 1));
        let text = format!("{:?}", SystemMail { content: first_pin, ..mail });
        assert!(!text.contains("482913") && !text.contains("example.org"), "{text}");
    }

    #[test]
    fn secret_is_removed_and_other_content_stays() {
        for content in contents() {
            let mail = SystemMail { to: private("a@example.org"), content };
            let new = mail.effect(MailboxId(1), 0, Timestamp(1));
            let mut edits = [new.edits(None), mail.edits()].concat();
            let written = record(edits.clone());
            let effect = Effect::read(&schema::effect_key(new.id()), &written).expect("readable").expect("there");
            let is_secret = matches!(mail.content, SystemContent::FirstPin { .. });
            edits.extend(forget_secret(&effect));
            assert_eq!(SystemMail::read(&record(edits)).is_none(), is_secret, "{mail:?}");
        }
    }
}
