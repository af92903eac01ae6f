//! Dialogues with a session, without sockets.

use std::{collections::VecDeque, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use twinbox_mail_gateway::{
    Counter, GatewaySettings, Limits, LineError, Mail, Networks, Protocol,
    data::Discard,
    session::{Action, Answer, Reads, Session, Start},
};

use crate::common;

/// 2026-11-21 14:16:55 UTC in milliseconds.
const WALL: u64 = 1_795_270_615_000;

/// A session with the fake mailboxes and a record of its actions.
struct Dialogue {
    session: Session<String>,
    mails: Vec<Mail<String>>,
    counted: Vec<Counter>,
}

impl Dialogue {
    /// With a client in a trusted network.
    fn new(protocol: Protocol) -> Self {
        Self::with(protocol, "10.0.0.5", false, limits())
    }

    /// With a client from elsewhere.
    fn stranger(open: bool) -> Self {
        Self::with(Protocol::Smtp, "203.0.113.9", open, limits())
    }

    fn with(protocol: Protocol, address: &str, open: bool, limits: Limits) -> Self {
        let networks = Networks::parse(["10.0.0.0/8"]).unwrap();
        let settings = GatewaySettings { hostname: "mx.example.net".into(), networks, open, reports: true };
        let start = Start { protocol, address: address.parse().unwrap(), tls_offered: true, id: 7 };
        let session = Session::new(Arc::new(settings), Arc::new(limits), start);
        let mut dialogue = Self { session, mails: Vec::new(), counted: Vec::new() };
        let greeting = dialogue.session.greeting(true);
        assert!(dialogue.perform(greeting).starts_with("220 mx.example.net"));
        dialogue
    }

    /// Does the actions. Returns the replies, separated by `|`, lines of one reply by `/`.
    fn perform(&mut self, actions: Vec<Action<String>>) -> String {
        let mut replies = Vec::new();
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Reply(reply) => {
                    let mut line = Vec::new();
                    reply.write(&mut line);
                    let line = String::from_utf8(line).unwrap();
                    replies.push(line.strip_suffix("\r\n").unwrap().replace("\r\n", "/"));
                }
                Action::Count(counter) => self.counted.push(counter),
                Action::StartTls => self.session.on_tls(),
                Action::AskRecipient { address, .. } => {
                    actions.extend(self.session.on_answer(Answer::Recipient(common::find(&address))));
                }
                Action::AskPassword { given, .. } => {
                    let checked = common::check_password(&given.user, &given.password);
                    actions.extend(self.session.on_answer(Answer::Password(checked)));
                }
                Action::ReadData { limit } => assert_eq!(limit, 1000),
                Action::Deliver(mail) => {
                    let deliveries = common::file(&mail);
                    self.mails.push(mail);
                    actions.extend(self.session.on_answer(Answer::Deliveries(deliveries)));
                }
                Action::Close => replies.push("closed".to_owned()),
            }
        }
        replies.join("|")
    }

    /// Sends a line, as a command or as content of a mail, whichever the session waits for.
    fn say(&mut self, line: &str) -> String {
        let actions = match self.session.reads() {
            Reads::Line => self.session.on_line(line.as_bytes(), WALL),
            Reads::Data => {
                let line = format!("{line}\r\n");
                let (taken, actions) = self.session.on_data_chunk(line.as_bytes());
                assert!(taken == line.len() || !actions.is_empty());
                actions
            }
            Reads::Nothing => panic!("session ended before {line:?}"),
        };
        self.perform(actions)
    }

    /// Sends each line and compares the replies with the beginnings that are expected.
    fn check(&mut self, table: &[(&str, &str)]) {
        for (line, expected) in table {
            let replies = self.say(line);
            let (got, wanted): (Vec<_>, Vec<_>) = (replies.split('|').collect(), expected.split('|').collect());
            let same = got.len() == wanted.len() && got.iter().zip(&wanted).all(|(g, w)| g.starts_with(w));
            assert!(same && (replies.is_empty() == expected.is_empty()), "{line:?}: {replies:?}, not {expected:?}");
        }
    }

    fn begin_mail(&mut self, recipients: &[&str]) {
        let hello = if self.say("LHLO c").starts_with("250") { "NOOP" } else { "EHLO c" };
        self.check(&[(hello, "250"), ("MAIL FROM:<s@example.org>", "250 2.1.0")]);
        for recipient in recipients {
            self.check(&[(&format!("RCPT TO:<{recipient}@example.net>"), "250 2.1.5")]);
        }
        self.check(&[("DATA", "354 ")]);
    }
}

