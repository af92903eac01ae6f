//! TLS with a smarthost: certificates, and what goes out before TLS.

use twinbox_mta::{Mailer, Route, SendStep, TlsMode};

use crate::support::{Answer, Authority, Fake, Holder, Script, Served, mail, smarthost, temporary};

const MODES: [TlsMode; 3] = [TlsMode::StartTls, TlsMode::Opportunistic, TlsMode::Tls];

fn script(mode: TlsMode, served: Served) -> Script {
    match mode {
        TlsMode::Tls => Script::offering(&["AUTH PLAIN LOGIN"]).implicit(served),
        _ => Script::offering(&["AUTH PLAIN LOGIN"]).starttls(served),
    }
}

fn mailer(fake: &Fake, mode: TlsMode, trusted: &Authority, login: bool) -> Mailer {
    let mut config = smarthost("localhost", fake.port(), mode);
    config.authorities = trusted.trusted();
    if let (Route::Smarthost(host), true) = (&mut config.route, login) {
        host.login = Some(("user".to_owned(), "secret".to_owned()));
    }
    Mailer::new(config).expect("a configuration")
}

#[tokio::test]
async fn valid_certificate_delivers_with_login_in_each_mode() {
    let authority = Authority::new("right");
    for mode in MODES {
        let fake = Fake::start(script(mode, authority.serve("localhost"))).await;
        mailer(&fake, mode, &authority, true).send(&mail(), &Holder::always()).await.expect("delivered");
        let heard = fake.heard();
        let commands: Vec<&str> = heard.iter().take(7).map(|line| line.split(' ').next().unwrap_or("")).collect();
        let expected: &[&str] = match mode {
            TlsMode::Tls => &["(connection)", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "Subject:"],
            _ => &["(connection)", "EHLO", "STARTTLS", "(tls)", "EHLO", "AUTH", "MAIL"],
        };
        assert_eq!(commands, expected, "{mode:?}");
    }
}

#[tokio::test]
async fn wrong_certificate_is_temporary_and_says_which_and_nothing_is_sent() {
    let (authority, other) = (Authority::new("right"), Authority::new("other"));
    for mode in MODES {
        for (served, text) in [
            (authority.serve("other.example.com"), "another name"),
            (authority.serve_expired("localhost"), "expired on Jan  1 00:00:00 2020"),
            (other.serve("localhost"), "unknown authority"),
        ] {
            let fake = Fake::start(script(mode, served)).await;
            let outcome = mailer(&fake, mode, &authority, true).send(&mail(), &Holder::always()).await;
            let problem = temporary(outcome);
            assert_eq!(problem.step, SendStep::Tls, "{mode:?}: {problem}");
            assert!(problem.text.contains(text) && problem.text.contains("localhost"), "{mode:?}: {problem}");
            assert_eq!(fake.count("AUTH") + fake.count("MAIL"), 0, "{mode:?}: {problem}");
        }
    }
}

#[tokio::test]
async fn server_without_starttls_gets_mail_only_when_tls_is_optional() {
    let authority = Authority::new("right");
    let fake = Fake::start(Script::default()).await;
    let problem =
        temporary(mailer(&fake, TlsMode::StartTls, &authority, false).send(&mail(), &Holder::always()).await);
    assert_eq!(problem.step, SendStep::Tls);
    assert!(problem.text.contains("does not offer STARTTLS"), "{problem}");
    assert_eq!(fake.count("MAIL"), 0);
    let optional = mailer(&fake, TlsMode::Opportunistic, &authority, false);
    optional.send(&mail(), &Holder::always()).await.expect("delivered");
    // A server of plain text on the port of TLS.
    let fake = Fake::start(Script::default()).await;
    let problem = temporary(mailer(&fake, TlsMode::Tls, &authority, false).send(&mail(), &Holder::always()).await);
    assert_eq!(problem.step, SendStep::Tls);
    assert_eq!(fake.count("MAIL"), 0);
}

#[tokio::test]
async fn handshake_that_breaks_is_temporary_without_plain_text() {
    let authority = Authority::new("right");
    for mode in [TlsMode::StartTls, TlsMode::Opportunistic] {
        for answer in [Answer::Close, Answer::Silence, Answer::Bytes(vec![b'x'; 100])] {
            let script = script(mode, authority.serve("localhost")).at("handshake", answer);
            let fake = Fake::start(script).await;
            let problem = temporary(mailer(&fake, mode, &authority, true).send(&mail(), &Holder::always()).await);
            assert_eq!(problem.step, SendStep::Tls, "{problem}");
            assert_eq!(fake.count("AUTH") + fake.count("MAIL"), 0, "{problem}");
        }
    }
}

#[tokio::test]
async fn plain_text_after_the_reply_to_starttls_is_refused() {
    let authority = Authority::new("right");
    let injected = Answer::Bytes(b"220 go\r\n250 injected\r\n".to_vec());
    let script = script(TlsMode::StartTls, authority.serve("localhost")).at("STARTTLS", injected);
    let fake = Fake::start(script).await;
    let outcome = mailer(&fake, TlsMode::StartTls, &authority, false).send(&mail(), &Holder::always()).await;
    let problem = temporary(outcome);
    assert!(problem.step == SendStep::Tls && problem.text.contains("tampered"), "{problem}");
}

#[tokio::test]
async fn refused_login_is_temporary_once_and_shows_no_password() {
    let authority = Authority::new("right");
    let served = authority.serve("localhost");
    let fake = Fake::start(script(TlsMode::Tls, served).says("AUTH", "535 5.7.8 wrong")).await;
    let problem = temporary(mailer(&fake, TlsMode::Tls, &authority, true).send(&mail(), &Holder::always()).await);
    assert_eq!((problem.step, problem.code), (SendStep::Authentication, Some(535)));
    assert_eq!(problem.enhanced.map(|status| status.to_string()).as_deref(), Some("5.7.8"));
    assert!(problem.text.contains("user name and password") && !problem.text.contains("secret"), "{problem}");
    assert_eq!(fake.count("AUTH"), 1);
}
