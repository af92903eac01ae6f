//! Decisions: first notification, repeats, fallback, gathering, conditions.

use crate::common::{ID, device, mail};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::prelude::*;
use twinbox_devices::{
    Attempt, CallerPattern, Device, DeviceId, KindName, MessageFacts, Next, NotBefore, NotificationOutcome, after,
    digest, first, still_wanted,
};
use twinbox_ids::Pii;

const NEXT: DeviceId = DeviceId(7);

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// Friday, 13:00 in Berlin.
fn noon() -> Timestamp {
    at("2026-11-20T12:00:00Z")
}

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").expect("a zone")
}

fn facts() -> MessageFacts {
    MessageFacts {
        caller: Some(Pii::new("01515550100".to_owned())),
        length_ms: 10_000,
        urgent: false,
        new: true,
        deleted: false,
    }
}

fn attempt(repeat: u32, before: &[DeviceId]) -> Attempt {
    Attempt { repeat, before: before.to_vec() }
}

#[test]
fn first_notification_waits_for_delay_then_schedule() {
    for (settings, expected) in [
        (&[][..], "2026-11-20T12:00:00Z"),
        (&["delay=90"], "2026-11-20T12:01:30Z"),
        (&["when=mon-fri 08:00-18:00"], "2026-11-20T12:00:00Z"),
        (&["when=mon-fri 08:00-12:00"], "2026-11-23T07:00:00Z"),
        (&["when=fri 08:00-13:01", "delay=30"], "2026-11-20T12:00:30Z"),
        // The delay ends after the window.
        (&["when=fri 08:00-13:01", "delay=60"], "2026-11-27T07:00:00Z"),
        (&["enabled=yes", "urgent-only=no", "min-seconds=10", "from=0151*,2*"], "2026-11-20T12:00:00Z"),
    ] {
        let decided = first(&mail(settings), &facts(), noon(), &berlin());
        assert_eq!(decided, Some(NotBefore(at(expected))), "{settings:?}");
    }
}

#[test]
fn message_that_misses_a_condition_is_not_notified_of() {
    let without_caller = MessageFacts { caller: None, ..facts() };
    let urgent = MessageFacts { urgent: true, ..facts() };
    for (settings, facts, admitted) in [
        (&["urgent-only=yes"][..], facts(), false),
        (&["urgent-only=yes"], urgent, true),
        (&["min-seconds=11"], facts(), false),
        (&["from=2*"], facts(), false),
        (&["from=*"], facts(), true),
        (&["from=*"], without_caller.clone(), false),
        (&[], without_caller, true),
        (&["enabled=no"], facts(), false),
        (&[], MessageFacts { new: false, ..facts() }, false),
        (&[], MessageFacts { deleted: true, ..facts() }, false),
    ] {
        assert_eq!(first(&mail(settings), &facts, noon(), &berlin()).is_some(), admitted, "{settings:?} {facts:?}");
    }
}

#[test]
fn callers_match_whole_numbers_or_beginnings() {
    for (pattern, number, matches) in [
        ("0151*", "01515550100", true),
        ("0151*", "0151", true),
        ("0151*", "015", false),
        ("0151", "0151", true),
        ("0151", "01515", false),
        ("+49*", "+49151", true),
        ("49*", "+49151", false),
        ("*", "", false),
        ("*", "anonymous", true),
    ] {
        assert_eq!(pattern.parse::<CallerPattern>().unwrap().matches(number), matches, "{pattern} {number}");
    }
    for text in ["", "+", "**", "1*2", "a", "1 2", &"1".repeat(33)] {
        assert!(text.parse::<CallerPattern>().is_err(), "{text}");
    }
}

#[test]
fn notification_is_dropped_when_the_message_was_heard_or_deleted_meanwhile() {
    let (on, off) = (mail(&[]), mail(&["enabled=no"]));
    assert!(still_wanted(&on, &facts()));
    assert!(!still_wanted(&off, &facts()));
    assert!(!still_wanted(&on, &MessageFacts { new: false, ..facts() }));
    assert!(!still_wanted(&on, &MessageFacts { deleted: true, ..facts() }));
}

