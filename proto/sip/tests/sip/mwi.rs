//! Subscriptions to message summaries: what a SUBSCRIBE requests, and the answers that end it.

use twinbox_sip::{
    Headers, Method, Request,
    mwi::{accepts_summary, ends_subscription, event, expires},
};

fn subscribe(name: &str, values: &[&str]) -> Request {
    let mut headers = Headers::default();
    values.iter().for_each(|value| headers.push(name, *value));
    Request { method: Method::Subscribe, uri: "sip:1001@vm".to_owned(), headers, body: Default::default() }
}

#[test]
fn notify_has_the_package_and_the_id_of_the_subscription() {
    for (value, expected) in [
        ("message-summary", Some("message-summary")),
        ("Message-Summary ;p=1", Some("message-summary")),
        ("message-summary;p=1; ID=a7", Some("message-summary;id=a7")),
        ("message-summary;id", None),
        ("message-summary;id=a\"7", None),
        ("presence", None),
    ] {
        assert_eq!(event(&subscribe("Event", &[value])).as_deref(), expected, "{value}");
    }
    assert_eq!(event(&subscribe("Event", &[])), None);
}

#[test]
fn summaries_are_accepted_by_their_type_by_a_range_and_without_the_header() {
    for (values, expected) in [
        (vec![], true),
        (vec!["text/plain", "application/simple-message-summary;q=0.5"], true),
        (vec!["text/plain, Application/*"], true),
        (vec!["*/*"], true),
        (vec!["text/plain"], false),
    ] {
        assert_eq!(accepts_summary(&subscribe("Accept", &values)), expected, "{values:?}");
    }
}

#[test]
fn expiry_is_that_of_the_request_within_bounds() {
    for (value, expected) in [
        ("0", Ok(0)),
        ("1", Err(60)),
        ("59", Err(60)),
        ("60", Ok(60)),
        ("900", Ok(900)),
        ("90000", Ok(86_400)),
        ("soon", Ok(3_600)),
    ] {
        assert_eq!(expires(&subscribe("Expires", &[value])), expected, "{value}");
    }
    assert_eq!(expires(&subscribe("Expires", &[])), Ok(3_600));
}

#[test]
fn answers_by_which_a_subscriber_knows_of_no_subscription_end_it() {
    assert!([404, 408, 481, 485, 489].into_iter().all(ends_subscription));
    assert!([200, 401, 403, 486, 500, 503].into_iter().all(|code| !ends_subscription(code)));
}
