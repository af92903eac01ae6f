//! Voice messages to other voicemail systems: VPIM (RFC 3801), or mails with a WAV file.

use bytes::Bytes;
use twinbox_audio::g711_to_g726;
use twinbox_clock::wall;
use twinbox_duty::Prepared;
use twinbox_ids::Timestamp;
use twinbox_locations::{AudioForm, Location, Outgoing as OutgoingMessage};
use twinbox_mail::{
    Address, AddressError,
    compose::{Attachment, Notice},
    incoming::{Importance, Sensitivity},
    vpim::{VCard, VoiceMessage},
};
use twinbox_mailstore::{Audio, GreetingKind, MailError, Mailbox, Mailstore, OutgoingRecord};
use twinbox_outbox::Effect;

use crate::{
    MailOut, MailSender, Notify, Outgoing,
    audio_room::{AudioRoom, ROOM_PAUSE_MS, RoomTaken},
};

/// Pause when the store cannot be read, in milliseconds.
const STORE_PAUSE_MS: u64 = 10_000;
/// Pause while the location is disabled, in milliseconds.
const DISABLED_PAUSE_MS: u64 = 30_000;
/// Pauses while the message is still to arrive by replication, in milliseconds.
const SHORTEST_WAIT_MS: u64 = 100;
const LONGEST_WAIT_MS: u64 = 30_000;
/// Bytes of G.711 in a second.
const G711_BYTES_PER_SECOND: usize = 8_000;

/// Prepares the mail of a message that a user sent.
pub(crate) async fn prepare(
    mailstore: &Mailstore,
    out: MailOut,
    room: &AudioRoom,
    effect: &Effect,
) -> Prepared<(Outgoing, RoomTaken)> {
    match try_prepare(mailstore, out, room, effect).await {
        Ok(prepared) => prepared,
        Err(error) => later(STORE_PAUSE_MS, &error.to_string()),
    }
}

async fn try_prepare(
    mailstore: &Mailstore,
    out: MailOut,
    room: &AudioRoom,
    effect: &Effect,
) -> Result<Prepared<(Outgoing, RoomTaken)>, MailError> {
    let unwanted = |reason: &str| Ok(Prepared::Unwanted(reason.to_owned()));
    let impossible = |reason: &str| Ok(Prepared::Impossible(reason.to_owned(), Vec::new()));
    let message = match mailstore.outgoing(effect.new.cause.message)? {
        OutgoingRecord::Here(message) => message,
        OutgoingRecord::Removed => return unwanted("the message was removed"),
        OutgoingRecord::Missing => {
            let age = wall().0.saturating_sub(effect.new.created.0);
            let pause = (age / 4).clamp(SHORTEST_WAIT_MS, LONGEST_WAIT_MS);
            return Ok(later(pause, "the message has not arrived on this node yet"));
        }
    };
    let Some(mailbox) = mailstore.get(message.sender).await? else {
        return unwanted("the mailbox of the sender was removed");
    };
    let Some(location) = mailstore.location(message.location)? else {
        return impossible("the location was removed");
    };
    if !location.enabled {
        return Ok(later(DISABLED_PAUSE_MS, "the location is disabled"));
    }
    let sender = match out.or_end(|reason| Prepared::Impossible(reason.to_owned(), Vec::new())) {
        Ok(sender) => sender,
        Err(end) => return Ok(end),
    };
    let Some(room) = room.take(message.audio.length) else {
        return Ok(later(ROOM_PAUSE_MS, "the recordings of other mails fill the memory for them"));
    };
    let audio = mailstore.blob(&message.audio.hash).await?;
    let spoken_name = mailstore.greeting(mailbox.id, GreetingKind::Name).await.unwrap_or_else(|error| {
        tracing::warn!(mailbox = %mailbox.id, %error, "voice message is sent without the spoken name");
        None
    });
    let voice = Voice { message: *message, location, mailbox, audio, spoken_name };
    let id = effect.receiver_id().to_string();
    // The codec keeps a processor busy.
    let composed = tokio::task::spawn_blocking(move || voice.mail(&sender, id)).await;
    match composed.map_err(|_| MailError::Ending)? {
        Ok(mail) => Ok(Prepared::Act((mail, room))),
        Err(reason) => impossible(&reason),
    }
}

fn later<W>(pause_ms: u64, reason: &str) -> Prepared<W> {
    Prepared::Later(Timestamp(wall().0.saturating_add(pause_ms)), reason.to_owned())
}

