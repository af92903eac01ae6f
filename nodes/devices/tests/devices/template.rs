//! Texts: the built-in ones, replaced ones, hostile values, bounds.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};
use proptest::prelude::*;
use twinbox_devices::{File, Form, MessageText, Notification, TemplateError, Templates, Text};
use twinbox_ids::Pii;

fn built_in() -> Templates {
    Templates::with_overrides(&BTreeMap::new()).expect("the built-in templates")
}

fn replaced(language: &str, file: &str, text: &str) -> Result<Templates, TemplateError> {
    Templates::with_overrides(&BTreeMap::from([((language.to_owned(), file.to_owned()), text.to_owned())]))
}

fn message(caller: &str, caller_name: &str) -> MessageText {
    let private = |text: &str| (!text.is_empty()).then(|| Pii::new(text.to_owned()));
    MessageText {
        caller: private(caller),
        caller_name: private(caller_name),
        received: "2026-07-03T12:05:00Z".parse::<Timestamp>().expect("a time"),
        seconds: 75,
        urgent: false,
    }
}

fn notification(latest: MessageText, earlier: Vec<MessageText>) -> Notification {
    Notification { number: "100".to_owned(), name: Pii::new("Bert".to_owned()), new_messages: 3, latest, earlier }
}

fn compose(templates: &Templates, form: Form, language: &str, notification: &Notification) -> (String, String) {
    let berlin = TimeZone::get("Europe/Berlin").expect("a zone");
    let Text { subject, body } = templates.compose(form, language, notification, &berlin).expect("a text");
    (subject.map(Pii::into_revealed).unwrap_or_default(), body.into_revealed())
}

#[test]
fn mail_has_subject_and_text_in_the_language() {
    let one = notification(message("5550100", "Anna"), Vec::new());
    let (subject, body) = compose(&built_in(), Form::Mail, "en", &one);
    assert_eq!(subject, "Voicemail from Anna, 1:15");
    assert_eq!(
        body,
        "Hello Bert,\n\nthere is a new message in mailbox 100.\n\nFrom:     Anna, 5550100\n\
         Received: 3 July 2026, 14:05\nLength:   1:15\n\nThe mailbox has 3 new messages.\n"
    );
    let unknown = notification(MessageText { urgent: true, ..message("", "") }, Vec::new());
    let (subject, body) = compose(&built_in(), Form::Mail, "de-AT", &unknown);
    assert_eq!(subject, "Dringende Sprachnachricht von einem unbekannten Anrufer, 1:15");
    assert!(body.contains("eine neue dringende Nachricht"), "{body}");
    assert!(body.contains("Von:       Nummer unbekannt\nEmpfangen: 03.07.2026, 14:05 Uhr\n"), "{body}");
    // A language without texts gets English ones.
    assert_eq!(compose(&built_in(), Form::Mail, "fr", &one), compose(&built_in(), Form::Mail, "en", &one));
}

#[test]
fn gathered_messages_are_listed_in_one_mail() {
    let several = notification(message("5550100", ""), vec![message("5550101", "Carl"), message("", "")]);
    let (subject, body) = compose(&built_in(), Form::Mail, "en", &several);
    assert_eq!(subject, "3 new voicemail messages in mailbox 100");
    assert_eq!(
        body,
        "Hello Bert,\n\nthere are 3 new messages in mailbox 100:\n\n\
         - 3 July 2026, 14:05, 1:15, from Carl\n\
         - 3 July 2026, 14:05, 1:15, from an unknown caller\n\
         - 3 July 2026, 14:05, 1:15, from 5550100\n"
    );
}

#[test]
fn pager_and_sms_texts_are_short() {
    for language in ["en", "de"] {
        for form in [Form::Pager, Form::Sms] {
            let long = notification(message(&"5".repeat(300), &"ä".repeat(300)), vec![message("1", "")]);
            let (subject, body) = compose(&built_in(), form, language, &long);
            assert_eq!((subject.as_str(), body.chars().count()), ("", 160), "{body}");
            assert!(body.ends_with("...") && !body.contains('\n'), "{body}");
        }
    }
    let one = notification(message("5550100", ""), Vec::new());
    assert_eq!(
        compose(&built_in(), Form::Pager, "en", &one).1,
        "Message from 5550100 for 100, 1:15, 3 July 2026, 14:05"
    );
    assert_eq!(
        compose(&built_in(), Form::Sms, "de", &one).1,
        "Postfach 100: neue Nachricht von 5550100 (1:15), 03.07.2026, 14:05 Uhr"
    );
}

#[test]
fn callers_cannot_add_lines_headers_or_template_code() {
    let hostile = "x\r\nBcc: all@example.com\r\n\r\n{{ 7 * 7 }}{% raw %}\u{2028}\u{202e}\0<b>&amp;";
    let one = notification(message(hostile, hostile), Vec::new());
    let honest = notification(message("5550100", "Anna"), Vec::new());
    for language in ["en", "de"] {
        let (subject, body) = compose(&built_in(), Form::Mail, language, &one);
        assert!(!subject.chars().any(|c| c.is_control() || c == '\u{2028}'), "{subject:?}");
        assert!(subject.contains("{{ 7 * 7 }}") && body.contains("{{ 7 * 7 }}"), "{body}");
        // Not escaped as HTML either: it is plain text.
        assert!(body.contains("<b>&amp;"), "{body}");
        assert!(!body.contains(['\u{202e}', '\0', '\r']), "{body:?}");
        assert_eq!(body.lines().count(), compose(&built_in(), Form::Mail, language, &honest).1.lines().count());
    }
}