fn limits() -> Limits {
    Limits { mail: 1000, overrun: 500, recipients: 3, bad_commands: 5, ..Limits::default() }
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))
}

#[test]
fn mail_from_a_trusted_network_is_delivered_with_a_received_header() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    dialogue.check(&[
        ("EHLO client.example.org", "250-mx.example.net/250-PIPELINING/250-SIZE 1000/250-8BITMIME/250-SMTPUTF8"),
        ("MAIL FROM:<s@example.org> SIZE=900 BODY=8BITMIME", "250 2.1.0"),
        ("RCPT TO:<anna@example.net>", "250 2.1.5"),
        ("DATA", "354 "),
        ("Subject: x", ""),
        ("", ""),
        ("..dot", ""),
        (".", "250 2.0.0 filed for anna"),
        ("QUIT", "221 2.0.0|closed"),
    ]);
    let [mail] = dialogue.mails.as_slice() else { panic!("{:?}", dialogue.mails) };
    assert_eq!(
        str::from_utf8(&mail.bytes).unwrap(),
        "Received: from client.example.org ([10.0.0.5])\r\n\tby mx.example.net with ESMTP id 0000000000000007-1\r\n\t\
         for <anna@example.net>;\r\n\tSat, 21 Nov 2026 14:16:55 +0000\r\nSubject: x\r\n\r\n.dot\r\n"
    );
    assert_eq!(
        (mail.sender.as_deref(), mail.recipients.as_slice()),
        (Some("s@example.org"), &["anna".to_owned()][..])
    );
    assert!(mail.trust.trusted_network && mail.trust.trusted() && !mail.trust.tls && !mail.smtputf8);
    assert_eq!(dialogue.counted, [Counter::MailsAccepted]);
}

#[test]
fn commands_out_of_order_are_refused() {
    let mut dialogue = Dialogue::with(Protocol::Smtp, "10.0.0.5", false, Limits { bad_commands: 50, ..limits() });
    dialogue.check(&[
        ("MAIL FROM:<>", "503 5.5.1"),
        ("RCPT TO:<anna@example.net>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("LHLO c", "500 5.5.1"),
        ("HELO c", "250 mx.example.net"),
        ("MAIL FROM:<>", "250 2.1.0"),
        ("MAIL FROM:<>", "503 5.5.1"),
        ("DATA", "554 5.5.1"),
        ("RSET", "250 2.0.0"),
        ("RCPT TO:<anna@example.net>", "503 5.5.1"),
        ("MAIL FROM:<>", "250 2.1.0"),
        ("EHLO c", "250-"),
        ("DATA", "503 5.5.1"),
        ("VRFY anna", "252 2.5.0"),
        ("EXPN all", "502 5.5.1"),
        ("ETRN x", "502 5.5.1"),
        ("HELP", "214 2.0.0"),
        ("NOOP", "250 2.0.0"),
        ("WHAT", "500 5.5.1"),
        ("AUTH PLAIN", "538 5.7.11"),
        ("BDAT 10 LAST", "502 5.5.1|closed"),
    ]);
}

#[test]
fn lmtp_answers_each_recipient_that_was_accepted() {
    let mut dialogue = Dialogue::new(Protocol::Lmtp);
    dialogue.check(&[
        ("EHLO c", "500 5.5.1"),
        ("HELO c", "500 5.5.1"),
        ("LHLO c", "250-"),
        ("MAIL FROM:<>", "250 2.1.0"),
        ("DATA", "503 5.5.1"),
        ("RCPT TO:<anna@example.net>", "250 2.1.5"),
        ("RCPT TO:<none@example.net>", "550 5.1.1"),
        ("RCPT TO:<refuse@example.net>", "250 2.1.5"),
        ("RCPT TO:<later@example.net>", "250 2.1.5"),
        ("DATA", "354 "),
        (".", "250 2.0.0 filed|550 5.6.1 no audio|451 4.3.0 disk busy"),
    ]);
    assert_eq!((dialogue.mails.len(), dialogue.mails[0].sender.clone()), (1, None));
    assert!(!String::from_utf8_lossy(&dialogue.mails[0].bytes).contains("for <"));
}

#[test]
fn smtp_answers_once_for_all_recipients() {
    let table: [(&[&str], &str, Counter); 4] = [
        (&["anna", "boris"], "250 2.0.0", Counter::MailsAccepted),
        (&["refuse", "boris"], "250 2.0.0 filed for boris", Counter::MailsAccepted),
        (&["anna", "later"], "451 4.3.0", Counter::MailsDeferred),
        (&["refuse", "refuse"], "550 5.6.1 no audio", Counter::MailsRefused),
    ];
    for (recipients, reply, counter) in table {
        let mut dialogue = Dialogue::new(Protocol::Smtp);
        dialogue.begin_mail(recipients);
        dialogue.check(&[(".", reply), ("NOOP", "250")]);
        assert_eq!(dialogue.counted, [counter]);
    }
}

#[test]
fn missing_results_of_a_delivery_count_as_later() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    dialogue.begin_mail(&["anna", "boris"]);
    let (_, actions) = dialogue.session.on_data_chunk(b".\r\n");
    assert!(matches!(actions.as_slice(), [Action::Deliver(_)]));
    assert_eq!(dialogue.session.reads(), Reads::Nothing);
    assert!(dialogue.session.on_line(b"QUIT", WALL).is_empty(), "nothing is read before the answer");
    let actions = dialogue.session.on_answer(Answer::Deliveries(Vec::new()));
    assert!(dialogue.perform(actions).starts_with("451 4.3.0"));
}

