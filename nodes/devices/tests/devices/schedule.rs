//! Schedules: text, and openings across changes of the clock.

use jiff::{SignedDuration, Timestamp, civil::Weekday, tz::TimeZone};
use proptest::prelude::*;
use twinbox_devices::{Schedule, Window};

const ZONES: [&str; 4] = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"];

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).expect("a zone")
}

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

#[test]
fn schedules_are_parsed_and_shown() {
    for (text, shown) in [
        ("mon-fri 08:00-18:00", "mon-fri 08:00-18:00"),
        ("Mon-Fri 8:00-18:00,sat 09:00-12:00", "mon-fri 08:00-18:00, sat 09:00-12:00"),
        ("mon,wed-thu,sun 08:00-18:00", "mon,wed-thu,sun 08:00-18:00"),
        ("fri-mon 22:00-06:00", "mon,fri-sun 22:00-06:00"),
        ("08:00 - 09:00", "mon-sun 08:00-09:00"),
        ("sat 00:00-24:00", "sat 00:00-24:00"),
        ("sat 18:00-00:00", "sat 18:00-24:00"),
        ("mon-sun 00:00-24:00", "mon-sun 00:00-24:00"),
    ] {
        assert_eq!(text.parse::<Schedule>().map(|schedule| schedule.to_string()), Ok(shown.to_owned()), "{text}");
    }
}

