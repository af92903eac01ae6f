//! The role manager in the simulation. `TWINBOX_SEEDS=N` plays N seeds, from `TWINBOX_FIRST_SEED` on; `TWINBOX_SEED=S`
//! replays one with its trace; `TWINBOX_FLAW_SEEDS=N` counts the seeds, of N, that find each broken rule. Broken rules
//! are searched from the same seed on in every run: 0, but for one that few seeds find.

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use twinbox_ids::{Epoch, Incarnation};
use twinbox_roles_core::Duty;
use twinbox_simulation::{Effect, Failure, Mutant, Receiver, Report, Violation, replay, run};

/// Number of seeds played.
const SEEDS: u64 = 10_000;
/// Number of seeds within which each broken rule must be found.
const SEEDS_FOR_MUTANTS: u64 = 20_000;
/// Few seeds find this broken rule: the search begins shortly before the first of them, 4276. From 0 on it took longer than all
/// other searches together.
const RARELY_FOUND: (Mutant, u64) = (Mutant::NoQuestion, 4_200);

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Plays seeds on all cores; returns the lowest that fails. A broken rule counts as found only by a violation that
/// shows it ([`Mutant::is_shown_by`]), not by any cluster that gets stuck.
fn first_failure(seeds: u64, mutant: Option<Mutant>) -> Result<Report, Failure> {
    failure(seeds, mutant, |failure| mutant.is_none_or(|mutant| mutant.is_shown_by(&failure.violation)))
}

fn failure(
    seeds: u64,
    mutant: Option<Mutant>,
    counts: impl Fn(&Failure) -> bool + Sync,
) -> Result<Report, Failure> {
    // Seeds that find a broken rule are known: they must not move with the first seed of a run.
    let from = match mutant {
        Some(mutant) if mutant == RARELY_FOUND.0 => RARELY_FOUND.1,
        Some(_) => 0,
        None => number("TWINBOX_FIRST_SEED").unwrap_or(0),
    };
    let (next, seeds) = (AtomicU64::new(from), from + seeds);
    let play = || -> Result<Report, Failure> {
        let mut total = Report::default();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds {
                return Ok(total);
            }
            match run(seed, mutant) {
                Ok(report) => total += report,
                Err(failure) if counts(&failure) => {
                    next.store(seeds, Relaxed);
                    return Err(failure);
                }
                Err(_) => {}
            }
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        let mut total = Report::default();
        let mut failure: Option<Failure> = None;
        for player in players {
            match player.join().expect("no panic") {
                Ok(report) => total += report,
                Err(found) if failure.as_ref().is_none_or(|known| found.seed < known.seed) => failure = Some(found),
                Err(_) => {}
            }
        }
        failure.map_or(Ok(total), Err)
    })
}

#[test]
fn no_two_members_act_concurrently_and_one_acts_with_a_healthy_majority() {
    if let Some(seed) = number("TWINBOX_SEED") {
        let (result, trace) = replay(seed, None);
        trace.iter().for_each(|line| println!("{line}"));
        match result {
            Ok(report) => println!("seed {seed}: {report:?}"),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let seeds = number("TWINBOX_SEEDS").unwrap_or(SEEDS);
    match first_failure(seeds, None) {
        Ok(report) => {
            println!("{seeds} seeds: {report:?}");
            // A simulation without events proves nothing.
            assert!(report.epochs > 2 * seeds, "{report:?}");
            assert!(report.terms > 3 * seeds, "{report:?}");
            assert!(report.solo_epochs > seeds / 10, "{report:?}");
            assert!(report.heirs > seeds / 2, "{report:?}");
            assert!(report.outbox.received > 4 * seeds, "{report:?}");
            assert!(report.outbox.repeats * 2_000 > seeds, "{report:?}");
            assert!(report.outbox.suspects * 500 > seeds, "{report:?}");
            assert!(report.outbox.dead_letters * 1_000 > seeds, "{report:?}");
        }
        Err(failure) => panic!("{failure}\nwhat happened: TWINBOX_SEED={}", failure.seed),
    }
}

/// Epochs are numbered across duties: a later epoch of one says nothing about the other.
#[test]
fn effects_of_a_duty_are_judged_by_the_epochs_of_that_duty_alone() {
    let node = || "a".parse().expect("a name");
    let effect = |duty, number| Effect {
        duty,
        epoch: Epoch { generation: 0, number, node: node() },
        incarnation: Incarnation(1),
        solo: false,
        paused: false,
    };
    let mut receiver = Receiver::default();
    for (duty, number) in
        [(Duty::Notifier, 2), (Duty::Mta, 3), (Duty::Notifier, 2), (Duty::Notifier, 4), (Duty::Mta, 3)]
    {
        assert_eq!(receiver.accept(number, &effect(duty, number)), Ok(()), "{duty} {number}");
    }
    assert_eq!((receiver.effects, receiver.epochs), (5, 3));
    assert_eq!(receiver.latest(Duty::Mta).map(|(_, epoch)| epoch.number), Some(3));
    let late = receiver.accept(9, &effect(Duty::Notifier, 2)).expect_err("its next epoch has begun");
    assert!(matches!(&late, Violation::Overlap { duty: Duty::Notifier, .. }), "{late}");
}

#[test]
fn a_seed_determines_the_history() {
    for seed in 0..20 {
        let (report, trace) = replay(seed, None);
        let (again, same) = replay(seed, None);
        assert_eq!(report.expect("kept"), again.expect("kept"));
        assert_eq!(trace, same);
    }
}

#[test]
fn every_mutant_is_found() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        if let Some(seeds) = number("TWINBOX_FLAW_SEEDS") {
            let found = AtomicU64::new(0);
            let never = |failure: &Failure| {
                found.fetch_add(u64::from(mutant.is_shown_by(&failure.violation)), Relaxed);
                false
            };
            failure(seeds, Some(mutant), never).expect("nothing counts");
            println!("{mutant:?}: in {} of {seeds} seeds", found.into_inner());
            continue;
        }
        match first_failure(SEEDS_FOR_MUTANTS, Some(mutant)) {
            Ok(report) => missed.push((mutant, report)),
            Err(failure) => println!("{mutant:?}: {failure}"),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
