//! Registrations: the registrar's URI, and the time of the refresh.

use super::*;

#[test]
fn the_registrar_is_the_domain_of_the_address() {
    for (aor, uri) in [
        ("sip:voicemail@pbx.example.com", "sip:pbx.example.com"),
        ("sip:voicemail@10.0.0.10:5070;transport=tcp", "sip:10.0.0.10:5070"),
        ("sip:pbx", "sip:pbx"),
    ] {
        assert_eq!(domain(aor), uri);
    }
}

#[test]
fn registration_is_refreshed_before_expiry() {
    assert_eq!(refresh_after(3600), Duration::from_secs(2880));
    assert_eq!(refresh_after(1), Duration::from_secs(5));
}

#[test]
fn the_granted_time_is_that_of_the_contact_of_this_node() {
    let answer = |contacts: &str, expires: Option<&str>| {
        let mut headers = Headers::default();
        headers.push("Contact", contacts);
        expires.into_iter().for_each(|seconds| headers.push("Expires", seconds));
        Response { code: 200, reason: "OK".to_owned(), headers, body: Default::default() }
    };
    let ours = "<sip:5000@10.0.0.1;twinbox-node=a>;expires=550";
    let other = "<sip:5000@10.0.0.2;twinbox-node=ab>;expires=7";
    for (contacts, expires, granted_time) in [
        (format!("{other}, {ours}"), None, 550),
        (format!("{ours};q=0.5, {other}"), Some("90"), 550),
        (other.to_owned(), Some("90"), 90),
        (other.to_owned(), None, 600),
    ] {
        assert_eq!(granted(&answer(&contacts, expires), "a", 600), granted_time, "{contacts}");
    }
}
