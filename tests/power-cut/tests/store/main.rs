//! The disk of a store loses power at any moment: while the store opens, commits, records, deletes, purges, compacts its packs and
//! makes checkpoints. At the next start the store has all changes and all audio that it acknowledged, and all that an earlier start
//! found; a deleted recording does not come back. If all syncs do nothing, or those of one kind of file, the same test finds a loss.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use twinbox_power_cut::{NEEDS, PowerDisk, no_sync, possible};
use twinbox_testkit::{
    need::{self, Need},
    parameter,
};

mod failed_flush;
mod model;
mod writer;

use model::Model;

const POWER: Need = Need { name: NEEDS, there: possible };
/// Limit for one step of a store, on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Size of the disk, and the rounds after which a test takes a new one: changes stay in a store without peers.
const MEGABYTES: u64 = 768;
const ROUNDS_PER_DISK: u64 = 10;
/// Acknowledgements before a cut. After a replay the applier makes a checkpoint, and the next segment of the journal, some 200
/// acknowledgements later, notes what it releases.
const ACKNOWLEDGED: usize = 600;

/// Not a test of its own: the process of a drive.
#[test]
fn drive() {
    twinbox_power_cut::serve_if_asked();
}

/// Not a test of its own: the process that has the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_process() {
    writer::write_if_asked().await;
}

/// The process that has the store, and its lines.
struct Writer {
    child: Child,
    lines: Receiver<String>,
}

