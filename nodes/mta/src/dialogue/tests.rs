use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::Outgoing;

/// Greeting, EHLO with extensions, and the rest of a dialogue without login.
const HAPPY: [&str; 6] = ["220 x", "250-x|250-SIZE 100|250 DSN", "250 x", "250 x", "354 x", "250 2.0.0 queued"];

fn mail() -> Outgoing {
    Outgoing {
        sender: Some("post@example.com".to_owned()),
        recipient: "anna@example.net".to_owned(),
        bytes: Bytes::from_static(b"x\r\n"),
        envelope_id: "a+b".to_owned(),
        notify: Notify::FailureAndDelay,
    }
}

fn plan<'a>(envelope: &'a Envelope<'a>) -> Plan<'a> {
    Plan {
        host: "mail",
        helo: "node",
        encryption: Encryption::Off,
        smarthost: false,
        login: None,
        loopback: false,
        envelope,
        probe: false,
    }
}

fn reply(text: &str) -> Reply {
    let lines: Vec<&str> = text.split('|').collect();
    let code = lines[0][..3].parse().expect("a code");
    Reply { code, lines: lines.iter().map(|line| line[4..].to_owned()).collect() }
}

/// Runs a dialogue against these replies. Returns the commands and the outcome.
fn run(plan: Plan<'_>, replies: &[&str]) -> (Vec<String>, Option<Result<Delivered, SendFailure>>) {
    let mut dialogue = Dialogue::new(plan, false);
    let mut commands = Vec::new();
    for text in replies {
        let mut action = dialogue.replied(&reply(text));
        if action == Action::Handshake {
            commands.push("(handshake)".to_owned());
            action = Action::Command(dialogue.secured());
        }
        match action {
            Action::Command(line) => commands.push(line.strip_suffix("\r\n").expect("a line").to_owned()),
            Action::Message => commands.push("(message)".to_owned()),
            Action::Finish(outcome) => return (commands, Some(outcome)),
            Action::Handshake => panic!("two handshakes"),
        }
    }
    (commands, None)
}

