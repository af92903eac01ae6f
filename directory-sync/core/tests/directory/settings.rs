//! Settings as administrators type them.

use std::{collections::BTreeMap, time::Duration};

use twinbox_directory_core::{DirectorySettings, DisabledCallers, FirstPin, Flavour, Setting};

use crate::common::settings;

#[test]
fn defaults_are_safe_and_complete() {
    let settings = settings(&[]);
    assert!(settings.enabled && settings.servers.start_tls);
    assert!(!settings.servers.insecure && !settings.servers.referrals);
    assert_eq!((settings.servers.flavour, settings.servers.timeout), (Flavour::Auto, Duration::from_secs(10)));
    assert_eq!((settings.servers.bind_dn.as_str(), &settings.servers.password_file), ("", &None));
    assert_eq!((settings.search.filter.as_str(), settings.search.page), ("(objectClass=person)", 500));
    assert_eq!((settings.limits.percent, settings.limits.count, settings.grace_days), (10, 5, 30));
    assert_eq!((settings.disabled_callers, &settings.first_pin), (DisabledCallers::Unavailable, &FirstPin::None));
    assert_eq!(
        (settings.password_age(), settings.interval),
        (Duration::from_secs(86_400), Duration::from_secs(300))
    );
    assert!(settings.map.language.is_none() && settings.map.timezone.is_none() && settings.map.classes.is_empty());
}

#[test]
fn settings_are_read_back_from_their_text() {
    let settings = settings(&[
        "enabled=no",
        "url= ldaps://a.example , ldap://b.example:1389",
        "bind-dn=cn=twinbox,dc=example",
        "password-file=/etc/twinbox/ldap.secret",
        "ca-file=/etc/twinbox/ca.pem",
        "flavour=active-directory",
        "base=ou=a,dc=x; ou=b\\;c,dc=x",
        "filter=(&(objectClass=user)(objectCategory=person))",
        "name=-",
        "class=cn=a,dc=x->Gold",
        "password-hours=0",
        "grace-days=7",
        "disabled-callers=greeting",
        "first-pin=mail",
    ]);
    assert_eq!(
        settings.servers.urls.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["ldaps://a.example", "ldap://b.example:1389"]
    );
    assert_eq!(settings.search.bases, ["ou=a,dc=x", "ou=b\\;c,dc=x"]);
    assert_eq!(settings.map.classes.first().map(|rule| rule.class.as_str()), Some("gold"));
    assert!(settings.map.name.is_none() && settings.password_age().is_zero());
    assert_eq!(settings.grace_ms(), 7 * 86_400_000);
    let texts: Vec<String> = settings.settings().iter().map(|(word, text)| format!("{word}={text}")).collect();
    assert_eq!(texts.len(), Setting::ALL.len());
    assert_eq!(DirectorySettings::parse(&texts), Ok(settings));
}

#[test]
fn numbers_and_words_are_permanent_and_unique() {
    let numbers: Vec<u16> = Setting::ALL.map(Setting::number).to_vec();
    assert_eq!(numbers, (1..=28).collect::<Vec<u16>>());
    for setting in Setting::ALL {
        assert_eq!(Setting::find(setting.word()), Ok(setting));
        let text = format!("{}={}", setting.word(), setting.default_text());
        assert!(Setting::parse(&text).is_ok(), "{text}");
    }
}

#[test]
fn changes_are_made_to_the_stored_settings() {
    let stored = BTreeMap::from([
        (Setting::Url.number(), "ldap://a".to_owned()),
        (Setting::Base.number(), "dc=x".to_owned()),
        (Setting::Page.number(), "7".to_owned()),
        (999, "of a newer release".to_owned()),
    ]);
    let (settings, changes) =
        DirectorySettings::changed(&stored, &["page=-", "mail=-", "timeout=5"]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((settings.search.page, settings.map.mail), (500, None));
    let expected = BTreeMap::from([
        (Setting::Page.number(), None),
        (Setting::Mail.number(), Some("-".to_owned())),
        (Setting::Timeout.number(), Some("5".to_owned())),
    ]);
    assert_eq!(changes, expected);
    let error =
        DirectorySettings::changed(&stored, &["url=-"]).expect_err("a directory needs a server").to_string();
    assert!(error.contains("no url") && error.contains("ldaps://"), "{error}");
}

#[test]
fn wrong_settings_are_refused_with_word_value_and_remedy() {
    let long = format!("filter=({}=x)", "a".repeat(20_000));
    for (text, parts) in [
        ("url", &["'url'", "word=value"][..]),
        ("urls=x", &["'urls'", "did you mean 'url'"]),
        ("url=ldap.example.com", &["'ldap.example.com'", "url", "ldap://", "ldaps://dc1.example"]),
        ("url=ldap://a,http://b", &["'http://b'"]),
        ("start-tls=maybe", &["'maybe'", "start-tls", "yes, or no"]),
        ("ca-file=ca.pem", &["'ca.pem'", "absolute path"]),
        ("timeout=0", &["'0'", "1 to 300"]),
        ("timeout=-1", &["1 to 300"]),
        ("page=x", &["'x'", "1 to 10000"]),
        ("flavour=oracle", &["'oracle'", "openldap"]),
        ("base=people", &["'people'", "no distinguished name"]),
        ("filter=uid=*", &["'uid=*'", "parentheses"]),
        (&long, &["too long"]),
        ("number={tel", &["'{tel'", "has no end", "telephoneNumber"]),
        ("number={tel:lst(4)}", &["did you mean 'last'"]),
        ("class=cn=a,dc=x", &["no '->'"]),
        ("class=staff -> gold", &["no distinguished name"]),
        ("class=cn=a,dc=x -> two words", &["class of service"]),
        ("group-attribute=a b", &["'a b'", "memberOf"]),
        ("loss-percent=101", &["0 to 100"]),
        ("grace-days=0", &["1 to 3650"]),
        ("disabled-callers=busy", &["greeting or unavailable"]),
        ("first-pin=1234", &["'1234'", "no secret", "{number:last(4)}"]),
        ("name={cn}\u{7}", &["control characters", "\\u{7}"]),
        ("bind-dn=cn=a,dc=x", &["bind-dn=cn=a,dc=x", "password-file"]),
        ("password-file=/x", &["password-file=/x", "bind-dn"]),
    ] {
        let texts = ["url=ldap://a", "base=dc=x", text];
        let error = DirectorySettings::parse(&texts).expect_err(text).to_string();
        for part in parts {
            assert!(error.contains(part), "{text}: {part}: {error}");
        }
    }
    for (texts, part) in [
        (&["base=dc=x"][..], "no url"),
        (&["url=ldap://a"], "no base"),
        (&["url=ldap://a", "base=dc=x", "mail=-", "first-pin=mail"], "first-pin=mail needs mail"),
    ] {
        let error = DirectorySettings::parse(texts).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}
