//! An alarm as its record says it. Pure.

use std::{fmt, str::FromStr};

use prost::Message;
use twinbox_ids::{NodeName, Timestamp};
use twinbox_replication_core::{Edit, Key, Record, Tag, Value};
use twinbox_wire::events as wire;

use crate::{Code, Course, schema};

/// Names an alarm on every node: 48 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlarmId([u8; 6]);

impl AlarmId {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// From its bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Display for AlarmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What outside receivers are told through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// HTTP POST.
    Webhook,
    /// SNMP.
    Trap,
}

impl Channel {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Webhook, Self::Trap];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Trap => "trap",
        }
    }

    fn tag(self) -> Tag {
        match self {
            Self::Webhook => schema::alarm::WEBHOOK,
            Self::Trap => schema::alarm::TRAP,
        }
    }
}

/// How an alarm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Raised, and nobody has said that they know.
    Raised,
    /// Somebody knows; the condition may last.
    Acknowledged,
    /// Over.
    Cleared,
}

impl State {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Acknowledged => "acknowledged",
            Self::Cleared => "cleared",
        }
    }
}

/// What has happened to an alarm and is told: raised for the n-th time, or over for the n-th time. Numbered 2 n - 1 and
/// 2 n, so that the number of the last one told says it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transition(pub u64);

impl Transition {
    /// Raised, and not: over.
    pub fn is_raised(self) -> bool {
        !self.0.is_multiple_of(2)
    }
}

/// What an outside receiver has been told of an alarm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sent {
    /// The last transition that it was told, or that it is not to be told any more.
    pub done: u64,
    /// The one tried last.
    pub tried: u64,
    /// How often.
    pub attempts: u32,
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Who raised it.
    pub node: NodeName,
    /// Where its record is among that node's.
    pub place: u16,
    /// Its name.
    pub id: AlarmId,
    /// What it is about; `None`: of a later release.
    pub code: Option<Code>,
    /// The word of the code.
    pub word: String,
    /// Of whom or what.
    pub subject: String,
    /// In words.
    pub detail: String,
    /// How often it was raised.
    pub count: u64,
    /// How often it went from not raised to raised, or happened.
    pub raises: u64,
    /// When it was first raised.
    pub first: Timestamp,
    /// When it was raised the last time.
    pub raised: Timestamp,
    /// When it was last seen.
    pub seen: Timestamp,
    /// When it was over, if it is.
    pub cleared: Option<Timestamp>,
    /// Who has acknowledged it as it is now, and when.
    pub acknowledged: Option<(String, Timestamp)>,
    webhook: Sent,
    trap: Sent,
}

impl Alarm {
    /// One that is raised for the first time.
    pub fn new(node: NodeName, place: u16, id: AlarmId, code: Code, subject: String, at: Timestamp) -> Self {
        Self {
            node,
            place,
            id,
            code: Some(code),
            word: code.word().to_owned(),
            subject,
            detail: String::new(),
            count: 0,
            raises: 0,
            first: at,
            raised: at,
            seen: at,
            cleared: Some(at),
            acknowledged: None,
            webhook: Sent::default(),
            trap: Sent::default(),
        }
    }

    /// Reads one; `None` where there is none, or nothing that can be read.
    pub fn read(key: &Key, record: &Record) -> Option<Self> {
        let (node, place) = schema::place_of(key)?;
        let report: wire::AlarmReport = read(record, schema::alarm::REPORT)?;
        let id = AlarmId::from_slice(&report.id)?;
        let acknowledged = read::<wire::AlarmAcknowledged>(record, schema::alarm::ACKNOWLEDGED)
            .filter(|ack| ack.id == report.id && ack.raises == report.raises)
            .map(|ack| (ack.by, Timestamp(ack.at_ms)));
        let sent = |channel: Channel| {
            let sent = read::<wire::AlarmSent>(record, channel.tag()).filter(|sent| sent.id == report.id);
            sent.map(|sent| Sent { done: sent.done, tried: sent.tried, attempts: sent.attempts })
        };
        Some(Self {
            node,
            place,
            id,
            code: report.code.parse().ok(),
            webhook: sent(Channel::Webhook).unwrap_or_default(),
            trap: sent(Channel::Trap).unwrap_or_default(),
            word: report.code,
            subject: report.subject,
            detail: report.detail,
            count: report.count,
            raises: report.raises,
            first: Timestamp(report.first_ms),
            raised: Timestamp(report.raised_ms),
            seen: Timestamp(report.seen_ms),
            cleared: report.cleared.then_some(Timestamp(report.cleared_ms)),
            acknowledged,
        })
    }

    /// The key of its record.
    pub fn key(&self) -> Key {
        schema::place_key(schema::ALARM, &self.node, self.place)
    }

    /// The edit that says how it stands: for the node that raised it.
    pub fn report(&self) -> Edit {
        let report = wire::AlarmReport {
            id: self.id.to_vec().into(),
            code: self.word.clone(),
            subject: self.subject.clone(),
            first_ms: self.first.0,
            raised_ms: self.raised.0,
            seen_ms: self.seen.0,
            count: self.count,
            detail: self.detail.clone(),
            raises: self.raises,
            cleared: self.cleared.is_some(),
            cleared_ms: self.cleared.map_or(0, |at| at.0),
        };
        set(schema::alarm::REPORT, &report)
    }

