//! Due times on the days when the clock changes, and on others.

use jiff::tz::TimeZone;
use proptest::prelude::*;
use twinbox_ids::Timestamp;
use twinbox_timetable::{CronText, Zone};

fn time(text: &str) -> Timestamp {
    let time: jiff::Timestamp = text.parse().expect(text);
    Timestamp(u64::try_from(time.as_millisecond()).expect("after 1970"))
}

fn cron(text: &str) -> CronText {
    CronText::parse(text).expect(text)
}

fn zone(name: &str) -> Zone {
    Zone::parse(name).expect(name)
}

#[test]
fn due_times_are_right_on_days_when_the_clock_changes() {
    // Zone, expression, time after which due times are wanted, due times in UTC.
    let table: &[(&str, &str, &str, &[&str])] = &[
        // Berlin, the night without the hour from 2 to 3: at the first moment after it, and once.
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        // The hour before the gap is not moved, and does not run again after it.
        ("Europe/Berlin", "30 1 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T23:30:00Z"]),
        // Intervals go on after the gap.
        (
            "Europe/Berlin",
            "*/30 * * * *",
            "2026-03-29T00:20:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
        ),
        ("Europe/Berlin", "0 * * * *", "2026-03-29T00:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]),
        // Berlin, the night with two hours from 2 to 3: once a night, in the first.
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        // Also when it is asked in the second.
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T01:10:00Z", &["2026-10-26T01:30:00Z"]),
        // Intervals run in both.
        (
            "Europe/Berlin",
            "*/30 * * * *",
            "2026-10-24T23:50:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z",
            ],
        ),
        (
            "America/New_York",
            "30 2 * * *",
            "2026-03-07T12:00:00Z",
            &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
        ),
        (
            "America/New_York",
            "30 1 * * *",
            "2026-10-31T12:00:00Z",
            &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        ),
        (
            "America/New_York",
            "0 * * * *",
            "2026-11-01T04:30:00Z",
            &["2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"],
        ),
        // Lord Howe changes by half an hour.
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-03T00:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "*/15 * * * *",
            "2026-10-03T15:10:00Z",
            &["2026-10-03T15:15:00Z", "2026-10-03T15:30:00Z", "2026-10-03T15:45:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "45 1 * * *",
            "2026-04-04T00:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "*/15 * * * *",
            "2026-04-04T14:20:00Z",
            &[
                "2026-04-04T14:30:00Z",
                "2026-04-04T14:45:00Z",
                "2026-04-04T15:00:00Z",
                "2026-04-04T15:15:00Z",
                "2026-04-04T15:30:00Z",
            ],
        ),
        // UTC has no such days.
        ("UTC", "30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T02:30:00Z", "2026-03-30T02:30:00Z"]),
        ("UTC", "30 2 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T02:30:00Z", "2026-10-26T02:30:00Z"]),
        // Other fields.
        ("UTC", "0 0 29 2 *", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z"]),
        ("UTC", "0 9 * * mon-fri", "2026-01-02T10:00:00Z", &["2026-01-05T09:00:00Z"]),
        ("UTC", "0 9 * * FRI#L", "2026-01-02T10:00:00Z", &["2026-01-30T09:00:00Z"]),
        ("UTC", "@daily", "2026-01-02T10:00:00Z", &["2026-01-03T00:00:00Z"]),
        ("UTC", "0 12 L * *", "2026-02-01T00:00:00Z", &["2026-02-28T12:00:00Z"]),
        // A due time itself is not after itself, and a moment within its second is after it.
        ("UTC", "30 2 * * *", "2026-01-02T02:30:00Z", &["2026-01-03T02:30:00Z"]),
        ("UTC", "30 2 * * *", "2026-01-02T02:30:00.500Z", &["2026-01-03T02:30:00Z"]),
        ("UTC", "30 2 * * *", "2026-01-02T02:29:59.500Z", &["2026-01-02T02:30:00Z"]),
    ];
    for (name, text, after, expected) in table {
        let (zone, cron) = (zone(name), cron(text));
        let mut at = time(after);
        for due in *expected {
            let next = cron.next_after(at, &zone).expect("a due time");
            assert_eq!(next, time(due), "{name}: '{text}' after {after}, expected {due}");
            at = next;
        }
    }
}

