//! A made-up node under a made-up load: a processor that works in order, and a disk that commits in groups. It shows
//! the purpose of the limiter: at many times its capacity the node works at nearly its capacity and keeps every promise.

use std::{collections::VecDeque, ops::Range, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::limiter::{Limiter, Sample, Targets};

/// Promised maximum time until a BYE is answered.
const PROMISE: f64 = 0.350;
/// One step of the model in seconds.
const STEP: f64 = 0.001;

/// A node's costs, in seconds.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// Time of the processor to begin a call, to end one, and for each second of one.
    begin: f64,
    end: f64,
    second: f64,
    /// Time of the disk for each group of commits, and for each commit in it. A call commits at its beginning and at its end.
    group: f64,
    commit: f64,
}

impl Node {
    /// Calls a second that the node carries permanently, if each lasts `stay` seconds and a commit, which waits for half a group
    /// on average, may take a third of the promise.
    fn capacity(&self, stay: f64) -> f64 {
        let processor = 1.0 / (self.begin + self.end + self.second * stay);
        let each = PROMISE / 4.5;
        let disk = (each - self.group) / self.commit / each / 2.0;
        processor.min(disk)
    }
}

/// A load on a node.
struct Drive<'a> {
    node: Node,
    seed: u64,
    seconds: u32,
    /// Mean length of a call in seconds.
    stay: f64,
    /// New calls a second at a time.
    rate: &'a dyn Fn(f64) -> f64,
    /// True while the disk does nothing, at a time.
    stands: &'a dyn Fn(f64) -> bool,
    /// True while other processes have the processor, at a time.
    stolen: &'a dyn Fn(f64) -> bool,
    /// New calls a second that another node has carried.
    expected: f64,
}

/// Results of calls, per second.
struct Found {
    offered: Vec<u32>,
    admitted: Vec<u32>,
    /// BYEs that were answered in time.
    kept: Vec<u32>,
    broken: u32,
    /// The longest time to answer a BYE.
    worst: f64,
}

impl Found {
    fn refused(&self, seconds: Range<usize>) -> u32 {
        seconds.map(|second| self.offered[second] - self.admitted[second]).sum()
    }
}

fn sum(counts: &[u32], seconds: Range<usize>) -> f64 {
    counts[seconds].iter().copied().map(f64::from).sum()
}

/// Work for the processor; an end has the time of the hang-up.
enum Job {
    Begin,
    End { since: f64 },
}

fn drive(load: &Drive) -> Found {
    let Drive { node, seed, seconds, stay, rate, stands, stolen, expected } = *load;
    let mut random = StdRng::seed_from_u64(seed);
    let mut limiter = Limiter::new(Targets::of(Duration::from_secs_f64(PROMISE)), Duration::ZERO);
    limiter.expect(expected);
    let counts = || vec![0; seconds as usize + 1];
    let mut found = Found { offered: counts(), admitted: counts(), kept: counts(), broken: 0, worst: 0.0 };
    let mut jobs: VecDeque<(f64, Job)> = VecDeque::new();
    // End times of the calls in progress, the next one first.
    let mut calls: VecDeque<f64> = VecDeque::new();
    // Commits: when they were handed over, and since when a BYE waits.
    let mut waiting: Vec<(f64, Option<f64>)> = Vec::new();
    let mut group = Vec::new();
    let (mut group_done, mut left, mut busy) = (0.0, 0.0_f64, 0.0);
    let (mut admitted, mut ended, mut commits) = (0, 0, Vec::new());
    for step in 0..(f64::from(seconds) / STEP) as u64 {
        let now = step as f64 * STEP;
        let (at, second) = (Duration::from_secs_f64(now), now as usize);
        if random.random_bool((rate(now) * STEP).min(1.0)) {
            found.offered[second] += 1;
            if limiter.admit(at) {
                found.admitted[second] += 1;
                admitted += 1;
                jobs.push_back((node.begin, Job::Begin));
                let ends = now + stay * random.random_range(0.8..1.2);
                calls.insert(calls.partition_point(|end| *end < ends), ends);
            }
        }
        while calls.front().is_some_and(|ends| *ends <= now) {
            calls.pop_front();
            jobs.push_back((node.end, Job::End { since: now }));
        }
        // Media comes first, as its threads do.
        let media = (calls.len() as f64 * node.second * STEP).min(STEP);
        left = if stolen(now) { 0.0 } else { (left + STEP - media).min(STEP) };
        busy += media;
        while left > 0.0 {
            let Some((cost, _)) = jobs.front_mut() else { break };
            let done = cost.min(left);
            (*cost, left, busy) = (*cost - done, left - done, busy + done);
            if *cost > 0.0 {
                break;
            }
            waiting.extend(jobs.pop_front().map(|(_, job)| match job {
                Job::Begin => (now, None),
                Job::End { since } => (now, Some(since)),
            }));
        }
        if now >= group_done && !stands(now) {
            for (since, bye) in group.drain(..) {
                commits.push(now - since);
                let Some(bye) = bye else { continue };
                ended += 1;
                found.worst = found.worst.max(now - bye);
                match now - bye <= PROMISE {
                    true => found.kept[second] += 1,
                    false => found.broken += 1,
                }
            }
            if !waiting.is_empty() {
                group = std::mem::take(&mut waiting);
                group_done = now + node.group + node.commit * group.len() as f64;
            }
        }
        if step % 100 == 99 {
            let oldest = group.first().or(waiting.first()).map_or(0.0, |(since, _)| now - since);
            let mean = commits.iter().sum::<f64>() / commits.len().max(1) as f64;
            let sample = Sample {
                admitted,
                ended,
                commit: (!commits.is_empty()).then(|| Duration::from_secs_f64(mean)),
                pending: Duration::from_secs_f64(oldest),
                lag: Duration::from_secs_f64(jobs.iter().map(|(cost, _)| cost).sum()),
                media: None,
                processor: busy / 0.1,
                available: 1.0,
            };
            limiter.sample(at, &sample);
            (busy, commits) = (0.0, Vec::new());
        }
    }
    found
}

