//! Servers that refuse, break off, stay silent or send what is no reply.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use twinbox_clock::BootInstant;
use twinbox_mta::{Mailer, MxTls, Outgoing, Route, SendStep, Timeouts, TlsMode};

use crate::support::{Answer, Fake, Holder, Script, class, config, mail, permanent, plain, smarthost, temporary};

/// Points of a script, with the step and the class of a connection that ends there.
const POINTS: [(&str, &str, SendStep); 6] = [
    ("connect", "temporary", SendStep::Greeting),
    ("EHLO", "temporary", SendStep::Hello),
    ("MAIL", "temporary", SendStep::Sender),
    ("RCPT", "temporary", SendStep::Recipient),
    ("DATA", "temporary", SendStep::Data),
    ("message", "unknown", SendStep::Message),
];

#[tokio::test]
async fn connection_that_ends_or_stays_silent_is_temporary_until_the_message_is_sent() {
    for (point, expected, step) in POINTS {
        for answer in [Answer::Close, Answer::Silence] {
            let fake = Fake::start(Script::default().at(point, answer)).await;
            let begun = BootInstant::now();
            let outcome = plain(&fake).send(&mail(), &Holder::always()).await;
            assert_eq!(class(&outcome), (expected, Some(step)), "{point}");
            assert!(begun.elapsed() < Duration::from_secs(3), "{point}: {:?}", begun.elapsed());
        }
    }
}

#[tokio::test]
async fn unknown_outcome_says_that_the_message_may_be_delivered() {
    let fake = Fake::start(Script::default().at("message", Answer::Close)).await;
    let failure = plain(&fake).send(&mail(), &Holder::always()).await.expect_err("unknown");
    let problem = failure.problem().expect("a reason");
    assert!(problem.text.contains("may be delivered") && problem.host.as_deref() == Some("127.0.0.1"), "{problem}");
}

#[tokio::test]
async fn refusal_has_the_class_of_its_step_and_code() {
    for (point, _, step) in POINTS {
        let five = if step < SendStep::Sender { "temporary" } else { "permanent" };
        for (line, expected) in [("451 4.3.0 not now", "temporary"), ("554 5.7.1 no", five)] {
            let script = Script::default().says(point, line).says("HELO", line);
            let fake = Fake::start(script).await;
            let outcome = plain(&fake).send(&mail(), &Holder::always()).await;
            assert_eq!(class(&outcome), (expected, Some(step)), "{point}: {line}");
            let failure = outcome.expect_err("refused");
            let problem = failure.problem().expect("a reason");
            assert_eq!(problem.code.map(|code| code.to_string()).as_deref(), line.get(..3));
            assert_eq!(problem.enhanced.map(|status| status.to_string()).as_deref(), line.get(4..9));
            assert!(problem.text.contains(line), "{problem}");
            assert_eq!(fake.count("QUIT"), 1, "{point}: {line}");
        }
    }
}

#[tokio::test]
async fn endless_slow_and_hostile_replies_are_bounded() {
    for (point, expected, step) in POINTS {
        for answer in [
            Answer::Endless(b"250-x\r\n".to_vec()),
            Answer::Endless(b"2".to_vec()),
            Answer::Endless(vec![0, b'\n']),
            Answer::Slow(b"250-x\r\n".to_vec()),
            Answer::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            Answer::Bytes(b"250-a\r\n550 b\r\n".to_vec()),
        ] {
            let fake = Fake::start(Script::default().at(point, answer)).await;
            let begun = BootInstant::now();
            let outcome = plain(&fake).send(&mail(), &Holder::always()).await;
            assert_eq!(class(&outcome), (expected, Some(step)), "{point}");
            assert!(begun.elapsed() < Duration::from_secs(3), "{point}: {:?}", begun.elapsed());
        }
    }
}

#[tokio::test]
async fn text_of_a_server_is_cleaned_and_shortened() {
    let line = format!("550 5.1.1 \x1b[2J{}", "x".repeat(1_500));
    let fake = Fake::start(Script::default().says("RCPT", &line)).await;
    let problem = permanent(plain(&fake).send(&mail(), &Holder::always()).await);
    assert!(!problem.text.contains('\x1b') && problem.text.len() < 400, "{problem}");
}

#[tokio::test]
async fn server_that_stops_reading_is_bounded() {
    let fake = Fake::start(Script::default().at("DATA", Answer::Stall(b"354 go\r\n".to_vec()))).await;
    // More than the buffers of the system take.
    let mail = Outgoing { bytes: Bytes::from(vec![b'x'; 30_000_000]), ..mail() };
    let begun = BootInstant::now();
    let outcome = plain(&fake).send(&mail, &Holder::always()).await;
    assert_eq!(class(&outcome), ("temporary", Some(SendStep::Data)));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn whole_attempt_is_bounded() {
    let fake = Fake::start(Script::default().at("MAIL", Answer::Silence)).await;
    let mut config = smarthost("127.0.0.1", fake.port(), TlsMode::Off);
    config.timeouts = Timeouts { total: Duration::from_millis(300), ..Timeouts::default() };
    let mailer = Mailer::new(config).expect("a configuration");
    let begun = BootInstant::now();
    let problem = temporary(mailer.send(&mail(), &Holder::always()).await);
    assert_eq!(problem.step, SendStep::Sender);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn unreachable_smarthost_is_temporary_and_named() {
    let fake = Fake::start(Script::default()).await;
    // No server listens on this loopback address.
    let mailer = Mailer::new(smarthost("127.0.0.77", fake.port(), TlsMode::Off)).expect("a configuration");
    let problem = temporary(mailer.send(&mail(), &Holder::always()).await);
    assert_eq!(problem.step, SendStep::Connection);
    assert!(problem.text.contains("127.0.0.77"), "{problem}");
    let mailer = Mailer::new(smarthost("mail.example.com", 25, TlsMode::Off)).expect("a configuration");
    let problem = temporary(mailer.send(&mail(), &Holder::always()).await);
    assert_eq!(problem.step, SendStep::Lookup);
    assert!(problem.text.contains("mail.example.com"), "{problem}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bytes_from_a_server_neither_panic_nor_hang(
        point in prop::sample::select(vec!["connect", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "message", "QUIT"]),
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "([2345][0-5][0-9][- ][ -~]{0,20}\r\n){0,9}".prop_map(String::into_bytes),
        ],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let elapsed = runtime.block_on(async {
            let script = Script::offering(&["STARTTLS", "SIZE 1000", "DSN"]).at(point, Answer::Bytes(bytes));
            let fake = Fake::start(script).await;
            let mut config = config(Route::Mx { tls: MxTls::Opportunistic, port: fake.port() });
            let short = Duration::from_millis(50);
            let (connect, greeting, command) = (short, short, short);
            let limits = Timeouts { connect, greeting, command, final_reply: short, quit: short, ..config.timeouts };
            config.timeouts = limits;
            let mailer = Mailer::new(config).expect("a configuration");
            let mail = Outgoing { recipient: "anna@[127.0.0.1]".to_owned(), ..mail() };
            let begun = BootInstant::now();
            let _ = mailer.send(&mail, &Holder::always()).await;
            begun.elapsed()
        });
        prop_assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    }
}
