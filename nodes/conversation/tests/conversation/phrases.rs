//! Sentences as text: every phrase function against the expected wording.

use std::{collections::HashMap, fs};

use twinbox_conversation::{
    GreetingKind, Limits, MailboxView, MessageView, Prompt,
    keymap::{Facts, KEYPAD, KeyMap, Menu},
    phrases,
};
use twinbox_ids::{BlobHash, MailboxId, MessageId, Pii, Timestamp};

/// Text of each prompt, as given to the speech synthesiser.
fn texts() -> HashMap<String, String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../prompts/texts/en.txt");
    let lines = fs::read_to_string(file).expect("the texts of the prompts");
    let entries = lines.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('|'));
    let text = |rest: &str| rest.split('|').next().unwrap_or_default().trim().to_owned();
    entries.map(|(name, rest)| (name.trim().to_owned(), text(rest))).collect()
}

fn read(prompts: &[Prompt]) -> String {
    let texts = texts();
    let word = |prompt: &Prompt| match prompt {
        Prompt::Named(name) => texts.get(name).cloned().unwrap_or_else(|| format!("«{name}»")),
        Prompt::Audio(hash) => format!("[audio {}]", hash.0[0]),
        other => format!("[{other:?}]"),
    };
    prompts.iter().map(word).collect::<Vec<_>>().join(" / ")
}

/// Timestamp of a time given in UTC.
fn at(text: &str) -> Timestamp {
    let moment: jiff::civil::DateTime = text.parse().expect("a moment");
    let moment = moment.to_zoned(jiff::tz::TimeZone::UTC).expect("in the calendar");
    Timestamp(u64::try_from(moment.timestamp().as_millisecond()).expect("after 1970"))
}

#[test]
fn every_prompt_has_a_text_and_every_text_a_prompt() {
    let mut texts: Vec<_> = texts().into_keys().collect();
    texts.sort();
    assert_eq!(texts, phrases::required_prompts());
}

#[test]
fn numbers() {
    for (n, said) in [
        (0, "zero"),
        (7, "seven"),
        (12, "twelve"),
        (20, "twenty"),
        (21, "twenty / one"),
        (90, "ninety"),
        (100, "one / hundred"),
        (101, "one / hundred / one"),
        (319, "three / hundred / nineteen"),
        (1_000, "one / thousand"),
        (2_026, "two / thousand / twenty / six"),
        (45_045, "forty / five / thousand / forty / five"),
        (1_000_001, "one / million / one"),
        (1_000_000_000, "one / zero / zero / zero / zero / zero / zero / zero / zero / zero"),
    ] {
        assert_eq!(read(&phrases::number(n)), said, "{n}");
    }
}

#[test]
fn counts() {
    for (new, old, said) in [
        (0, 0, "you have / no / messages"),
        (1, 0, "you have / one / new / message"),
        (2, 0, "you have / two / new / messages"),
        (0, 1, "you have / one / old / message"),
        (0, 3, "you have / three / old / messages"),
        (2, 1, "you have / two / new / and / one / old / message"),
        (1, 12, "you have / one / new / and / twelve / old / messages"),
    ] {
        assert_eq!(read(&phrases::counts(new, old)), said, "{new} {old}");
    }
}

