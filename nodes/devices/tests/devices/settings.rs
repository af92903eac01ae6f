//! Settings: command line, record, merge.

use crate::common::{ID, MAILBOX, Replica, device, devices, mail, read};
use proptest::prelude::*;
use twinbox_devices::{Device, DeviceChange, DeviceError, DeviceId, KindName, Repeat, Setting, schema};
use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Key, Record, Table};

const DEVICES: [(&str, DeviceId); 2] = [("office", DeviceId(5)), ("mobile", DeviceId(6))];

fn parse(kind: KindName, text: &str) -> Result<DeviceChange, String> {
    DeviceChange::parse(text, kind, &DEVICES).map_err(|error| error.to_string())
}

#[test]
fn settings_are_parsed_as_written() {
    use DeviceChange::*;
    use KindName::{Mail, SmsHttp, Webhook};
    for (kind, text, expected) in [
        (Mail, "address=anna@example.com", Address("anna@example.com".to_owned().into())),
        (Mail, "name=Office-2", Name("office-2".to_owned())),
        (SmsHttp, "number=+4915100000", Number("+4915100000".to_owned().into())),
        (Webhook, "url=https://[2001:db8::1]/x?y=z", Url("https://[2001:db8::1]/x?y=z".to_owned().into())),
        (Webhook, "secret=0123456789abcdef", Secret("0123456789abcdef".to_owned().into())),
        (Webhook, "link=yes", Link(true)),
        (Webhook, "link-hours=720", LinkHours(720)),
        (Webhook, "link-hours=-", LinkHours(24)),
        (Mail, "audio=yes", Audio(true)),
        (Mail, "enabled=no", Enabled(false)),
        (Mail, "enabled=-", Enabled(true)),
        (Mail, "language=de", Language(Some("de".to_owned()))),
        (Mail, "language=-", Language(None)),
        (Mail, "when=mon-fri 08:00-18:00", When(Some("mon-fri 08:00-18:00".parse().unwrap()))),
        (Mail, "when=-", When(None)),
        (Mail, "urgent-only=yes", UrgentOnly(true)),
        (Mail, "from=-", From(Vec::new())),
        (Mail, "min-seconds=3", MinSeconds(3)),
        (Mail, " delay = 60 ", Delay(60)),
        (Mail, "repeat=900x3", Repeat(Some(twinbox_devices::Repeat { every_s: 900, most: 3 }))),
        (Mail, "repeat=-", Repeat(None)),
        (Mail, "fallback=Mobile", Fallback(Some(DeviceId(6)))),
        (Mail, "fallback=-", Fallback(None)),
        (Mail, "per-hour=4", PerHour(4)),
        (Mail, "per-hour=-", PerHour(0)),
        (Mail, "delete-after=yes", DeleteAfter(true)),
    ] {
        assert_eq!(parse(kind, text), Ok(expected), "{text}");
    }
    let DeviceChange::From(patterns) = parse(Mail, "from=2*, 0151*").unwrap() else { panic!("not patterns") };
    assert_eq!(patterns.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2*", "0151*"]);
}

#[test]
fn invalid_setting_is_refused_with_word_value_and_remedy() {
    use KindName::{Mail, Pager, SmsHttp, Webhook};
    for (kind, text, parts) in [
        (Mail, "urgent", ["'urgent'", "word=value"]),
        (Mail, "adress=anna@example.com", ["'adress'", "did you mean 'address'?"]),
        (Pager, "audio=yes", ["kind pager", "'audio'"]),
        (Mail, "url=https://example.com", ["kind mail", "'url'"]),
        (Mail, "address=anna", ["'anna'", "mail address"]),
        (Mail, "address=a@b\r\nRCPT", ["address", "mail address"]),
        (Mail, "address=a@b@c", ["address", "mail address"]),
        (Mail, "address=<a@b>", ["address", "mail address"]),
        (Mail, "address=-", ["address", "mail address"]),
        (SmsHttp, "number=12", ["number", "3 to 20 digits"]),
        (Webhook, "url=ftp://example.com", ["url", "https://"]),
        (Webhook, "url=https://exa mple.com", ["url", "https://"]),
        (Webhook, "url=https://bot:token@example.com/x", ["'•••'", "without a password"]),
        (Webhook, "url=https://example.com:port/", ["url", "https://HOST"]),
        (Webhook, "url=https://example.com:99999/", ["url", "https://HOST"]),
        (Webhook, "url=https://[::1/", ["url", "https://HOST"]),
        (Webhook, "url=https://a..example/", ["url", "https://HOST"]),
        (Webhook, "url=https://10.0.0.300/", ["url", "https://HOST"]),
        (Webhook, "url=https://example.com/<x>", ["url", "https://HOST"]),
        (Webhook, "secret=short", ["secret", "16 to 256"]),
        (Webhook, "link-hours=0", ["link-hours", "1 to 720"]),
        (Webhook, "link-hours=721", ["link-hours", "1 to 720"]),
        (Mail, "link=yes", ["kind mail", "'link'"]),
        (Mail, "audio=maybe", ["'maybe'", "yes or no"]),
        (Mail, "language=german language", ["language", "such as de"]),
        (Mail, "when=mon-fry 08:00-18:00", ["when", "'mon-fry' is not a day"]),
        (Mail, "from=abc", ["'abc'", "0151*"]),
        (Mail, "min-seconds=9999", ["'9999'", "0 to 7200"]),
        (Mail, "delay=soon", ["'soon'", "seconds"]),
        (Mail, "repeat=900", ["'900'", "900x3"]),
        (Mail, "repeat=10x3", ["'10x3'", "60 to 86400"]),
        (Mail, "fallback=ofice", ["office, mobile", "did you mean 'office'?"]),
        (Mail, "per-hour=-1", ["per-hour", "0 to 3600"]),
    ] {
        let error = parse(kind, text).expect_err(text);
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
    assert!(!parse(Webhook, "secret=hidden").unwrap_err().contains("hidden"));
}

#[test]
fn device_without_its_target_or_with_contradicting_settings_is_refused() {
    let new = |kind, settings: &[&str]| {
        let changes: Vec<_> = settings.iter().map(|text| parse(kind, text).unwrap()).collect();
        Device::new(MAILBOX, ID, "own", kind, &changes)
    };
    for kind in KindName::ALL {
        let error = new(kind, &[]).unwrap_err();
        assert!(matches!(error, DeviceError::Missing { .. }), "{error}");
        assert!(kind.required().iter().all(|setting| setting.fits(kind)), "{kind:?}");
    }
    let without_secret = new(KindName::Webhook, &["url=https://example.com"]).unwrap_err();
    assert!(without_secret.to_string().contains("secret="), "{without_secret}");
    let deleting = new(KindName::Mail, &["address=a@b", "delete-after=yes"]);
    assert_eq!(deleting, Err(DeviceError::DeleteWithoutAudio));
    assert!(new(KindName::Mail, &["address=a@b", "delete-after=yes", "audio=yes"]).unwrap().deletes_after());
    let own = DeviceChange::parse("fallback=own", KindName::Mail, &[("own", ID)]).unwrap();
    assert_eq!(mail(&[]).change(&[own]), Err(DeviceError::OwnFallback));
    assert!(matches!(
        Device::new(MAILBOX, ID, "a b", KindName::Mail, &[]),
        Err(DeviceError::Name { name }) if name == "a b"
    ));
}

#[test]
fn settings_have_distinct_words_and_kinds_read_back() {
    let words: std::collections::BTreeSet<_> = Setting::ALL.into_iter().map(Setting::word).collect();
    assert_eq!(words.len(), Setting::ALL.len());
    for kind in KindName::ALL {
        assert_eq!(KindName::from_word(kind.word()), Some(kind));
    }
    assert_eq!(KindName::from_word("fax"), None);
    assert_eq!(ID.to_string().parse(), Ok(ID));
    assert!("2".parse::<DeviceId>().is_err());
}

#[test]
fn removed_device_is_not_read_again() {
    let mut node = Replica::new("a", 100);
    node.write(mail(&[]).edits());
    let mut other = node.fork("b", 200);
    node.write(Device::removal());
    other.write(DeviceChange::Delay(5).edits());
    assert_eq!(read(&node.record), None);
    assert_eq!(read(&node.merged_with(&other)), None);
}

#[test]
fn unreadable_record_is_an_error_and_other_keys_are_refused() {
    let mut node = Replica::new("a", 100);
    node.write(DeviceChange::Delay(5).edits());
    let key = schema::device_key(MAILBOX, ID);
    let missing = Device::read(&key, &node.record);
    assert!(matches!(missing, Err(ViewError::Missing { .. })), "{missing:?}");
    node.write(mail(&[]).edits());
    node.write(vec![twinbox_replication_core::Edit::Set(schema::device::SCHEDULE, b"never".to_vec().into())]);
    let unreadable = Device::read(&key, &node.record);
    assert!(matches!(unreadable, Err(ViewError::Unreadable { .. })), "{unreadable:?}");
    for key in [Key::new(Table(1), key.id.clone()), Key::new(schema::DEVICE, vec![0; 31])] {
        assert!(matches!(Device::read(&key, &Record::new()), Err(ViewError::Key { .. })));
    }
    assert!(key.id.starts_with(&schema::devices_prefix(MAILBOX)));
}

#[test]
fn edits_of_different_settings_by_two_administrators_both_count() {
    let mut a = Replica::new("a", 100);
    a.write(mail(&["audio=yes"]).edits());
    let mut b = a.fork("b", 200);
    a.write(parse(KindName::Mail, "delay=60").unwrap().edits());
    a.write(parse(KindName::Mail, "audio=no").unwrap().edits());
    b.write(parse(KindName::Mail, "repeat=900x3").unwrap().edits());
    b.write(parse(KindName::Mail, "delete-after=yes").unwrap().edits());
    assert_eq!(a.merged_with(&b), b.merged_with(&a));
    let merged = read(&a.merged_with(&b)).unwrap();
    assert_eq!((merged.delay_s, merged.repeat), (60, Some(Repeat { every_s: 900, most: 3 })));
    // Each was right alone; together they would lose the recording.
    assert!(merged.delete_after && !merged.deletes_after());
}

#[test]
fn debug_output_hides_private_settings() {
    let device = device(KindName::Webhook, &["url=https://example.com", "secret=0123456789abcdef", "from=5550*"]);
    let text = format!("{device:?} {:?}", device.settings());
    assert!(["example", "0123456789", "5550"].iter().all(|private| !text.contains(private)), "{text}");
}

proptest! {
    #[test]
    fn device_reads_back_as_written(device in devices()) {
        let mut node = Replica::new("a", 100);
        node.write(device.edits());
        prop_assert_eq!(read(&node.record), Some(device));
    }

    #[test]
    fn changes_since_lead_from_one_device_to_the_other(before in devices(), target in devices()) {
        let wanted = Device { kind: before.kind.clone(), ..target };
        let mut node = Replica::new("a", 100);
        node.write(before.edits());
        for change in wanted.changes_since(&before) {
            node.write(change.edits());
        }
        prop_assert_eq!(read(&node.record), Some(wanted.clone()));
        prop_assert!(wanted.changes_since(&wanted).is_empty());
        let mut applied = before;
        wanted.settings().iter().for_each(|change| change.apply(&mut applied));
        prop_assert_eq!(applied, wanted);
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in ".{0,60}", word in 0..Setting::ALL.len(), kind in 0..KindName::ALL.len()) {
        let _ = parse(KindName::ALL[kind], &format!("{}={text}", Setting::ALL[word].word()));
        let _ = parse(KindName::ALL[kind], &text);
    }
}