#[test]
fn recipients_are_refused_for_their_reason_and_at_most_so_many() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    dialogue.check(&[
        ("EHLO c", "250-"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<busy@example.net>", "451 4.3.2"),
        ("RCPT TO:<full@example.net>", "452 4.2.2"),
        ("RCPT TO:<x@elsewhere.example>", "550 5.7.1"),
        ("RCPT TO:<anna@example.net>", "250"),
        ("RCPT TO:<boris@example.net>", "250"),
        ("RCPT TO:<anna@example.net>", "250"),
        ("RCPT TO:<anna@example.net>", "452 4.5.3"),
        ("RSET", "250"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<none@example.net>", "421 4.7.0|closed"),
    ]);
    assert_eq!(dialogue.counted, [Counter::RecipientsRefused; 4]);
}

#[test]
fn stranger_sends_only_after_sign_in_over_tls() {
    let mut dialogue = Dialogue::stranger(false);
    dialogue.check(&[("EHLO c", "250-"), ("MAIL FROM:<>", "530 5.7.0")]);
    assert_eq!(dialogue.counted, [Counter::MailsUntrusted]);
    assert!(!dialogue.say("EHLO c").contains("AUTH"));
    dialogue.check(&[
        (&plain("anna", "anna"), "538 5.7.11"),
        ("STARTTLS", "220 2.0.0"),
        ("MAIL FROM:<>", "503 5.5.1"),
        (&plain("anna", "anna"), "503 5.5.1"),
    ]);
    let extensions = dialogue.say("EHLO c");
    assert!(extensions.contains("250-AUTH PLAIN LOGIN") && !extensions.contains("STARTTLS"), "{extensions}");
    dialogue.check(&[
        (&plain("anna", "wrong"), "535 5.7.8"),
        (&plain("busy", "ysub"), "454 4.7.0"),
        (&plain("anna", "anna"), "235 2.7.0"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<x@elsewhere.example>", "550 5.7.1"),
        ("RCPT TO:<anna@example.net>", "250"),
        ("DATA", "354"),
        (".", "250"),
        (&plain("anna", "anna"), "503 5.5.1"),
    ]);
    let trust = &dialogue.mails[0].trust;
    assert!(trust.tls && !trust.trusted_network && trust.user.as_deref() == Some("anna") && trust.trusted());
    assert!(String::from_utf8_lossy(&dialogue.mails[0].bytes).contains(" with ESMTPSA id "));
}

#[test]
fn open_gateway_takes_mails_of_strangers_without_trusting_them() {
    let mut dialogue = Dialogue::stranger(true);
    dialogue.begin_mail(&["anna"]);
    dialogue.check(&[(".", "250")]);
    assert!(!dialogue.mails[0].trust.trusted());
}

#[test]
fn sign_in_follows_plain_and_login_with_and_without_initial_response() {
    let (user, password) = (STANDARD.encode("anna"), STANDARD.encode("anna"));
    let login = format!("AUTH LOGIN {user}");
    let response = STANDARD.encode("\0anna\0anna");
    let tables: [&[(&str, &str)]; 4] = [
        &[("AUTH PLAIN", "334 "), (&response, "235")],
        &[("AUTH LOGIN", "334 VXNlcm5hbWU6"), (&user, "334 UGFzc3dvcmQ6"), (&password, "235")],
        &[(&login, "334 UGFzc3dvcmQ6"), (&password, "235")],
        &[
            ("AUTH PLAIN", "334 "),
            ("*", "501 5.7.0"),
            ("AUTH PLAIN =", "501 5.5.2"),
            ("AUTH PLAIN !", "501 5.5.2"),
            ("AUTH GSSAPI", "504 5.5.4"),
        ],
    ];
    for table in tables {
        let mut dialogue = Dialogue::stranger(false);
        dialogue.check(&[("STARTTLS", "220"), ("EHLO c", "250-")]);
        dialogue.check(table);
    }
}

#[test]
fn third_failed_sign_in_closes_the_connection() {
    let mut dialogue = Dialogue::stranger(false);
    let wrong = plain("anna", "x");
    dialogue.check(&[("STARTTLS", "220"), ("EHLO c", "250-"), (&wrong, "535"), (&wrong, "535")]);
    dialogue.check(&[(&wrong, "421 4.7.0|closed")]);
}

#[test]
fn tls_forgets_everything_that_was_said_before() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    dialogue.check(&[
        ("EHLO c", "250-"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<anna@example.net>", "250"),
        ("STARTTLS", "220"),
        ("DATA", "503"),
        ("MAIL FROM:<>", "503"),
        ("STARTTLS", "503"),
    ]);
    assert!(dialogue.session.sender().helo.is_empty());
}

#[test]
fn too_many_bad_commands_close_the_connection() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    for _ in 0..5 {
        dialogue.check(&[("GET / HTTP/1.1", "500 5.5.1"), ("NOOP", "250")]);
    }
    dialogue.check(&[("GET / HTTP/1.1", "421 4.7.0|closed")]);
    assert_eq!(dialogue.session.reads(), Reads::Nothing);
}

#[test]
fn big_mail_is_refused_by_its_announcement_and_by_its_content() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    dialogue.check(&[("EHLO c", "250-"), ("MAIL FROM:<> SIZE=1001", "552 5.3.4"), ("NOOP", "250")]);
    dialogue.begin_mail(&["anna"]);
    let line = "a".repeat(700);
    dialogue.check(&[(&line, ""), (&line, ""), (".", "552 5.3.4"), ("NOOP", "250")]);
    dialogue.begin_mail(&["anna"]);
    dialogue.check(&[(&line, ""), (&line, ""), (&line, "552 5.3.4|closed")]);
    assert!(dialogue.mails.is_empty());
    assert_eq!(dialogue.counted, [Counter::MailsTooBig; 3]);
}

