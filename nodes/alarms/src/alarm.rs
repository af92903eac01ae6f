//! An alarm, read from and written to its record. Pure.

use std::{fmt, str::FromStr};

use prost::Message;
use twinbox_ids::{NodeName, Timestamp};
use twinbox_replication_core::{Edit, Key, Record, Tag, Value};
use twinbox_wire::events as wire;

use crate::{ClearingRule, Code, schema};

/// Identifier of an alarm, valid on every node: 48 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlarmId([u8; 6]);

impl AlarmId {
    /// Creates a random id.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Reads an id; `None` unless there are exactly 6 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 6 bytes of the id.
    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Display for AlarmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Delivery channel to outside receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// HTTP POST.
    Webhook,
    /// SNMP.
    Trap,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 2] = [Self::Webhook, Self::Trap];

    /// Name of the channel as text.
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

/// State of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Raised and not acknowledged.
    Raised,
    /// Acknowledged by an administrator; the condition may last.
    Acknowledged,
    /// The condition has ended.
    Cleared,
}

impl State {
    /// Name of the state as text.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Acknowledged => "acknowledged",
            Self::Cleared => "cleared",
        }
    }
}

/// Transition of an alarm that is reported: raised for the n-th time (number 2 n - 1) or cleared for the n-th
/// time (number 2 n). The number of the last reported transition is the complete delivery state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transition(pub u64);

impl Transition {
    /// Whether the alarm was raised; otherwise it was cleared.
    pub fn is_raised(self) -> bool {
        !self.0.is_multiple_of(2)
    }
}

/// Delivery state of an alarm for one outside receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sent {
    /// Last transition that was delivered or given up.
    pub done: u64,
    /// Transition of the last attempt.
    pub tried: u64,
    /// Number of attempts at that transition.
    pub attempts: u32,
}

impl Sent {
    /// Number of attempts at this transition.
    pub(crate) fn attempts_at(&self, transition: Transition) -> u32 {
        if self.tried == transition.0 { self.attempts } else { 0 }
    }
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Node that raised the alarm.
    pub node: NodeName,
    /// Index of the alarm's record among the records of that node.
    pub slot: u16,
    /// Identifier of the alarm.
    pub id: AlarmId,
    /// Code of the alarm; `None`: a code of a later release.
    pub code: Option<Code>,
    /// Code as text.
    pub word: String,
    /// Object of the alarm: a node, service or key.
    pub subject: String,
    /// Cause as text.
    pub detail: String,
    /// Number of raises, including repeated ones.
    pub count: u64,
    /// Number of times that it changed from not raised to raised, or happened.
    pub raises: u64,
    /// Time of the first raise.
    pub first: Timestamp,
    /// Time of the last change from not raised to raised.
    pub raised: Timestamp,
    /// Time of the last raise, including repeated ones.
    pub seen: Timestamp,
    /// Time when it was cleared; `None`: not cleared.
    pub cleared: Option<Timestamp>,
    /// Administrator who acknowledged the present raise, and the time.
    pub acknowledged: Option<(String, Timestamp)>,
    webhook: Sent,
    trap: Sent,
}

impl Alarm {
    /// An alarm that is raised for the first time.
    pub fn new(node: NodeName, slot: u16, id: AlarmId, code: Code, subject: String, at: Timestamp) -> Self {
        Self {
            node,
            slot,
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

    /// Reads an alarm; `None` if there is no record or the record is not readable.
    pub fn read(key: &Key, record: &Record) -> Option<Self> {
        let (node, slot) = schema::slot_of(key)?;
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
            slot,
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

    /// Key of the alarm's record.
    pub fn key(&self) -> Key {
        schema::slot_key(schema::ALARM, &self.node, self.slot)
    }

    /// Edit that writes the state of the alarm. Only the node that raised it applies this edit, and another one after it was removed.
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

    /// Edit that acknowledges the present raise of the alarm.
    pub fn acknowledge(&self, by: &str, at: Timestamp) -> Edit {
        let ack = wire::AlarmAcknowledged {
            id: self.id.to_vec().into(),
            raises: self.raises,
            by: by.to_owned(),
            at_ms: at.0,
        };
        set(schema::alarm::ACKNOWLEDGED, &ack)
    }

    /// Edit that writes the delivery state for one channel.
    pub fn delivery_edit(&self, channel: Channel, sent: &Sent, by: &NodeName) -> Edit {
        let sent = wire::AlarmSent {
            id: self.id.to_vec().into(),
            done: sent.done,
            tried: sent.tried,
            attempts: sent.attempts,
            node: by.to_string(),
        };
        set(channel.tag(), &sent)
    }

    /// Delivery state for one channel.
    pub fn sent(&self, channel: Channel) -> &Sent {
        match channel {
            Channel::Webhook => &self.webhook,
            Channel::Trap => &self.trap,
        }
    }

    /// Latest transition of the alarm.
    pub fn transition(&self) -> Transition {
        let cleared_offset = if self.cleared.is_some() { 0 } else { 1 };
        Transition(self.raises.saturating_mul(2).saturating_sub(cleared_offset))
    }

    /// Transitions still to be delivered, in order. Of several repetitions only the last is delivered, so that a
    /// receiver that was unreachable is not flooded.
    pub fn due(&self, channel: Channel) -> Vec<Transition> {
        let (now, done) = (self.transition(), self.sent(channel).done);
        let raised = Transition(self.raises.saturating_mul(2).saturating_sub(1));
        let mut due = vec![raised, now];
        due.dedup();
        due.retain(|transition| transition.0 > done);
        due
    }

    /// Time of a transition.
    pub fn at(&self, transition: Transition) -> Timestamp {
        if transition.is_raised() { self.raised } else { self.cleared.unwrap_or(self.raised) }
    }

    /// Present state.
    pub fn state(&self) -> State {
        match (self.cleared, &self.acknowledged) {
            (Some(_), _) => State::Cleared,
            (None, Some(_)) => State::Acknowledged,
            (None, None) => State::Raised,
        }
    }

    /// Whether administrators should see the alarm: false when it was cleared, or when a single occurrence was
    /// acknowledged.
    pub fn is_open(&self) -> bool {
        match self.state() {
            State::Raised => true,
            State::Acknowledged => self.code.is_none_or(|code| code.clearing_rule() == ClearingRule::WhenEnded),
            State::Cleared => false,
        }
    }
}

/// Leading digits of an id, as an administrator types them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// Whether the id begins with these digits.
    pub fn matches(&self, id: AlarmId) -> bool {
        id.to_string().starts_with(&self.0)
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not the beginning of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an alarm id: see 'twinbox alarm list --all'; the first digits are sufficient")]
pub struct InvalidId(String);

impl FromStr for IdPrefix {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fine = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        if fine { Ok(Self(text.to_ascii_lowercase())) } else { Err(InvalidId(text.chars().take(64).collect())) }
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
    fn receiver_gets_only_the_latest_of_several_missed_transitions() {
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
        assert_eq!(alarm(1, false, 1).due(Channel::Trap), [Transition(1)], "each channel has its own state");
    }

    #[test]
    fn prefix_matches_the_first_digits_of_an_id() {
        let id = AlarmId([0xab, 0xcd, 1, 2, 3, 4]);
        assert!("ABC".parse::<IdPrefix>().expect("digits").matches(id));
        assert!(!"b".parse::<IdPrefix>().expect("digits").matches(id));
        for text in ["", "xyz", "abcd010203045", "a b"] {
            assert!(text.parse::<IdPrefix>().is_err(), "{text}");
        }
    }
}