#[test]
fn moments() {
    // Friday; Berlin is one hour ahead of UTC in winter and two in summer, New York five behind.
    let now = "2026-11-20 14:05";
    for (then, zone, said) in [
        ("2026-11-20 13:59", "UTC", "today / at / one / fifty / nine / p m"),
        ("2026-11-20 13:00", "UTC", "today / at / one / o'clock / p m"),
        ("2026-11-20 08:05", "Europe/Berlin", "today / at / nine / oh / five / a m"),
        ("2026-11-19 23:30", "Europe/Berlin", "today / at / twelve / thirty / a m"),
        ("2026-11-19 22:30", "Europe/Berlin", "yesterday / at / eleven / thirty / p m"),
        ("2026-11-20 04:30", "America/New_York", "yesterday / at / eleven / thirty / p m"),
        ("2026-11-20 12:00", "UTC", "today / at / twelve / o'clock / p m"),
        ("2026-11-18 09:15", "UTC", "Wednesday / at / nine / fifteen / a m"),
        ("2026-11-14 09:15", "UTC", "Saturday / at / nine / fifteen / a m"),
        ("2026-11-13 09:15", "UTC", "November / thirteenth / at / nine / fifteen / a m"),
        ("2026-03-01 09:15", "UTC", "March / first / at / nine / fifteen / a m"),
        ("2026-05-22 09:15", "UTC", "May / twenty / second / at / nine / fifteen / a m"),
        ("2026-05-30 09:15", "UTC", "May / thirtieth / at / nine / fifteen / a m"),
        ("2026-07-31 22:40", "Europe/Berlin", "August / first / at / twelve / forty / a m"),
        (
            "2025-12-31 09:15",
            "UTC",
            "December / thirty / first / two / thousand / twenty / five / at / nine / fifteen / a m",
        ),
        // The clock of a node may be ahead.
        ("2026-11-21 09:15", "UTC", "November / twenty / first / at / nine / fifteen / a m"),
        // An unknown time zone counts as UTC.
        ("2026-11-20 08:05", "Middle/Earth", "today / at / eight / oh / five / a m"),
    ] {
        assert_eq!(read(&phrases::moment(at(then), zone, at(now))), said, "{then} {zone}");
    }
    // Outside of the calendar nothing is announced, and nothing panics.
    for then in [u64::MAX, i64::MAX as u64, 253_402_300_800_000] {
        assert_eq!(phrases::moment(Timestamp(then), "Pacific/Kiritimati", at(now)), []);
    }
}

#[test]
fn titles_count_messages_and_name_first_and_last() {
    let said: Vec<_> = (0..4).map(|i| read(&phrases::title(i, 4))).collect();
    assert_eq!(said, ["first / message", "message / two", "message / three", "last / message"]);
    assert_eq!(read(&phrases::title(0, 1)), "first / message");
}

#[test]
fn envelopes() {
    let now = at("2026-11-20 14:05");
    for (caller, partial, said) in [
        (Some("1002"), false, "message from extension / one / zero / zero / two"),
        (
            Some("15550100"),
            false,
            "message from phone number / one / five / five / five / zero / one / zero / zero",
        ),
        (
            Some("+1 (555) 01-00"),
            false,
            "message from phone number / one / five / five / five / zero / one / zero / zero",
        ),
        (None, false, "from an unknown caller"),
        (Some(""), false, "from an unknown caller"),
        (Some("+"), false, "from an unknown caller"),
        (Some("anna.7"), false, "from an unknown caller"),
        (
            Some("1002"),
            true,
            "message from extension / one / zero / zero / two / The end of this message was lost.",
        ),
    ] {
        let message = MessageView {
            id: MessageId(1),
            audio: BlobHash([1; 32]),
            received: now,
            caller: caller.map(|c| Pii::new(c.to_owned())),
            length_ms: 5_000,
            partial,
        };
        let said = format!("received / today / at / two / oh / five / p m / {said}");
        assert_eq!(read(&phrases::envelope(&message, "UTC", now)), said, "{caller:?}");
    }
    let long = MessageView {
        id: MessageId(1),
        audio: BlobHash([1; 32]),
        received: Timestamp(u64::MAX),
        caller: Some(Pii::new("9".repeat(500))),
        length_ms: 0,
        partial: false,
    };
    assert_eq!(phrases::envelope(&long, "UTC", now).len(), 21, "a caller's number is not read out without end");
}

#[test]
fn back_off() {
    for (seconds, said) in [
        (0, "one / second"),
        (1, "one / second"),
        (30, "thirty / seconds"),
        (60, "sixty / seconds"),
        (61, "two / minutes"),
        (300, "five / minutes"),
        (5_400, "ninety / minutes"),
    ] {
        let said = format!("There were too many wrong PINs. Please try again in / {said}");
        assert_eq!(read(&phrases::back_off(seconds)), said, "{seconds}");
    }
    for seconds in [5_401, u64::MAX] {
        assert_eq!(read(&phrases::back_off(seconds)), "There were too many wrong PINs. Please try again later.");
    }
    assert_eq!(read(&phrases::pin_too_short(4)), "Your PIN must have at least / four / digits.");
}

