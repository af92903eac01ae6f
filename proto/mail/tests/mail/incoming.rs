//! Received mails: what is read, digests, and arbitrary bytes.

use crate::common::{attachment, notice, voice_message};
use proptest::prelude::*;
use twinbox_mail::{
    Limits, ReadError,
    compose::Notice,
    incoming::{Importance, Incoming, Sensitivity, TEXT_BYTES, body_digest, delivery_id, read, read_within},
    vpim,
};

fn of(mail: &str) -> Incoming {
    read(mail.as_bytes()).expect(mail)
}

#[test]
fn composed_notice_is_read_back() {
    let mail = Notice { audio: Some(attachment()), ..notice() }.compose();
    let incoming = read(&mail).unwrap();
    assert_eq!(incoming.subject, notice().subject);
    assert_eq!((incoming.from, incoming.from_name.as_str()), (Some(notice().from), "Twinbox"));
    assert_eq!(incoming.date_unix, Some(notice().date_unix));
    assert_eq!(incoming.message_id.as_deref(), Some("m1@twinbox.example"));
    assert_eq!(incoming.text, "You have a new message.\nLength: 12 s");
    assert!(incoming.auto_submitted && !incoming.is_vpim && incoming.bounce.is_none());
    assert_eq!(incoming.audio.len(), 1);
    let audio = &incoming.audio[0];
    assert_eq!((audio.content_type.as_str(), audio.file_name.as_deref()), ("audio/wav", Some("message.wav")));
    assert_eq!(audio.bytes, attachment().bytes);
}

#[test]
fn html_is_stripped_and_plain_text_is_preferred() {
    let html = "Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        <html><head><title>t</title></head><p>Gr=FC=DFe,</p><script>x()</script>a &amp; b</html>";
    assert_eq!(of(&format!("From: a@b.example\r\n{html}")).text, "Grüße,\na & b");
    let both = format!(
        "Content-Type: multipart/alternative; boundary=x\r\n\r\n--x\r\n{html}\r\n--x\r\n\r\nplain\r\n--x--\r\n"
    );
    assert_eq!(of(&both).text, "plain");
    let attached = "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Disposition: attachment\r\n\r\n\
        file\r\n--x\r\n\r\nmessage\r\n--x--";
    assert_eq!(of(attached).text, "message");
}

#[test]
fn text_is_cut_at_its_limit() {
    let incoming = of(&format!("Subject: x\r\n\r\n{}", "é".repeat(100_000)));
    assert_eq!(incoming.text.len(), TEXT_BYTES);
}

#[test]
fn audio_is_found_by_type_name_and_in_forwarded_mails() {
    let mail = "Content-Type: multipart/mixed; boundary=x\r\n\r\n\
        --x\r\nContent-Type: Audio/MPEG; name=\"a.mp3\"\r\nContent-Transfer-Encoding: BASE64\r\n\r\nYQ==\r\n\
        --x\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename*=utf-8''%C3%A9.WAV\r\n\r\nb\r\n\
        --x\r\nContent-Type: application/octet-stream; name=c.zip\r\n\r\nc\r\n\
        --x\r\nContent-Type: message/rfc822\r\n\r\nFrom: c@d.example\r\nContent-Type: audio/wav\r\n\r\nd\r\n--x--\r\n";
    let audio = of(mail).audio;
    let found: Vec<_> =
        audio.iter().map(|a| (a.content_type.as_str(), a.file_name.as_deref(), a.bytes.as_slice())).collect();
    assert_eq!(
        found,
        [
            ("audio/mpeg", Some("a.mp3"), &b"a"[..]),
            ("application/octet-stream", Some("é.WAV"), &b"b"[..]),
            ("audio/wav", None, &b"d"[..]),
        ]
    );
}

#[test]
fn importance_and_sensitivity_are_read() {
    for (fields, importance, sensitivity) in [
        ("X: y", Importance::Normal, Sensitivity::None),
        ("Importance: High", Importance::High, Sensitivity::None),
        ("Importance: low\r\nX-Priority: 1", Importance::Low, Sensitivity::None),
        ("X-Priority: 1 (Highest)", Importance::High, Sensitivity::None),
        ("X-Priority: 5\r\nSensitivity: Personal", Importance::Low, Sensitivity::Personal),
        ("Sensitivity: Company-Confidential", Importance::Normal, Sensitivity::CompanyConfidential),
        ("Sensitivity: private", Importance::Normal, Sensitivity::Private),
        ("Sensitivity: top secret", Importance::Normal, Sensitivity::Private),
    ] {
        let incoming = of(&format!("{fields}\r\n\r\n"));
        assert_eq!((incoming.importance, incoming.sensitivity), (importance, sensitivity), "{fields}");
    }
}

