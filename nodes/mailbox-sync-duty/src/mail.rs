//! The mail of a message in the folder on the server: text and WAV, with the same bytes at every attempt.

use twinbox_ids::{ClusterId, Pii};
use twinbox_imap::OWN_ID;
use twinbox_mail::{
    Address, AddressError,
    compose::{Attachment, Notice},
    incoming::{Importance, Sensitivity},
};
use twinbox_mailbox_sync::{Extent, message_id};
use twinbox_mailstore::{Mailbox, Message, time, zone_of};

/// Address of all senders: the given one, else an address that does not exist (RFC 6761 section 6.4).
pub(crate) fn sender(cluster: ClusterId, from: Option<&str>) -> Result<Address, AddressError> {
    let given = from.and_then(|from| Address::parse(from).ok());
    given.map_or_else(|| Address::parse(&format!("voicemail@{cluster}.twinbox.invalid")), Ok)
}

/// The audio that a message has now.
pub(crate) fn extent(message: &Message) -> Extent {
    if message.is_partial() { Extent::Part } else { Extent::Whole }
}

/// The mail of a message with this audio. `from` is the address of all senders, whose names differ.
pub(crate) fn mail(
    cluster: ClusterId,
    from: &Address,
    mailbox: &Mailbox,
    message: &Message,
    wav: Vec<u8>,
) -> Vec<u8> {
    let own = mailbox.addresses.mail.as_ref().and_then(|own| Address::parse(own.as_str()).ok());
    let id = message_id(message.id, extent(message), cluster);
    let received = time(message.received).to_zoned(zone_of(mailbox));
    let stamp = received.strftime("%Y%m%d-%H%M%S");
    let notice = Notice {
        from: from.clone(),
        from_name: caller_name(message).into_revealed(),
        to: own.unwrap_or_else(|| from.clone()),
        subject: subject(message).into_revealed(),
        text: text(message, &received.strftime("%Y-%m-%d %H:%M:%S %Z").to_string()).into_revealed(),
        message_id: id.trim_matches(['<', '>']).to_owned(),
        date_unix: i64::try_from(message.received.0 / 1_000).unwrap_or_default(),
        audio: Some(Attachment {
            file_name: format!("voicemail-{stamp}.wav"),
            content_type: "audio/wav".to_owned(),
            bytes: wav,
        }),
        auto_submitted: false,
        importance: if message.urgent { Importance::High } else { Importance::Normal },
        sensitivity: if message.private { Sensitivity::Private } else { Sensitivity::None },
    };
    // Servers that rewrite Message-IDs keep this one.
    let mut bytes = format!("{OWN_ID}: {id}\r\n").into_bytes();
    bytes.extend_from_slice(&notice.compose());
    bytes
}

/// A text that is not empty.
fn filled(text: &Option<Pii<String>>) -> Option<&str> {
    text.as_ref().map(|text| text.reveal().trim()).filter(|text| !text.is_empty())
}

/// Name of the caller, else the number, else the sender of the mail that the message came by.
fn caller_name(message: &Message) -> Pii<String> {
    let sender = message.mail.as_ref().map(|mail| mail.sender.reveal().trim()).filter(|sender| !sender.is_empty());
    let name = filled(&message.caller_name).or_else(|| filled(&message.caller)).or(sender);
    Pii::new(name.unwrap_or("Unknown caller").to_owned())
}

fn subject(message: &Message) -> Pii<String> {
    let name = caller_name(message);
    let from = match (filled(&message.caller_name), filled(&message.caller)) {
        (Some(name), Some(number)) if name != number => format!("{name} ({number})"),
        _ => name.into_revealed(),
    };
    Pii::new(format!("Voice message from {from}, {} s", seconds(message)))
}

fn text(message: &Message, received: &str) -> Pii<String> {
    let mut text = format!("{}\n\nReceived: {received}\n", subject(message).reveal());
    if message.is_partial() {
        text.push_str(
            "\nThe end of this message is missing. If it arrives, the complete message replaces this one.\n",
        );
    }
    if let Some(mail) = &message.mail {
        text = format!("{text}\n{}\n\n{}\n", mail.subject.reveal(), mail.text.reveal());
    }
    Pii::new(text)
}

