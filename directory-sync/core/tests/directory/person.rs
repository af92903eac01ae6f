//! People as entries describe them.

use twinbox_directory_core::{
    Attributes, DirectorySettings, Entry, FirstPinError, FirstPinStep, LONGEST_VALUE, Person, person,
};
use twinbox_mailbox::{EntryId, SyncedField};

use crate::common::settings;

fn read(settings: &DirectorySettings, values: &[(&str, &str)]) -> Person {
    let mut attributes = Attributes::new();
    for (name, value) in values {
        assert!(attributes.add(name, value.as_bytes().to_vec()), "{name}");
    }
    person(&settings.map, &Entry::new(EntryId(1), "uid=anna,dc=example".to_owned(), attributes))
}

/// The problems of a person, as text.
fn problems(person: &Person) -> Vec<String> {
    person.problems.iter().map(|problem| format!("{}: {}", problem.field, problem.text.reveal())).collect()
}

#[test]
fn entry_becomes_a_person_by_the_map() {
    let settings = settings(&[
        "number={telephoneNumber:digits:begins(493055):last(4)}|{ipPhone}",
        "language={preferredLanguage}",
        "timezone={l}|Europe/Berlin",
        "class=cn=boss,dc=x -> gold; cn=Staff,dc=x -> silver",
    ]);
    let entry = [
        ("telephoneNumber", "+49 (30) 55 1234"),
        ("displayName", "Anna\n  Berg"),
        ("cn", "A. Berg"),
        ("mail", "Anna@Example.com"),
        ("preferredLanguage", "de_DE"),
        ("uid", "anna"),
        ("memberOf", "CN=staff, DC=x"),
        ("memberOf", "cn=other,dc=x"),
        ("userAccountControl", "514"),
    ];
    let anna = read(&settings, &entry);
    assert_eq!(problems(&anna), [""; 0]);
    let values = SyncedField::ALL.map(|field| anna.value(field));
    let expected = ["1234", "Anna Berg", "anna@example.com", "de-de", "Europe/Berlin", "silver"];
    assert_eq!(values, expected.map(Some));
    assert_eq!((anna.login.reveal().as_str(), anna.dn.reveal().as_str()), ("anna", "uid=anna,dc=example"));
    assert!(anna.disabled);
    assert!(!format!("{anna:?}").contains("anna"));
}

#[test]
fn first_class_rule_counts_whatever_the_order_of_groups() {
    let settings = settings(&["class=cn=boss,dc=x -> gold; cn=staff,dc=x -> silver; cn=guest,dc=x -> default"]);
    for (groups, class) in [
        (&["cn=staff,dc=x", "cn=boss,dc=x"][..], Some("gold")),
        (&["cn=boss,dc=x", "cn=staff,dc=x"], Some("gold")),
        (&["no name", "cn=staff,dc=x"], Some("silver")),
        (&["cn=guest,dc=x"], None),
        (&[], None),
    ] {
        let values: Vec<_> = groups.iter().map(|group| ("memberOf", *group)).collect();
        assert_eq!(read(&settings, &values).class.as_deref(), class, "{groups:?}");
    }
}

#[test]
fn values_that_cannot_be_used_are_named_and_left_out() {
    let settings = settings(&["language={preferredLanguage}", "timezone={l}"]);
    let long = "x".repeat(129);
    for (values, field, part) in [
        (&[("cn", "Anna")][..], SyncedField::Number, "no number: no value of ipphone, telephonenumber fits"),
        (&[("telephoneNumber", "ext. 12")], SyncedField::Number, "'ext. 12' is invalid"),
        (&[("telephoneNumber", "2"), ("telephoneNumber", "1")], SyncedField::Number, "several numbers (1, 2)"),
        (&[("telephoneNumber", "1 2"), ("telephoneNumber", "x")], SyncedField::Number, "'x' is invalid"),
        (&[("mail", "Anna <a@b.c>")], SyncedField::Mail, "not usable"),
        (&[("preferredLanguage", "de, en;q=0.5")], SyncedField::Language, "{preferredLanguage:first(2)}"),
        (&[("l", "Berlin")], SyncedField::Timezone, "Europe/Berlin"),
        (&[("displayName", long.as_str())], SyncedField::Name, "at most 128"),
    ] {
        let person = read(&settings, values);
        let problem = person.problem(field).unwrap_or_else(|| panic!("no problem with {field}"));
        assert!(problem.text.reveal().contains(part), "{}", problem.text.reveal());
        assert_eq!(person.value(field), None);
    }
    // The same number twice is one.
    let person = read(&settings, &[("telephoneNumber", "1-2"), ("telephoneNumber", "+1 2")]);
    assert_eq!((person.number.as_deref(), problems(&person)), (Some("12"), vec![]));
}