#[test]
fn automatic_mails_are_recognized() {
    for (fields, automatic) in [
        ("X: y", false),
        ("Auto-Submitted: no", false),
        ("Auto-Submitted: auto-replied; owner-email=\"x\"", true),
        ("Auto-Submitted: auto-generated (why)", true),
        ("Precedence: bulk", true),
        ("Precedence: normal", false),
    ] {
        assert_eq!(of(&format!("{fields}\r\n\r\n")).auto_submitted, automatic, "{fields}");
    }
}

#[test]
fn kind_of_mail_is_recognized() {
    let voice = read(&voice_message().compose()).unwrap();
    assert!(voice.is_vpim && voice.bounce.is_none());
    assert_eq!(voice.audio.len(), 1, "the spoken name is no message");
    let report = "Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\r\na\r\n\
        --x\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: audio/wav\r\n\r\nb\r\n--x--";
    let report = of(report);
    assert!(report.bounce.is_some() && report.audio.is_empty());
}

#[test]
fn missing_and_invalid_values_are_left_out() {
    let incoming = of("From: not an address\r\nDate: tomorrow\r\nMessage-ID: <>\r\n\r\n");
    assert_eq!((incoming.from, incoming.date_unix, incoming.message_id), (None, None, None));
    assert_eq!(incoming.text, "");
}

#[test]
fn body_digest_ignores_trace_fields_and_encodings() {
    let body = "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\ntext=\r\n--x\r\nContent-Type: audio/wav\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nYWI=\r\n--x--\r\n";
    let other = "Received: from a by b\r\nDKIM-Signature: x\r\nContent-Type: Multipart/Mixed; boundary=\"other\"\r\n\r\n\
        preamble\r\n--other\nContent-Transfer-Encoding: quoted-printable\n\ntext=3D  \n\n--other\r\nContent-Type: \
        audio/wav\r\nContent-Transfer-Encoding: base64\r\n\r\nYW\r\nI=\r\n\r\n--other--\r\n";
    assert_eq!(body_digest(body.as_bytes()), body_digest(other.as_bytes()));
    assert_eq!(of(body).body_digest, body_digest(body.as_bytes()));
    for changed in [body.replace("YWI=", "YWM="), body.replace("text=", "Text="), body.replace("/wav", "/mpeg")] {
        assert_ne!(body_digest(changed.as_bytes()), body_digest(body.as_bytes()), "{changed}");
    }
    assert_ne!(body_digest(b"no mail"), body_digest(b"no Mail"));
}

#[test]
fn delivery_id_depends_on_mailbox_mail_and_without_message_id_on_the_sender() {
    let with_id = of("Message-ID: <a@b>\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700\r\n\r\nx");
    let id = delivery_id([1; 16], &with_id, "s@b.example");
    assert_eq!(id, delivery_id([1; 16], &with_id, "other relay"));
    assert_ne!(id, delivery_id([2; 16], &with_id, "s@b.example"));
    let other_body = Incoming { body_digest: [0; 32], ..with_id.clone() };
    assert_ne!(id, delivery_id([1; 16], &other_body, "s@b.example"));
    let without_id = Incoming { message_id: None, ..with_id };
    let id = delivery_id([1; 16], &without_id, "s@b.example");
    assert_ne!(id, delivery_id([1; 16], &without_id, "t@b.example"));
    let other_date = Incoming { date_unix: None, ..without_id };
    assert_ne!(id, delivery_id([1; 16], &other_date, "s@b.example"));
}

#[test]
fn mail_beyond_limits_is_refused_quickly() {
    let mut deep = String::new();
    for level in 0..10_000 {
        deep += &format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n");
    }
    assert_eq!(read(deep.as_bytes()), Err(ReadError::TooDeep { limit: 32 }));
    assert!(vpim::read(deep.as_bytes()).is_err());
    body_digest(deep.as_bytes());
    let limits = Limits { bytes: 10, ..Limits::default() };
    assert_eq!(read_within(b"Subject: hello", &limits), Err(ReadError::TooLarge { bytes: 14, limit: 10 }));
}

