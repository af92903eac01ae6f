//! Reading of voice messages as RFC 3801 section 4 asks of a receiver: what it does not know is named, not refused.

use super::VCard;
use crate::{
    address::Address,
    decode,
    incoming::{self, Importance, Sensitivity},
    structure::{self, Body, Limits, Part, ReadError},
};

/// Greatest duration that is believed, in seconds: a day.
const LONGEST: u32 = 86_400;

/// A received voice message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Sender, if its address is valid.
    pub from: Option<Address>,
    /// Display name of the sender; may be empty.
    pub from_name: String,
    /// Recipients with valid addresses.
    pub to: Vec<Address>,
    /// Message id without angle brackets.
    pub message_id: Option<String>,
    /// Date in seconds since 1970, if there is a valid one.
    pub date_unix: Option<i64>,
    /// Subject; may be empty.
    pub subject: String,
    /// The spoken parts in order; before a forwarded message it is the introduction.
    pub audio: Vec<VoiceAudio>,
    /// The sender's spoken name.
    pub spoken_name: Option<VoiceAudio>,
    /// The sender's card.
    pub vcard: Option<VCard>,
    /// Importance.
    pub importance: Importance,
    /// Sensitivity.
    pub sensitivity: Sensitivity,
    /// Whether the sender asks for a notice when the recipient has listened.
    pub request_receipt: bool,
    /// Forwarded voice messages, in order.
    pub forwarded: Vec<Received>,
    /// Types of parts that are not used, in order.
    pub other_parts: Vec<String>,
}

/// A spoken part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoiceAudio {
    /// Type in lower case: `audio/32kadpcm`, or another that the sender believes the recipient to know.
    pub content_type: String,
    /// Stated length in seconds, at most a day.
    pub duration_s: Option<u32>,
    /// Decoded content.
    pub bytes: Vec<u8>,
}

/// Error: a mail is not read as a voice message. The texts name the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VpimError {
    /// The mail is beyond the limits, or no mail.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The mail has no voice message.
    #[error(
        "the mail is no VPIM message: its type is '{0}', not multipart/voice-message; read it as an ordinary mail"
    )]
    NotVoice(String),
}

/// Reads a voice message within the default limits.
pub fn read(bytes: &[u8]) -> Result<Received, VpimError> {
    let root = structure::parse(bytes, &Limits::default())?;
    received(&root).ok_or(VpimError::NotVoice(root.kind.name))
}

/// The voice message in a mail; `None` if it has none.
fn received(mail: &Part) -> Option<Received> {
    let parts = voice_parts(mail)?;
    let fields = &mail.fields;
    let (from_name, from) = fields.addresses("from").into_iter().next().unzip();
    let mut received = Received {
        from,
        from_name: from_name.unwrap_or_default(),
        to: fields.addresses("to").into_iter().map(|(_, address)| address).collect(),
        message_id: fields.message_id(),
        date_unix: fields.date(),
        subject: fields.subject(),
        audio: Vec::new(),
        spoken_name: None,
        vcard: None,
        importance: incoming::importance(fields),
        sensitivity: incoming::sensitivity(fields),
        request_receipt: !fields.addresses("disposition-notification-to").is_empty(),
        forwarded: Vec::new(),
        other_parts: Vec::new(),
    };
    parts.iter().for_each(|part| received.add(part));
    Some(received)
}

/// The parts of the first multipart/voice-message of a mail, not of nested mails.
fn voice_parts(part: &Part) -> Option<&[Part]> {
    match &part.body {
        Body::Parts(parts) if part.kind.name == "multipart/voice-message" => Some(parts),
        Body::Parts(parts) => parts.iter().find_map(voice_parts),
        _ => None,
    }
}

impl Received {
    fn add(&mut self, part: &Part) {
        match &part.body {
            Body::Parts(parts) => parts.iter().for_each(|part| self.add(part)),
            Body::Message(message) => match received(message) {
                Some(forwarded) => self.forwarded.push(forwarded),
                None => self.other_parts.push(part.kind.name.clone()),
            },
            Body::Leaf(bytes) => self.add_leaf(part, bytes),
        }
    }

    fn add_leaf(&mut self, part: &Part, bytes: &[u8]) {
        let name = part.kind.name.as_str();
        if name.starts_with("audio/") {
            let duration = part.fields.word("content-duration").and_then(|seconds| seconds.parse().ok());
            let audio = VoiceAudio {
                content_type: name.to_owned(),
                duration_s: duration.map(|seconds: u32| seconds.min(LONGEST)),
                bytes: bytes.to_vec(),
            };
            let is = |voice: &str| part.disposition.as_ref().is_some_and(|d| d.is("voice", voice));
            if is("originator-spoken-name") {
                self.spoken_name.get_or_insert(audio);
            } else if is("recipient-spoken-name") || is("spoken-subject") {
                self.other_parts.push(name.to_owned());
            } else {
                self.audio.push(audio);
            }
        } else if matches!(name, "text/directory" | "text/vcard" | "text/x-vcard") && self.vcard.is_none() {
            self.vcard = Some(VCard::read(&decode::charset(bytes, part.kind.parameter("charset"))));
        } else {
            self.other_parts.push(name.to_owned());
        }
    }
}