#[test]
fn outcome_leads_to_repeat_fallback_or_nothing() {
    use NotificationOutcome::{Delivered, Failed};
    let repeat = |number, moment| Next::Repeat { number, not_before: NotBefore(at(moment)) };
    let fallback = |moment| Next::Fallback { device: NEXT, not_before: NotBefore(at(moment)) };
    let (now, quarter) = ("2026-11-20T12:00:00Z", "2026-11-20T12:15:00Z");
    for (settings, outcome, attempt, expected) in [
        (&[][..], Delivered, attempt(0, &[]), Next::Nothing),
        (&[], Failed, attempt(0, &[]), Next::Nothing),
        (&["fallback=next"], Delivered, attempt(0, &[]), Next::Nothing),
        (&["fallback=next"], Failed, attempt(0, &[]), fallback(now)),
        (&["fallback=next"], Failed, attempt(0, &[DeviceId(8)]), fallback(now)),
        // Devices that name each other end.
        (&["fallback=next"], Failed, attempt(0, &[NEXT]), Next::Nothing),
        (&["repeat=900x2"], Delivered, attempt(0, &[]), repeat(1, quarter)),
        (&["repeat=900x2"], Delivered, attempt(1, &[]), repeat(2, quarter)),
        (&["repeat=900x2"], Delivered, attempt(2, &[]), Next::Nothing),
        (&["repeat=900x2"], Failed, attempt(0, &[]), Next::Nothing),
        (&["repeat=900x2", "fallback=next"], Delivered, attempt(1, &[]), repeat(2, quarter)),
        (&["repeat=900x2", "fallback=next"], Delivered, attempt(2, &[]), fallback(quarter)),
        (&["repeat=900x2", "fallback=next"], Failed, attempt(1, &[]), fallback(now)),
        // Repeats keep to the times of the device.
        (
            &["repeat=900x2", "when=mon-fri 08:00-13:10"],
            Delivered,
            attempt(0, &[]),
            repeat(1, "2026-11-23T07:00:00Z"),
        ),
        (&["repeat=900x2", "enabled=no", "fallback=next"], Delivered, attempt(0, &[]), Next::Nothing),
        (&["repeat=900x2", "audio=yes", "delete-after=yes"], Delivered, attempt(0, &[]), Next::Nothing),
    ] {
        let next = after(&mail(settings), outcome, &facts(), &attempt, noon(), &berlin());
        assert_eq!(next, expected, "{settings:?} {outcome:?} {attempt:?}");
    }
}

#[test]
fn message_that_is_heard_or_deleted_ends_repeats_and_fallback() {
    let device = mail(&["repeat=900x2", "fallback=next"]);
    for facts in [MessageFacts { new: false, ..facts() }, MessageFacts { deleted: true, ..facts() }] {
        for outcome in [NotificationOutcome::Delivered, NotificationOutcome::Failed] {
            assert_eq!(after(&device, outcome, &facts, &attempt(0, &[]), noon(), &berlin()), Next::Nothing);
        }
    }
}

#[test]
fn notifications_over_the_limit_are_gathered_until_the_hour_has_room() {
    let minutes_ago = |minutes: &[i64]| -> Vec<Timestamp> {
        minutes.iter().map(|m| noon() - SignedDuration::from_mins(*m)).collect()
    };
    for (limit, sent, wait) in [
        ("per-hour=0", &[1, 2, 3][..], None),
        ("per-hour=2", &[], None),
        ("per-hour=2", &[10], None),
        ("per-hour=2", &[10, 60], None),
        ("per-hour=2", &[10, 59], Some(1)),
        ("per-hour=2", &[10, 40], Some(20)),
        ("per-hour=2", &[40, 10], Some(20)),
        // A limit that was lowered: the two latest count.
        ("per-hour=2", &[50, 40, 30], Some(20)),
        ("per-hour=1", &[5, 50], Some(55)),
    ] {
        let expected = wait.map(|minutes| noon() + SignedDuration::from_mins(minutes));
        assert_eq!(digest(&mail(&[limit]), &minutes_ago(sent), noon()), expected, "{limit} {sent:?}");
    }
}

/// Runs one message through its devices until nothing follows; the number of notifications.
fn notifications(devices: &[Device], outcome: impl Fn(u32) -> NotificationOutcome) -> u32 {
    let (mut device, mut attempt, mut count, mut now) = (&devices[0], attempt(0, &[]), 0, noon());
    loop {
        count += 1;
        assert!(count <= 1_000, "it does not end");
        match after(device, outcome(count), &facts(), &attempt, now, &berlin()) {
            Next::Nothing => return count,
            Next::Repeat { number, not_before } => {
                assert!(not_before.0 > now);
                (attempt.repeat, now) = (number, not_before.0);
            }
            Next::Fallback { device: id, not_before } => {
                attempt.before.push(device.id);
                (attempt.repeat, now) = (0, not_before.0);
                device = devices.iter().find(|device| device.id == id).expect("a device");
            }
        }
    }
}

#[test]
fn devices_that_fall_back_to_each_other_end() {
    let devices = [
        Device { fallback: Some(NEXT), ..mail(&["repeat=900x3"]) },
        Device {
            id: NEXT,
            fallback: Some(ID),
            ..device(KindName::Pager, &["address=b@example.com", "repeat=60x2"])
        },
    ];
    assert_eq!(notifications(&devices, |_| NotificationOutcome::Delivered), 4 + 3);
    assert_eq!(notifications(&devices, |_| NotificationOutcome::Failed), 2);
}

proptest! {
    #[test]
    fn every_chain_of_devices_ends(links in prop::collection::vec((0..6_u128, 0..4_u32), 6), fails in any::<u64>()) {
        let devices: Vec<Device> = links
            .iter()
            .enumerate()
            .map(|(n, (next, most))| Device {
                id: DeviceId(n as u128),
                fallback: Some(DeviceId(*next)),
                repeat: (*most > 0).then_some(twinbox_devices::Repeat { every_s: 60, most: *most }),
                ..mail(&[])
            })
            .collect();
        let outcome = |n: u32| if (fails >> (n % 64)) & 1 == 1 { NotificationOutcome::Failed } else { NotificationOutcome::Delivered };
        prop_assert!(notifications(&devices, outcome) <= 6 * 4);
    }
}
