//! Registrations: the registrar's URI, the granted time, and the time of the refresh.

use std::time::Duration;

use twinbox_sip::{
    Headers, Response,
    registration::{granted, min_expires, refresh_after, registrar},
};

#[test]
fn the_registrar_is_the_domain_of_the_address() {
    for (aor, uri) in [
        ("sip:voicemail@pbx.example.com", "sip:pbx.example.com"),
        ("sip:voicemail@10.0.0.10:5070;transport=tcp", "sip:10.0.0.10:5070"),
        ("sip:pbx", "sip:pbx"),
    ] {
        assert_eq!(registrar(aor), uri);
    }
}

#[test]
fn registration_is_refreshed_before_expiry() {
    assert_eq!(refresh_after(3600), Duration::from_secs(2880));
    assert_eq!(refresh_after(1), Duration::from_secs(5));
}

fn answer(headers: &[(&str, &str)]) -> Response {
    let mut answer =
        Response { code: 200, reason: "OK".to_owned(), headers: Headers::default(), body: Default::default() };
    headers.iter().for_each(|(name, value)| answer.headers.push(name, *value));
    answer
}

#[test]
fn the_granted_time_is_that_of_the_contact_of_this_node() {
    let ours = "<sip:5000@10.0.0.1;twinbox-node=a>;expires=550";
    let other = "<sip:5000@10.0.0.2;twinbox-node=ab>;expires=7";
    for (contacts, expires, granted_time) in [
        (format!("{other}, {ours}"), None, 550),
        (format!("{ours};q=0.5, {other}"), Some("90"), 550),
        (other.to_owned(), Some("90"), 90),
        (other.to_owned(), None, 600),
    ] {
        let contact = [("Contact", contacts.as_str())];
        let headers: Vec<_> = contact.into_iter().chain(expires.map(|seconds| ("Expires", seconds))).collect();
        assert_eq!(granted(&answer(&headers), ("twinbox-node", "a"), 600), granted_time, "{contacts}");
    }
}

#[test]
fn minimum_of_a_registrar_is_at_most_a_day() {
    for (value, expected) in [("90", Some(90)), ("86400", Some(86_400)), ("86401", None), ("soon", None)] {
        assert_eq!(min_expires(&answer(&[("Min-Expires", value)])), expected, "{value}");
    }
    assert_eq!(min_expires(&answer(&[])), None);
}