fn failure(plan: Plan<'_>, replies: &[&str]) -> (&'static str, SendStep, String) {
    match run(plan, replies).1 {
        Some(Err(SendFailure::Temporary(problem))) => ("temporary", problem.step, problem.text),
        Some(Err(SendFailure::Permanent(problem))) => ("permanent", problem.step, problem.text),
        Some(Err(SendFailure::Unknown(problem))) => ("unknown", problem.step, problem.text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn message_is_delivered_with_the_offered_parameters() {
    let mail = mail();
    let envelope = Envelope::of(&mail).expect("valid");
    let (commands, outcome) = run(plan(&envelope), &HAPPY);
    let expected = [
        "EHLO node",
        "MAIL FROM:<post@example.com> SIZE=3 RET=HDRS ENVID=a+2Bb",
        "RCPT TO:<anna@example.net> NOTIFY=FAILURE,DELAY",
        "DATA",
        "(message)",
    ];
    assert_eq!(commands, expected);
    let delivered = Delivered { by: "mail".to_owned(), reply: "250 2.0.0 queued".to_owned() };
    assert_eq!(outcome, Some(Ok(delivered)));
}

#[test]
fn commands_have_no_parameter_that_is_not_offered() {
    let mail = Outgoing { sender: None, notify: Notify::Never, ..mail() };
    let envelope = Envelope::of(&mail).expect("valid");
    let (commands, _) = run(plan(&envelope), &["220 x", "502 no EHLO", "250 x", "250 x"]);
    assert_eq!(commands, ["EHLO node", "HELO node", "MAIL FROM:<>", "RCPT TO:<anna@example.net>"]);
    let (commands, _) = run(plan(&envelope), &["220 x", "250-x|250 DSN", "250 x"]);
    assert_eq!(commands[2], "RCPT TO:<anna@example.net> NOTIFY=NEVER");
}

#[test]
fn eight_bit_and_utf8_are_declared_or_permanent() {
    let mail =
        Outgoing { recipient: "jürgen@example.net".to_owned(), bytes: Bytes::from_static(b"\xc3\xa4"), ..mail() };
    let envelope = Envelope::of(&mail).expect("valid");
    let (commands, _) = run(plan(&envelope), &["220 x", "250-x|250-8BITMIME|250 SMTPUTF8"]);
    assert_eq!(commands[1], "MAIL FROM:<post@example.com> BODY=8BITMIME SMTPUTF8");
    let (class, step, text) = failure(plan(&envelope), &["220 x", "250-x|250 8BITMIME"]);
    assert_eq!((class, step), ("permanent", SendStep::Recipient));
    assert!(text.contains("SMTPUTF8"), "{text}");
    let (class, step, text) = failure(plan(&envelope), &["220 x", "250-x|250 SMTPUTF8"]);
    assert_eq!((class, step), ("permanent", SendStep::Sender));
    assert!(text.contains("8BITMIME"), "{text}");
}

#[test]
fn message_above_the_limit_of_the_server_is_permanent_before_it_is_sent() {
    let mail = Outgoing { bytes: Bytes::from(vec![b'x'; 101]), ..mail() };
    let envelope = Envelope::of(&mail).expect("valid");
    let (class, step, text) = failure(plan(&envelope), &HAPPY);
    assert_eq!((class, step), ("permanent", SendStep::Sender));
    assert!(text.contains("at most 100 bytes") && text.contains("101"), "{text}");
    assert!(run(plan(&envelope), &["220 x", "250-x|250 SIZE 0", "250 x"]).1.is_none());
}

#[test]
fn probe_ends_after_the_recipient() {
    let mail = mail();
    let envelope = Envelope::of(&mail).expect("valid");
    let (commands, outcome) = run(Plan { probe: true, ..plan(&envelope) }, &HAPPY);
    assert!(commands.last().is_some_and(|line| line.starts_with("RCPT")), "{commands:?}");
    assert!(outcome.is_some_and(|outcome| outcome.is_ok()));
}

#[test]
fn tls_begins_when_offered_and_the_second_ehlo_counts() {
    let mail = mail();
    let envelope = Envelope::of(&mail).expect("valid");
    for encryption in [Encryption::IfOffered, Encryption::Required] {
        let plan = Plan { encryption, ..plan(&envelope) };
        let replies = ["220 x", "250-x|250-STARTTLS|250 DSN", "220 go", "250-x|250 STARTTLS"];
        let (commands, _) = run(plan, &replies);
        assert_eq!(commands, ["EHLO node", "STARTTLS", "(handshake)", "EHLO node", "MAIL FROM:<post@example.com>"]);
    }
    let off = run(plan(&envelope), &["220 x", "250-x|250 STARTTLS"]).0;
    assert_eq!(off[1], "MAIL FROM:<post@example.com>");
}

#[test]
fn missing_tls_ends_the_attempt_only_when_required() {
    let mail = mail();
    let envelope = Envelope::of(&mail).expect("valid");
    for replies in
        [&["220 x", "250 x"][..], &["220 x", "250-x|250 STARTTLS", "454 no"], &["220 x", "500 x", "250 x"]]
    {
        let required = Plan { encryption: Encryption::Required, ..plan(&envelope) };
        let (class, step, _) = failure(required, replies);
        assert_eq!((class, step), ("temporary", SendStep::Tls), "{replies:?}");
        let opportunistic = Plan { encryption: Encryption::IfOffered, ..plan(&envelope) };
        let (commands, _) = run(opportunistic, replies);
        assert!(commands.last().is_some_and(|line| line.starts_with("MAIL")), "{commands:?}");
    }
}

#[test]
fn login_uses_plain_then_login_and_needs_tls_or_loopback() {
    let mail = mail();
    let envelope = Envelope::of(&mail).expect("valid");
    let login = ("user".to_owned(), "pass".to_owned());
    let with_login = Plan { login: Some(&login), loopback: true, smarthost: true, ..plan(&envelope) };
    let (commands, _) = run(with_login.clone(), &["220 x", "250-x|250 AUTH LOGIN PLAIN", "235 x"]);
    assert_eq!(commands[1], "AUTH PLAIN AHVzZXIAcGFzcw==");
    assert!(commands[2].starts_with("MAIL"));
    let (commands, _) = run(with_login.clone(), &["220 x", "250-x|250 AUTH LOGIN", "334 a", "334 b", "235 x"]);
    assert_eq!(commands[1..4], ["AUTH LOGIN", "dXNlcg==", "cGFzcw=="]);
    assert!(commands[4].starts_with("MAIL"));
    for replies in [
        &["220 x", "250-x|250 AUTH PLAIN", "535 5.7.8 no"][..],
        &["220 x", "250-x|250 AUTH PLAIN", "454 later"],
        &["220 x", "250-x|250 AUTH PLAIN", "334 x"],
        &["220 x", "250-x|250 AUTH LOGIN", "334 a", "334 b", "535 no"],
        &["220 x", "250-x|250 AUTH CRAM-MD5"],
        &["220 x", "250 x"],
    ] {
        let (class, step, _) = failure(with_login.clone(), replies);
        assert_eq!((class, step), ("temporary", SendStep::Authentication), "{replies:?}");
    }
    let remote = Plan { loopback: false, ..with_login };
    let (commands, outcome) = run(remote.clone(), &["220 x", "250-x|250 AUTH PLAIN"]);
    assert_eq!(commands, ["EHLO node"]);
    assert!(matches!(outcome, Some(Err(SendFailure::Temporary(p))) if p.step == SendStep::Authentication));
    let secure = Plan { encryption: Encryption::Required, ..remote };
    let replies = ["220 x", "250-x|250 STARTTLS", "220 go", "250-x|250 AUTH PLAIN"];
    assert!(run(secure, &replies).0.last().is_some_and(|line| line.starts_with("AUTH PLAIN ")));
}

#[test]
fn refusal_at_each_step_has_its_class() {
    let mail = mail();
    let envelope = Envelope::of(&mail).expect("valid");
    for (position, step, class) in [
        (0, SendStep::Greeting, "temporary"),
        (2, SendStep::Sender, "permanent"),
        (3, SendStep::Recipient, "permanent"),
        (4, SendStep::Data, "permanent"),
        (5, SendStep::Message, "permanent"),
    ] {
        for (bad, class) in [("451 4.3.0 x", "temporary"), ("550 5.7.1 x", class)] {
            let replies = [&HAPPY[..position], &[bad]].concat();
            let (actual, at, text) = failure(plan(&envelope), &replies);
            assert_eq!((actual, at), (class, step), "{bad}");
            assert!(text.contains(bad), "{text}");
        }
    }
    let (class, step, _) = failure(plan(&envelope), &["220 x", "550 x", "550 x"]);
    assert_eq!((class, step), ("temporary", SendStep::Hello));
}

proptest! {
    #[test]
    fn any_replies_end_the_dialogue_and_never_skip_the_recipient(
        codes in prop::collection::vec(200..600_u16, 1..20),
        encryption in prop::sample::select(vec![Encryption::Off, Encryption::IfOffered, Encryption::Required]),
    ) {
        let mail = mail();
        let envelope = Envelope::of(&mail).expect("valid");
        let login = ("user".to_owned(), "pass".to_owned());
        let plan = Plan { encryption, login: Some(&login), ..plan(&envelope) };
        let texts: Vec<String> = codes.iter().map(|c| format!("{c} x|{c} STARTTLS|{c} AUTH PLAIN")).collect();
        let replies: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (commands, outcome) = run(plan, &replies);
        prop_assert!(outcome.is_some() || commands.len() >= replies.len());
        let before = |line: &str| commands.iter().position(|command| command.starts_with(line));
        if let Some(data) = before("DATA") {
            prop_assert!(before("RCPT").is_some_and(|rcpt| rcpt < data));
        }
        // The password never leaves before TLS.
        if let Some(auth) = before("AUTH") {
            prop_assert!(before("(handshake)").is_some_and(|tls| tls < auth));
        }
    }
}
