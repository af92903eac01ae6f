//! Plays one simulated cluster and prints the events: `--seed N [--mutant NAME]`; or many: `--seeds N`.

use std::process::ExitCode;

use twinbox_simulation::{Mutant, Report, replay, run};

const USAGE: &str = "usage: twinbox-simulation --seed N [--mutant NAME] | --seeds N [--from M] [--mutant NAME]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let number = |name: &str| value(name).and_then(|text| text.parse::<u64>().ok());
    let mutant = match value("--mutant").map(|name| (name, Mutant::from_name(name))) {
        Some((name, None)) => {
            eprintln!("there is no mutant '{name}'; there are: {:?}", Mutant::ALL);
            return ExitCode::from(2);
        }
        known => known.and_then(|(_, mutant)| mutant),
    };
    match (number("--seed"), number("--seeds")) {
        (Some(seed), None) => {
            let (result, trace) = replay(seed, mutant);
            trace.iter().for_each(|line| println!("{line}"));
            finish(result.map_err(|failure| failure.to_string()))
        }
        (None, Some(seeds)) => {
            let mut total = Report::default();
            let from = number("--from").unwrap_or(0);
            for seed in from..from.saturating_add(seeds) {
                match run(seed, mutant) {
                    Ok(report) => total += report,
                    Err(failure) => return finish(Err(failure.to_string())),
                }
            }
            finish(Ok(total))
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn finish(result: Result<Report, String>) -> ExitCode {
    match result {
        Ok(report) => {
            println!("{report:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}
