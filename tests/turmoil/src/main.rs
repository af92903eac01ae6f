//! The role manager with real Raft on simulated machines: clocks that drift, disks that lose unsynced writes, a network
//! that delays, loses and cuts, and processes that die between any two instructions.
//!
//! One process plays one seed, so that the same seed is the same run: `twinbox-turmoil --seed N [--flaw NAME]
//! [--trace]`. `tests/roles.rs` plays many.

mod board;
mod chance;
mod clocks;
mod machine;
mod pauses;
mod world;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
};
use world::{Flaw, World};

const USAGE: &str = "usage: twinbox-turmoil --seed N [--flaw NAME] [--trace] [--certificates DIR] | --certify DIR";

/// Exit code of a run with a violation that is seen by effects.
const OUTSIDE: u8 = 1;
/// Exit code of a run with a violation that is seen by missing effects.
const STUCK: u8 = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    if let Some(dir) = value("--certify") {
        return match world::certify(Path::new(dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    let Some(seed) = value("--seed").and_then(|text| text.parse().ok()) else {
        return fail(&USAGE);
    };
    let flaw = match value("--flaw") {
        None => None,
        Some(name) => match Flaw::ALL.iter().find(|(known, _)| known == name) {
            Some((_, flaw)) => Some(*flaw),
            None => return fail(&format!("no flaw {name}; there are {:?}", Flaw::ALL.map(|(name, _)| name))),
        },
    };
    let made = tempfile::tempdir();
    let certificates = match (value("--certificates"), &made) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Ok(dir)) => match world::certify(dir.path()) {
            Ok(()) => dir.path().to_owned(),
            Err(error) => return fail(&error),
        },
        (None, Err(error)) => return fail(error),
    };
    log();
    let trace = has("--trace");
    // On a separate thread, which has used no randomness yet: the log does not change the run.
    let player = thread::spawn(move || play(seed, flaw, &certificates, trace));
    player.join().unwrap_or(ExitCode::from(STUCK))
}

fn play(seed: u64, flaw: Option<Flaw>, certificates: &Path, trace: bool) -> ExitCode {
    chance::seed(seed);
    let mut world = match World::new(seed, flaw, certificates) {
        Ok(world) => world,
        Err(error) => return fail(&error),
    };
    let board = world.board();
    // A task that panics is a defect, whether or not another task waits for it. But Raft's assertions must not find a
    // flaw before it is seen outside: the product restarts a core that ended.
    if flaw.is_none() {
        let board = board.clone();
        std::panic::set_hook(Box::new(move |panic| board.violate(false, format!("a panic: {panic}"))));
    } else {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let played = world.play();
    if trace {
        board.take_trace().iter().for_each(|line| println!("{line}"));
    }
    match played {
        Ok(report) => {
            println!("seed {seed}: {report}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("seed {seed}: {}", violation.text);
            ExitCode::from(if violation.outside { OUTSIDE } else { STUCK })
        }
    }
}

fn fail(error: &dyn fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(2)
}

/// The product's log, if requested by `TWINBOX_LOG`, with the time of the simulation.
fn log() {
    struct Global;
    impl FormatTime for Global {
        fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
            write!(w, "{:>9.3} ms ", clocks::last().as_secs_f64() * 1000.0)
        }
    }
    if let Ok(filter) = EnvFilter::try_from_env("TWINBOX_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_timer(Global).with_ansi(false).init();
    }
}
