//! The role manager with real Raft, simulated. `TWINBOX_RAFT_SEEDS=N` plays N seeds, from `TWINBOX_FIRST_SEED` on;
//! `TWINBOX_SEED=S` replays one with its trace; `TWINBOX_FLAW_SEEDS=N` counts the seeds, of N, that find each flaw.
//! Flaws are searched from seed 0 on in every run. Each seed is a separate process: so the same seed is the same run.

use std::{
    env,
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use tempfile::TempDir;

/// Number of seeds played.
const SEEDS: u64 = 120;
/// Number of seeds within which each flaw must be found.
const SEEDS_FOR_FLAWS: u64 = 200;
/// Exit codes of a violation that is seen by its effects.
const OUTSIDE: [i32; 1] = [1];
/// Exit codes of a violation that is seen by effects or by missing ones.
const AT_ALL: [i32; 2] = [1, 3];
/// Each flaw, and the exit codes by which it must be found. Lying disks mostly leave Raft without a leader that its own
/// assertions permit, before two members act.
const FLAWS: [(&str, &[i32]); 6] = [
    ("NoNewLeaderWait", &OUTSIDE),
    ("NoQuorumNeeded", &OUTSIDE),
    ("NoConfirmation", &OUTSIDE),
    ("LyingDisks", &AT_ALL),
    ("WildClocks", &OUTSIDE),
    ("StandingClock", &OUTSIDE),
];

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn simulation() -> Command {
    Command::new(env!("CARGO_BIN_EXE_twinbox-turmoil"))
}

/// Certificates for all runs.
fn certificates() -> TempDir {
    let dir = TempDir::new().expect("a directory");
    let made = simulation().arg("--certify").arg(dir.path()).status().expect("it runs");
    assert!(made.success());
    dir
}

fn play(seed: u64, certificates: &Path, more: &[&str]) -> Output {
    let mut command = simulation();
    command.arg("--seed").arg(seed.to_string()).arg("--certificates").arg(certificates).args(more);
    command.output().expect("it runs")
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    text.lines().last().unwrap_or_default().to_owned()
}

/// Plays seeds from `from` on, on all cores, until one ends as `wanted`; returns the output of the lowest such seed.
fn first(from: u64, seeds: u64, more: &[&str], wanted: impl Fn(&Output) -> bool + Sync) -> Option<String> {
    let certificates = certificates();
    let (next, seeds) = (AtomicU64::new(from), from + seeds);
    let player = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds {
                return None;
            }
            let output = play(seed, certificates.path(), more);
            if wanted(&output) {
                next.store(seeds, Relaxed);
                return Some((seed, last_line(&output)));
            }
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(player)).collect();
        let found = players.into_iter().filter_map(|player| player.join().expect("no panic"));
        found.min_by_key(|(seed, _)| *seed).map(|(_, text)| text)
    })
}

#[test]
fn no_two_members_act_concurrently_and_one_acts_with_a_healthy_majority() {
    if let Some(seed) = number("TWINBOX_SEED") {
        let output = play(seed, certificates().path(), &["--trace"]);
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", last_line(&output));
        return;
    }
    let seeds = number("TWINBOX_RAFT_SEEDS").unwrap_or(SEEDS);
    let from = number("TWINBOX_FIRST_SEED").unwrap_or(0);
    if let Some(failure) = first(from, seeds, &[], |output| !output.status.success()) {
        panic!("{failure}\ntrace: run the test with TWINBOX_SEED=N and that seed");
    }
    println!("{seeds} seeds");
}

#[test]
fn a_seed_determines_the_history() {
    for seed in 0..3 {
        let once = play(seed, certificates().path(), &["--trace"]);
        let again = play(seed, certificates().path(), &["--trace"]);
        assert!(once.stdout.len() > 2_000, "{}", last_line(&once));
        assert_eq!(String::from_utf8_lossy(&once.stdout), String::from_utf8_lossy(&again.stdout));
    }
}

#[test]
fn every_flaw_is_found() {
    let mut missed = Vec::new();
    for (flaw, codes) in FLAWS {
        let found = |output: &Output| output.status.code().is_some_and(|code| codes.contains(&code));
        if let Some(seeds) = number("TWINBOX_FLAW_SEEDS") {
            let count = AtomicU64::new(0);
            let never = |output: &Output| {
                count.fetch_add(u64::from(found(output)), Relaxed);
                false
            };
            first(0, seeds, &["--flaw", flaw], never);
            println!("{flaw}: in {} of {seeds} seeds", count.into_inner());
            continue;
        }
        match first(0, SEEDS_FOR_FLAWS, &["--flaw", flaw], found) {
            Some(text) => println!("{flaw}: {text}"),
            None => missed.push(flaw),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
