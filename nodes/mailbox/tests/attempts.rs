//! The arithmetic of PIN attempts (rule S1).

use proptest::prelude::*;
use twinbox_ids::{NodeName, Origin, Stamp, Timestamp};
use twinbox_mailbox::pin::{AttemptPolicy, Tally, Verdict, begin, right_answer};
use twinbox_replication_core::{Edit, Record};

const HOUR: u64 = 3_600_000;

fn policy(nodes: u64) -> AttemptPolicy {
    AttemptPolicy { window_ms: HOUR, limit: 12, free: 5, backoff_ms: 5_000, nodes }
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn tally(before: &[(&str, u64)], current: &[(&str, u64)], last: u64) -> Tally {
    let wrong = |cells: &[(&str, u64)]| cells.iter().map(|(name, n)| (node(name), *n)).collect();
    Tally { before: wrong(before), current: wrong(current), last: Some(Timestamp(last)) }
}

#[test]
fn the_verdict_by_table() {
    let t = 100 * HOUR; // A window begins.
    let allowed = Verdict::Allowed;
    let wait = |seconds| Verdict::BackOff { seconds };
    for (what, tally, together, now, expected) in [
        ("nothing yet", Tally::default(), true, t, allowed),
        ("free tries", tally(&[], &[("a", 4)], t + 10), true, t + 10, allowed),
        ("first wait", tally(&[], &[("a", 5)], t + 10_000), true, t + 10_000, wait(5)),
        ("half waited", tally(&[], &[("a", 5)], t + 10_000), true, t + 12_500, wait(3)),
        ("waited", tally(&[], &[("a", 5)], t + 10_000), true, t + 15_000, allowed),
        ("it doubles", tally(&[], &[("a", 3), ("b", 4)], t), true, t, wait(20)),
        ("the window before counts", tally(&[("b", 5)], &[], t - 1_000), true, t, wait(4)),
        ("a clock that went back", tally(&[], &[("a", 5)], t + 9 * HOUR), true, t, wait(5)),
        ("the limit", tally(&[], &[("a", 6), ("b", 6)], t), true, t + HOUR / 2, wait(3 * 1800)),
        (
            "the limit, most in the window before",
            tally(&[("a", 10)], &[("b", 2)], t),
            true,
            t + HOUR / 2,
            wait(1800),
        ),
        ("alone: within the share", tally(&[], &[("a", 4)], t), false, t, allowed),
        ("alone: the share is used up", tally(&[], &[("a", 6)], t), false, t + HOUR / 2, wait(3 * 1800)),
        ("alone: the other used more than its share", tally(&[], &[("a", 2), ("b", 10)], t), false, t, wait(7200)),
    ] {
        assert_eq!(tally.verdict(&policy(2), &node("a"), together, Timestamp(now)), expected, "{what}");
    }
}

#[test]
fn counts_are_read_from_two_windows_and_right_ones_taken_back() {
    let write = |record: &mut Record, name: &str, wall: u64, edits: Vec<Edit>| {
        for (i, edit) in edits.into_iter().enumerate() {
            let stamp = Stamp { wall, counter: i as u32, origin: Origin(1) };
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
    let expected = tally(&[("a", 1)], &[("a", 1), ("b", 1)], 80);
    assert_eq!(Tally::read(&before, &current), expected);
}

proptest! {
    /// Two or three nodes reach each other for a while, then do not: in any order of tries, all of them together never
    /// allow more wrong ones than the limit.
    #[test]
    fn a_split_gives_no_more_tries(
        nodes in 2usize..4,
        limit in 1u64..30,
        together in proptest::collection::vec(0usize..3, 0..40),
        split in proptest::collection::vec(0usize..3, 0..60),
    ) {
        let names = ["a", "b", "c"];
        let policy = AttemptPolicy { limit, free: u64::MAX, ..policy(nodes as u64) };
        let now = Timestamp(100 * HOUR);
        let mut counts = vec![0u64; nodes];
        let seen_by = |counts: &[u64]| {
            let cells: Vec<_> = names.iter().copied().zip(counts.iter().copied()).filter(|(_, n)| *n > 0).collect();
            tally(&[], &cells, now.0)
        };
        for who in together.into_iter().map(|n| n % nodes) {
            if seen_by(&counts).verdict(&policy, &node(names[who]), true, now) == Verdict::Allowed {
                counts[who] += 1;
            }
        }
        let at_split = counts.clone();
        for who in split.into_iter().map(|n| n % nodes) {
            let mut known = at_split.clone();
            known[who] = counts[who];
            if seen_by(&known).verdict(&policy, &node(names[who]), false, now) == Verdict::Allowed {
                counts[who] += 1;
            }
        }
        prop_assert!(counts.iter().sum::<u64>() <= limit.max(nodes as u64), "{:?}", counts);
    }

    /// The announced wait is sufficient: a try after it is allowed.
    #[test]
    fn waiting_as_told_is_enough(
        before in 0u64..20, a in 0u64..20, b in 0u64..20, together: bool, offset in 0u64..HOUR, since in 0u64..HOUR,
    ) {
        let now = 100 * HOUR + offset;
        let tally = tally(&[("a", before)], &[("a", a), ("b", b)], now - since);
        if let Verdict::BackOff { seconds } = tally.verdict(&policy(2), &node("a"), together, Timestamp(now)) {
            prop_assert!(seconds > 0 && seconds <= 2 * HOUR / 1_000);
            let later = now + seconds * 1_000;
            // The same counts as seen from that window.
            let passed = later / HOUR - now / HOUR;
            let aged = match passed {
                0 => tally,
                1 => Tally { before: tally.current, current: Default::default(), last: tally.last },
                _ => Tally { before: Default::default(), current: Default::default(), last: tally.last },
            };
            prop_assert_eq!(aged.verdict(&policy(2), &node("a"), together, Timestamp(later)), Verdict::Allowed);
        }
    }
}
