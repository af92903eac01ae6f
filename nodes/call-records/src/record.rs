//! A call record: its values, and its form in the store.

use twinbox_ids::{CallId, MailboxId, NodeName, Pii, Timestamp};
use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Edit, Key, Record, Value};

use crate::schema::{self, call_record as tag, part};

/// Maximum length of a stored text, in bytes; the rest of a longer one is cut.
const LONGEST_TEXT: usize = 128;
/// Kind of the record, for error texts.
const WHAT: &str = "a call record";

/// Purpose of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Leave a message.
    Leave,
    /// Sign in to a mailbox.
    SignIn,
    /// None: the call was refused before a conversation, or the mailbox does not exist.
    Nothing,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 3] = [Self::Leave, Self::SignIn, Self::Nothing];

    /// The word in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::SignIn => "sign-in",
            Self::Nothing => "none",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Leave => 1,
            Self::SignIn => 2,
            Self::Nothing => 3,
        }
    }
}

/// Outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallOutcome {
    /// A message was filed.
    MessageLeft,
    /// The caller heard the tone and left no message, or one that is too short.
    NothingLeft,
    /// Not answered, or answered with the words that the mailbox is full or does not exist.
    Refused,
    /// The caller hung up before the tone, or before a PIN.
    HungUp,
    /// The call broke off: no audio, a fault, the end of the node; or the message could not be stored.
    Failed,
    /// The caller signed in.
    SignedIn,
    /// The caller gave a wrong PIN or the number of no mailbox, and did not sign in.
    FailedSignIn,
    /// The node of the call died during the recording.
    NodeDied,
    /// The caller was connected to the operator.
    Transferred,
}

impl CallOutcome {
    /// All outcomes.
    pub const ALL: [Self; 9] = [
        Self::MessageLeft,
        Self::NothingLeft,
        Self::Refused,
        Self::HungUp,
        Self::Failed,
        Self::SignedIn,
        Self::FailedSignIn,
        Self::NodeDied,
        Self::Transferred,
    ];

    /// The word in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::MessageLeft => "message-left",
            Self::NothingLeft => "nothing-left",
            Self::Refused => "refused",
            Self::HungUp => "hung-up",
            Self::Failed => "failed",
            Self::SignedIn => "signed-in",
            Self::FailedSignIn => "failed-sign-in",
            Self::NodeDied => "node-died",
            Self::Transferred => "transferred",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::MessageLeft => 1,
            Self::NothingLeft => 2,
            Self::Refused => 3,
            Self::HungUp => 4,
            Self::Failed => 5,
            Self::SignedIn => 6,
            Self::FailedSignIn => 7,
            Self::NodeDied => 8,
            Self::Transferred => 9,
        }
    }

    /// True for a caller that reached neither a message, nor a mailbox, nor a person.
    pub const fn is_unanswered(self) -> bool {
        match self {
            Self::NothingLeft | Self::Refused | Self::HungUp | Self::Failed | Self::NodeDied => true,
            Self::MessageLeft | Self::SignedIn | Self::FailedSignIn | Self::Transferred => false,
        }
    }
}

/// A call that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// The call.
    pub call: CallId,
    /// Time at which its INVITE was received.
    pub began: Timestamp,
    /// Time of its end.
    pub ended: Timestamp,
    /// The node that took it.
    pub node: NodeName,
    /// Its purpose.
    pub purpose: Purpose,
    /// The mailbox, if there is one.
    pub mailbox: Option<MailboxId>,
    /// The mailbox's number at that time.
    pub number: Option<String>,
    /// The caller's number, if known.
    pub caller: Option<Pii<String>>,
    /// Its outcome.
    pub outcome: CallOutcome,
    /// Length of the message, in milliseconds; 0 without one.
    pub message_ms: u64,
}

impl CallRecord {
    /// The key of its record.
    pub fn key(&self) -> Key {
        schema::record_key(self.began, self.call)
    }

    /// Duration of the call, in whole seconds, rounded up.
    pub fn seconds(&self) -> u64 {
        self.ended.0.saturating_sub(self.began.0).div_ceil(1_000)
    }