#[test]
fn replaced_template_is_used_and_the_others_stay() {
    let every = "{{ caller }}|{{ caller_name }}|{{ number }}|{{ name }}|{{ received }}|{{ seconds }}|{{ duration }}|\
                 {{ urgent }}|{{ new_messages }}|{% for m in messages %}{{ loop.index }}{{ m.caller }}{% endfor %}";
    let templates = replaced("fr", "pager.txt", every).expect("a template");
    let one = notification(message("5550100", "Anna"), Vec::new());
    assert_eq!(
        compose(&templates, Form::Pager, "FR-ca", &one).1.to_lowercase(),
        "5550100|anna|100|bert|2026-07-03 14:05|75|1:15|false|3|15550100"
    );
    assert!(compose(&templates, Form::Sms, "fr", &one).1.starts_with("Mailbox 100"));
    // A subject is one line whatever the template does.
    let templates = replaced("en", "mail.subject", "a\n\n b {{ number }}\n").expect("a template");
    assert_eq!(compose(&templates, Form::Mail, "en", &one).0, "a b 100");
}

#[test]
fn invalid_template_is_refused_with_file_line_and_reason() {
    for (language, file, text, parts) in [
        ("de", "mail.txt", "a\n{{ caler }}", ["de/mail.txt, line 2: variable 'caler'", "did you mean 'caller'?"]),
        ("de", "mail.txt", "a\n\n{% if callre %}x{% endif %}", ["line 3: variable 'callre'", "new_messages"]),
        ("de", "mail.txt", "{% for m in messages %}\n{{ m.from }}\n{% endfor %}", ["line 2", "does not exist"]),
        ("de", "mail.txt", "a\n{% if urgent %}", ["de/mail.txt, line", "syntax error"]),
        ("de", "mail.txt", "{{ number|shout }}", ["line 1", "shout"]),
        ("de", "mail.txt", "{{ shout(number) }}", ["line 1", "shout"]),
        ("de", "mial.txt", "a", ["de/mial.txt is not a template", "did you mean 'mail.txt'?"]),
        ("../de", "mail.txt", "a", ["'../de' is not a language", "pt-br"]),
    ] {
        let error = replaced(language, file, text).expect_err(text).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
    let long = replaced("de", "mail.txt", &"x".repeat(65_537)).unwrap_err();
    assert_eq!(long, TemplateError::TooLong { file: "de/mail.txt".to_owned() });
}

#[test]
fn template_that_does_not_end_or_grows_too_long_is_refused() {
    for (text, reason) in [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "does not end within 100000 steps",
        ),
        ("{% for a in range(9999) %}0123456789{% endfor %}", "longer than 65536 bytes"),
        ("{{ '0123456789' * 9999 }}", "longer than 65536 bytes"),
    ] {
        let error = replaced("en", "mail.txt", text).expect_err(text).to_string();
        assert!(error.contains("en/mail.txt, line 1") && error.contains(reason), "{error}");
    }
}

#[test]
fn error_at_rendering_names_no_private_value() {
    // The trial has other callers: this fails later, with a value of the caller.
    let text = "{{ [1][caller] if caller == '12345' else '' }}";
    let Ok(templates) = replaced("en", "pager.txt", text) else { panic!("the trial failed") };
    let notification = notification(message("12345", ""), Vec::new());
    let error = templates.render(File::Pager, "en", &notification, &TimeZone::UTC).unwrap_err().to_string();
    assert!(error.contains("en/pager.txt") && !error.contains("12345"), "{error}");
}

proptest! {
    #[test]
    fn any_caller_gives_one_line_subject_and_bounded_texts(
        caller in any::<String>(),
        name in "[\\PC\r\n\t{}%]{0,300}",
        language in prop::sample::select(vec!["en", "de", "fr"]),
    ) {
        let templates = built_in();
        let one = notification(message(&caller, &name), Vec::new());
        let (subject, body) = compose(&templates, Form::Mail, language, &one);
        prop_assert!(!subject.chars().any(char::is_control) && subject.chars().count() <= 200);
        prop_assert!(body.ends_with('\n') && body.lines().count() <= 10);
        prop_assert!(compose(&templates, Form::Sms, language, &one).1.chars().count() <= 160);
    }

    #[test]
    fn any_template_is_loaded_or_refused_without_panic(text in "([a-z{}% |.\n]|\\{\\{ caller |\\{% if urgent %\\}){0,40}") {
        if let Err(error) = replaced("en", "mail.txt", &text) {
            prop_assert!(error.to_string().starts_with("en/mail.txt"), "{}", error);
        }
    }
}
