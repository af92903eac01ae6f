//! Voice messages, written and read back.

use crate::common::{HOSTILE, address, notice, voice_message};
use proptest::prelude::*;
use twinbox_mail::{
    incoming::{Importance, Sensitivity},
    vpim::{VCard, VoiceMessage, VpimError, read},
};

/// A message in the form of RFC 3801 appendix B: old field spellings, a card of another profile, and a forwarded message.
const FORWARD: &str = "To: +19725551212@vm1.example\r\n\
    From: \"Parsons, Glenn\" <12145551234@VM2.example>\r\n\
    Date: Mon, 26 Aug 93 10:20:20 -0700 (CDT)\r\n\
    MIME-Version: 1.0  (Voice 2.0)\r\n\
    Content-type: Multipart/Voice-Message; Version=2.0;\r\n Boundary=\"MessageBoundary\"\r\n\
    Content-Transfer-Encoding: 7bit\r\n\
    Message-ID: 123456789@VM2.example\r\n\
    Sensitivity: Private\r\nImportance: High\r\n\r\n\
    --MessageBoundary\r\n\
    Content-type: Audio/32KADPCM\r\nContent-Transfer-Encoding: Base64\r\n\
    Content-Disposition: inline; voice=Originator-Spoken-Name\r\nContent-Language: en-US\r\n\r\nbmFtZQ==\r\n\
    --MessageBoundary\r\n\
    Content-type: Audio/32KADPCM\r\nContent-Transfer-Encoding: Base64\r\n\
    Content-Description: Introduction\r\nContent-Disposition: inline; voice=Voice-Message; filename=msg1.726\r\n\
    Content-Duration: 25\r\n\r\naW50cm8=\r\n\
    --MessageBoundary\r\n\
    Content-type: Message/RFC822\r\n\r\n\
    From: <7085551234@VM3.example>\r\nContent-type: Multipart/Voice-Message; Version=2.0; Boundary=M2\r\n\r\n\
    --M2\r\nContent-type: Audio/32KADPCM\r\nContent-Transfer-Encoding: Base64\r\n\r\nb2xk\r\n--M2--\r\n\r\n\
    --MessageBoundary\r\nContent-type: image/tiff\r\n\r\nfax\r\n\
    --MessageBoundary\r\nContent-type: Message/RFC822\r\n\r\nSubject: text mail\r\n\r\nx\r\n\
    --MessageBoundary\r\nContent-type: text/directory; profile=vCard\r\n\r\n\
    BEGIN:VCARD\r\nN:Parsons;Glenn\r\nTEL;TYPE=VOICE:+1-214-555-1234\r\nVERSION:3.0\r\nEND:VCARD\r\n\
    --MessageBoundary--\r\n";

#[test]
fn composed_message_is_read_back() {
    let sent = voice_message();
    let mail = sent.compose();
    assert_eq!(mail, sent.compose());
    let received = read(&mail).unwrap();
    assert_eq!((received.from, received.from_name), (Some(sent.from), sent.from_name));
    assert_eq!((received.to, received.subject), (sent.to, sent.subject));
    assert_eq!((received.message_id, received.date_unix), (Some(sent.message_id), Some(sent.date_unix)));
    assert_eq!((received.importance, received.sensitivity), (sent.importance, sent.sensitivity));
    assert!(received.request_receipt);
    assert_eq!(received.vcard, sent.vcard);
    assert_eq!(received.audio.len(), 1);
    let audio = &received.audio[0];
    assert_eq!((audio.content_type.as_str(), audio.duration_s), ("audio/32kadpcm", Some(5)));
    assert_eq!(audio.bytes, sent.audio);
    let name = received.spoken_name.unwrap();
    assert_eq!((name.duration_s, Some(name.bytes)), (Some(2), sent.spoken_name));
    assert!(received.forwarded.is_empty() && received.other_parts.is_empty());
}

