//! Tables of the pure core: checks of values, the first file, an administrator's value, values that differ.

use twinbox_cluster_settings::{Entries, FileValues, Key, Origin, Register, Rows, Values, schema, set_edit};
use twinbox_ids::{NodeName, Origin as Writer, Stamp};
use twinbox_replication_core::{Edit, Key as RowKey, Record};

fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

fn file(pairs: &[(Key, &str)]) -> FileValues {
    let mut file = FileValues::default();
    pairs.iter().for_each(|(key, value)| file.set(*key, key.check(value).expect("a value")));
    file
}

fn stamp(at: u64, by: &str) -> Stamp {
    Stamp { wall: at, counter: 0, origin: Writer(by.bytes().map(u128::from).sum()) }
}

/// Writes edits into a row, at a time and by a node.
fn write(row: &mut Record, edits: Vec<Edit>, at: u64, by: &str) {
    for edit in edits {
        let delta = edit.delta(row, stamp(at, by), &node(by));
        row.merge(delta);
    }
}

fn offered(register: Register, by: &FileValues) -> Vec<Edit> {
    let offers = Rows::default().offers(by);
    offers.into_iter().find(|(of, _)| *of == register).map(|(_, edits)| edits).unwrap_or_default()
}

fn rows(all: &[(RowKey, Record)]) -> Rows {
    Rows::of(all.iter().map(|(key, record)| (key, record)))
}

#[test]
fn every_key_has_a_valid_default_its_own_name_and_one_register() {
    let mut names = std::collections::BTreeSet::new();
    for key in Key::ALL {
        assert!(names.insert(key.name()), "{}", key.name());
        assert_eq!(Key::named(key.name()), Ok(key));
        for wan in [false, true] {
            let default = key.default(wan);
            assert!(default.is_empty() || key.check(default).as_deref() == Ok(default), "{}", key.name());
        }
        assert!(key.register().keys().any(|own| own == key));
    }
    for register in Register::ALL {
        assert_eq!(Register::named(register.name().as_bytes()), Some(register));
        assert_eq!(Entries::default().check(register), Ok(()), "the defaults of {register:?} go together");
    }
    assert_eq!(Key::ALL.len(), Register::ALL.iter().map(|register| register.keys().count()).sum());
}

#[test]
fn each_key_has_one_row_and_rows_have_the_order_of_the_keys() {
    for (row, key) in Key::ALL.into_iter().enumerate() {
        assert_eq!(key as usize, row, "{}", key.name());
    }
}

#[test]
fn values_are_checked_and_errors_say_what_is_expected() {
    for (key, text, expected) in [
        (Key::AckTimeoutMs, "0250", Ok("250")),
        (Key::AckTimeoutMs, "5", Err("is 5, expected a whole number from 10 to 10000")),
        (Key::AckTimeoutMs, "-1", Err("is -1, expected a whole number from 10 to 10000")),
        (Key::RequireTwo, "yes", Ok("true")),
        (Key::RequireTwo, "maybe", Err("is maybe, expected true or false")),
        (Key::Redirect, "middle", Err("'middle' is not one of first, last")),
        (
            Key::Timezone,
            "Mars/Base",
            Err("'Mars/Base' is no time zone: write an IANA name such as \"Europe/Berlin\""),
        ),
        (Key::TrapReceivers, " 10.0.0.1 , snmp:162", Ok("10.0.0.1,snmp:162")),
        (
            Key::TrapReceivers,
            "10.0.0.1,,",
            Err("'10.0.0.1,,' will not do: write HOST or HOST:PORT; separate several with commas, at most 32"),
        ),
        (
            Key::WebhookCaFile,
            "ca.pem",
            Err("'ca.pem' is not the absolute path of a file, which every node needs under that name"),
        ),
        (Key::TrapUser, "a\nb", Err("is empty, has more than 1024 bytes or several lines: write a short text")),
        (Key::TrapUser, "", Err("is empty, has more than 1024 bytes or several lines: write a short text")),
        (Key::MailDomain, "VM.Example.com", Ok("vm.example.com")),
        (Key::MailDomain, "a..b", Err("'a..b' is no domain: write a name such as voicemail.example.com")),
        (Key::MailDomain, "x@y", Err("'x@y' is no domain: write a name such as voicemail.example.com")),
        (Key::MailSmarthost, "mail.example.com", Ok("mail.example.com")),
        (Key::MailSmarthost, "[2001:db8::1]:25", Ok("[2001:db8::1]:25")),
        (
            Key::MailSmarthost,
            "mail:0",
            Err("'mail:0' is no server: write HOST or HOST:PORT, such as mail.example.com:587"),
        ),
        (
            Key::MailSmarthost,
            "2001:db8::1",
            Err("'2001:db8::1' is no server: write HOST or HOST:PORT, such as mail.example.com:587"),
        ),
        (Key::MailTls, "ssl", Err("'ssl' is not one of starttls, tls, opportunistic, required, off")),
        (Key::S3TimeoutSeconds, "0", Err("is 0, expected a whole number from 1 to 300")),
    ] {
        let found = key.check(text).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{}={text}", key.name());
    }
    // A URL may hold a secret: it is neither repeated in an error nor shown with its query.
    let refused = Key::WebhookUrl.check("https://user:s3cret@host/").expect_err("a password").to_string();
    assert!(!refused.contains("s3cret"), "{refused}");
    assert_eq!(Key::WebhookUrl.shown("https://host/path?token=s3cret"), "https://host/path?…");
}