/// A message with all that its mail needs.
struct Voice {
    message: OutgoingMessage,
    location: Location,
    mailbox: Mailbox,
    audio: Bytes,
    spoken_name: Option<Audio>,
}

impl Voice {
    /// The mail in the form that the location takes, the same at every attempt; `id` names it to receivers.
    fn mail(self, sender: &MailSender, id: String) -> Result<Outgoing, String> {
        let address = |number: &str, domain: &str| {
            Address::parse(&format!("{number}@{domain}")).map_err(|error: AddressError| error.to_string())
        };
        let from = address(&self.mailbox.number, &sender.domain)?;
        let to = address(self.message.number.reveal(), &self.location.domain)?;
        // Reports of failure must come to this cluster.
        let is_ours = sender.from.domain() == sender.domain;
        let reports = if is_ours { sender.from.to_string() } else { from.to_string() };
        let (recipient, message_id) = (to.to_string(), format!("{id}@{}", sender.domain));
        let date_unix = i64::try_from(self.message.created.0 / 1_000).unwrap_or_default();
        let bytes = match self.location.audio {
            AudioForm::Vpim => self.vpim(from, to, message_id, date_unix).compose(),
            AudioForm::Wav => self.wav(from, to, message_id, date_unix).compose(),
        };
        Ok(Outgoing {
            sender: Some(reports),
            recipient,
            bytes: sender.signed(bytes, date_unix)?.into(),
            envelope_id: id,
            notify: Notify::FailureAndDelay,
        })
    }

    fn vpim(self, from: Address, to: Address, message_id: String, date_unix: i64) -> VoiceMessage {
        let (importance, sensitivity) = self.marks();
        let name = self.mailbox.name.reveal().clone();
        VoiceMessage {
            vcard: Some(VCard { name: name.clone(), tel: self.mailbox.number.clone(), email: from.to_string() }),
            from,
            from_name: name,
            to: vec![to],
            message_id,
            date_unix,
            subject: self.message.subject.reveal().clone(),
            audio: g711_to_g726(&self.audio, self.message.codec),
            duration_s: u32::try_from(self.audio.len().div_ceil(G711_BYTES_PER_SECOND)).unwrap_or(u32::MAX),
            spoken_name: self.spoken_name.map(|name| g711_to_g726(&name.bytes, name.codec)),
            importance,
            sensitivity,
            request_receipt: false,
        }
    }

    fn wav(self, from: Address, to: Address, message_id: String, date_unix: i64) -> Notice {
        let (importance, sensitivity) = self.marks();
        let name = self.mailbox.name.reveal().clone();
        let subject = match self.message.subject.reveal().as_str() {
            "" if name.is_empty() => format!("Voice message from {}", self.mailbox.number),
            "" => format!("Voice message from {name}"),
            subject => subject.to_owned(),
        };
        let audio = Attachment {
            file_name: "message.wav".to_owned(),
            content_type: "audio/wav".to_owned(),
            bytes: twinbox_rtp::wav::write(self.message.codec, &self.audio),
        };
        Notice {
            from,
            from_name: name,
            to,
            subject,
            text: String::new(),
            message_id,
            date_unix,
            audio: Some(audio),
            auto_submitted: false,
            importance,
            sensitivity,
        }
    }