#[test]
fn composed_message_has_the_fields_of_rfc_3801() {
    let mail = String::from_utf8(voice_message().compose()).unwrap();
    for line in [
        "MIME-Version: 1.0 (Voice 2.0)\r\n",
        "Content-Type: multipart/voice-message; version=2.0;",
        "Importance: High\r\n",
        "Sensitivity: Private\r\n",
        "Disposition-Notification-To: <+15551234@vm.example>\r\n",
        "Content-Type: audio/32KADPCM\r\nContent-Transfer-Encoding: base64\r\n",
        "Content-Disposition: inline; voice=Originator-Spoken-Name\r\nContent-Duration: 2\r\n",
        "Content-Disposition: inline; voice=Voice-Message; filename=\"message.726\"\r\nContent-Duration: 5\r\n",
        "Content-Type: text/directory; charset=utf-8; profile=vCard\r\n",
        "BEGIN:VCARD\r\nVERSION:3.0\r\n",
    ] {
        assert!(mail.contains(line), "{line}\n{}", &mail[..1_500]);
    }
    assert!(mail.lines().all(|line| line.len() <= 77), "folded");
}

#[test]
fn message_without_options_has_one_part_and_default_values() {
    let mail = VoiceMessage {
        spoken_name: None,
        vcard: None,
        importance: Importance::Normal,
        sensitivity: Sensitivity::None,
        request_receipt: false,
        subject: String::new(),
        ..voice_message()
    }
    .compose();
    let received = read(&mail).unwrap();
    assert_eq!((received.audio.len(), received.spoken_name, received.vcard), (1, None, None));
    assert_eq!((received.importance, received.sensitivity), (Importance::Normal, Sensitivity::None));
    assert!(!received.request_receipt && received.subject.is_empty());
}

#[test]
fn forwarded_message_and_unknown_parts_are_read() {
    let received = read(FORWARD.as_bytes()).unwrap();
    assert_eq!(received.from_name, "Parsons, Glenn");
    assert_eq!(received.from, Some(address("12145551234@vm2.example")));
    assert_eq!(received.message_id.as_deref(), Some("123456789@VM2.example"));
    assert_eq!((received.importance, received.sensitivity), (Importance::High, Sensitivity::Private));
    assert_eq!(received.spoken_name.unwrap().bytes, b"name");
    assert_eq!((received.audio[0].bytes.as_slice(), received.audio[0].duration_s), (&b"intro"[..], Some(25)));
    assert_eq!(received.forwarded.len(), 1);
    assert_eq!(received.forwarded[0].audio[0].bytes, b"old");
    assert_eq!(received.forwarded[0].from, Some(address("7085551234@vm3.example")));
    assert_eq!(received.other_parts, ["image/tiff", "message/rfc822"]);
    let card = VCard { name: "Glenn Parsons".to_owned(), tel: "+1-214-555-1234".to_owned(), email: String::new() };
    assert_eq!(received.vcard, Some(card));
}

#[test]
fn ordinary_mail_is_no_voice_message() {
    let error = read(&notice().compose()).unwrap_err();
    assert_eq!(error, VpimError::NotVoice("text/plain".to_owned()));
    assert!(error.to_string().contains("text/plain"));
}

#[test]
fn hostile_values_stay_in_their_fields() {
    for hostile in HOSTILE {
        let card = VCard { name: hostile.to_owned(), tel: hostile.to_owned(), email: String::new() };
        let mail = VoiceMessage {
            from_name: hostile.to_owned(),
            subject: hostile.to_owned(),
            message_id: hostile.to_owned(),
            vcard: Some(card),
            ..voice_message()
        }
        .compose();
        let received = read(&mail).unwrap();
        assert_eq!((received.audio.len(), received.to.len()), (1, 2), "{hostile:?}");
        assert_eq!(received.vcard.unwrap().email, "", "{hostile:?}");
        assert!(!String::from_utf8_lossy(&mail).contains("\nBcc:"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_audio_and_card_are_read_back(
        audio in proptest::collection::vec(any::<u8>(), 0..3_000),
        name in "[a-zé,;\\\\ ]{0,40}",
    ) {
        let card = VCard { name: name.trim().to_owned(), tel: "+1".to_owned(), email: String::new() };
        let sent = VoiceMessage { audio, vcard: Some(card), ..voice_message() };
        let received = read(&sent.compose()).unwrap();
        prop_assert_eq!(&received.audio[0].bytes, &sent.audio);
        prop_assert_eq!(received.vcard, sent.vcard);
    }
}
