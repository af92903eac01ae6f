//! A received mail as Twinbox uses it: sender, text, sound files, and the digests that recognize a repetition.

use crate::{
    address::Address,
    bounce::{self, Bounce},
    decode,
    digest::{self, Digest},
    fields::Fields,
    structure::{self, Body, Limits, Part, ReadError},
    text,
};

/// Greatest length of [`Incoming::text`], in bytes.
pub const TEXT_BYTES: usize = 64 * 1024;
/// Bytes of a text part that are decoded.
const SOURCE_BYTES: usize = 1 << 20;
/// File names of sound files that some mail programs send without a type.
const AUDIO_NAMES: [&str; 8] = [".wav", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".amr", ".3gp"];

/// A received mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Subject as one line; empty without one.
    pub subject: String,
    /// First address of `From`, if it is valid.
    pub from: Option<Address>,
    /// Display name of the sender; may be empty.
    pub from_name: String,
    /// Date in seconds since 1970, if the mail has a valid one.
    pub date_unix: Option<i64>,
    /// Message id without angle brackets.
    pub message_id: Option<String>,
    /// First plain text, else the text of the first HTML part; at most [`TEXT_BYTES`], lines separated by `\n`.
    pub text: String,
    /// Sound files in order, those of forwarded mails included. Spoken names of VPIM are not among them.
    pub audio: Vec<Audio>,
    /// Importance.
    pub importance: Importance,
    /// Sensitivity.
    pub sensitivity: Sensitivity,
    /// Whether the mail is a voice message of VPIM (see [`crate::vpim::read`]).
    pub is_vpim: bool,
    /// The report, if the mail is one on the delivery of another.
    pub bounce: Option<Bounce>,
    /// Whether a program sent the mail without a person (RFC 3834): it gets no automatic answer.
    pub auto_submitted: bool,
    /// Digest of the body, equal for the same mail over another relay (see [`body_digest`]).
    pub body_digest: [u8; 32],
}

/// A sound file in a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audio {
    /// Type such as `audio/wav`, in lower case.
    pub content_type: String,
    /// File name without folders, if there is one.
    pub file_name: Option<String>,
    /// Decoded content.
    pub bytes: Vec<u8>,
}

/// Importance of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Importance {
    /// Urgent.
    High,
    /// Neither high nor low.
    #[default]
    Normal,
    /// Not urgent.
    Low,
}

/// Sensitivity of a mail (RFC 2156 section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sensitivity {
    /// No restriction.
    #[default]
    None,
    /// Private: not to be forwarded.
    Private,
    /// Personal: for the recipient as a person.
    Personal,
    /// For the recipient's company only.
    CompanyConfidential,
}

/// Reads a mail within the default limits.
pub fn read(bytes: &[u8]) -> Result<Incoming, ReadError> {
    read_within(bytes, &Limits::default())
}

/// Reads a mail within these limits.
pub fn read_within(bytes: &[u8], limits: &Limits) -> Result<Incoming, ReadError> {
    let root = structure::parse(bytes, limits)?;
    let fields = &root.fields;
    let (from_name, from) = fields.addresses("from").into_iter().next().unzip();
    let bounce = bounce::of(&root);
    // The returned mail in a report is not its content.
    let leaves = root.leaves(bounce.is_none());
    Ok(Incoming {
        subject: fields.subject(),
        from,
        from_name: from_name.unwrap_or_default(),
        date_unix: fields.date(),
        message_id: fields.message_id(),
        text: text_of(&root),
        audio: leaves.into_iter().filter_map(|(part, bytes)| audio_of(part, bytes)).collect(),
        importance: importance(fields),
        sensitivity: sensitivity(fields),
        is_vpim: has_voice_message(&root),
        bounce,
        auto_submitted: auto_submitted(fields),
        body_digest: digest::of_body(&root),
    })
}

/// The digest of a mail's body: BLAKE3 of types and decoded contents of all parts. Trace fields and transfer encodings do
/// not change it. A mail beyond the limits has the digest of its bytes.
pub fn body_digest(bytes: &[u8]) -> [u8; 32] {
    match structure::parse(bytes, &Limits::default()) {
        Ok(root) => digest::of_body(&root),
        Err(_) => {
            let mut digest = Digest::new("twinbox mail bytes digest 1");
            digest.field(bytes);
            digest.finish()
        }
    }
}

