//! Composed notices, read back by mail-parser and by Python's `email`.

use crate::common::{HOSTILE, address, attachment, has_python, notice, python};
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;
use twinbox_mail::compose::{Attachment, Notice};

/// Names of the fields that a notice has.
const FIELDS: [&str; 10] = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
];

fn check_lines(mail: &[u8]) {
    let text = std::str::from_utf8(mail).expect("UTF-8");
    for line in text.split("\r\n") {
        assert!(line.len() <= 998, "{line}");
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
    }
}

fn parse(mail: &[u8]) -> Message<'_> {
    check_lines(mail);
    let message = MessageParser::default().parse(mail).expect("a mail");
    for part in &message.parts {
        for header in &part.headers {
            assert!(FIELDS.iter().any(|name| name.eq_ignore_ascii_case(header.name())), "{}", header.name());
        }
    }
    for name in FIELDS {
        let times = message.parts[0].headers.iter().filter(|h| h.name().eq_ignore_ascii_case(name)).count();
        assert!(times <= 1, "{name} occurs {times} times");
    }
    message
}

/// The expected line of a hostile text: controls become one space.
fn one_line(text: &str) -> String {
    let unsafe_char = |c: char| c.is_control() || "\u{2028}\u{202e}".contains(c);
    let words: Vec<&str> = text.trim().split(unsafe_char).filter(|word| !word.is_empty()).collect();
    words.join(" ").trim().to_owned()
}

fn check(notice: &Notice) {
    let mail = notice.compose();
    let message = parse(&mail);
    assert_eq!(message.subject().unwrap_or_default().trim(), one_line(&notice.subject));
    let from = message.from().and_then(|from| from.first()).expect("From");
    assert_eq!(from.address.as_deref(), Some(notice.from.to_string().as_str()));
    assert_eq!(from.name.as_deref().unwrap_or_default().trim(), one_line(&notice.from_name));
    assert_eq!(message.from().expect("From").iter().count(), 1);
    assert_eq!(message.to().expect("To").iter().count(), 1);
    assert!(message.bcc().is_none() && message.cc().is_none());
    assert_eq!(message.text_body_count(), 1);
    let text = message.body_text(0).expect("text");
    assert_eq!(text.contains("evil@example.org"), notice.text.contains("evil@example.org"));
    match &notice.audio {
        None => assert_eq!(message.parts.len(), 1),
        Some(audio) => {
            assert_eq!(message.parts.len(), 3);
            let part = &message.parts[2];
            assert_eq!(part.contents(), audio.bytes);
            assert!(part.content_disposition().expect("a disposition").is_attachment());
            assert!(!part.attachment_name().unwrap_or_default().contains(['/', '\\', '\r', '\n']));
        }
    }
}

#[test]
fn notice_with_audio_has_all_fields_and_the_same_bytes_each_time() {
    let notice = Notice { audio: Some(attachment()), ..notice() };
    let mail = notice.compose();
    assert_eq!(mail, notice.compose());
    let message = parse(&mail);
    assert_eq!(message.message_id(), Some("m1@twinbox.example"));
    assert_eq!(message.date().map(|date| date.to_timestamp()), Some(1_057_982_437));
    assert_eq!(message.header_raw("Auto-Submitted").map(str::trim), Some("auto-generated"));
    assert_eq!(message.body_text(0).as_deref(), Some("You have a new message.\r\nLength: 12 s\r\n"));
    let PartType::Multipart(parts) = &message.parts[0].body else { panic!("no multipart") };
    assert_eq!(parts.len(), 2);
    let audio = &message.parts[2];
    let content_type = audio.content_type().expect("a type");
    assert_eq!((content_type.ctype(), content_type.subtype()), ("audio", Some("wav")));
    assert_eq!(audio.attachment_name(), Some("message.wav"));
    assert_eq!(audio.contents(), attachment().bytes);
}

#[test]
fn notice_of_a_person_has_no_auto_submitted() {
    let mail = Notice { auto_submitted: false, ..notice() }.compose();
    assert!(parse(&mail).header_raw("Auto-Submitted").is_none());
}