#[test]
fn header_fields_that_cost_the_square_of_their_length_are_bounded() {
    let mut parameters = String::from("Content-Type: text/plain");
    for n in 0..20_000 {
        parameters += &format!(";p{n}*1=x");
    }
    let large = format!("Subject: x\r\n{parameters}\r\n\r\ntext");
    assert_eq!(read(large.as_bytes()).map(|incoming| incoming.text), Ok("text".to_owned()));
    let many = format!("{}\r\ntext", "Content-Type: a/b\r\n".repeat(10_000));
    assert_eq!(read(many.as_bytes()).map(|incoming| incoming.text), Ok(String::new()));
}

/// Each place at which an encoded word may begin costs a search up to the end of the field.
#[test]
fn end_of_a_long_type_or_disposition_is_ignored_in_each_part() {
    let words = " =?aa?q?".repeat(1_000);
    let part = |number: usize| {
        format!(
            "--x\r\nContent-Type: audio/wav; name={number}.wav; long=\"{words}\"\r\n\
             Content-Disposition: attachment; long=\"{words}\"; filename=late.wav\r\n\r\nx\r\n"
        )
    };
    let parts: String = (0..5).map(part).collect();
    let audio = of(&format!("Content-Type: multipart/mixed; boundary=x\r\n\r\n{parts}--x--\r\n")).audio;
    let names: Vec<_> = audio.into_iter().filter_map(|audio| audio.file_name).collect();
    assert_eq!(names, (0..5).map(|number| format!("{number}.wav")).collect::<Vec<_>>());
}

#[test]
fn long_file_name_in_pieces_is_read() {
    // RFC 2231: each of the 240 bytes is three in the field.
    let charset = |number| if number == 0 { "utf-8''" } else { "" };
    let piece = |number| format!(";\r\n filename*{number}*={}%E3%81%82%E3%81%84", charset(number));
    let pieces: String = (0..40).map(piece).collect();
    let mail = format!("Content-Type: audio/wav\r\nContent-Disposition: attachment{pieces}\r\n\r\nx");
    assert_eq!(of(&mail).audio[0].file_name.as_deref(), Some("あい".repeat(40).as_str()));
}

fn all_readers(bytes: &[u8]) {
    let _ = read(bytes);
    let _ = vpim::read(bytes);
    body_digest(bytes);
}

fn samples() -> Vec<Vec<u8>> {
    let forwarded = format!(
        "From: \"J =?utf-8?Q?=C3=B6?=\" <a@b.example>\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
         Content-Type: multipart/mixed; boundary*0=\"x\"; boundary*1=y\r\n\r\n--xy\r\nContent-Type: message/rfc822\r\n\r\n{}",
        String::from_utf8_lossy(&voice_message().compose())
    );
    let report = "Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\
        Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; a\r\n\r\nFinal-Recipient: rfc822; a@b.example\r\n\
        Action: failed\r\nStatus: 5.1.1\r\n\r\n--x\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: <a@b>\r\n--x--";
    let html = "Content-Type: text/html; charset=utf-16\r\n\r\n<p>&#x41;&lt;<!-- -->";
    let notice = Notice { audio: Some(attachment()), ..notice() };
    vec![forwarded.into_bytes(), notice.compose(), report.as_bytes().to_vec(), html.as_bytes().to_vec()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        all_readers(&bytes);
    }

    #[test]
    fn arbitrary_header_fields_never_panic(
        name in "Subject|From|To|Date|Message-ID|Content-Type|Content-Disposition|Content-Transfer-Encoding|Importance",
        value in "(\\PC|[ \t\r\n0-9:;=*'\"<>@,()?\\\\/+-]|=\\?utf-8\\?[QqBb]\\?[A-Za-z0-9=_]{0,8}\\?=){0,80}",
    ) {
        all_readers(format!("{name}: {value}\r\n\r\nbody").as_bytes());
    }

    #[test]
    fn mutated_mails_never_panic(
        sample in 0..4_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..20),
    ) {
        let mut mail = samples().swap_remove(sample);
        mail.truncate(6_000);
        for (at, byte, change) in changes {
            let at = at.index(mail.len().max(1)).min(mail.len().saturating_sub(1));
            match change {
                0 => mail.insert(at, byte),
                1 if mail.len() > 1 => {
                    mail.remove(at);
                },
                2 => mail.truncate(at.max(1)),
                _ => mail[at] = byte,
            }
        }
        all_readers(&mail);
    }
}