#[test]
fn mail_without_room_is_put_off() {
    let mut dialogue = Dialogue::new(Protocol::Lmtp);
    dialogue.begin_mail(&["anna", "boris"]);
    dialogue.check(&[("abc", "")]);
    assert!(dialogue.session.buffered() > 5);
    dialogue.session.discard(Discard::NoRoom);
    assert_eq!(dialogue.session.buffered(), 0);
    dialogue.check(&[(".", "452 4.3.1|452 4.3.1"), ("NOOP", "250")]);
}

#[test]
fn bare_line_ends_close_the_connection() {
    for (protocol, replies) in
        [(Protocol::Smtp, "554 5.6.11|closed"), (Protocol::Lmtp, "554 5.6.11|554 5.6.11|closed")]
    {
        let mut dialogue = Dialogue::new(protocol);
        dialogue.begin_mail(&["anna", "boris"]);
        dialogue.check(&[("a\n.\r\nMAIL FROM:<evil@example.org>", replies)]);
        assert_eq!((dialogue.counted.as_slice(), dialogue.mails.len()), (&[Counter::MailsSmuggled][..], 0));
    }
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    let actions = dialogue.session.on_line_error(LineError::BareLineEnd);
    let replies = dialogue.perform(actions);
    assert!(replies.starts_with("554 5.6.11") && replies.ends_with("|closed"), "{replies}");
}

#[test]
fn mail_in_a_loop_is_refused() {
    for (headers, reply) in [(50, "250"), (51, "554 5.4.6")] {
        let mut dialogue = Dialogue::with(Protocol::Smtp, "10.0.0.5", false, Limits { mail: 9999, ..limits() });
        dialogue.say("EHLO c");
        dialogue.check(&[("MAIL FROM:<>", "250"), ("RCPT TO:<anna@example.net>", "250")]);
        assert!(matches!(
            dialogue.session.on_line(b"DATA", WALL).as_slice(),
            [Action::Reply(_), Action::ReadData { .. }]
        ));
        for _ in 0..headers {
            dialogue.check(&[("received: x", "")]);
        }
        dialogue.check(&[("", ""), ("Received: in the body", ""), (".", reply)]);
    }
}