const NEVER: &dyn Fn(f64) -> bool = &|_| false;

/// No calls, and no expected rate.
const REST: Drive<'static> = Drive {
    node: PROCESSOR,
    seed: 1,
    seconds: 240,
    stay: 10.0,
    rate: &|_| 0.0,
    stands: NEVER,
    stolen: NEVER,
    expected: 0.0,
};

/// The processor limits: some 170 calls of 10 s a second, as was measured on one core.
const PROCESSOR: Node = Node { begin: 0.0018, end: 0.0022, second: 0.00018, group: 0.002, commit: 0.000_2 };
/// The disk limits: a group takes long, and each commit in it, too.
const SLOW_DISK: Node = Node { begin: 0.0005, end: 0.0005, second: 0.00018, group: 0.015, commit: 0.004 };
/// The disk limits: groups take as long as their commits.
const QUICK_DISK: Node = Node { begin: 0.0005, end: 0.0005, second: 0.00018, group: 0.001, commit: 0.004 };
/// A node that carries less than the limit of a node before its first measurement.
const WEAK: Node = Node { begin: 0.020, end: 0.025, second: 0.000_5, group: 0.002, commit: 0.000_2 };

const NODES: [(&str, Node); 3] = [("processor", PROCESSOR), ("slow disk", SLOW_DISK), ("quick disk", QUICK_DISK)];

#[test]
fn overloaded_node_handles_four_fifths_of_its_capacity_in_time() {
    for (name, node) in NODES {
        for (stay, times) in [(10.0, 1.2), (10.0, 2.0), (10.0, 4.0), (10.0, 10.0), (3.0, 2.0), (25.0, 2.0)] {
            for seed in 0..4 {
                let capacity = node.capacity(stay);
                let found = drive(&Drive { node, seed, stay, rate: &|_| capacity * times, ..REST });
                let share = sum(&found.kept, 140..240) / 100.0 / capacity;
                let what = format!("{name}, {times} × {capacity:.0}/s of {stay} s, seed {seed}");
                assert!(share >= 0.8, "{what}: {share:.2}");
                assert_eq!(found.broken, 0, "{what}: worst {:.3} s", found.worst);
            }
        }
    }
}

#[test]
fn node_weaker_than_the_initial_limit_answers_in_time() {
    let capacity = WEAK.capacity(10.0);
    for seed in 0..4 {
        let rate = |_: f64| capacity * 4.0;
        let found = drive(&Drive { node: WEAK, seed, rate: &rate, ..REST });
        let share = sum(&found.kept, 140..240) / 100.0 / capacity;
        assert!(share >= 0.65, "seed {seed}: {share:.2}");
        assert_eq!(found.broken, 0, "seed {seed}: worst {:.3} s", found.worst);
    }
}

