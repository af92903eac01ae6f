//! Writing of voice messages (RFC 3801 section 4).

use super::{AUDIO_TYPE, BYTES_PER_SECOND, VoiceMessage};
use crate::writer::{Headers, Part};

/// Value of MIME-Version in every mail of VPIM.
const VERSION: [&str; 3] = ["1.0", "(Voice", "2.0)"];

impl VoiceMessage {
    /// The mail with CRLF line ends. The same message results in the same bytes.
    pub fn compose(&self) -> Vec<u8> {
        let mut headers = Headers::default();
        headers.mailboxes("From", &[(self.from_name.as_str(), &self.from)]);
        headers.mailboxes("To", &self.to.iter().map(|to| ("", to)).collect::<Vec<_>>());
        headers.date(self.date_unix);
        headers.id("Message-ID", &self.message_id);
        headers.tokens("MIME-Version", &VERSION);
        if !self.subject.is_empty() {
            headers.text("Subject", &self.subject);
        }
        headers.importance(self.importance);
        headers.sensitivity(self.sensitivity);
        if self.request_receipt {
            headers.mailboxes("Disposition-Notification-To", &[("", &self.from)]);
        }
        let mut parts = Vec::new();
        if let Some(name) = &self.spoken_name {
            parts.push(audio(
                name,
                name.len().div_ceil(BYTES_PER_SECOND) as u64,
                &["voice=Originator-Spoken-Name"],
            ));
        }
        let message = ["voice=Voice-Message;", "filename=\"message.726\""];
        parts.push(audio(&self.audio, u64::from(self.duration_s), &message));
        if let Some(card) = &self.vcard {
            let card = Part::text("text/directory", &["profile=vCard"], &card.write());
            parts.push(card.disposition(&["attachment;", "filename=\"sender.vcf\""]));
        }
        Part::multipart("multipart/voice-message", &["version=2.0"], &self.message_id, parts).into_mail(headers)
    }
}

fn audio(bytes: &[u8], seconds: u64, disposition: &[&str]) -> Part {
    let part = Part::bytes(AUDIO_TYPE, bytes);
    part.disposition(&[&["inline;"][..], disposition].concat()).field("Content-Duration", &seconds.to_string())
}