#[test]
fn utf8_addresses_need_their_announcement() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    dialogue.check(&[
        ("EHLO c", "250-"),
        ("MAIL FROM:<ä@example.org>", "553 5.6.7"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<ä@example.net>", "553 5.6.7"),
        ("RSET", "250"),
        ("MAIL FROM:<ä@example.org> SMTPUTF8", "250"),
        ("RCPT TO:<ä@example.net>", "550 5.1.1"),
        ("RCPT TO:<anna@example.net>", "250"),
        ("DATA", "354"),
        (".", "250"),
    ]);
    assert!(dialogue.mails[0].smtputf8);
    assert!(String::from_utf8_lossy(&dialogue.mails[0].bytes).contains(" with UTF8SMTP id "));
}

#[test]
fn events_of_the_connection_end_the_session_with_their_reply() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    let actions = dialogue.session.on_timeout();
    assert!(dialogue.perform(actions).starts_with("421 4.4.2"));
    dialogue = Dialogue::new(Protocol::Smtp);
    let actions = dialogue.session.on_stop();
    assert!(dialogue.perform(actions).starts_with("421 4.3.2"));
    dialogue = Dialogue::new(Protocol::Smtp);
    let actions = dialogue.session.on_line_error(LineError::TooLong);
    assert!(dialogue.perform(actions).starts_with("500 5.5.6"));
    dialogue = Dialogue::new(Protocol::Smtp);
    let actions = dialogue.session.greeting(false);
    assert!(dialogue.perform(actions).starts_with("421 4.3.2"));
    assert_eq!(dialogue.session.reads(), Reads::Nothing);
}

proptest! {
    #[test]
    fn random_input_never_panics(
        lines in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "", "EHLO ", "HELO ", "MAIL FROM:<", "MAIL FROM:<a@b> ", "RCPT TO:<anna@example.net", "RCPT TO:<a@b> ",
                    "DATA", "STARTTLS", "AUTH PLAIN ", "AUTH LOGIN ", "AUTH ", "BDAT ", "VRFY ", "RSET", ".", "BURL ", "ATRN ",
                ]),
                prop::collection::vec(any::<u8>(), 0..40),
                "[A-Z=+<>@\". ;:0-9-]{0,30}",
            ), 0..40),
        lmtp in any::<bool>(),
    ) {
        let protocol = if lmtp { Protocol::Lmtp } else { Protocol::Smtp };
        let mut dialogue = Dialogue::with(protocol, "10.0.0.5", false, Limits { bad_commands: 99, ..limits() });
        for (start, bytes, text) in lines {
            let bytes: &[u8] = if text.len() % 2 == 0 { &bytes } else { &[] };
            let line = [start.as_bytes(), text.as_bytes(), bytes].concat();
            let actions = match dialogue.session.reads() {
                Reads::Line => dialogue.session.on_line(&line, u64::MAX),
                Reads::Data => dialogue.session.on_data_chunk(&[&line[..], b"\r\n"].concat()).1,
                Reads::Nothing => break,
            };
            dialogue.perform(actions);
        }
    }
}

#[test]
fn reports_of_success_are_offered_to_trusted_clients_and_noted_for_each_recipient() {
    let mut dialogue = Dialogue::new(Protocol::Smtp);
    assert!(dialogue.say("EHLO c").contains("/250-DSN/"));
    dialogue.check(&[
        ("MAIL FROM:<s@example.org> RET=HDRS ENVID=QQ+2B1", "250 2.1.0"),
        ("RCPT TO:<anna@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Anna@old.example", "250 2.1.5"),
        ("RCPT TO:<boris@example.net> NOTIFY=NEVER", "250 2.1.5"),
        ("RCPT TO:<boris@example.net> NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
        ("DATA", "354 "),
        (".", "250 2.0.0"),
    ]);
    let [mail] = dialogue.mails.as_slice() else { panic!("{:?}", dialogue.mails) };
    assert_eq!(mail.envelope_id.as_deref(), Some("QQ+1"));
    let [Some(anna), None] = mail.reports.as_slice() else { panic!("{:?}", mail.reports) };
    assert_eq!(anna.address.reveal(), "anna@example.net");
    assert_eq!(anna.original.as_ref().map(|original| original.reveal().as_str()), Some("rfc822;Anna@old.example"));

    let mut stranger = Dialogue::stranger(true);
    assert!(!stranger.say("EHLO c").contains("DSN"));
    stranger.check(&[
        ("MAIL FROM:<s@example.org> ENVID=x", "555 5.5.4"),
        ("MAIL FROM:<s@example.org>", "250 2.1.0"),
        ("RCPT TO:<anna@example.net> NOTIFY=SUCCESS", "555 5.5.4"),
    ]);
}