#[test]
fn warm_node_below_capacity_refuses_under_one_call_in_1000() {
    for (name, node) in NODES {
        let capacity = node.capacity(10.0);
        for seed in 0..4 {
            let rate = |_: f64| capacity * 0.7;
            let found = drive(&Drive { node, seed, rate: &rate, ..REST });
            let refused = found.refused(80..240);
            assert!(f64::from(refused) <= sum(&found.offered, 80..240) / 1_000.0, "{name}, seed {seed}: {refused}");
            assert_eq!(found.broken, 0, "{name}, seed {seed}");
        }
    }
}

#[test]
fn node_that_takes_over_refuses_under_one_call_in_100() {
    for (name, node) in NODES {
        let capacity = node.capacity(10.0);
        let rate = |now: f64| capacity * if now < 100.0 { 0.4 } else { 0.75 };
        let found = drive(&Drive { node, seconds: 200, rate: &rate, ..REST });
        let refused = found.refused(80..200);
        assert!(f64::from(refused) <= sum(&found.offered, 80..200) / 100.0, "{name}: {refused}");
        assert_eq!(found.broken, 0, "{name}");
    }
}

#[test]
fn idle_node_takes_over_all_calls_that_another_has_carried() {
    for (name, node) in NODES {
        let load = node.capacity(10.0) * 0.75;
        let rate = |now: f64| if now < 20.0 { 0.0 } else { load };
        let refused = |expected| {
            let found = drive(&Drive { node, seconds: 80, rate: &rate, expected, ..REST });
            assert_eq!(found.broken, 0, "{name}");
            f64::from(found.refused(20..80)) / sum(&found.offered, 20..80)
        };
        assert!(refused(load) <= 0.01, "{name}: {:.3}", refused(load));
        let unknown = refused(0.0);
        assert!(unknown > 0.1, "{name}: {unknown:.3}");
    }
}

/// The node breaks promises to some of its first callers, and then goes by what it has measured itself.
#[test]
fn node_with_half_the_capacity_of_another_soon_handles_most_of_its_own() {
    for (name, node) in NODES.into_iter().chain([("weak", WEAK)]) {
        let capacity = node.capacity(10.0);
        for seed in 0..4 {
            let found = drive(&Drive { node, seed, rate: &|_| capacity * 2.0, expected: capacity * 2.0, ..REST });
            let (broken, share) = (f64::from(found.broken), sum(&found.kept, 140..240) / 100.0 / capacity);
            assert!(broken <= sum(&found.kept, 0..240) * 0.05, "{name}, seed {seed}: {broken} broken");
            assert!(share >= 0.65, "{name}, seed {seed}: {share:.2}");
        }
    }
}

/// 40 calls a second, and 80 from the 60th second on. The event loop is late at the 70th second.
#[test]
fn rate_counts_as_carried_after_half_a_minute_without_late_work() {
    let mut limiter = Limiter::new(Targets::of(Duration::from_secs_f64(PROMISE)), Duration::ZERO);
    let (mut calls, mut carried) = (0, vec![0.0]);
    for tenth in 1..=1_200_u64 {
        calls += if tenth < 600 { 4 } else { 8 };
        let sample = Sample {
            admitted: calls,
            ended: calls,
            commit: None,
            pending: Duration::ZERO,
            lag: Duration::from_millis(if (700..710).contains(&tenth) { 200 } else { 0 }),
            media: None,
            processor: 0.1,
            available: 1.0,
        };
        limiter.sample(Duration::from_millis(tenth * 100), &sample);
        carried.push(limiter.sustained());
    }
    let at = |second: usize| carried[second * 10];
    assert_eq!(at(29), 0.0, "too early");
    assert!((38.0..=41.0).contains(&at(35)), "{}", at(35));
    assert!(at(98) <= 60.0, "work was late less than half a minute ago: {}", at(98));
    assert!(at(110) >= 78.0, "{}", at(110));
}

