//! Delivery to the hosts of a domain, found in a fake zone.

use hickory_resolver::proto::rr::{RData, RecordType};
use twinbox_mta::{Mailer, MailerConfig, MxTls, Outgoing, Route, SendStep};

use crate::support::{Answer, Authority, Fake, Holder, Names, Script, config, mail, permanent, temporary};

fn zone(name: &str, _: RecordType) -> Option<Vec<RData>> {
    Some(match name {
        "example.net" => vec![Names::mx(20, "second.example.net."), Names::mx(10, "first.example.net.")],
        "first.example.net" => vec![Names::a("127.0.0.2")],
        "second.example.net" => vec![Names::a("127.0.0.3")],
        "implicit.example.net" => vec![Names::a("127.0.0.2")],
        "null.example.net" => vec![Names::mx(0, ".")],
        "dangling.example.net" => vec![Names::mx(10, "missing.example.net.")],
        "empty.example.net" => Vec::new(),
        _ => return None,
    })
}

/// The two hosts of `example.net` on one port.
async fn hosts(first: Script, second: Script) -> (Fake, Fake) {
    for _ in 0..50 {
        let one = Fake::bind("127.0.0.2:0", first.clone()).await;
        let address = format!("127.0.0.3:{}", one.port());
        if std::net::TcpListener::bind(&address).is_ok() {
            return (one, Fake::bind(&address, second).await);
        }
    }
    panic!("no port is free on both addresses");
}

async fn with_zone(tls: MxTls, port: u16) -> MailerConfig {
    let names = Names::serve(zone).await;
    MailerConfig { dns_servers: vec![names.address], ..config(Route::Mx { tls, port }) }
}

async fn mailer(port: u16) -> Mailer {
    Mailer::new(with_zone(MxTls::Opportunistic, port).await).expect("a configuration")
}

fn to(recipient: &str) -> Outgoing {
    Outgoing { recipient: recipient.to_owned(), ..mail() }
}

#[tokio::test]
async fn preferred_host_accepts_and_the_other_is_not_contacted() {
    let (first, second) = hosts(Script::default(), Script::default()).await;
    let delivered = mailer(first.port()).await.send(&mail(), &Holder::always()).await.expect("delivered");
    assert_eq!(delivered.by, "first.example.net");
    assert_eq!((first.count("DATA"), second.heard().len()), (1, 0));
}

#[tokio::test]
async fn next_host_is_tried_after_a_temporary_failure() {
    for script in [
        Script::default().at("connect", Answer::Close),
        Script::default().says("connect", "554 busy"),
        Script::default().says("RCPT", "450 4.2.0 greylisted"),
        Script::default().says("message", "452 4.3.1 full"),
    ] {
        let (first, second) = hosts(script, Script::default()).await;
        let delivered = mailer(first.port()).await.send(&mail(), &Holder::always()).await.expect("delivered");
        assert_eq!(delivered.by, "second.example.net");
        assert_eq!(second.count("DATA"), 1);
    }
}

#[tokio::test]
async fn final_answers_are_not_retried_at_the_next_host() {
    for (script, expected) in [
        (Script::default().says("RCPT", "550 5.1.1 unknown"), "permanent"),
        (Script::default().at("message", Answer::Close), "unknown"),
    ] {
        let (first, second) = hosts(script, Script::default()).await;
        let outcome = mailer(first.port()).await.send(&mail(), &Holder::always()).await;
        assert_eq!(crate::support::class(&outcome).0, expected);
        assert_eq!(second.heard().len(), 0);
    }
}

#[tokio::test]
async fn failure_that_came_furthest_is_reported() {
    let greylisting = Script::default().says("RCPT", "450 4.2.0 greylisted");
    let (first, _second) = hosts(greylisting, Script::default().says("connect", "421 busy")).await;
    let problem = temporary(mailer(first.port()).await.send(&mail(), &Holder::always()).await);
    assert_eq!((problem.step, problem.host.as_deref()), (SendStep::Recipient, Some("first.example.net")));
}

#[tokio::test]
async fn domain_without_mx_and_address_literal_are_their_own_hosts() {
    let fake = Fake::bind("127.0.0.2:0", Script::default()).await;
    let mailer = mailer(fake.port()).await;
    for (recipient, by) in [("a@implicit.example.net", "implicit.example.net"), ("a@[127.0.0.2]", "127.0.0.2")] {
        let delivered = mailer.send(&to(recipient), &Holder::always()).await.expect("delivered");
        assert_eq!(delivered.by, by);
    }
}

#[tokio::test]
async fn domain_that_receives_no_mail_is_permanent() {
    let mailer = mailer(25).await;
    for (recipient, text) in [
        ("a@null.example.net", "null MX"),
        ("a@missing.example.net", "does not exist"),
        ("a@empty.example.net", "has no address"),
    ] {
        let problem = permanent(mailer.send(&to(recipient), &Holder::always()).await);
        assert_eq!(problem.step, SendStep::Lookup, "{recipient}");
        assert!(problem.text.contains(text) && problem.text.contains(&recipient[2..]), "{problem}");
    }
}

#[tokio::test]
async fn missing_mx_host_and_silent_name_server_are_temporary() {
    let problem = temporary(mailer(25).await.send(&to("a@dangling.example.net"), &Holder::always()).await);
    assert!(problem.step == SendStep::Lookup && problem.text.contains("missing.example.net"), "{problem}");
    let mailer = Mailer::new(config(Route::mx(MxTls::Opportunistic))).expect("a configuration");
    let problem = temporary(mailer.send(&mail(), &Holder::always()).await);
    assert!(problem.step == SendStep::Lookup && problem.text.contains("name servers"), "{problem}");
}

#[tokio::test]
async fn opportunistic_tls_accepts_any_certificate() {
    let served = Authority::new("unknown").serve_expired("other.example.com");
    let (first, _second) = hosts(Script::default().starttls(served), Script::default()).await;
    mailer(first.port()).await.send(&mail(), &Holder::always()).await.expect("delivered");
    assert_eq!((first.count("(tls)"), first.count("DATA")), (1, 1));
}

#[tokio::test]
async fn opportunistic_tls_that_fails_is_followed_by_plain_text() {
    let served = Authority::new("unknown").serve("first.example.net");
    for answer in [Answer::Close, Answer::Bytes(b"no TLS here\r\n".to_vec())] {
        let script = Script::default().starttls(served.clone()).at("handshake", answer);
        let (first, second) = hosts(script, Script::default()).await;
        let delivered = mailer(first.port()).await.send(&mail(), &Holder::always()).await.expect("delivered");
        assert_eq!(delivered.by, "first.example.net");
        assert_eq!((first.count("(connection)"), second.heard().len()), (2, 0));
    }
}

#[tokio::test]
async fn required_tls_verifies_the_name_of_the_mx_host() {
    let authority = Authority::new("right");
    let names = ["first.example.net", "example.net"];
    for (name, expected) in names.into_iter().zip(["delivered", "temporary"]) {
        let script = Script::default().starttls(authority.serve(name));
        let (first, second) = hosts(script, Script::default()).await;
        let mut config = with_zone(MxTls::Required, first.port()).await;
        config.authorities = authority.trusted();
        let outcome = Mailer::new(config).expect("a configuration").send(&mail(), &Holder::always()).await;
        assert_eq!(crate::support::class(&outcome).0, expected, "{outcome:?}");
        // The second host has no TLS.
        assert_eq!(second.count("MAIL"), 0);
    }
}