#[test]
fn an_unknown_key_gets_the_likely_one() {
    for (name, near) in [
        ("pin_tries", "did you mean 'voicemail.pin_tries'?"),
        ("voicemail.pin_trys", "did you mean 'voicemail.pin_tries'?"),
        ("trunk", "there is no setting 'trunk'; 'twinbox setting list'"),
    ] {
        let error = Key::named(name).expect_err("unknown").to_string();
        assert!(error.contains(near), "{error}");
    }
}

#[test]
fn the_first_file_counts_on_all_nodes_in_whatever_order_its_offers_arrive() {
    let (a, b) = (file(&[(Key::PinTries, "5")]), file(&[(Key::PinTries, "7")]));
    let (mut of_a, mut of_b) = (Record::new(), Record::new());
    write(&mut of_a, offered(Register::PinTries, &a), 10, "a");
    write(&mut of_b, offered(Register::PinTries, &b), 20, "b");
    let key = schema::row_key(Register::PinTries);
    for (mut first, second) in [(of_a.clone(), of_b.clone()), (of_b, of_a)] {
        first.merge(second);
        let rows = rows(&[(key.clone(), first)]);
        assert_eq!(rows.get(Register::PinTries).map(|row| row.origin), Some(Origin::FirstFile));
        assert_eq!(rows.values(&b, false).number(Key::PinTries), 5);
        // The node whose file lost is named by its own report, with the remedy.
        assert!(rows.differences(&a, false).is_empty());
        let lost = rows.differences(&b, false);
        assert_eq!(lost.len(), 1);
        let text = lost[0].text();
        assert!(text.contains("voicemail.pin_tries = 7") && text.contains("value 5 is used"), "{text}");
        assert!(text.contains("'twinbox setting set voicemail.pin_tries=VALUE'"), "{text}");
        // There is a value: nothing is offered any more.
        assert!(rows.offers(&b).is_empty());
    }
}

#[test]
fn an_administrators_value_beats_files_before_and_after_it() {
    let key = schema::row_key(Register::PinTries);
    let mut row = Record::new();
    write(&mut row, offered(Register::PinTries, &file(&[(Key::PinTries, "5")])), 10, "a");
    let changed = rows(&[(key.clone(), row.clone())])
        .changed(&FileValues::default(), &[(Key::PinTries, Some("9".to_owned()))])
        .expect("goes together");
    write(&mut row, vec![set_edit(&changed[0].1)], 20, "b");
    let mut late = Record::new();
    write(&mut late, offered(Register::PinTries, &file(&[(Key::PinTries, "7")])), 5, "c");
    row.merge(late);
    let now = rows(&[(key.clone(), row.clone())]);
    assert_eq!(now.values(&file(&[(Key::PinTries, "7")]), false).number(Key::PinTries), 9);
    assert_eq!(now.get(Register::PinTries).map(|row| row.origin), Some(Origin::Administrator));
    // Unset: the default, not a file's value.
    let changed = now.changed(&FileValues::default(), &[(Key::PinTries, None)]).expect("goes together");
    write(&mut row, vec![set_edit(&changed[0].1)], 30, "b");
    let unset = rows(&[(key, row)]);
    assert_eq!(unset.values(&file(&[(Key::PinTries, "7")]), false).number(Key::PinTries), 3);
    assert_eq!(unset.differences(&file(&[(Key::PinTries, "7")]), false).len(), 1);
}

