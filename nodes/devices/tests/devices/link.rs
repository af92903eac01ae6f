//! Links to recordings.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use twinbox_devices::schema::device::LINK_KEY;
use twinbox_devices::{Device, DeviceChange, DeviceId, KindName, LinkBase, LinkKey, RecordingLink, link};
use twinbox_ids::{MailboxId, MessageId, Origin, Stamp};
use twinbox_replication_core::{Edit, Record, Value};

use crate::common::{MAILBOX, device, mail};

const MESSAGE: MessageId = MessageId(3);

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().expect("a time")
}

fn webhook(settings: &[&str]) -> Device {
    let own = ["url=https://example.com/hook", "secret=0123456789abcdef", "link=yes"];
    device(KindName::Webhook, &[&own[..], settings].concat())
}

fn key() -> LinkKey {
    LinkKey::new([7; 32])
}

fn base() -> LinkBase {
    "https://voicemail.example.com/links/".parse().expect("a base")
}

/// Path and query of the link for a device.
fn link_of(device: &Device) -> (String, String) {
    let url = link::url(&base(), device, &key(), MESSAGE, now()).expect("a link").into_revealed();
    let rest = url.strip_prefix("https://voicemail.example.com").expect("the base");
    let (path, query) = rest.split_once('?').expect("a query");
    (path.to_owned(), query.to_owned())
}

fn is_valid(path: &str, query: &str, device: &Device, after_s: i64) -> bool {
    let at = now() + SignedDuration::from_secs(after_s);
    RecordingLink::parse(path, query).is_some_and(|link| link.is_valid_for(device, &key(), at))
}

#[test]
fn link_names_its_parts_and_is_signed_with_a_key_of_its_own() {
    let (path, query) = link_of(&webhook(&[]));
    let (mailbox, message) = ("00000000000000000000000000000001", "00000000000000000000000000000003");
    assert_eq!(path, format!("/links/recording/{mailbox}/{message}"));
    // Computed with Python: hmac(key, "MAILBOX.MESSAGE.DEVICE.SECONDS").
    let signature = "440348b50c3db00d0b064d4560bab175e6082d55d1662629ccfdcd891152bb67";
    assert_eq!(query, format!("device=00000000000000000000000000000002&expires=1795262400&signature={signature}"));
}

#[test]
fn link_is_valid_for_its_device_until_its_time() {
    let two_hours = webhook(&["link-hours=2"]);
    let (path, query) = link_of(&two_hours);
    for (after_s, valid) in [(0, true), (7_199, true), (7_200, false), (-721 * 3_600, false)] {
        assert_eq!(is_valid(&path, &query, &two_hours, after_s), valid, "{after_s}");
    }
    assert!(is_valid(path.trim_start_matches("/links"), &query, &two_hours, 0), "a proxy removed the prefix");
    let changed = |text: &str| {
        let mut device = two_hours.clone();
        device.change(&[DeviceChange::parse(text, KindName::Webhook, &[]).expect(text)]).expect(text);
        device
    };
    for setting in ["link=no", "enabled=no"] {
        assert!(!is_valid(&path, &query, &changed(setting), 0), "{setting}");
    }
    let others = [
        Device { id: DeviceId(9), ..two_hours.clone() },
        Device { mailbox: MailboxId(9), ..two_hours.clone() },
        mail(&[]),
    ];
    assert!(others.iter().all(|other| !is_valid(&path, &query, other, 0)));
    assert!(is_valid(&path, &query, &changed("link-hours=1"), 0), "it keeps its time");
    assert!(is_valid(&path, &query, &changed("secret=another-secret!!"), 0), "the secret signs bodies, not links");
    let link = RecordingLink::parse(&path, &query).expect("a link");
    assert!(!link.is_valid_for(&two_hours, &LinkKey::new([8; 32]), now()), "another key");
    assert!(link::url(&base(), &changed("link=no"), &key(), MESSAGE, now()).is_none());
    assert!(link::url(&base(), &mail(&[]), &key(), MESSAGE, now()).is_none());
}

#[test]
fn key_is_read_back_from_the_record_of_its_device_and_is_not_shown() {
    let mut record = Record::new();
    assert_eq!(LinkKey::read(&record), None);
    let edits = key().edits().into_iter().chain([Edit::Set(LINK_KEY, Value::Bytes(vec![7; 31]))]);
    for ((n, edit), expected) in (1..).zip(edits).zip([Some(key()), None]) {
        let stamp = Stamp { wall: n, counter: 0, origin: Origin(1) };
        record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
        assert_eq!(LinkKey::read(&record), expected, "a key has 32 bytes");
    }
    assert!(!format!("{:?}", key()).contains('7'));
}

#[test]
fn changed_or_incomplete_link_is_refused() {
    let device = webhook(&[]);
    let (path, query) = link_of(&device);
    assert!(is_valid(&path, &query, &device, 0));
    for (path, query) in [
        (path.replace("/recording/", "/other/"), query.clone()),
        (path.replace("0003", "0004"), query.clone()),
        (path.replace("0001/", "0009/"), query.clone()),
        (path.clone(), query.replace("expires=17", "expires=18")),
        (path.clone(), query.replace("signature=", "signature=00")),
        (path.clone(), query.split_once("&signature").expect("there").0.to_owned()),
        (path.clone(), String::new()),
        (String::new(), query.clone()),
        (path.clone(), format!("{query}&{}", "x".repeat(1_000))),
    ] {
        assert!(!is_valid(&path, &query, &device, 0), "{path}?{query}");
    }
    let link = RecordingLink::parse(&path, &query).expect("a link");
    let signature = query.rsplit_once('=').expect("there").1;
    assert!(!format!("{link:?}").contains(signature), "{link:?}");
}

#[test]
fn base_is_an_http_url_without_a_query() {
    assert_eq!(base().to_string(), "https://voicemail.example.com/links");
    for (text, valid) in [
        ("http://[2001:db8::1]:8443", true),
        ("https://voicemail.example.com", true),
        ("https://", false),
        ("voicemail.example.com", false),
        ("ftp://voicemail.example.com", false),
        ("https://user@voicemail.example.com", false),
        ("https://voicemail.example.com/?a", false),
        ("https://voicemail.example.com/#a", false),
        ("https://voicemail .example.com", false),
    ] {
        assert_eq!(text.parse::<LinkBase>().is_ok(), valid, "{text}");
    }
}

proptest! {
    #[test]
    fn any_request_is_read_without_panic(path in any::<String>(), query in any::<String>()) {
        prop_assert!(!is_valid(&path, &query, &webhook(&[]), 0));
    }

    #[test]
    fn link_of_any_message_is_valid_only_for_it(message in any::<u128>(), other in any::<u128>()) {
        let device = webhook(&[]);
        let url = link::url(&base(), &device, &key(), MessageId(message), now()).expect("a link").into_revealed();
        let (path, query) = url.split_once('?').expect("a query");
        prop_assert!(is_valid(path, query, &device, 0));
        let forged = path.replace(&MessageId(message).to_string(), &MessageId(other).to_string());
        prop_assert_eq!(is_valid(&forged, query, &device, 0), message == other);
        prop_assert_eq!(RecordingLink::parse(path, query).map(|link| link.mailbox), Some(MAILBOX));
    }
}
