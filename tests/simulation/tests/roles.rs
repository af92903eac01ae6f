//! The role manager in the simulation. `TWINBOX_SEEDS=N` plays N seeds, `TWINBOX_SEED=S` replays one.

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use twinbox_simulation::{Failure, Mutant, Report, Violation, run};

const SEEDS: u64 = 2_000;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn seeds() -> u64 {
    number("TWINBOX_SEEDS").unwrap_or(SEEDS)
}

/// Plays seeds on all cores; the lowest that fails.
fn first_failure(seeds: u64, mutant: Option<Mutant>) -> Result<Report, Box<Failure>> {
    let next = AtomicU64::new(0);
    let play = || -> Result<Report, Box<Failure>> {
        let mut total = Report::default();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds {
                return Ok(total);
            }
            let report = run(seed, mutant).inspect_err(|_| next.store(seeds, Relaxed))?;
            total.effects += report.effects;
            total.epochs += report.epochs;
            total.terms += report.terms;
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        let mut total = Report::default();
        let mut failure: Option<Box<Failure>> = None;
        for player in players {
            match player.join().expect("no panic") {
                Ok(report) => {
                    total.effects += report.effects;
                    total.epochs += report.epochs;
                    total.terms += report.terms;
                }
                Err(found) if failure.as_ref().is_none_or(|known| found.seed < known.seed) => failure = Some(found),
                Err(_) => {}
            }
        }
        failure.map_or(Ok(total), Err)
    })
}

#[test]
fn two_never_act_at_once_and_somebody_acts_when_all_is_well() {
    if let Some(seed) = number("TWINBOX_SEED") {
        match run(seed, None) {
            Ok(report) => println!("seed {seed}: {report:?}"),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let seeds = seeds();
    match first_failure(seeds, None) {
        Ok(report) => {
            println!("{seeds} seeds: {report:?}");
            // A simulation in which nothing happens proves nothing.
            assert!(report.epochs > 2 * seeds, "{report:?}");
            assert!(report.terms > 3 * seeds, "{report:?}");
        }
        Err(failure) => panic!("replay with TWINBOX_SEED={}\n{failure}", failure.seed),
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..20 {
        assert_eq!(run(seed, None).expect("kept"), run(seed, None).expect("kept"));
    }
}

#[test]
fn every_broken_rule_is_found() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        match first_failure(seeds(), Some(mutant)) {
            Ok(report) => missed.push((mutant, report)),
            Err(failure) => {
                println!("{mutant:?}: seed {}: {}", failure.seed, failure.violation);
                // Found by what it does to the outside, not by a cluster that gets stuck.
                assert!(matches!(failure.violation, Violation::Overlap { .. } | Violation::TwoLives { .. }));
            }
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