/// Names of zones whose clocks change by different amounts, at different times, or not at all.
const ZONES: [&str; 6] =
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago"];

proptest! {
    #[test]
    fn job_at_one_time_of_day_is_due_once_on_each_day(minute in 0..60u8, hour in 0..24u8, name in 0..ZONES.len()) {
        let zone = zone(ZONES[name]);
        let cron = cron(&format!("{minute} {hour} * * *"));
        let civil = |at: Timestamp| {
            let at = jiff::Timestamp::from_millisecond(i64::try_from(at.0).expect("near")).expect("a time");
            at.to_zoned(zone.time_zone().clone()).date()
        };
        let mut at = time("2026-01-01T12:00:00Z");
        let mut day = civil(cron.next_after(at, &zone).expect("a due time"));
        while at < time("2027-01-01T12:00:00Z") {
            at = cron.next_after(at, &zone).expect("a due time");
            prop_assert_eq!(civil(at), day, "a day was left out, or came twice");
            day = day.tomorrow().expect("a day");
        }
    }

    #[test]
    fn due_times_increase_and_fit_the_expression(
        step in 1..30u8,
        start in 0..86_400_000u64,
        day in 0..365u64,
        name in 0..ZONES.len(),
    ) {
        let zone = zone(ZONES[name]);
        let cron = cron(&format!("*/{step} * * * *"));
        let mut at = Timestamp(time("2026-01-01T00:00:00Z").0 + day * 86_400_000 + start);
        for _ in 0..20 {
            let next = cron.next_after(at, &zone).expect("a due time");
            prop_assert!(next > at && next.0 - at.0 <= 3_600_000);
            let moment = jiff::Timestamp::from_millisecond(i64::try_from(next.0).expect("near")).expect("a time");
            let minute = u8::try_from(moment.to_zoned(zone.time_zone().clone()).minute()).expect("a minute");
            prop_assert_eq!(minute % step, 0);
            prop_assert_eq!(next.0 % 60_000, 0);
            at = next;
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[-*/,#+?@LW0-9A-Za-zü ]{0,40}") {
        if let Ok(cron) = CronText::parse(&text) {
            // It is read back as it is written.
            prop_assert_eq!(CronText::parse(cron.as_str()), Ok(cron));
        }
    }
}

#[test]
fn wrong_expression_is_refused_with_the_field_and_an_example() {
    for (text, parts) in [
        ("", &["five fields", "'30 2 * * *'"][..]),
        ("every night", &["'EVERY NIGHT'", "five fields", "@daily"]),
        ("0 0 2 * * *", &["five fields"]),
        ("@sometimes", &["'@sometimes'", "@daily"]),
        ("60 * * * *", &["'60'", "'minute'", "0 to 59", "*/15"]),
        ("5/5 * * * *", &["'5/5'", "'minute'"]),
        ("MON * * * *", &["'MON'", "'minute'"]),
        ("*/0 * * * *", &["'*/0'", "'minute'"]),
        ("1,,2 * * * *", &["'1,,2'", "'minute'"]),
        ("0 24 * * *", &["'24'", "'hour'", "0 to 23"]),
        ("0 2 32 * *", &["'32'", "'day of the month'"]),
        ("0 2 * 13 *", &["'13'", "'month'"]),
        ("0 2 * JANUARY *", &["'JANUARY'", "'month'"]),
        ("0 2 * * 8", &["'8'", "'weekday'"]),
        ("0 2 * * SUNDAY", &["'SUNDAY'", "'weekday'", "MON-FRI"]),
        ("0 2 * * +", &["'+'", "'weekday'"]),
        ("0 2 30 2 *", &["'0 2 30 2 *'", "never comes due"]),
        (&"1 ".repeat(100), &["five fields"]),
    ] {
        let error = CronText::parse(text).expect_err(text).to_string();
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(error.len() < 600, "{error}");
    }
}

#[test]
fn unknown_zone_is_refused_and_a_known_one_has_its_usual_name() {
    let error = Zone::parse("Mars/Base").expect_err("no such zone").to_string();
    assert!(error.contains("'Mars/Base'") && error.contains("Europe/Berlin"), "{error}");
    assert_eq!(zone("Europe/Berlin").to_string(), "Europe/Berlin");
    assert_eq!(Zone::utc().time_zone(), &TimeZone::UTC);
}
