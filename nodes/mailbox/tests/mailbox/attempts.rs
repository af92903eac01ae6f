//! The arithmetic of PIN attempts (rule S1).

use proptest::prelude::*;
use twinbox_ids::{NodeName, Origin, Stamp, Timestamp};
use twinbox_mailbox::pin::{AttemptCounts, AttemptPolicy, TryVerdict, begin, right_answer};
use twinbox_replication_core::{Edit, Record};

const HOUR: u64 = 3_600_000;

const POLICY: AttemptPolicy = AttemptPolicy { window_ms: HOUR, limit: 12, free: 5, backoff_ms: 5_000 };

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn attempts(before: &[(&str, u64)], current: &[(&str, u64)], last: u64) -> AttemptCounts {
    let wrong = |cells: &[(&str, u64)]| cells.iter().map(|(name, n)| (node(name), *n)).collect();
    AttemptCounts { before: wrong(before), current: wrong(current), last: Some(Timestamp(last)) }
}

#[test]
fn attempt_verdicts_follow_the_table() {
    let t = 100 * HOUR; // A window begins.
    let allowed = TryVerdict::Allowed;
    let wait = |seconds| TryVerdict::BackOff { seconds };
    for (what, attempts, together, now, expected) in [
        ("nothing yet", AttemptCounts::default(), true, t, allowed),
        ("free tries", attempts(&[], &[("a", 4)], t + 10), true, t + 10, allowed),
        ("first wait", attempts(&[], &[("a", 5)], t + 10_000), true, t + 10_000, wait(5)),
        ("half waited", attempts(&[], &[("a", 5)], t + 10_000), true, t + 12_500, wait(3)),
        ("waited", attempts(&[], &[("a", 5)], t + 10_000), true, t + 15_000, allowed),
        ("it doubles", attempts(&[], &[("a", 3), ("b", 4)], t), true, t, wait(20)),
        ("the window before counts", attempts(&[("b", 5)], &[], t - 1_000), true, t, wait(4)),
        ("a clock that went back", attempts(&[], &[("a", 5)], t + 9 * HOUR), true, t, wait(5)),
        ("the limit", attempts(&[], &[("a", 6), ("b", 6)], t), true, t + HOUR / 2, wait(3 * 1800)),
        (
            "the limit, most in the window before",
            attempts(&[("a", 10)], &[("b", 2)], t),
            true,
            t + HOUR / 2,
            wait(1800),
        ),
        ("alone: within the share", attempts(&[], &[("a", 4)], t), false, t, allowed),
        ("alone: the share is used up", attempts(&[], &[("a", 6)], t), false, t + HOUR / 2, wait(3 * 1800)),
        (
            "alone: the other used more than its share",
            attempts(&[], &[("a", 2), ("b", 10)], t),
            false,
            t,
            wait(7200),
        ),
    ] {
        assert_eq!(attempts.verdict(&POLICY, &node("a"), 2, together, Timestamp(now)), expected, "{what}");
    }
}

#[test]
fn attempts_of_two_windows_count_without_right_ones() {
    let write = |record: &mut Record, name: &str, wall: u64, edits: Vec<Edit>| {
        for (i, edit) in edits.into_iter().enumerate() {
            // Each node's store in two incarnations.
            let origin = Origin(if wall < 70 { 1 } else { 2 });
            let stamp = Stamp { wall, counter: i as u32, origin };
            let delta = edit.delta(record, stamp, &node(name));
            record.merge(delta);
        }
    };
    let (mut before, mut current) = (Record::new(), Record::new());
    write(&mut before, "a", 1, begin(Timestamp(50)));
    for (name, at) in [("a", 60), ("a", 70), ("b", 80)] {
        write(&mut current, name, at, begin(Timestamp(at)));
    }
    write(&mut current, "a", 90, right_answer());
    let expected = attempts(&[("a", 1)], &[("a", 1), ("b", 1)], 80);
    assert_eq!(AttemptCounts::read(&before, &current), expected);
}

proptest! {
    /// Two or three nodes reach each other for a while, then do not: in any order of tries, all of them together never
    /// allow more wrong ones than the limit.
    #[test]
    fn split_allows_no_more_attempts(
        nodes in 2usize..4,
        limit in 1u64..30,
        together in proptest::collection::vec(0usize..3, 0..40),
        split in proptest::collection::vec(0usize..3, 0..60),
    ) {
        let names = ["a", "b", "c"];
        let policy = AttemptPolicy { limit, free: u64::MAX, ..POLICY };
        let now = Timestamp(100 * HOUR);
        let mut counts = vec![0u64; nodes];
        let seen_by = |counts: &[u64]| {
            let cells: Vec<_> = names.iter().copied().zip(counts.iter().copied()).filter(|(_, n)| *n > 0).collect();
            attempts(&[], &cells, now.0)
        };
        for who in together.into_iter().map(|n| n % nodes) {
            if seen_by(&counts).verdict(&policy, &node(names[who]), nodes as u64, true, now) == TryVerdict::Allowed {
                counts[who] += 1;
            }
        }
        let at_split = counts.clone();
        for who in split.into_iter().map(|n| n % nodes) {
            let mut known = at_split.clone();
            known[who] = counts[who];
            if seen_by(&known).verdict(&policy, &node(names[who]), nodes as u64, false, now) == TryVerdict::Allowed {
                counts[who] += 1;
            }
        }
        prop_assert!(counts.iter().sum::<u64>() <= limit.max(nodes as u64), "{:?}", counts);
    }

    /// The announced wait is sufficient: a try after it is allowed.
    #[test]
    fn attempt_is_allowed_after_the_reported_wait(
        before in 0u64..20, a in 0u64..20, b in 0u64..20, together: bool, offset in 0u64..HOUR, since in 0u64..HOUR,
    ) {
        let now = 100 * HOUR + offset;
        let attempts = attempts(&[("a", before)], &[("a", a), ("b", b)], now - since);
        if let TryVerdict::BackOff { seconds } = attempts.verdict(&POLICY, &node("a"), 2, together, Timestamp(now)) {
            prop_assert!(seconds > 0 && seconds <= 2 * HOUR / 1_000);
            let later = now + seconds * 1_000;
            // The same counts as seen from that window.
            let passed = later / HOUR - now / HOUR;
            let aged = match passed {
                0 => attempts,
                1 => AttemptCounts { before: attempts.current, current: Default::default(), last: attempts.last },
                _ => AttemptCounts { before: Default::default(), current: Default::default(), last: attempts.last },
            };
            prop_assert_eq!(aged.verdict(&POLICY, &node("a"), 2, together, Timestamp(later)), TryVerdict::Allowed);
        }
    }
}
