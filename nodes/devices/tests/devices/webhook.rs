//! Webhooks: body and signature.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};
use twinbox_devices::webhook::{Body, Event, SignatureError, signature, verify};
use twinbox_ids::{MailboxId, MessageId, Pii};

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().expect("a time")
}

fn secret() -> Pii<String> {
    Pii::new("0123456789abcdef".to_owned())
}

fn body() -> Body {
    Body {
        event: Event::New,
        id: "effect-1".to_owned(),
        mailbox: MailboxId(1),
        number: "100".to_owned(),
        message: MessageId(2),
        caller: Some(Pii::new("5550100".to_owned())),
        caller_name: Some(Pii::new("\"Anna\"\r\n\\".to_owned())),
        received: now(),
        seconds: 42,
        urgent: true,
        audio_url: Some(Pii::new("https://voicemail.example.com/x".to_owned())),
    }
}

#[test]
fn body_is_json_with_every_field() {
    let expected = json!({
        "event": "message.new",
        "id": "effect-1",
        "mailbox": "00000000000000000000000000000001",
        "number": "100",
        "message": "00000000000000000000000000000002",
        "caller": "5550100",
        "caller_name": "\"Anna\"\r\n\\",
        "received": "2026-11-20T12:00:00Z",
        "seconds": 42,
        "urgent": true,
        "audio_url": "https://voicemail.example.com/x",
    });
    assert_eq!(serde_json::from_str::<Value>(&body().to_json()).expect("JSON"), expected);
    let anonymous = Body { caller: None, caller_name: None, audio_url: None, event: Event::Test, ..body() };
    let fields: Value = serde_json::from_str(&anonymous.to_json()).expect("JSON");
    assert_eq!((&fields["caller"], &fields["event"]), (&Value::Null, &json!("device.test")));
    assert_eq!(fields["audio_url"], Value::Null);
}

#[test]
fn signature_is_hmac_sha256_over_time_and_body() {
    // Computed with: printf '1795176000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
    let header = signature(&secret(), "{}", now());
    assert_eq!(header, "t=1795176000,v1=4945253154786c4239b670f18853b4e856597cd79ae0e8d4244dd670d7ea0991");
    assert_eq!(verify(&secret(), &header, "{}", now(), 300), Ok(()));
}

#[test]
fn changed_late_or_unreadable_signature_is_refused() {
    let header = signature(&secret(), "{}", now());
    let other = Pii::new("another secret!!".to_owned());
    let after = |seconds| now() + SignedDuration::from_secs(seconds);
    for (secret, header, body, now, expected) in [
        (&secret(), header.as_str(), "{}", after(300), Ok(())),
        (&secret(), &header, "{}", after(-300), Ok(())),
        (&secret(), &header, "{}", after(301), Err(SignatureError::Time(301))),
        (&secret(), &header, "{} ", after(0), Err(SignatureError::Mismatch)),
        (&other, &header, "{}", after(0), Err(SignatureError::Mismatch)),
        (&secret(), &header.replace("t=1", "t=2"), "{}", after(0), Err(SignatureError::Mismatch)),
        (&secret(), "", "{}", after(0), Err(SignatureError::Shape)),
        (&secret(), "t=1,v1=00", "{}", after(0), Err(SignatureError::Shape)),
        (&secret(), "t=x,v1=00", "{}", after(0), Err(SignatureError::Shape)),
        (&secret(), &header.replace("v1", "v0"), "{}", after(0), Err(SignatureError::Shape)),
    ] {
        assert_eq!(verify(secret, header, body, now, 300), expected, "{header}");
    }
}

proptest! {
    #[test]
    fn any_header_is_checked_without_panic(text in any::<String>()) {
        prop_assert!(verify(&secret(), &text, &text, now(), 300).is_err());
    }

    #[test]
    fn any_body_is_json_and_its_signature_fits(caller in any::<String>(), key in "[!-~]{16,40}") {
        let json = Body { caller: Some(Pii::new(caller.clone())), ..body() }.to_json();
        let fields: Value = serde_json::from_str(&json).expect("JSON");
        prop_assert_eq!(&fields["caller"], &Value::from(caller));
        let key = Pii::new(key);
        prop_assert_eq!(verify(&key, &signature(&key, &json, now()), &json, now(), 0), Ok(()));
    }
}