#[test]
fn keys_that_make_sense_only_together_are_one_value() {
    let none = FileValues::default();
    let set = |key: Key, value: &str| (key, Some(value.to_owned()));
    let refused =
        Rows::default().changed(&none, &[set(Key::MaxMessageSeconds, "1")]).expect_err("1 s is no message");
    assert!(refused.to_string().contains("voicemail.min_message_ms = 1000"), "{refused}");
    let both = [set(Key::MaxMessageSeconds, "1"), set(Key::MinMessageMs, "500")];
    let changed = Rows::default().changed(&none, &both).expect("goes together");
    assert_eq!(changed.len(), 1);
    // The values of a file that was not offered yet are taken over.
    let own = file(&[(Key::SessionSeconds, "600")]);
    let changed = Rows::default().changed(&own, &[set(Key::MinSessionSeconds, "300")]).expect("goes together");
    assert_eq!(changed[0].1.get(Key::SessionSeconds), Some("600"));
    for (changes, part) in [
        (vec![set(Key::SessionSeconds, "90"), set(Key::MinSessionSeconds, "91")], "sip.min_session_seconds = 91"),
        (vec![set(Key::Pilot, "*97,*98")], "'*98' is in sip.pilot"),
        (vec![set(Key::TrapUser, "x")], "alarms.trap.user is set without alarms.trap.receivers"),
        (vec![set(Key::WebhookCaFile, "/x")], "alarms.webhook.ca_file is set without alarms.webhook.url"),
        (vec![set(Key::MailFrom, "a@b.example")], "mail.from is set without mail.domain"),
        (vec![set(Key::MailPasswordFile, "/x")], "mail.password_file is set without mail.user"),
        (
            vec![set(Key::MailSmarthost, "h"), set(Key::MailDirect, "true")],
            "mail.direct is true beside mail.smarthost = h",
        ),
        (
            vec![set(Key::MailSmarthost, "h"), set(Key::MailTls, "required")],
            "mail.tls 'required' is not one of starttls",
        ),
        (
            vec![set(Key::MailDirect, "true"), set(Key::MailTls, "off")],
            "mail.tls 'off' is not one of opportunistic",
        ),
        (vec![set(Key::DkimKeyFile, "/x")], "mail.dkim.key_file is set without mail.dkim.selector"),
        (vec![set(Key::SmsCaFile, "/x")], "sms.ca_file is set without sms.url"),
    ] {
        let error = Rows::default().changed(&none, &changes).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    // From one way of mail to the other in one command.
    let direct = [set(Key::MailDirect, "true"), (Key::MailSmarthost, None), (Key::MailTls, None)];
    let own = file(&[(Key::MailSmarthost, "h"), (Key::MailTls, "off")]);
    let changed = Rows::default().changed(&own, &direct).expect("goes together");
    assert_eq!(changed[0].1.text(), "mail.direct=true\n");
    let after = Rows::default().values_with(&changed, &own, false);
    assert!(after.flag(Key::MailDirect) && after.given(Key::MailSmarthost).is_none());
    assert_eq!(
        Rows::default().values(&own, false).given(Key::MailSmarthost),
        Some("h"),
        "nothing is changed by that"
    );
    // A split in which each side changed one of two: one side's pair counts, never a mixture.
    let key = schema::row_key(Register::MessageLength);
    let (mut left, mut right) = (Record::new(), Record::new());
    let long = Rows::default().changed(&none, &[set(Key::MinMessageMs, "60000")]).expect("300 s are more");
    let short = Rows::default().changed(&none, &[set(Key::MaxMessageSeconds, "30")]).expect("1 s is less");
    write(&mut left, vec![set_edit(&long[0].1)], 10, "a");
    write(&mut right, vec![set_edit(&short[0].1)], 11, "b");
    left.merge(right);
    let values = rows(&[(key, left)]).values(&none, false);
    assert_eq!((values.number(Key::MaxMessageSeconds), values.number(Key::MinMessageMs)), (30, 1_000));
}

#[test]
fn a_default_that_the_file_leaves_out_is_never_offered() {
    assert!(Rows::default().offers(&FileValues::default()).is_empty());
    // The rest of a section whose receivers moved is not offered either.
    assert!(Rows::default().offers(&file(&[(Key::TrapUser, "x")])).is_empty());
    assert_eq!(Rows::default().offers(&file(&[(Key::TrapReceivers, "h"), (Key::TrapUser, "x")])).len(), 1);
}

#[test]
fn lines_of_another_release_and_damaged_ones_have_no_effect_and_are_named() {
    let key = schema::row_key(Register::PinHash);
    for (text, kib, unknown) in [
        ("voicemail.pin_hash_kib=2048\nvoicemail.pin_hash_lanes=4\n", 2_048, "voicemail.pin_hash_lanes"),
        ("voicemail.pin_hash_kib=1\n", 19_456, "voicemail.pin_hash_kib"),
        ("no line", 19_456, "no line"),
    ] {
        let mut row = Record::new();
        write(&mut row, vec![Edit::Claim(schema::FIRST, text.into())], 1, "a");
        let rows = rows(&[(key.clone(), row)]);
        assert_eq!(rows.values(&FileValues::default(), false).number(Key::PinHashKib), kib, "{text}");
        assert_eq!(rows.unknown(), [unknown]);
    }
    let foreign = RowKey { table: schema::SETTING, id: b"of-a-later-release".to_vec() };
    let mut row = Record::new();
    write(&mut row, vec![Edit::Claim(schema::FIRST, b"x=1\n".to_vec())], 1, "a");
    assert_eq!(rows(&[(foreign, row)]), Rows::default());
}

#[test]
fn the_profile_decides_on_the_default_wait_alone() {
    for (wan, expected) in [(false, 250), (true, 1_000)] {
        assert_eq!(Values::of([], wan).number(Key::AckTimeoutMs), expected);
        assert_eq!(Values::of([(Key::AckTimeoutMs, "40")], wan).number(Key::AckTimeoutMs), 40);
    }
}