    fn marks(&self) -> (Importance, Sensitivity) {
        (
            if self.message.urgent { Importance::High } else { Importance::Normal },
            if self.message.private { Sensitivity::Private } else { Sensitivity::None },
        )
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{BlobHash, LocationId, MailboxId, MessageId, Pii};
    use twinbox_mail::{incoming, vpim};
    use twinbox_mailstore::Codec;
    use twinbox_replication_core::BlobRef;

    use super::*;
    use crate::{Mailer, MailerConfig, MxTls, Route};

    fn sender(from: &str) -> MailSender {
        let dns_servers = vec!["127.0.0.1:53".parse().expect("an address")];
        let config = MailerConfig::new(Route::mx(MxTls::Opportunistic), "vm.example");
        MailSender {
            domain: "vm.example".to_owned(),
            from: Address::parse(from).expect(from),
            from_name: "Voicemail".to_owned(),
            mailer: Mailer::new(MailerConfig { dns_servers, ..config }).expect("a mailer"),
            dkim: None,
        }
    }

    fn voice(form: AudioForm) -> Voice {
        let audio = Bytes::from((0..12_000).map(|n| (n % 251) as u8 | 0x80).collect::<Vec<u8>>());
        Voice {
            message: OutgoingMessage {
                id: MessageId(1),
                sender: MailboxId(2),
                location: LocationId(3),
                number: Pii::new("2002".to_owned()),
                audio: BlobRef { hash: BlobHash([0; 32]), length: 12_000, recording: None },
                codec: Codec::Pcma,
                subject: Pii::new(String::new()),
                urgent: true,
                private: true,
                created: Timestamp(1_700_000_000_500),
            },
            location: Location {
                id: LocationId(3),
                name: "berlin".to_owned(),
                dial_id: "7".to_owned(),
                domain: "other.example".to_owned(),
                audio: form,
                enabled: true,
                created: Timestamp(0),
            },
            mailbox: Mailbox {
                id: MailboxId(2),
                number: "1001".to_owned(),
                name: Pii::new("Anna, \r\nBcc: x@y.example".to_owned()),
                ..blank_mailbox()
            },
            spoken_name: Some(Audio { codec: Codec::Pcmu, bytes: audio.slice(..800) }),
            audio,
        }
    }

    /// A mailbox as read from a record with the least fields.
    fn blank_mailbox() -> Mailbox {
        use twinbox_mailbox::schema::{mailbox as tag, mailbox_key};
        use twinbox_replication_core::{Edit, Record, Value};
        let mut record = Record::new();
        for (n, (tag, value)) in (1..).zip([(tag::CREATED, vec![0; 8]), (tag::NUMBER, b"1".to_vec())]) {
            let stamp = twinbox_ids::Stamp { wall: n, counter: 0, origin: twinbox_ids::Origin(1) };
            let edit = Edit::Set(tag, Value::Bytes(value));
            record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
        }
        Mailbox::read(&mailbox_key(MailboxId(2)), &record).expect("readable").expect("a mailbox")
    }

    #[test]
    fn message_to_a_vpim_system_is_read_back_whole() {
        let expected = g711_to_g726(&voice(AudioForm::Vpim).audio, Codec::Pcma);
        let sender = sender("voicemail@vm.example");
        let mail = voice(AudioForm::Vpim).mail(&sender, "ab12".to_owned()).expect("a mail");
        let again = voice(AudioForm::Vpim).mail(&sender, "ab12".to_owned()).expect("a mail");
        assert_eq!(mail.bytes, again.bytes, "equal at every attempt");
        assert_eq!(
            (mail.sender.as_deref(), mail.recipient.as_str()),
            (Some("voicemail@vm.example"), "2002@other.example")
        );
        let read = vpim::read(&mail.bytes).expect("VPIM");
        assert_eq!(read.from.map(|from| from.to_string()).as_deref(), Some("1001@vm.example"));
        assert_eq!((read.message_id.as_deref(), read.date_unix), (Some("ab12@vm.example"), Some(1_700_000_000)));
        assert_eq!((read.importance, read.sensitivity), (Importance::High, Sensitivity::Private));
        assert_eq!((read.audio.len(), &read.audio[0].bytes, read.audio[0].duration_s), (1, &expected, Some(2)));
        assert_eq!(read.spoken_name.map(|name| name.bytes.len()), Some(400));
        let card = read.vcard.expect("a card");
        assert_eq!((card.tel.as_str(), card.email.as_str()), ("1001", "1001@vm.example"));
        assert!(!read.request_receipt && !String::from_utf8_lossy(&mail.bytes).contains("\nBcc:"));
    }

    #[test]
    fn message_to_a_system_without_vpim_is_a_mail_with_g711() {
        let mail = voice(AudioForm::Wav).mail(&sender("alerts@else.example"), "ab12".to_owned()).expect("a mail");
        assert_eq!(mail.sender.as_deref(), Some("1001@vm.example"), "reports come to this cluster");
        let read = incoming::read(&mail.bytes).expect("a mail");
        assert!(!read.is_vpim && !read.auto_submitted);
        assert_eq!((read.importance, read.sensitivity), (Importance::High, Sensitivity::Private));
        assert_eq!((read.audio.len(), read.audio[0].content_type.as_str()), (1, "audio/wav"));
        let wav = twinbox_rtp::wav::Wav::read(&read.audio[0].bytes).expect("a WAV file");
        assert_eq!(wav.to_g711(Codec::Pcma), voice(AudioForm::Wav).audio);
        assert!(read.subject.starts_with("Voice message from Anna"), "{}", read.subject);
    }
}
