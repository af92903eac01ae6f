//! Escaping, distinguished names, URLs, ids and disabled accounts.

use proptest::prelude::*;
use twinbox_directory_core::{
    Attributes, Dn, Entry, LONGEST_VALUE, LdapUrl, MOST_VALUES, account_disabled, dn_value, entry_id_of_guid,
    entry_id_of_uuid, filter_value, guid_of_entry_id, is_filter,
};
use twinbox_mailbox::EntryId;

#[test]
fn typed_text_stays_a_value_of_a_filter() {
    for (value, expected) in [
        ("anna", "anna"),
        ("anna.berg@example.com", "anna.berg@example.com"),
        ("*", "\\2a"),
        ("a)(uid=*", "a\\29\\28uid\\3d\\2a"),
        ("a\\2a", "a\\5c2a"),
        ("a\0b", "a\\00b"),
        ("ü", "\\c3\\bc"),
    ] {
        assert_eq!(filter_value(value.as_bytes()), expected);
    }
}

#[test]
fn typed_text_stays_a_value_of_a_name() {
    for (value, expected) in [
        ("Anna Berg", "Anna Berg"),
        ("Berg, Anna", "Berg\\, Anna"),
        ("a,ou=admins", "a\\,ou\\=admins"),
        ("#1 ", "\\#1\\ "),
        (" ", "\\ "),
        ("a+b\"c\\<d>;e", "a\\+b\\\"c\\\\\\<d\\>\\;e"),
        ("a\0b\n", "a\\00b\\0a"),
        ("Jürgen", "Jürgen"),
    ] {
        assert_eq!(dn_value(value), expected, "{value:?}");
    }
}

#[test]
fn names_are_equal_without_regard_to_case_spaces_and_escapes() {
    let equal = [
        ("cn=Sales,ou=groups,dc=example", "CN=sales, OU=Groups ,DC=Example"),
        ("cn=a\\,b,dc=x", "cn=A\\2cB,dc=x"),
        ("cn=Jürgen,dc=x", "cn=J\\c3\\bcrgen,dc=X"),
        ("cn=a+sn=b,dc=x", "sn=B+cn=A,dc=x"),
        ("cn=a  b,dc=x", "cn=a b;dc=x"),
        ("", " "),
    ];
    for (one, other) in equal {
        assert_eq!(Dn::parse(one).expect(one), Dn::parse(other).expect(other));
    }
    assert_ne!(Dn::parse("cn=a,dc=x"), Dn::parse("cn=a,dc=x,dc=y"));
    assert_ne!(Dn::parse("cn=a,dc=x"), Dn::parse("cn=a+dc=x"));
    for text in ["anna", "cn=a,", "cn=a+", "=a", "cn=\"a\"", "cn=a\\", "cn=\\ff", "c n=a", &"a".repeat(5_000)] {
        assert_eq!(Dn::parse(text), None, "{text}");
    }
    assert!(Dn::parse("").is_some_and(|dn| dn.is_root()));
}

#[test]
fn filters_have_balanced_items() {
    let by_rule = "(memberOf:1.2.840.113556.1.4.1941:=cn=x)";
    for text in ["(uid=anna)", "(&(objectClass=user)(!(cn=a b)))", by_rule, "(a>=5)"] {
        assert!(is_filter(text), "{text}");
    }
    let deep = format!("{}(a=b){}", "(!".repeat(20), ")".repeat(20));
    for text in
        ["", "uid=anna", "(uid=anna", "(uid=anna))", "(uid)", "()", "(a=b)(c=d)", "(a=b\n)", "((a=b))", &deep]
    {
        assert!(!is_filter(text), "{text}");
    }
}

