//! Voice messages between voicemail systems: VPIM version 2 (RFC 3801) with G.726 audio at 32 kbit/s (RFC 3802).

mod read;
mod vcard;
mod write;

pub use read::{Received, VoiceAudio, VpimError, read};

use crate::{
    address::Address,
    incoming::{Importance, Sensitivity},
};

/// Type of the audio of VPIM: G.726 at 32 kbit/s (RFC 3802).
pub const AUDIO_TYPE: &str = "audio/32KADPCM";
/// Bytes a second of that audio.
pub const BYTES_PER_SECOND: usize = 4_000;

/// A voice message for another voicemail system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoiceMessage {
    /// Sender.
    pub from: Address,
    /// Display name of the sender; may be empty.
    pub from_name: String,
    /// Recipients.
    pub to: Vec<Address>,
    /// Message id without angle brackets, the same at every attempt.
    pub message_id: String,
    /// Date in seconds since 1970 (UTC).
    pub date_unix: i64,
    /// Subject; may be empty.
    pub subject: String,
    /// The message: G.726 bytes at 32 kbit/s.
    pub audio: Vec<u8>,
    /// Length of the message in seconds.
    pub duration_s: u32,
    /// The sender's spoken name: G.726 bytes at 32 kbit/s.
    pub spoken_name: Option<Vec<u8>>,
    /// The sender's card.
    pub vcard: Option<VCard>,
    /// Importance.
    pub importance: Importance,
    /// Sensitivity.
    pub sensitivity: Sensitivity,
    /// Whether the sender asks for a notice when a recipient has listened to the message.
    pub request_receipt: bool,
}

/// A sender's card (vCard 3.0, RFC 2426). Fields may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VCard {
    /// Full name.
    pub name: String,
    /// Telephone number.
    pub tel: String,
    /// Mail address.
    pub email: String,
}