impl Writer {
    fn start(folder: &Path, environment: &[(&'static str, String)]) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(writer::FOLDER, folder)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Hands lines to the model until `last` is one of them.
    fn read_until(&self, model: &mut Model, last: impl Fn(&str) -> bool) -> Result<(), String> {
        loop {
            let line = self.lines.recv_timeout(LIMIT).expect("a line of the store");
            model.take(&line)?;
            if last(&line) {
                return Ok(());
            }
        }
    }

    /// Hands the lines that are here to the model.
    fn read_ready(&self, model: &mut Model) -> Result<(), String> {
        self.lines.try_iter().try_for_each(|line| model.take(&line))
    }

    /// Kills the process, and hands its last announcements to the model, and its acknowledgements if they still count. Its
    /// complaints are those of a disk without power.
    fn kill(mut self, model: &mut Model, late: bool) -> Result<(), String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let counts = |line: &String| model::is_announcement(line) || (late && model::is_acknowledgement(line));
        self.lines.iter().filter(counts).try_for_each(|line| model.take(&line))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Rounds of work and power cuts; the first loss, if there is one.
struct Rounds {
    disk: PowerDisk,
    model: Model,
    random: StdRng,
    run: u64,
    environment: Vec<(&'static str, String)>,
}

impl Rounds {
    fn new(seed: u64, environment: Vec<(&'static str, String)>) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { disk: PowerDisk::new(MEGABYTES, seed), model: Model::default(), random, run: 0, environment }
    }

    fn writer(&mut self) -> Writer {
        self.run += 1;
        Writer::start(&self.disk.folder().join("store"), &self.environment)
    }

    /// The power fails while the store opens, before any of its writes and flushes.
    fn cut_while_opening(&mut self) -> Result<(), String> {
        // In its first steps, in a replay, or in the checkpoint after it.
        let most = [20, 80, 300][self.run as usize % 3];
        let operations = self.random.random_range(0..most);
        self.disk.cut_after(operations);
        let writer = self.writer();
        self.finish(writer, &format!("{operations} operations after the start"), true)
    }

    /// The power fails before any write or flush of a store at work.
    fn cut_at_work(&mut self, most: u64) -> Result<(), String> {
        let writer = self.writer();
        writer.read_until(&mut self.model, |line| line == "open")?;
        let operations = self.random.random_range(0..most);
        self.disk.cut_after(operations);
        self.finish(writer, &format!("{operations} operations after the opening"), true)
    }

    /// The power fails after that many acknowledgements. Later ones do not count.
    fn cut_after_acknowledgements(&mut self, count: usize) -> Result<(), String> {
        let writer = self.writer();
        writer.read_until(&mut self.model, |line| line == "open")?;
        for _ in 0..count {
            writer.read_until(&mut self.model, model::is_acknowledgement)?;
        }
        writer.read_ready(&mut self.model)?;
        self.disk.cut();
        self.finish(writer, &format!("{count} acknowledgements"), false)
    }

    fn finish(&mut self, writer: Writer, moment: &str, late: bool) -> Result<(), String> {
        let cut = self.disk.wait_cut(LIMIT).unwrap_or_else(|| self.disk.cut());
        // An acknowledgement that comes after the cut rests on a flush before it.
        writer.kill(&mut self.model, late)?;
        self.model.ended(late);
        self.disk.restart();
        println!(
            "run {}: cut {moment}, seed {}: {} of {} unflushed sectors kept; {}",
            self.run, cut.seed, cut.kept, cut.unflushed, self.model
        );
        Ok(())
    }

    /// Opens the store once more and compares.
    fn judge(&mut self) -> Result<(), String> {
        let writer = self.writer();
        writer.read_until(&mut self.model, |line| line == "open")?;
        writer.kill(&mut self.model, false)
    }
}

#[test]
fn all_acknowledged_changes_and_audio_are_there_after_power_cuts_at_any_moment() {
    if !need::all(&[POWER]) {
        return;
    }
    let (rounds, seed) = (parameter("TWINBOX_POWER_ROUNDS", 12), parameter("TWINBOX_POWER_SEED", 0));
    println!("TWINBOX_POWER_SEED={seed}, {rounds} rounds");
    let (mut acknowledged, mut cleaned) = (0, [0_u64; 4]);
    let mut at = Rounds::new(seed, Vec::new());
    let mut count = |model: &Model| {
        acknowledged += model.acknowledged();
        cleaned.iter_mut().zip(model.cleaned()).for_each(|(sum, count)| *sum += count);
    };
    for round in 0..rounds {
        if round > 0 && round.is_multiple_of(ROUNDS_PER_DISK) {
            count(&at.model);
            at = Rounds::new(seed.wrapping_add(round), Vec::new());
        }
        let outcome = match round % 5 {
            // A store that is made, or one that replays its journal.
            0 | 2 => at.cut_while_opening(),
            1 => at.cut_at_work(400),
            // As in the tests without syncs, which shows that it is the missing sync that they find.
            3 => at.cut_after_acknowledgements(ACKNOWLEDGED),
            // Long enough for checkpoints, also for those that free segments of the journal.
            _ => at.cut_at_work(4_000),
        };
        outcome.unwrap_or_else(|loss| panic!("round {round}: {loss}"));
    }
    at.judge().unwrap_or_else(|loss| panic!("after the last round: {loss}"));
    count(&at.model);
    println!("{acknowledged} acknowledged changes, recordings and deletions, none lost");
    let [purged, blobs, packs, moved] = cleaned;
    println!("{purged} records purged, {blobs} blobs and {packs} packs removed, {moved} bytes moved");
    // Compaction begins with the third pack.
    assert!(acknowledged > 0 && (rounds < ROUNDS_PER_DISK || cleaned.iter().all(|count| *count > 0)));
}

/// The loss that the same test finds if the syncs of files with `of` in their path do nothing.
fn loss_without_syncs(of: Option<&str>) -> Option<String> {
    let folder = TempDir::new().unwrap();
    let seed = parameter("TWINBOX_POWER_SEED", 0);
    let mut at = Rounds::new(seed, no_sync(folder.path(), of));
    for round in 0..6 {
        let outcome = at.cut_after_acknowledgements(ACKNOWLEDGED);
        if let Err(loss) = outcome {
            println!("syncs of {}: round {round}: {loss}", of.unwrap_or("all files"));
            return Some(loss);
        }
    }
    at.judge().err()
}

#[test]
fn loss_is_found_with_all_syncs_taken_out() {
    if need::all(&[POWER]) {
        assert!(loss_without_syncs(None).is_some());
    }
}

#[test]
fn loss_is_found_without_syncs_of_the_journal() {
    if need::all(&[POWER]) {
        assert!(loss_without_syncs(Some("/db/journal/")).is_some());
    }
}

#[test]
fn loss_is_found_without_syncs_of_the_index_at_checkpoints() {
    if need::all(&[POWER]) {
        assert!(loss_without_syncs(Some("/db/index/")).is_some());
    }
}

#[test]
fn loss_is_found_without_syncs_of_the_runs() {
    if need::all(&[POWER]) {
        assert!(loss_without_syncs(Some("/db/runs/")).is_some());
    }
}

#[test]
fn loss_is_found_without_syncs_of_audio() {
    if need::all(&[POWER]) {
        assert!(loss_without_syncs(Some("/audio/")).is_some());
    }
}
