//! Reports of tests by administrators.

use twinbox_mta::{Mailer, ProbeReport, Route, SendFailure, SendStep, TlsMode};

use crate::support::{Authority, Fake, Holder, Script, smarthost};

async fn probe(script: Script, authority: &Authority) -> (ProbeReport, Fake) {
    let fake = Fake::start(script).await;
    let mut config = smarthost("localhost", fake.port(), TlsMode::StartTls);
    config.authorities = authority.trusted();
    let Route::Smarthost(host) = &mut config.route else { panic!("a smarthost") };
    host.login = Some(("user".to_owned(), "secret".to_owned()));
    let mailer = Mailer::new(config).expect("a configuration");
    let report = mailer.probe(Some("post@example.com"), "anna@example.net", &Holder::always()).await;
    (report, fake)
}

#[tokio::test]
async fn every_step_is_reported_and_no_message_is_sent() {
    use SendStep::*;
    let authority = Authority::new("right");
    let script = Script::offering(&["AUTH PLAIN", "SIZE 1000"]).starttls(authority.serve("localhost"));
    let (report, fake) = probe(script, &authority).await;
    let steps: Vec<SendStep> = report.steps.iter().map(|step| step.step).collect();
    let expected = [Lookup, Connection, Greeting, Hello, Tls, Hello, Authentication, Sender, Recipient];
    assert_eq!(steps, expected, "{report:#?}");
    assert!(report.steps.iter().all(|step| step.passed && step.host == "localhost"), "{report:#?}");
    let text = |wanted| report.steps.iter().find(|step| step.step == wanted).map(|step| step.text.as_str());
    assert!(text(Lookup).is_some_and(|text| text.contains("127.0.0.1")));
    let certificate = text(Tls).expect("a certificate");
    assert!(certificate.contains("localhost") && certificate.contains("Jan  1 00:00:00 2100"), "{certificate}");
    assert_eq!(text(Recipient), Some("250 recipient"));
    assert_eq!(report.outcome.as_ref().map(|delivered| delivered.by.as_str()), Ok("localhost"));
    assert_eq!((fake.count("DATA"), fake.count("QUIT")), (0, 1));
    assert_eq!(fake.count("MAIL FROM:<post@example.com>"), 1);
    assert!(!format!("{report:?}").contains("secret"));
}

#[tokio::test]
async fn failed_step_is_the_last_one_of_the_report() {
    let authority = Authority::new("right");
    let tls = || Script::offering(&["AUTH PLAIN"]).starttls(authority.serve("localhost"));
    for (script, step, text) in [
        (tls().says("RCPT", "550 5.1.1 unknown"), SendStep::Recipient, "550 5.1.1 unknown"),
        (tls().says("AUTH", "535 5.7.8 wrong"), SendStep::Authentication, "535 5.7.8 wrong"),
    ] {
        let (report, _) = probe(script, &authority).await;
        let last = report.steps.last().expect("steps");
        assert!(last.step == step && !last.passed && last.text.contains(text), "{report:#?}");
        assert!(last.address.is_some_and(|address| address.ip().is_loopback()));
    }
}

#[tokio::test]
async fn failed_certificate_is_reported_at_its_address() {
    let authority = Authority::new("right");
    let (report, _) = probe(Script::default().starttls(authority.serve("other.example.com")), &authority).await;
    let failed = report.steps.iter().find(|step| !step.passed).expect("a failure");
    assert!(failed.step == SendStep::Tls && failed.text.contains("other.example.com"), "{report:#?}");
    assert!(matches!(&report.outcome, Err(SendFailure::Temporary(problem)) if problem.step == SendStep::Tls));
}

#[tokio::test]
async fn invalid_recipient_is_reported_without_a_connection() {
    let fake = Fake::start(Script::default()).await;
    let mailer = Mailer::new(smarthost("127.0.0.1", fake.port(), TlsMode::Off)).expect("a configuration");
    let report = mailer.probe(None, "anna", &Holder::always()).await;
    assert!(matches!(&report.steps[..], [only] if only.step == SendStep::Envelope && !only.passed), "{report:#?}");
    assert_eq!(fake.heard(), [""; 0]);
}
