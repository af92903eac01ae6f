//! One effect: its identity, its record and its edits.

use std::fmt;

use twinbox_ids::{DeviceId, EffectId, Epoch, Incarnation, MailboxId, MessageId, Timestamp};
use twinbox_replication_core::{Edit, Key, Record, Tag, Value};

use crate::{
    gathered::{self, Gathered},
    kind::{Channel, Transition},
    schema,
};

/// Maximum length of a stored reason or receipt, in bytes.
const LONGEST_TEXT: usize = 400;

/// Cause of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    /// The mailbox; of [`Transition::CallReport`] the id of the job.
    pub mailbox: MailboxId,
    /// The message; all zeros for a test. Of [`Transition::Sent`] the message on its way, which is in no mailbox here. Of
    /// a mail of the system the number of its occasion.
    pub message: MessageId,
    /// Its transition.
    pub transition: Transition,
}

/// An effect that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEffect {
    /// The cause.
    pub cause: Cause,
    /// The channel.
    pub channel: Channel,
    /// The device; of [`Channel::Vpim`] the id of the location, of [`Channel::Report`] that of the reported address,
    /// of [`Channel::System`] that of the recipient's address.
    pub target: DeviceId,
    /// Number of the repeat: 0 for the first notification, one more for each reminder.
    pub repeat: u32,
    /// Number of the administrator's retries of this repeat.
    pub retry: u32,
    /// Time of its creation.
    pub created: Timestamp,
    /// Earliest time of the first attempt.
    pub not_before: Timestamp,
    /// Time after which it is given up.
    pub expires: Timestamp,
}

impl NewEffect {
    /// The id: the same on every node for the same cause, so that two nodes which file one message make one effect.
    pub fn id(&self) -> EffectId {
        identity(&self.cause, self.channel, self.target, self.repeat, self.retry)
    }

    /// The edits of its record; none if the record exists, so that a second filing changes nothing.
    pub fn edits(&self, current: Option<&Record>) -> Vec<Edit> {
        if current.is_some_and(|record| !record.is_empty()) {
            return Vec::new();
        }
        let cause = [self.cause.mailbox.to_bytes(), self.cause.message.to_bytes()].concat();
        let numbers = [self.repeat.to_be_bytes(), self.retry.to_be_bytes()].concat();
        vec![
            set(schema::CAUSE, cause),
            set(schema::KIND, vec![self.cause.transition.byte(), self.channel.byte()]),
            set(schema::TARGET, self.target.to_bytes().to_vec()),
            set(schema::NUMBERS, numbers),
            set(schema::CREATED, self.created.0.to_be_bytes().to_vec()),
            set(schema::NOT_BEFORE, self.not_before.0.to_be_bytes().to_vec()),
            set(schema::EXPIRES, self.expires.0.to_be_bytes().to_vec()),
        ]
    }
}

fn identity(cause: &Cause, channel: Channel, target: DeviceId, repeat: u32, retry: u32) -> EffectId {
    let mut hasher = blake3::Hasher::new_derive_key("twinbox effect v1");
    hasher.update(&cause.mailbox.to_bytes());
    hasher.update(&cause.message.to_bytes());
    hasher.update(&[cause.transition.byte(), channel.byte()]);
    hasher.update(&target.to_bytes());
    hasher.update(&repeat.to_be_bytes());
    hasher.update(&retry.to_be_bytes());
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    EffectId(u128::from_be_bytes(id))
}

/// State of an effect. It only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EffectState {
    /// Not attempted, or an attempt is under way.
    Pending,
    /// The latest attempt failed; another follows.
    Failed,
    /// Given up: a dead letter.
    Dead,
    /// Done, or not wanted any more.
    Done,
}

impl EffectState {
    /// The word for people and programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Done => "done",
        }
    }

    /// Whether no attempt follows.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Dead | Self::Done)
    }
}

/// The latest attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u32,
    /// Time of its beginning.
    pub at: Timestamp,
    /// The process that made it.
    pub incarnation: Incarnation,
    /// Epoch of the duty, as text.
    pub epoch: String,
}

/// An end of an attempt or of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its time; of a failure, the time of the next attempt.
    pub at: Timestamp,
    /// Receipt or reason.
    pub text: String,
}

/// An effect as read from its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Its id.
    pub id: EffectId,
    /// The cause, target, numbers and times.
    pub new: NewEffect,
    /// The latest attempt.
    pub attempt: Option<Attempt>,
    /// Number of the latest failed attempt, with the time of the next one and the reason.
    pub failure: Option<(u32, Ended)>,
    /// Success.
    pub done: Option<Ended>,
    /// Reason for giving up.
    pub dead: Option<Ended>,
    /// Number of the attempt during which a process died last, and the count of such deaths.
    pub deaths: Option<(u32, u32)>,
    /// A report of failure that came back after the success.
    pub bounced: Option<Ended>,
    /// Effects whose messages are in the same notification, since the first attempt of which the result may be unknown.
    pub covers: Vec<EffectId>,
    /// The notification that has this effect's message.
    pub gathered: Option<Gathered>,
    /// Number of attempts, from the first on, that left nothing with the receiver for certain. Only of notifications.
    pub not_taken: u32,
}