#[test]
fn hostile_values_add_no_header_field_and_no_part() {
    for hostile in HOSTILE {
        check(&Notice { subject: hostile.to_owned(), ..notice() });
        check(&Notice { from_name: hostile.to_owned(), ..notice() });
        check(&Notice { text: hostile.to_owned(), ..notice() });
        check(&Notice { message_id: hostile.to_owned(), audio: Some(attachment()), ..notice() });
        let audio = Attachment { file_name: hostile.to_owned(), ..attachment() };
        check(&Notice { audio: Some(audio), ..notice() });
        let audio = Attachment { content_type: hostile.to_owned(), ..attachment() };
        check(&Notice { audio: Some(audio), ..notice() });
        let long = format!("{}{hostile}{}", "x".repeat(990), "y".repeat(100_000));
        let audio = Attachment { file_name: long.clone(), content_type: long.clone(), bytes: Vec::new() };
        let mail = Notice {
            subject: long.clone(),
            from_name: long.clone(),
            text: long.clone(),
            message_id: long,
            audio: Some(audio),
            ..notice()
        }
        .compose();
        parse(&mail);
    }
}

#[test]
fn utf8_address_is_written_as_it_is() {
    let mail = Notice { to: address("jörg@bücher.example"), ..notice() }.compose();
    let message = parse(&mail);
    let to = message.to().and_then(|to| to.first()).and_then(|to| to.address.clone());
    assert_eq!(to.as_deref(), Some("jörg@bücher.example"));
}

#[test]
fn python_reads_the_same_values() {
    if !has_python("email", "python3") {
        return;
    }
    const SCRIPT: &str = r#"
import sys, email, email.policy
mail = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
assert not mail.defects, mail.defects
assert mail["Bcc"] is None and len(mail["From"].addresses) == 1 and len(mail["To"].addresses) == 1
parts = list(mail.iter_attachments())
out = [mail["Subject"] or "", mail["From"].addresses[0].display_name, mail["From"].addresses[0].addr_spec,
       str(int(mail["Date"].datetime.timestamp())), str(len(parts))]
out += [parts[0].get_filename() or "", str(len(parts[0].get_content()))] if parts else []
out.append(mail.get_body().get_content())
for name in out:
    assert "\0" not in name
    sys.stdout.write(name.strip() + "\0")
"#;
    for hostile in HOSTILE {
        let audio = Attachment { file_name: hostile.to_owned(), ..attachment() };
        let notice = Notice {
            subject: hostile.to_owned(),
            from_name: hostile.to_owned(),
            text: hostile.to_owned(),
            audio: Some(audio),
            ..notice()
        };
        let output = python(SCRIPT, &[], &notice.compose());
        let values: Vec<&str> = output.split('\0').collect();
        assert_eq!(values[0], one_line(hostile), "subject");
        // Python writes several spaces of a name as one.
        let words = |name: &str| name.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
        assert_eq!(words(values[1]), words(&one_line(hostile)), "name");
        assert_eq!(values[2..5], ["voicemail@twinbox.example", "1057982437", "1"]);
        assert!(!values[5].contains(['/', '\r', '\n']));
        assert_eq!(values[6], "3000");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_values_add_no_header_field(
        subject in "(\\PC|[\r\n\0:=?;\"]){0,200}",
        name in "(\\PC|[\r\n\0<>@,;]){0,100}",
        text in "(\\PC|[\r\n.=-]){0,500}",
        id in "\\PC{0,60}",
    ) {
        let notice = Notice {
            subject, from_name: name.clone(), text, message_id: id,
            audio: Some(Attachment { file_name: name, ..attachment() }),
            ..notice()
        };
        let mail = notice.compose();
        let message = parse(&mail);
        prop_assert_eq!(message.parts.len(), 3);
        prop_assert_eq!(message.parts[2].contents(), attachment().bytes);
        prop_assert!(message.bcc().is_none());
    }
}