/// Length in seconds, rounded to the nearest.
fn seconds(message: &Message) -> u64 {
    message.length_ms.saturating_add(500) / 1_000
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{MessageId, Timestamp};
    use twinbox_mail::incoming;
    use twinbox_mailstore::{Codec, Folder, MailOrigin, UserAddress};
    use twinbox_store_kit::Node;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn pii(text: &str) -> Option<Pii<String>> {
        Some(Pii::new(text.to_owned()))
    }

    fn message(mailbox: &Mailbox) -> Message {
        Message {
            id: MessageId(0xa1),
            mailbox: mailbox.id,
            folder: Folder::New,
            deleted: false,
            purged: false,
            received: Timestamp(1_700_000_000_500),
            caller: pii("5550100"),
            caller_name: pii("Anna"),
            codec: Codec::Pcma,
            length_ms: 12_400,
            audio: None,
            uid: None,
            modseq: 0,
            urgent: true,
            private: true,
            mail: None,
        }
    }

    #[tokio::test]
    async fn mail_is_read_back_whole_and_is_the_same_at_every_attempt() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut mailbox = Node::alone(dir.path(), "a").mailbox().await;
        mailbox.addresses.mail = Some(UserAddress::address("anna@mail.example").expect("an address"));
        let from = Address::parse("voicemail@vm.example").expect("an address");
        let wav = twinbox_rtp::wav::write(Codec::Pcma, &[0x55; 8_000]);
        let bytes = mail(CLUSTER, &from, &mailbox, &message(&mailbox), wav.clone());
        assert_eq!(bytes, mail(CLUSTER, &from, &mailbox, &message(&mailbox), wav.clone()));
        let read = incoming::read(&bytes).expect("a mail");
        assert_eq!(read.subject, "Voice message from Anna (5550100), 12 s");
        assert_eq!((read.importance, read.sensitivity), (Importance::High, Sensitivity::Private));
        assert_eq!((read.audio.len(), &read.audio[0].bytes), (1, &wav));
        let id = format!("<{}>", read.message_id.expect("a Message-ID"));
        assert_eq!(id, message_id(MessageId(0xa1), Extent::Whole, CLUSTER));
        assert!(bytes.starts_with(format!("X-Twinbox-Id: {id}\r\n").as_bytes()));
        assert_eq!(read.from.map(|from| from.to_string()).as_deref(), Some("voicemail@vm.example"));
        assert_eq!((read.from_name.as_str(), read.date_unix), ("Anna", Some(1_700_000_000)));
        assert_eq!(read.audio[0].file_name.as_deref(), Some("voicemail-20231114-221320.wav"));
        assert!(String::from_utf8_lossy(&bytes).contains("anna@mail.example"), "To names the user");
    }

    #[test]
    fn sender_without_a_usable_address_does_not_exist() {
        let address = |from| sender(CLUSTER, from).expect("an address").to_string();
        assert_eq!(address(Some("voicemail@vm.example")), "voicemail@vm.example");
        for from in [None, Some("voicemail")] {
            assert_eq!(address(from), format!("voicemail@{CLUSTER}.twinbox.invalid"));
        }
    }

    #[tokio::test]
    async fn caller_without_a_name_is_named_by_number_or_mail_address() {
        let dir = tempfile::tempdir().expect("a folder");
        let mailbox = Node::alone(dir.path(), "a").mailbox().await;
        let base = message(&mailbox);
        let origin = MailOrigin {
            sender: Pii::new("bob@other.example".to_owned()),
            subject: Pii::new("Hi\r\nBcc: x@y.example".to_owned()),
            text: Pii::new("see you".to_owned()),
        };
        let cases = [
            (None, pii("5550100"), None, "5550100"),
            (pii("5550100"), pii("5550100"), None, "5550100"),
            (pii("Anna"), None, None, "Anna"),
            (pii(" "), None, None, "Unknown caller"),
            (None, None, Some(origin), "bob@other.example"),
        ];
        for (caller_name, caller, mail, from) in cases {
            let message = Message { caller_name, caller, mail, ..base.clone() };
            assert_eq!(subject(&message).reveal(), &format!("Voice message from {from}, 12 s"));
            let sender = Address::parse("voicemail@vm.example").expect("an address");
            let bytes = super::mail(CLUSTER, &sender, &mailbox, &message, Vec::new());
            let mail = String::from_utf8_lossy(&bytes).into_owned();
            let header = mail.split("\r\n\r\n").next().unwrap_or_default();
            assert!(!header.contains("\nBcc:"), "{header}");
        }
    }
}