/// A record is no effect that this release can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// The key has the wrong shape.
    #[error("a key of an effect has the wrong length; the record is ignored")]
    Key,
    /// A field is missing or cannot be read.
    #[error(
        "field {0} of an effect is missing or from a newer release; the effect waits for a node that can read it"
    )]
    Field(Tag),
}

impl Effect {
    /// Reads an effect; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, EffectError> {
        let id = schema::effect_of(key).ok_or(EffectError::Key)?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let (mailbox, message) = required(record, schema::CAUSE, |bytes| {
            let (mailbox, message) = bytes.split_at_checked(16)?;
            Some((MailboxId::from_slice(mailbox)?, MessageId::from_slice(message)?))
        })?;
        let (transition, channel) = required(record, schema::KIND, |bytes| match bytes {
            [transition, channel] => Some((Transition::from_byte(*transition)?, Channel::from_byte(*channel)?)),
            _ => None,
        })?;
        let (repeat, retry) = required(record, schema::NUMBERS, |bytes| {
            let (repeat, retry) = bytes.split_at_checked(4)?;
            Some((read_u32(repeat)?, read_u32(retry)?))
        })?;
        let time = |tag| required(record, tag, |bytes| Some(Timestamp(read_u64(bytes)?)));
        let mut new = NewEffect {
            cause: Cause { mailbox, message, transition },
            channel,
            target: required(record, schema::TARGET, DeviceId::from_slice)?,
            repeat,
            retry,
            created: time(schema::CREATED)?,
            not_before: time(schema::NOT_BEFORE)?,
            expires: time(schema::EXPIRES)?,
        };
        // Earlier releases counted the life of a notification from its message, not from when its device may get it first.
        if transition == Transition::Filed && new.expires <= new.not_before {
            let life = new.expires.0.saturating_sub(new.created.0);
            new.expires = Timestamp(new.not_before.0.saturating_add(life));
        }
        let mut effect = Self {
            id,
            new,
            attempt: optional(record, schema::ATTEMPT, |bytes| {
                let (number, rest) = bytes.split_at_checked(4)?;
                let (at, rest) = rest.split_at_checked(8)?;
                let (incarnation, epoch) = rest.split_at_checked(16)?;
                Some(Attempt {
                    number: read_u32(number)?,
                    at: Timestamp(read_u64(at)?),
                    incarnation: Incarnation::from_slice(incarnation)?,
                    epoch: text(epoch),
                })
            })?,
            failure: optional(record, schema::FAILURE, |bytes| {
                let (number, rest) = bytes.split_at_checked(4)?;
                Some((read_u32(number)?, ended(rest)?))
            })?,
            done: optional(record, schema::DONE, ended)?,
            dead: optional(record, schema::DEAD, ended)?,
            deaths: optional(record, schema::DEATHS, |bytes| {
                let (attempt, count) = bytes.split_at_checked(4)?;
                Some((read_u32(attempt)?, read_u32(count)?))
            })?,
            bounced: optional(record, schema::BOUNCED, ended)?,
            covers: optional(record, schema::COVERS, gathered::read_covers)?.unwrap_or_default(),
            gathered: optional(record, schema::IN, Gathered::read)?,
            not_taken: optional(record, schema::NOT_TAKEN, gathered::read_not_taken)?.unwrap_or_default(),
        };
        // Nodes that do not see each other's attempts number them alike: a failure that was recorded before the latest
        // attempt began is not its outcome.
        let stamp = |tag| record.register(tag).map(|(_, stamp)| stamp);
        if let (Some(attempt), Some((number, _))) = (&effect.attempt, &mut effect.failure)
            && stamp(schema::FAILURE) < stamp(schema::ATTEMPT)
        {
            *number = (*number).min(attempt.number.saturating_sub(1));
        }
        if let Some(attempt) = &effect.attempt
            && stamp(schema::NOT_TAKEN) < stamp(schema::ATTEMPT)
        {
            effect.not_taken = effect.not_taken.min(attempt.number.saturating_sub(1));
        }
        Ok(Some(effect))
    }

    /// Whether it sends a user's message to another voicemail system; others notify a device.
    pub fn is_sent(&self) -> bool {
        self.new.cause.transition == Transition::Sent
    }

    /// The state.
    pub fn state(&self) -> EffectState {
        match () {
            () if self.done.is_some() => EffectState::Done,
            () if self.dead.is_some() => EffectState::Dead,
            () if self.failure.is_some() => EffectState::Failed,
            () => EffectState::Pending,
        }
    }

    /// Number of attempts that have begun.
    pub fn attempts(&self) -> u32 {
        self.attempt.as_ref().map_or(0, |attempt| attempt.number)
    }

    /// The attempt that has no outcome: under way, or of unknown result.
    pub fn unfinished(&self) -> Option<&Attempt> {
        let failed = self.failure.as_ref().map_or(0, |(number, _)| *number);
        self.attempt.as_ref().filter(|attempt| !self.state().is_end() && attempt.number > failed)
    }

    /// Whether its latest attempt ended by the death of its process: it is attempted with no other beside it (R11).
    pub fn is_suspect(&self) -> bool {
        self.deaths.is_some_and(|(attempt, _)| attempt == self.attempts() && self.unfinished().is_some())
    }

    /// Earliest time of the next attempt.
    pub fn due(&self) -> Timestamp {
        match &self.failure {
            Some((number, next)) if *number == self.attempts() => next.at,
            _ => self.new.not_before,
        }
    }

    /// Time at which the receiver got it, as far as is known; `None` also for one that ended without it: heard before,
    /// gathered into another, dropped, or retried as another.
    pub fn sent_at(&self) -> Option<Timestamp> {
        let failed = self.failure.as_ref().map_or(0, |(number, _)| *number);
        let gathered = self.gathered.is_some_and(|gathered| gathered.attempt == self.attempts());
        let sent = self.dead.is_none() && self.attempts() > failed && !gathered;
        self.done.as_ref().filter(|_| sent).map(|done| done.at)
    }

    /// The id that receivers see: the same for an administrator's retry, another for a reminder.
    pub fn receiver_id(&self) -> EffectId {
        let NewEffect { cause, channel, target, repeat, .. } = &self.new;
        identity(cause, *channel, *target, *repeat, 0)
    }

    /// The next retry of a dead effect, due now, or when its target `opens`: a device may have hours. Its life begins then.
    pub fn again(&self, now: Timestamp, opens: Timestamp) -> NewEffect {
        let life = self.new.expires.0.saturating_sub(self.new.created.max(self.new.not_before).0);
        let not_before = now.max(opens);
        let expires = Timestamp(not_before.0.saturating_add(life));
        NewEffect { retry: self.new.retry.saturating_add(1), created: now, not_before, expires, ..self.new }
    }
}