#[test]
fn reason_shows_only_the_beginning_of_a_value_of_thousands_of_characters() {
    let (long, full) = ("ü".repeat(3_000), "y".repeat(80));
    let long = long.as_str();
    let shown = format!("'{}…'", "ü".repeat(80));
    let person = read(&settings(&[]), &[("telephoneNumber", long), ("displayName", long), ("mail", long)]);
    let found = problems(&person);
    for (problem, reason) in found.iter().zip(["is invalid", "at most 128 characters", "is not usable"]) {
        assert!(problem.contains(&shown) && problem.contains(reason) && problem.len() < 500, "{problem}");
    }
    assert_eq!(found.len(), 3, "{found:?}");
    let whole = read(&settings(&[]), &[("telephoneNumber", "1"), ("mail", full.as_str())]);
    assert!(problems(&whole)[0].contains(&format!("'{full}' is not usable")), "80 characters are shown");
}

#[test]
fn cut_attribute_is_a_problem_and_no_empty_value() {
    let settings = settings(&["class=cn=boss,dc=x -> gold"]);
    let mut attributes = Attributes::new();
    attributes.add("telephoneNumber", b"1001".to_vec());
    attributes.add("mail", vec![b'a'; LONGEST_VALUE + 1]);
    attributes.add("memberOf;range=0-1499", b"cn=other,dc=x".to_vec());
    let person = person(&settings.map, &Entry::new(EntryId(1), String::new(), attributes));
    assert!(person.problem(SyncedField::Mail).is_some() && person.problem(SyncedField::Class).is_some());
    assert_eq!(person.number.as_deref(), Some("1001"));
}

#[test]
fn first_pin_follows_the_policy() {
    let number = ("telephoneNumber", "4711");
    let mail = ("mail", "a@b.example");
    let employee = ("employeeNumber", "829174");
    for (policy, values, expected) in [
        ("first-pin=none", &[number, mail][..], Ok("none")),
        ("first-pin=mail", &[number, mail], Ok("mail a@b.example")),
        ("first-pin=mail", &[number], Err("no mail address")),
        ("first-pin={number:last(3)}77", &[number], Ok("set 71177")),
        ("first-pin={employeeNumber}", &[number, employee], Ok("set 829174")),
        ("first-pin={employeeNumber}", &[number], Err("no value of the entry fits")),
        ("first-pin={number:last(2)}", &[number], Err("at least 4 digits")),
        ("first-pin={uid}", &[number, ("uid", "anna")], Err("digits only")),
    ] {
        let settings = settings(&[policy]);
        let step = settings.first_pin.step(&read(&settings, values), 4);
        match (step, expected) {
            (Ok(FirstPinStep::None), Ok(expected)) => assert_eq!(expected, "none"),
            (Ok(FirstPinStep::Mail(to)), Ok(expected)) => assert_eq!(expected, format!("mail {}", to.reveal())),
            (Ok(FirstPinStep::Set(pin)), Ok(expected)) => assert_eq!(expected, format!("set {}", pin.reveal())),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (step, _) => panic!("{policy}: {step:?}"),
        }
    }
    let settings = settings(&["first-pin=mail"]);
    let step = settings.first_pin.step(&read(&settings, &[number]), 4);
    assert_eq!(step, Err(FirstPinError::NoAddress));
}

#[test]
fn search_asks_for_the_attributes_of_the_map() {
    let settings = settings(&["number={ipPhone}", "name=-", "login={uid}", "first-pin={number}{employeeNumber}"]);
    let expected =
        ["employeenumber", "ipphone", "mail", "nsaccountlock", "pwdaccountlockedtime", "uid", "useraccountcontrol"];
    assert_eq!(settings.search.attributes, expected);
}