#[test]
fn invalid_schedule_is_refused_with_the_part_that_is_wrong() {
    for (text, part) in [
        ("", "no time"),
        ("mon-fri", "'mon-fri' have no time"),
        ("mon-fri 08:00-18:00, sat", "'sat' have no time"),
        ("someday 08:00-18:00", "'someday' is not a day"),
        ("mon-fri 08:00", "'08:00' is not a window"),
        ("mon 08:00-08:00", "'08:00-08:00' is not a window"),
        ("mon 24:00-08:00", "'24:00-08:00' is not a window"),
        ("mon 08:00-24:01", "is not a window"),
        ("mon 08:60-09:00", "is not a window"),
        ("mon 08:5-09:00", "is not a window"),
        ("mon +8:00-09:00", "is not a window"),
        ("mon 08:00-09:00,".repeat(21).as_str(), "more than 20"),
    ] {
        let error = text.parse::<Schedule>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn window_is_open_by_the_clock_on_the_wall() {
    // 2026-03-29 02:00 becomes 03:00 and 2026-10-25 03:00 becomes 02:00 in Berlin; 2026-03-08 and 2026-11-01 in New York;
    // Lord Howe turns by half an hour: back on 2026-04-05 02:00, forward on 2026-10-04 02:00.
    for (zone_name, text, moment, open) in [
        ("Europe/Berlin", "mon-fri 08:00-18:00", "2026-11-20T07:00:00Z", true),
        ("Europe/Berlin", "mon-fri 08:00-18:00", "2026-11-20T06:59:59Z", false),
        ("Europe/Berlin", "mon-fri 08:00-18:00", "2026-11-20T17:00:00Z", false),
        ("Europe/Berlin", "mon-fri 08:00-18:00", "2026-11-21T12:00:00Z", false),
        // Friday night ends on Saturday morning; Sunday night ends on Monday.
        ("Europe/Berlin", "fri 22:00-06:00", "2026-11-21T04:59:59Z", true),
        ("Europe/Berlin", "fri 22:00-06:00", "2026-11-21T05:00:00Z", false),
        ("Europe/Berlin", "fri 22:00-06:00", "2026-11-20T04:00:00Z", false),
        ("Europe/Berlin", "sun 22:00-06:00", "2026-11-23T03:00:00Z", true),
        // Spring: the hour from 02:00 does not come.
        ("Europe/Berlin", "sun 02:00-03:00", "2026-03-29T00:59:59Z", false),
        ("Europe/Berlin", "sun 02:00-03:00", "2026-03-29T01:00:00Z", false),
        ("Europe/Berlin", "sun 02:30-04:00", "2026-03-29T01:00:00Z", true),
        // Autumn: the hour from 02:00 comes twice.
        ("Europe/Berlin", "sun 02:00-02:30", "2026-10-25T00:15:00Z", true),
        ("Europe/Berlin", "sun 02:00-02:30", "2026-10-25T00:45:00Z", false),
        ("Europe/Berlin", "sun 02:00-02:30", "2026-10-25T01:15:00Z", true),
        ("Europe/Berlin", "sun 02:00-02:30", "2026-10-25T01:45:00Z", false),
        ("America/New_York", "sun 02:00-03:00", "2026-03-08T07:00:00Z", false),
        ("America/New_York", "sun 01:00-02:00", "2026-11-01T05:30:00Z", true),
        ("America/New_York", "sun 01:00-02:00", "2026-11-01T06:30:00Z", true),
        ("America/New_York", "sun 01:00-02:00", "2026-11-01T07:00:00Z", false),
        ("Australia/Lord_Howe", "sun 01:30-02:00", "2026-04-04T14:45:00Z", true),
        ("Australia/Lord_Howe", "sun 01:30-02:00", "2026-04-04T15:15:00Z", true),
        ("Australia/Lord_Howe", "sun 02:00-02:30", "2026-10-03T15:30:00Z", false),
        ("Asia/Kathmandu", "mon-fri 08:00-18:00", "2026-11-20T02:15:00Z", true),
        ("Asia/Kathmandu", "mon-fri 08:00-18:00", "2026-11-20T02:14:59Z", false),
    ] {
        assert_eq!(schedule(text).open_at(at(moment), &zone(zone_name)), open, "{zone_name} {text} {moment}");
    }
}

#[test]
fn next_opening_is_found_across_changes_of_the_clock() {
    for (zone_name, text, from, next) in [
        ("Europe/Berlin", "mon-fri 08:00-18:00", "2026-11-20T12:34:56Z", "2026-11-20T12:34:56Z"),
        ("Europe/Berlin", "mon-fri 08:00-18:00", "2026-11-20T17:00:00Z", "2026-11-23T07:00:00Z"),
        // The offset of Monday, not that of Friday.
        ("Europe/Berlin", "mon-fri 08:00-18:00", "2026-03-27T17:00:00Z", "2026-03-30T06:00:00Z"),
        ("Europe/Berlin", "mon-fri 08:00-18:00", "2026-10-23T16:00:00Z", "2026-10-26T07:00:00Z"),
        // A begin that is skipped: with the change. A window that is skipped: a week later.
        ("Europe/Berlin", "sun 02:30-04:00", "2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "sun 02:00-03:00", "2026-03-28T12:00:00Z", "2026-04-05T00:00:00Z"),
        // A begin that comes twice.
        ("Europe/Berlin", "sun 02:15-02:30", "2026-10-25T00:00:00Z", "2026-10-25T00:15:00Z"),
        ("Europe/Berlin", "sun 02:15-02:30", "2026-10-25T00:30:00Z", "2026-10-25T01:15:00Z"),
        // The change goes back into a window that had begun before it.
        ("Europe/Berlin", "sun 01:30-02:30", "2026-10-25T00:40:00Z", "2026-10-25T01:00:00Z"),
        ("Europe/Berlin", "sat 22:00-02:30", "2026-10-25T00:40:00Z", "2026-10-25T01:00:00Z"),
        ("America/New_York", "mon-fri 08:00-18:00", "2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z"),
        ("America/New_York", "mon-fri 08:00-18:00", "2026-10-31T12:00:00Z", "2026-11-02T13:00:00Z"),
        ("Australia/Lord_Howe", "sun 02:15-03:00", "2026-10-03T15:00:00Z", "2026-10-03T15:30:00Z"),
        ("Australia/Lord_Howe", "mon 08:00-09:00", "2026-04-04T00:00:00Z", "2026-04-05T21:30:00Z"),
        ("Asia/Kathmandu", "sat 00:00-24:00", "2026-11-20T12:00:00Z", "2026-11-20T18:15:00Z"),
    ] {
        let found = schedule(text).next_open(at(from), &zone(zone_name));
        assert_eq!(found, Some(at(next)), "{zone_name} {text} {from}");
    }
}

fn windows() -> impl Strategy<Value = Window> {
    (1..128_u8, 0..1_440_u16, 1..=1_440_u16).prop_filter_map("empty window", |(days, from, to)| {
        let weekdays: Vec<Weekday> = (0..7_i8)
            .filter(|day| days & (1 << day) != 0)
            .map(|day| Weekday::from_monday_zero_offset(day).expect("a day"))
            .collect();
        Window::new(&weekdays, from, to)
    })
}

fn schedules() -> impl Strategy<Value = Schedule> {
    prop::collection::vec(windows(), 1..5).prop_map(|windows| Schedule::new(windows).expect("a schedule"))
}

proptest! {
    #[test]
    fn schedule_reads_back_as_shown(schedule in schedules()) {
        prop_assert_eq!(schedule.to_string().parse(), Ok(schedule));
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in "[a-z0-9 :,-]{0,40}|.{0,40}") {
        let _ = text.parse::<Schedule>();
    }

    /// 2026-03-01 to 2026-11-26 has every change of the four zones in that year.
    #[test]
    fn next_opening_is_the_first_open_minute(
        schedule in schedules(),
        zone_name in prop::sample::select(ZONES.to_vec()),
        minute in 0..270 * 1_440_i64,
        near in any::<bool>(),
    ) {
        let zone = zone(zone_name);
        let mut from = at("2026-03-01T00:00:00Z") + SignedDuration::from_mins(minute);
        // Half of the cases begin shortly before a change of the clock, if the zone has one.
        let change = zone.following(from).next().map(|change| change.timestamp());
        if let Some(change) = change.filter(|change| near && *change < at("2027-01-01T00:00:00Z")) {
            from = change - SignedDuration::from_mins(minute % 120);
        }
        let minutes = (0..16 * 1_440).map(|n| from + SignedDuration::from_mins(n));
        let first = minutes.into_iter().find(|moment| schedule.open_at(*moment, &zone));
        prop_assert_eq!(schedule.next_open(from, &zone), first);
    }
}
