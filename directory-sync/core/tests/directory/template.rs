//! The language of templates.

use proptest::prelude::*;
use twinbox_directory_core::Template;

/// Results of a template for an entry with these values, given as `attribute=value`.
fn results(template: &str, values: &[&str]) -> Vec<String> {
    let template: Template = template.parse().unwrap_or_else(|error| panic!("{template}: {error}"));
    template.results(|name| {
        let found = values.iter().filter_map(|value| value.split_once('='));
        found.filter(|(attribute, _)| *attribute == name).map(|(_, value)| value.to_owned()).collect()
    })
}

#[test]
fn templates_make_values_of_attributes() {
    let phone = ["telephonenumber=+49 (30) 5550-1234"];
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("{telephoneNumber}", &phone, &["+49 (30) 5550-1234"]),
        ("{telephoneNumber:digits}", &phone, &["493055501234"]),
        ("{telephoneNumber:digits:last(4)}", &phone, &["1234"]),
        ("{telephoneNumber:digits:strip(4930)}", &phone, &["55501234"]),
        ("{telephoneNumber:digits:strip(1)}", &phone, &["493055501234"]),
        ("{telephoneNumber:digits:begins(4930):last(4)}", &phone, &["1234"]),
        ("{telephoneNumber:digits:begins(4931):last(4)}", &phone, &[]),
        ("7{telephoneNumber:digits:last(3)}", &phone, &["7234"]),
        ("{ipPhone}|{telephoneNumber:digits:last(4)}", &phone, &["1234"]),
        ("{ipPhone}|{telephoneNumber:digits:last(4)}", &["ipphone=77", phone[0]], &["77"]),
        ("{n:last(4)}", &["n=123"], &[]),
        ("{n:length(3-5)}", &["n=12", "n=123", "n=12345", "n=123456"], &["123", "12345"]),
        ("{n:length(2)}", &["n=12", "n=123"], &["12"]),
        ("{displayName}|{givenName} {sn}", &["givenname=Anna", "sn=Berg"], &["Anna Berg"]),
        ("{displayName}|{givenName} {sn}", &["givenname=Anna"], &[]),
        ("{proxyAddresses:begins(SMTP:):after(:):lower}", &["proxyaddresses=smtp:A@B.C"], &["a@b.c"]),
        ("{mail:before(@)}", &["mail=anna@example.com"], &["anna"]),
        ("{mail:after(@)}", &["mail=anna"], &[]),
        ("{x:first(2):upper}", &["x=de-DE"], &["DE"]),
        ("{x:first(2)}", &["x=ü"], &[]),
        ("{x:last(1)}", &["x=aü"], &["ü"]),
        ("Europe/Berlin", &[], &["Europe/Berlin"]),
        ("\\{{x}\\|", &["x=1"], &["{1|"]),
        ("{x}{y}", &["x=1", "x=2", "y=3", "y=4"], &["13", "14", "23", "24"]),
        ("{x:digits}|{y}", &["x=none", "y=1"], &["1"]),
    ];
    for (template, values, expected) in cases {
        assert_eq!(results(template, values), *expected, "{template} {values:?}");
    }
}

#[test]
fn wrong_templates_are_refused_with_place_and_remedy() {
    for (template, part) in [
        ("", "empty"),
        ("{a}|", "both sides"),
        ("{a", "'{a' has no end"),
        ("{a:last(4}", "has no end"),
        ("a}", "no begin"),
        ("a\\", "ends with"),
        ("{}", "name of an attribute"),
        ("{a b}", "'a b'"),
        ("{a:digit}", "did you mean 'digits'"),
        ("{a:digits(3)}", "write it as digits"),
        ("{a:last}", "last(4)"),
        ("{a:last(0)}", "1 to 64"),
        ("{a:last(x)}", "last(4)"),
        ("{a:length(5-3)}", "length(3-5)"),
        ("{a:strip()}", "strip(4930)"),
        ("{a:lower:lower:lower:lower:lower:lower:lower:lower:lower}", "too long"),
        (&"x".repeat(1_025), "too long"),
        (&"x|".repeat(17), "both sides"),
        (&format!("{}x", "x|".repeat(17)), "too long"),
    ] {
        let error = template.parse::<Template>().expect_err(template).to_string();
        assert!(error.contains(part), "{template}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_and_results_are_bounded(
        text in "[{}|:()a-c0-9\\\\ ü-]{0,40}",
        values in prop::collection::vec("[a-c0-9ü]{0,8}", 0..20),
    ) {
        if let Ok(template) = text.parse::<Template>() {
            let results = template.results(|_| values.clone());
            prop_assert!(results.len() <= 8);
            prop_assert!(results.iter().all(|result| !result.trim().is_empty()));
            let mut reversed = values.clone();
            reversed.reverse();
            prop_assert_eq!(results, template.results(|_| reversed.clone()));
        }
    }
}