/// A pause of the process delays one sample, and by the next one all is in time. Only work that stays late closes the gate.
#[test]
fn one_late_sample_of_an_idle_node_closes_no_gate() {
    let sample = |lag| Sample {
        admitted: 0,
        ended: 0,
        commit: None,
        pending: Duration::ZERO,
        lag,
        media: None,
        processor: 0.1,
        available: 1.0,
    };
    let closes = |lags: &[u64]| {
        let mut limiter = Limiter::new(Targets::of(Duration::from_secs_f64(PROMISE)), Duration::ZERO);
        let mut at = Duration::ZERO;
        lags.iter().map(|lag| Duration::from_millis(*lag)).any(|lag| {
            at += Duration::from_millis(100) + lag;
            limiter.sample(at, &sample(lag));
            limiter.closed()
        })
    };
    for pause in [100, 160, 400, 4_000] {
        assert!(!closes(&[0, pause, 0, 0, 0]), "{pause} ms");
    }
    assert!(closes(&[0, 250, 250]));
    assert!(closes(&[100; 5]));
}

#[test]
fn idle_node_admits_a_burst_of_fifty_calls() {
    let rate = |now: f64| if (20.0..20.05).contains(&now) { 1_000.0 } else { 0.0 };
    for (name, node) in NODES {
        let found = drive(&Drive { node, seconds: 40, rate: &rate, ..REST });
        assert_eq!((found.refused(0..40), found.broken), (0, 0), "{name}");
    }
}

#[test]
fn disk_pause_of_four_seconds_lowers_no_limit() {
    for (name, node) in NODES {
        let rate = |_: f64| node.capacity(10.0) * 0.1;
        let found =
            drive(&Drive { node, seconds: 200, rate: &rate, stands: &|now| (100.0..104.0).contains(&now), ..REST });
        assert!(found.refused(101..104) > 0, "{name}: callers are sent elsewhere meanwhile");
        assert_eq!(found.refused(107..200), 0, "{name}");
    }
}

/// One caller at most is on the node during the pause: that is no load.
#[test]
fn pause_of_an_idle_node_lowers_no_limit() {
    for (name, node) in NODES {
        let load = node.capacity(10.0) * 0.5;
        let rate = |now: f64| if now < 40.0 { 0.1 } else { load };
        for pause in [6.0..10.0, 12.0..12.8, 20.0..24.0] {
            let during = |now: f64| pause.contains(&now);
            for (what, stands, stolen) in
                [("disk", &during as &dyn Fn(f64) -> bool, NEVER), ("processor", NEVER, &during)]
            {
                for seed in 0..4 {
                    let load =
                        Drive { node, seed, seconds: 100, rate: &rate, stands, stolen, expected: load, ..REST };
                    let found = drive(&load);
                    let share = f64::from(found.refused(42..100)) / sum(&found.offered, 42..100);
                    assert!(share <= 0.01, "{name}, {what} stood {pause:?}, seed {seed}: {share:.3}");
                }
            }
        }
    }
}

#[test]
fn overloaded_node_soon_handles_as_much_as_before_a_pause() {
    for (name, node) in NODES {
        let capacity = node.capacity(10.0);
        for (seed, length) in [(0, 0.3), (1, 0.6), (2, 1.0), (3, 2.0)] {
            let (rate, pause) = (|_: f64| capacity * 2.0, |now: f64| (150.0..150.0 + length).contains(&now));
            for (what, stands, stolen) in
                [("disk", &pause as &dyn Fn(f64) -> bool, NEVER), ("processor", NEVER, &pause)]
            {
                let found = drive(&Drive { node, seed, rate: &rate, stands, stolen, ..REST });
                let share = sum(&found.kept, 180..240) / 60.0 / capacity;
                assert!(share >= 0.75, "{name}, {what} paused for {length} s: {share:.2}");
            }
        }
    }
}

/// A machine that is shared with others: pauses that are far shorter than a call.
#[test]
fn overloaded_node_with_frequent_short_pauses_handles_most_of_its_capacity() {
    for (name, node) in NODES {
        let capacity = node.capacity(10.0);
        for seed in 0..4 {
            let (rate, stolen) = (|_: f64| capacity * 2.0, |now: f64| now % 9.0 < 0.3);
            let load = Drive { node, seed, rate: &rate, stolen: &stolen, ..REST };
            let share = sum(&drive(&load).kept, 140..240) / 100.0 / capacity;
            assert!(share >= 0.6, "{name}, seed {seed}: {share:.2}");
        }
    }
}