#[test]
fn greetings() {
    use GreetingKind::{Busy, Name, Standard, Temporary};
    let intro = "Please leave your message after the tone. When done, hang up or press the pound key.";
    let number = "the person at extension / one / zero / zero / one";
    for (recorded, wanted, said) in [
        (&[][..], Standard, format!("{number} / is unavailable / {intro}")),
        (&[], Busy, format!("{number} / is on the phone / {intro}")),
        (&[Name], Standard, format!("[audio 3] / is unavailable / {intro}")),
        (&[Name], Busy, format!("[audio 3] / is on the phone / {intro}")),
        (&[Standard, Name], Standard, "[audio 0]".to_owned()),
        (&[Standard, Busy], Busy, "[audio 1]".to_owned()),
        (&[Standard], Busy, "[audio 0]".to_owned()),
        (&[Busy], Standard, format!("{number} / is unavailable / {intro}")),
        (&[Standard, Busy, Temporary], Busy, "[audio 2]".to_owned()),
        (&[Temporary], Standard, "[audio 2]".to_owned()),
        (&[Name], Name, format!("[audio 3] / is unavailable / {intro}")),
    ] {
        let blob = |kind| {
            let n = [Standard, Busy, Temporary, Name].iter().position(|k| *k == kind).unwrap_or_default();
            (kind, BlobHash([n as u8; 32]))
        };
        let mailbox = MailboxView {
            id: MailboxId(1),
            number: "1001".to_owned(),
            timezone: "UTC".to_owned(),
            greetings: recorded.iter().copied().map(blob).collect(),
            full: false,
            unavailable: false,
            operator: None,
            limits: Limits::default(),
        };
        assert_eq!(read(&phrases::greeting(&mailbox, wanted)), said, "{recorded:?} {wanted:?}");
    }
}

/// A menu must announce its keys: each key that has an effect is named.
#[test]
fn menus_name_their_keys() {
    let spoken = |key: char| match key {
        '*' => "star",
        '#' => "pound",
        digit => ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
            [digit.to_digit(10).expect("a digit") as usize],
    };
    let owners = [
        Menu::Main,
        Menu::Folders,
        Menu::Playing,
        Menu::Played,
        Menu::Advanced,
        Menu::Setup,
        Menu::Greetings,
        Menu::Personal,
        Menu::Temporary,
        Menu::Review,
    ];
    let everything = Facts { new: true, old: true, previous: true, next: true, ..Facts::default() };
    let changed = Facts { deleted: true, temporary: true, ..everything };
    let heard = Facts { new: false, ..everything };
    // In Asterisk's map these keys work as in Asterisk, which does not announce them either.
    let silent = [(Menu::Played, "120"), (Menu::Playing, "120")];
    for map in KeyMap::all() {
        for menu in owners {
            for facts in [everything, changed] {
                let said = read(&map.options(menu, &facts)).to_lowercase();
                let words: Vec<_> = said.split(|c: char| !c.is_alphabetic()).collect();
                for key in KEYPAD {
                    let bound = map.action(menu, key, &facts).is_some();
                    let quiet =
                        map.name == "asterisk" && silent.iter().any(|(m, keys)| *m == menu && keys.contains(key));
                    let named = words.contains(&spoken(key));
                    assert_eq!(bound && !quiet, named, "{} {menu:?} {key}: {said}", map.name);
                }
            }
        }
    }
    let said = read(&KeyMap::named("asterisk").options(Menu::Main, &heard));
    assert!(said.starts_with("Press one for / old / messages / "), "{said}");
}

#[test]
fn key_documentation_matches_the_key_maps() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/KEYS.md");
    let drawn = twinbox_conversation::draw::markdown();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, &drawn).expect("KEYS.md is written");
    }
    let committed = fs::read_to_string(file).unwrap_or_default();
    assert!(committed == drawn, "KEYS.md differs from the key maps: run the tests with UPDATE=1 and look at it");
}

#[test]
fn message_that_came_back_says_number_and_reason() {
    use phrases::Undelivered::*;
    let said = |number: &str, reason| {
        let names = phrases::undelivered(number, reason).into_iter();
        read(&names.map(Prompt::Named).collect::<Vec<_>>())
    };
    for (reason, expected) in [
        (UnknownNumber, "This number is unknown there."),
        (MailboxFull, "The mailbox there is full."),
        (Unreachable, "The other system cannot be reached."),
        (Refused, "The other system refused it."),
    ] {
        let expected =
            format!("Your message to / seven / one / could not be delivered. / {expected} / Your message follows.");
        assert_eq!(said("71", reason), expected);
    }
    assert!(!said("7<1>&", UnknownNumber).contains('«'), "other characters are not read out");
}
