//! Messages that arrive, and what the holder of the duty decides.

use bytes::Bytes;
use twinbox_mta::{Delivered, Mailer, Notify, Outgoing, SendFailure, TlsMode};

use crate::support::{Fake, Holder, Script, class, mail, plain, smarthost};

#[tokio::test]
async fn message_arrives_with_its_envelope_and_stuffed_dots() {
    let fake = Fake::start(Script::offering(&["SIZE 1000000", "8BITMIME", "DSN"])).await;
    let holder = Holder::always();
    let delivered = plain(&fake).send(&mail(), &holder).await.expect("delivered");
    assert_eq!(delivered, Delivered { by: "127.0.0.1".to_owned(), reply: "250 2.0.0 queued as 1".to_owned() });
    let expected = [
        "(connection)",
        "EHLO node.example.com",
        "MAIL FROM:<post@example.com> SIZE=35 RET=HDRS ENVID=id-1",
        "RCPT TO:<anna@example.net> NOTIFY=FAILURE,DELAY",
        "DATA",
        "Subject: message",
        "",
        "hello",
        "..",
        "end",
        ".",
        "QUIT",
    ];
    assert_eq!(fake.heard(), expected);
    assert_eq!(holder.owned(), 0);
}

#[tokio::test]
async fn report_without_sender_goes_to_an_old_server_by_helo() {
    let fake = Fake::start(Script::default().says("EHLO", "502 unknown")).await;
    let report = Outgoing { sender: None, notify: Notify::Never, ..mail() };
    plain(&fake).send(&report, &Holder::always()).await.expect("delivered");
    let commands = ["(connection)", "EHLO node.example.com", "HELO node.example.com", "MAIL FROM:<>"];
    assert_eq!(fake.heard()[..4], commands);
}

#[tokio::test]
async fn long_message_arrives_whole() {
    let lines: Vec<String> = (0..20_000).map(|i| format!(".{i}")).collect();
    let fake = Fake::start(Script::offering(&["8BITMIME"])).await;
    let bytes = Bytes::from(lines.join("\r\n") + "\r\nü");
    plain(&fake).send(&Outgoing { bytes, ..mail() }, &Holder::always()).await.expect("delivered");
    let heard = fake.heard();
    assert_eq!(heard[2], "MAIL FROM:<post@example.com> BODY=8BITMIME");
    assert!(heard[5..20_005].iter().zip(&lines).all(|(heard, line)| *heard == format!(".{line}")));
    assert_eq!(heard[20_005..], ["ü", ".", "QUIT"]);
}

#[tokio::test]
async fn attempts_run_concurrently_in_tasks() {
    let fake = Fake::start(Script::default()).await;
    let mailer = plain(&fake);
    let send = || {
        let mailer = mailer.clone();
        tokio::spawn(async move { mailer.send(&mail(), &Holder::always()).await })
    };
    for task in [send(), send(), send()] {
        task.await.expect("no panic").expect("delivered");
    }
    assert_eq!(fake.count("(connection)"), 3);
}

#[tokio::test]
async fn address_that_could_change_a_command_reaches_no_server() {
    let fake = Fake::start(Script::default()).await;
    for (sender, recipient) in [
        ("post@example.com", "anna@example.net\r\nDATA"),
        ("post@example.com", "anna@example.net> NOTIFY=NEVER"),
        ("post@example.com\r\nRCPT TO:<x@example.org>", "anna@example.net"),
        ("post@example.com", "an\nna@example.net"),
        ("post@example.com", ""),
    ] {
        let mail = Outgoing { sender: Some(sender.to_owned()), recipient: recipient.to_owned(), ..mail() };
        let outcome = plain(&fake).send(&mail, &Holder::always()).await;
        assert_eq!(class(&outcome).0, "permanent", "{sender:?} {recipient:?}");
    }
    assert_eq!(fake.heard(), [""; 0]);
}

#[tokio::test]
async fn lost_duty_stops_the_attempt_at_the_next_write() {
    let commands = ["EHLO", "MAIL", "RCPT", "DATA", "Subject", "."];
    for checks in 0..=6 {
        let fake = Fake::start(Script::default()).await;
        let outcome = plain(&fake).send(&mail(), &Holder::for_checks(checks)).await;
        assert_eq!(outcome, Err(SendFailure::NotHolder), "{checks} checks");
        // The first check precedes the connection.
        assert_eq!(fake.count("(connection)"), usize::from(checks > 0));
        let next = usize::try_from(checks).expect("small").saturating_sub(1);
        let word = |line: &String| line.split([' ', ':']).next().map(str::to_owned);
        assert!(!fake.heard().iter().any(|line| word(line).as_deref() == Some(commands[next])), "{checks} checks");
    }
    // Delivered: only QUIT is left out.
    let fake = Fake::start(Script::default()).await;
    plain(&fake).send(&mail(), &Holder::for_checks(7)).await.expect("delivered");
    assert_eq!(fake.count("QUIT"), 0);
}

#[tokio::test]
async fn connection_that_the_gate_does_not_own_is_not_used() {
    let fake = Fake::start(Script::default()).await;
    let outcome = plain(&fake).send(&mail(), &Holder::refusing()).await;
    assert_eq!(outcome, Err(SendFailure::NotHolder));
    assert_eq!(fake.count("EHLO"), 0);
}

#[tokio::test]
async fn login_reaches_a_server_on_this_machine_without_tls() {
    let fake = Fake::start(Script::offering(&["AUTH PLAIN"])).await;
    let mut config = smarthost("127.0.0.1", fake.port(), TlsMode::Off);
    let twinbox_mta::Route::Smarthost(host) = &mut config.route else { panic!("a smarthost") };
    host.login = Some(("user".to_owned(), "pass".to_owned()));
    let mailer = Mailer::new(config).expect("a configuration");
    mailer.send(&mail(), &Holder::always()).await.expect("delivered");
    assert_eq!(fake.count("AUTH PLAIN AHVzZXIAcGFzcw=="), 1);
}