    /// The edits that write its record. Texts above 128 bytes are cut.
    pub fn edits(&self) -> Vec<Edit> {
        let tag = if self.outcome == CallOutcome::NodeDied { tag::DIED } else { tag::ENDED };
        let mut parts = Vec::new();
        put(&mut parts, part::NODE, self.node.as_str().as_bytes());
        put(&mut parts, part::ENDED, &self.ended.0.to_be_bytes());
        put(&mut parts, part::PURPOSE, &[self.purpose.number()]);
        if let Some(mailbox) = self.mailbox {
            put(&mut parts, part::MAILBOX, &mailbox.to_bytes());
        }
        if let Some(number) = &self.number {
            put(&mut parts, part::NUMBER, cut(number).as_bytes());
        }
        if let Some(caller) = &self.caller {
            put(&mut parts, part::CALLER, cut(caller.reveal()).as_bytes());
        }
        put(&mut parts, part::OUTCOME, &[self.outcome.number()]);
        if self.message_ms > 0 {
            put(&mut parts, part::MESSAGE_MS, &self.message_ms.to_be_bytes());
        }
        vec![Edit::Set(tag, Value::Bytes(parts))]
    }

    /// The edits that remove its record, and with it the caller's number: the content goes now, the row when every
    /// member has the delete (rule D3).
    pub fn removal(record: &Record) -> Vec<Edit> {
        let present = [tag::ENDED, tag::DIED].into_iter().filter(|tag| record.field(*tag).is_some());
        present.map(|tag| Edit::Set(tag, Value::Bytes(Vec::new()))).chain([Edit::Delete]).collect()
    }

    /// Reads a record; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let (began, call) = schema::call_of(key).ok_or(ViewError::Key { what: WHAT })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let full = |tag| record.bytes(tag).filter(|bytes| !bytes.is_empty()).map(|bytes| (tag, bytes));
        let Some((tag, bytes)) = full(tag::ENDED).or_else(|| full(tag::DIED)) else {
            let emptied = record.field(tag::ENDED).or_else(|| record.field(tag::DIED)).is_some();
            return if emptied { Ok(None) } else { Err(ViewError::Missing { what: WHAT, tag: tag::ENDED }) };
        };
        parse(began, call, bytes).map(Some).ok_or(ViewError::Unreadable { what: WHAT, tag })
    }
}

fn parse(began: Timestamp, call: CallId, mut rest: &[u8]) -> Option<CallRecord> {
    let (mut node, mut ended, mut purpose, mut outcome) = (None, None, None, None);
    let (mut mailbox, mut number, mut caller, mut message_ms) = (None, None, None, 0);
    while let [number_of_part, length, tail @ ..] = rest {
        let (value, tail) = tail.split_at_checked(usize::from(*length))?;
        rest = tail;
        match *number_of_part {
            part::NODE => node = Some(text(value)?.parse::<NodeName>().ok()?),
            part::ENDED => ended = Some(Timestamp(u64::from_be_bytes(value.try_into().ok()?))),
            part::PURPOSE => purpose = Some(Purpose::ALL.into_iter().find(|p| value == [p.number()])?),
            part::MAILBOX => mailbox = Some(MailboxId::from_slice(value)?),
            part::NUMBER => number = Some(text(value)?.to_owned()),
            part::CALLER => caller = Some(Pii::new(text(value)?.to_owned())),
            part::OUTCOME => outcome = Some(CallOutcome::ALL.into_iter().find(|o| value == [o.number()])?),
            part::MESSAGE_MS => message_ms = u64::from_be_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    let (node, ended, purpose, outcome) = (node?, ended?, purpose?, outcome?);
    rest.is_empty().then_some(CallRecord {
        call,
        began,
        ended,
        node,
        purpose,
        mailbox,
        number,
        caller,
        outcome,
        message_ms,
    })
}

fn put(parts: &mut Vec<u8>, number: u8, value: &[u8]) {
    let value = value.get(..value.len().min(LONGEST_TEXT)).unwrap_or_default();
    parts.push(number);
    parts.push(u8::try_from(value.len()).unwrap_or(0));
    parts.extend_from_slice(value);
}

fn cut(text: &str) -> &str {
    let ends = text.char_indices().map(|(at, letter)| at + letter.len_utf8());
    let end = ends.take_while(|end| *end <= LONGEST_TEXT).last().unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