#[test]
fn urls_name_host_and_port() {
    for (text, shown, host, port) in [
        ("ldap://LDAP.example.com", "ldap://ldap.example.com", "ldap.example.com", 389),
        ("LDAPS://ldap.example.com/", "ldaps://ldap.example.com", "ldap.example.com", 636),
        ("ldaps://ldap:1636", "ldaps://ldap:1636", "ldap", 1636),
        ("ldap://192.0.2.1:389", "ldap://192.0.2.1", "192.0.2.1", 389),
        ("ldap://[2001:db8::1]:1389", "ldap://[2001:db8::1]:1389", "2001:db8::1", 1389),
    ] {
        let url: LdapUrl = text.parse().expect(text);
        assert_eq!((url.to_string().as_str(), url.host.as_str(), url.port), (shown, host, port));
        assert_eq!(url.to_string().parse::<LdapUrl>(), Ok(url));
    }
    for (text, part) in [
        ("ldap.example.com", "ldap://"),
        ("http://ldap.example.com", "ldaps://"),
        ("ldapi://socket", "ldap://"),
        ("ldap://", "no host"),
        ("ldap://[::1", "no host"),
        ("ldap://a b", "no host"),
        ("ldap://host:0", "port"),
        ("ldap://host:65536", "port"),
        ("ldap://host:", "port"),
        ("ldap://host:+1", "port"),
        ("ldap://host/dc=example", "base"),
        ("ldap://user@host", "base"),
    ] {
        let error = text.parse::<LdapUrl>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn uuid_and_guid_of_one_entry_are_one_id() {
    let id = EntryId(0x597a_e2f6_16a6_1027_98f4_d28b_5365_dc14);
    assert_eq!(entry_id_of_uuid(b"597ae2f6-16a6-1027-98f4-d28b5365dc14"), Some(id));
    assert_eq!(entry_id_of_uuid(b"597AE2F6-16A6-1027-98F4-D28B5365DC14"), Some(id));
    let guid = [0xf6, 0xe2, 0x7a, 0x59, 0xa6, 0x16, 0x27, 0x10, 0x98, 0xf4, 0xd2, 0x8b, 0x53, 0x65, 0xdc, 0x14];
    assert_eq!(entry_id_of_guid(&guid), Some(id));
    assert_eq!(guid_of_entry_id(id), guid);
    assert_eq!(entry_id_of_guid(&guid[1..]), None);
    for text in [&b""[..], b"597ae2f616a6102798f4d28b5365dc14", b"597ae2f6-16a6-1027-98f4-d28b5365dc1\xff"] {
        assert_eq!(entry_id_of_uuid(text), None);
    }
}

fn attributes(values: &[(&str, &str)]) -> Attributes {
    let mut attributes = Attributes::new();
    for (name, value) in values {
        assert!(attributes.add(name, value.as_bytes().to_vec()), "{name}");
    }
    attributes
}

#[test]
fn disabled_accounts_are_told_by_three_attributes() {
    for (name, value, disabled) in [
        ("userAccountControl", "514", true),
        ("userAccountControl", "512", false),
        ("userAccountControl", "66050", true),
        ("userAccountControl", "-2147483646", true),
        ("userAccountControl", "x", false),
        ("nsAccountLock", "TRUE", true),
        ("nsAccountLock", "false", false),
        ("pwdAccountLockedTime", "000001010000Z", true),
        ("pwdAccountLockedTime", "20261121212502Z", false),
        ("description", "disabled", false),
    ] {
        let attributes = attributes(&[(name, value)]);
        assert_eq!(account_disabled(&attributes), disabled, "{name}: {value}");
        assert_eq!(Entry::new(EntryId(1), String::new(), attributes).disabled, disabled);
    }
}

#[test]
fn attributes_are_bounded_and_name_the_cut_ones() {
    let mut all = attributes(&[("Mail", "a@example.com")]);
    assert_eq!(all.texts("MAIL"), ["a@example.com"]);
    assert!(!all.add("jpegPhoto", vec![0; LONGEST_VALUE + 1]));
    assert!(all.is_cut("jpegphoto") && !all.is_cut("mail") && !all.is_cut("cn"));
    for at in 0..=MOST_VALUES {
        assert_eq!(all.add("member", vec![b'x']), at < MOST_VALUES);
    }
    assert!(all.is_cut("member"));
    assert!(all.add("memberOf;range=0-1499", b"cn=a".to_vec()));
    assert!(all.is_cut("memberOf") && all.texts("memberOf") == ["cn=a"]);
    assert!(all.add("proxyAddresses;range=1500-*", b"b".to_vec()) && !all.is_cut("proxyAddresses"));
    all.mark_cut("photo");
    assert!(all.is_cut("PHOTO"));
    // With too many attributes an absent one may be a lost one.
    let added = (0..100).filter(|at| all.add(&format!("a{at}"), vec![b'x'])).count();
    assert!(added < 64 && all.is_cut("cn") && !all.is_cut("mail"));
    assert!(!all.add("mail", vec![b'x'; LONGEST_VALUE * 2]));
}

proptest! {
    #[test]
    fn escaped_value_is_one_value_again(value in "\\PC{0,20}|[ ,+=#\\\\\"<>;()*\\x00a]{0,20}") {
        let filter = format!("(uid={})", filter_value(value.as_bytes()));
        prop_assert!(is_filter(&filter), "{}", filter);
        prop_assert_eq!(filter.matches(['(', ')', '*']).count(), 2);
        let name = format!("cn={},dc=x", dn_value(&value));
        let parsed = Dn::parse(&name);
        prop_assert!(parsed.is_some(), "{}", name);
        // One component of one part before the base: the same as with every character as hexadecimal digits.
        let hex: String = value.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        prop_assert_eq!(parsed, Dn::parse(&format!("cn={hex},dc=x")));
    }

    #[test]
    fn guid_is_read_back(id: u128) {
        prop_assert_eq!(entry_id_of_guid(&guid_of_entry_id(EntryId(id))), Some(EntryId(id)));
        prop_assert_eq!(entry_id_of_uuid(EntryId(id).to_string().as_bytes()), Some(EntryId(id)));
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = (Dn::parse(&text), is_filter(&text), text.parse::<LdapUrl>());
        let _ = (entry_id_of_uuid(&bytes), entry_id_of_guid(&bytes));
    }
}
