//! Webhooks: the JSON body and its signature.
//!
//! The receiver computes HMAC-SHA256 over the time in the header, a full stop and the body as received, with the
//! device's secret as the key, compares it with `v1`, and refuses a time that is some minutes off: see [`verify`].

use jiff::Timestamp;
use ring::hmac;
use serde_json::{Map, Value};
use twinbox_ids::{MailboxId, MessageId, Pii};

/// Name of the header with the signature.
pub const SIGNATURE_HEADER: &str = "Twinbox-Signature";

/// Event that a webhook reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A message came in.
    New,
    /// A message was not heard since its last notification.
    Reminder,
    /// Several messages came in, gathered by the device's limit; the body shows the latest.
    Digest,
    /// An administrator tests the device.
    Test,
}

impl Event {
    /// Name in the field `event`.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "message.new",
            Self::Reminder => "message.reminder",
            Self::Digest => "message.digest",
            Self::Test => "device.test",
        }
    }
}

/// Content of a webhook's body.
#[derive(Debug, Clone)]
pub struct Body {
    /// The event.
    pub event: Event,
    /// Idempotency key: equal for every attempt to deliver the same notification.
    pub id: String,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Number of the mailbox.
    pub number: String,
    /// The message.
    pub message: MessageId,
    /// Number of the caller.
    pub caller: Option<Pii<String>>,
    /// Display name of the caller.
    pub caller_name: Option<Pii<String>>,
    /// Time of the message.
    pub received: Timestamp,
    /// Length in seconds.
    pub seconds: u64,
    /// Flagged as urgent by the caller.
    pub urgent: bool,
    /// Link to the recording: see [`crate::link`].
    pub audio_url: Option<Pii<String>>,
}

impl Body {
    /// The JSON text. Unknown callers and absent links are `null`.
    pub fn to_json(&self) -> String {
        let private = |value: &Option<Pii<String>>| Value::from(value.as_ref().map(|v| v.reveal().clone()));
        let fields = Map::from_iter([
            ("event".to_owned(), Value::from(self.event.name())),
            ("id".to_owned(), Value::from(self.id.as_str())),
            ("mailbox".to_owned(), Value::from(self.mailbox.to_string())),
            ("number".to_owned(), Value::from(self.number.as_str())),
            ("message".to_owned(), Value::from(self.message.to_string())),
            ("caller".to_owned(), private(&self.caller)),
            ("caller_name".to_owned(), private(&self.caller_name)),
            // Timestamps print as RFC 3339 in UTC.
            ("received".to_owned(), Value::from(self.received.to_string())),
            ("seconds".to_owned(), Value::from(self.seconds)),
            ("urgent".to_owned(), Value::from(self.urgent)),
            ("audio_url".to_owned(), private(&self.audio_url)),
        ]);
        Value::Object(fields).to_string()
    }
}

/// Value of the header [`SIGNATURE_HEADER`] for a body sent at `at`.
pub fn signature(secret: &Pii<String>, body: &str, at: Timestamp) -> String {
    let time = at.as_second();
    let tag = hmac::sign(&key(secret), signed(time, body).as_bytes());
    format!("t={time},v1={}", hex(tag.as_ref()))
}

/// A signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header cannot be read.
    #[error("the header Twinbox-Signature is not t=<seconds>,v1=<64 hexadecimal digits>: pass its value unchanged")]
    Shape,
    /// The time is too far from now.
    #[error("the signature was made {0} s away from this clock: check the clocks, or refuse a replayed request")]
    Time(u64),
    /// The signature does not fit.
    #[error("the signature does not fit body and secret: compare the secrets, and sign the body as received")]
    Mismatch,
}

/// Checks a signature as a receiver does: the time is at most `tolerance_s` away from `now`, and the code fits. The
/// comparison takes the same time wherever the codes differ.
pub fn verify(
    secret: &Pii<String>,
    header: &str,
    body: &str,
    now: Timestamp,
    tolerance_s: u64,
) -> Result<(), SignatureError> {
    let (time, code) = header.trim().split_once(',').ok_or(SignatureError::Shape)?;
    let time: i64 =
        time.strip_prefix("t=").and_then(|seconds| seconds.parse().ok()).ok_or(SignatureError::Shape)?;
    let code = code.strip_prefix("v1=").and_then(unhex).filter(|code| code.len() == 32);
    let code = code.ok_or(SignatureError::Shape)?;
    hmac::verify(&key(secret), signed(time, body).as_bytes(), &code).map_err(|_| SignatureError::Mismatch)?;
    match now.as_second().abs_diff(time) {
        off if off > tolerance_s => Err(SignatureError::Time(off)),
        _ => Ok(()),
    }
}

fn key(secret: &Pii<String>) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes())
}

fn signed(time: i64, body: &str) -> String {
    format!("{time}.{body}")
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| u8::try_from(c.to_digit(16)?).ok()).collect::<Option<_>>()?;
    let whole = digits.len().is_multiple_of(2);
    whole.then(|| {
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0_u8, |byte, digit| (byte << 4) | digit)).collect()
    })
}