/// The id of the delivery of a mail to a mailbox: equal if the same mail comes again. It depends on the mailbox, the
/// message id (without one: envelope sender and date) and the digest of the body.
pub fn delivery_id(mailbox: [u8; 16], incoming: &Incoming, envelope_sender: &str) -> [u8; 16] {
    let mut digest = Digest::new("twinbox mail delivery id 1");
    digest.field(&mailbox);
    match &incoming.message_id {
        Some(id) => {
            digest.field(b"message-id");
            digest.field(id.as_bytes());
        }
        None => {
            digest.field(b"sender and date");
            digest.field(envelope_sender.as_bytes());
            digest.field(&incoming.date_unix.map(i64::to_be_bytes).unwrap_or_default());
        }
    }
    digest.field(&incoming.body_digest);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.finish()[..16]);
    id
}

/// The importance in `Importance`, else in `X-Priority` (1 and 2 are high, 4 and 5 low).
pub(crate) fn importance(fields: &Fields) -> Importance {
    match fields.word("importance").as_deref() {
        Some("high") => return Importance::High,
        Some("low") => return Importance::Low,
        Some("normal") => return Importance::Normal,
        _ => {}
    }
    match fields.word("x-priority").and_then(|word| word.chars().next()) {
        Some('1' | '2') => Importance::High,
        Some('4' | '5') => Importance::Low,
        _ => Importance::Normal,
    }
}

/// The sensitivity; an unknown value counts as private, the strictest treatment.
pub(crate) fn sensitivity(fields: &Fields) -> Sensitivity {
    match fields.word("sensitivity").as_deref() {
        None | Some("" | "normal" | "none") => Sensitivity::None,
        Some("personal") => Sensitivity::Personal,
        Some("company-confidential" | "company confidential") => Sensitivity::CompanyConfidential,
        Some(_) => Sensitivity::Private,
    }
}

fn auto_submitted(fields: &Fields) -> bool {
    let automatic = fields.word("auto-submitted").is_some_and(|word| !matches!(word.as_str(), "" | "no"));
    let bulk =
        fields.word("precedence").is_some_and(|word| matches!(word.as_str(), "bulk" | "junk" | "auto_reply"));
    automatic || bulk
}

fn has_voice_message(part: &Part) -> bool {
    match &part.body {
        Body::Parts(parts) => part.kind.name == "multipart/voice-message" || parts.iter().any(has_voice_message),
        _ => false,
    }
}

/// The text of the mail itself, else of a forwarded mail.
fn text_of(root: &Part) -> String {
    for nested in [false, true] {
        let leaves = root.leaves(nested);
        for content_type in ["text/plain", "text/html"] {
            let found = leaves.iter().find(|(part, _)| {
                part.kind.name == content_type && part.disposition.as_ref().is_none_or(|d| d.name != "attachment")
            });
            if let Some((part, bytes)) = found {
                let bytes = bytes.get(..SOURCE_BYTES).unwrap_or(bytes);
                let decoded = decode::charset(bytes, part.kind.parameter("charset"));
                let decoded = if content_type == "text/html" { decode::html(&decoded) } else { decoded };
                return text::cut(text::lines(&decoded).trim(), TEXT_BYTES).to_owned();
            }
        }
    }
    String::new()
}

fn audio_of(part: &Part, bytes: &[u8]) -> Option<Audio> {
    let file_name = part.file_name();
    let by_name = || {
        let name = file_name.as_deref().unwrap_or_default().to_ascii_lowercase();
        part.kind.name == "application/octet-stream" && AUDIO_NAMES.iter().any(|end| name.ends_with(end))
    };
    if !part.kind.name.starts_with("audio/") && !by_name() {
        return None;
    }
    let voice = part.disposition.as_ref().and_then(|d| d.parameter("voice")).map(str::to_ascii_lowercase);
    if voice.is_some_and(|voice| voice.ends_with("-spoken-name")) {
        return None;
    }
    Some(Audio { content_type: part.kind.name.clone(), file_name, bytes: bytes.to_vec() })
}