    /// The edit that acknowledges it as it is now.
    pub fn acknowledge(&self, by: &str, at: Timestamp) -> Edit {
        let ack = wire::AlarmAcknowledged {
            id: self.id.to_vec().into(),
            raises: self.raises,
            by: by.to_owned(),
            at_ms: at.0,
        };
        set(schema::alarm::ACKNOWLEDGED, &ack)
    }

    /// The edit that says what a receiver has been told.
    pub fn told(&self, channel: Channel, sent: &Sent, by: &NodeName) -> Edit {
        let sent = wire::AlarmSent {
            id: self.id.to_vec().into(),
            done: sent.done,
            tried: sent.tried,
            attempts: sent.attempts,
            node: by.to_string(),
        };
        set(channel.tag(), &sent)
    }

    /// What a receiver has been told.
    pub fn sent(&self, channel: Channel) -> &Sent {
        match channel {
            Channel::Webhook => &self.webhook,
            Channel::Trap => &self.trap,
        }
    }

    /// The number of the last thing that happened to it.
    pub fn transition(&self) -> Transition {
        let over = if self.cleared.is_some() { 0 } else { 1 };
        Transition(self.raises.saturating_mul(2).saturating_sub(over))
    }

    /// What a receiver has still to be told, in order: of what happened several times the last only, so that a receiver
    /// that was away is not flooded.
    pub fn due(&self, channel: Channel) -> Vec<Transition> {
        let (now, done) = (self.transition(), self.sent(channel).done);
        let raised = Transition(self.raises.saturating_mul(2).saturating_sub(1));
        let mut due = vec![raised, now];
        due.dedup();
        due.retain(|transition| transition.0 > done);
        due
    }

    /// When that happened.
    pub fn at(&self, transition: Transition) -> Timestamp {
        if transition.is_raised() { self.raised } else { self.cleared.unwrap_or(self.raised) }
    }

    /// How it stands.
    pub fn state(&self) -> State {
        match (self.cleared, &self.acknowledged) {
            (Some(_), _) => State::Cleared,
            (None, Some(_)) => State::Acknowledged,
            (None, None) => State::Raised,
        }
    }

    /// Whether it is for people to see: not when it is over, nor when it happened and was acknowledged.
    pub fn is_open(&self) -> bool {
        match self.state() {
            State::Raised => true,
            State::Acknowledged => self.code.is_none_or(|code| code.course() == Course::Lasts),
            State::Cleared => false,
        }
    }
}

/// Part of an id, as people type it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// Whether this id begins so.
    pub fn matches(&self, id: AlarmId) -> bool {
        id.to_string().starts_with(&self.0)
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not the beginning of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no alarm's id: 'twinbox alarm list --all' shows them; the first digits will do")]
pub struct NoId(String);

impl FromStr for IdPrefix {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let fine = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        if fine { Ok(Self(text.to_ascii_lowercase())) } else { Err(NoId(text.chars().take(64).collect())) }
    }
}

pub(crate) fn read<M: Message + Default>(record: &Record, tag: Tag) -> Option<M> {
    M::decode(record.bytes(tag)?).ok()
}

pub(crate) fn set(tag: Tag, message: &impl Message) -> Edit {
    Edit::Set(tag, Value::Bytes(message.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(raises: u64, cleared: bool, done: u64) -> Alarm {
        let node = "a".parse().expect("a name");
        let mut alarm = Alarm::new(node, 0, AlarmId([1; 6]), Code::Space, "a".to_owned(), Timestamp(5));
        alarm.raises = raises;
        alarm.cleared = cleared.then_some(Timestamp(9));
        alarm.webhook.done = done;
        alarm
    }

    #[test]
    fn a_receiver_is_told_what_it_missed_and_the_last_of_each_only() {
        for (raises, cleared, done, due) in [
            (1, false, 0, vec![1]),
            (1, false, 1, vec![]),
            (1, true, 1, vec![2]),
            (1, true, 0, vec![1, 2]),
            (7, false, 2, vec![13]),
            (7, true, 2, vec![13, 14]),
            (7, true, 13, vec![14]),
            (7, true, 14, vec![]),
        ] {
            let due: Vec<Transition> = due.into_iter().map(Transition).collect();
            assert_eq!(alarm(raises, cleared, done).due(Channel::Webhook), due, "{raises} {cleared} {done}");
        }
        assert_eq!(alarm(1, false, 1).due(Channel::Trap), [Transition(1)], "each channel is told by itself");
    }

    #[test]
    fn ids_are_named_by_their_first_digits() {
        let id = AlarmId([0xab, 0xcd, 1, 2, 3, 4]);
        assert!("ABC".parse::<IdPrefix>().expect("digits").matches(id));
        assert!(!"b".parse::<IdPrefix>().expect("digits").matches(id));
        for text in ["", "xyz", "abcd010203045", "a b"] {
            assert!(text.parse::<IdPrefix>().is_err(), "{text}");
        }
    }
}