/// The edits that begin an attempt. Its number is one more than that of the latest.
pub fn attempt(current: &Effect, at: Timestamp, incarnation: Incarnation, epoch: &Epoch) -> (u32, Vec<Edit>) {
    let number = current.attempts().saturating_add(1);
    let mut bytes = [&number.to_be_bytes()[..], &at.0.to_be_bytes(), &incarnation.to_bytes()].concat();
    bytes.extend_from_slice(epoch.to_string().as_bytes());
    (number, vec![set(schema::ATTEMPT, bytes)])
}

/// The edits that record the failure of an attempt, and the time of the next.
pub fn failed(number: u32, next: Timestamp, reason: &str) -> Vec<Edit> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(end(next, reason));
    vec![set(schema::FAILURE, bytes)]
}

/// The edits that record success, or that the effect is not wanted any more.
pub fn done(at: Timestamp, receipt: &str) -> Vec<Edit> {
    vec![set(schema::DONE, end(at, receipt))]
}

/// The edits that make a dead letter.
pub fn dead(at: Timestamp, reason: &str) -> Vec<Edit> {
    vec![set(schema::DEAD, end(at, reason))]
}

/// The edits that record a report of failure which came back after the success.
pub fn bounced(at: Timestamp, reason: &str) -> Vec<Edit> {
    vec![set(schema::BOUNCED, end(at, reason))]
}

/// The edits that count the death of a process during an attempt.
pub fn death(attempt: u32, count: u32) -> Vec<Edit> {
    vec![set(schema::DEATHS, [attempt.to_be_bytes(), count.to_be_bytes()].concat())]
}

impl fmt::Display for EffectState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

pub(crate) fn set(tag: Tag, bytes: Vec<u8>) -> Edit {
    Edit::Set(tag, Value::Bytes(bytes))
}

fn end(at: Timestamp, reason: &str) -> Vec<u8> {
    let mut bytes = at.0.to_be_bytes().to_vec();
    let cut = (0..=LONGEST_TEXT.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
    bytes.extend_from_slice(&reason.as_bytes()[..cut]);
    bytes
}

fn ended(bytes: &[u8]) -> Option<Ended> {
    let (at, reason) = bytes.split_at_checked(8)?;
    Some(Ended { at: Timestamp(read_u64(at)?), text: text(reason) })
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

pub(crate) fn read_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn optional<T>(record: &Record, tag: Tag, read: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, EffectError> {
    record.bytes(tag).map(|bytes| read(bytes).ok_or(EffectError::Field(tag))).transpose()
}

fn required<T>(record: &Record, tag: Tag, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, EffectError> {
    optional(record, tag, read)?.ok_or(EffectError::Field(tag))
}
