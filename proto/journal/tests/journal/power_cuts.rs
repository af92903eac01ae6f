//! Random work, killed in random calls, with and without a power cut: all acknowledged batches come back.

use rand::{Rng, SeedableRng, rngs::StdRng};
use twinbox_journal::{AppendError, JournalError, OpenError, Position};

use crate::{
    CONFIG, Opened, append_all, batch, batches, file, open, refusal,
    sim::{Cut, Lie, SimMedium},
    try_open,
};

/// The batches that must come back.
struct Model {
    /// Every batch that is in the journal, also those that were released, in order.
    history: Vec<(Vec<u8>, Position)>,
    /// Number of released ones.
    released: usize,
    /// Batch whose append was interrupted.
    in_flight: Option<Vec<u8>>,
    appended: u64,
}

impl Model {
    /// Compares with what a start has replayed: the batches that are not released, in order, once, possibly preceded by
    /// released ones without a gap, possibly followed by the one in flight.
    fn judge(&mut self, opened: &Opened) -> Result<(), String> {
        let mut replayed = &opened.replayed[..];
        let in_flight = self.in_flight.take();
        if let (Some(last), Some(expected)) = (replayed.last(), in_flight)
            && *last == expected
        {
            replayed = &replayed[..replayed.len() - 1];
            self.history.push((expected, opened.writer.position()));
            self.compare(replayed, self.history.len() - 1)
        } else {
            self.compare(replayed, self.history.len())
        }
    }

    fn compare(&self, replayed: &[Vec<u8>], end: usize) -> Result<(), String> {
        let expected: Vec<&Vec<u8>> = self.history[..end].iter().map(|(batch, _)| batch).collect();
        let begin = expected.len().checked_sub(replayed.len()).ok_or("more batches than were appended")?;
        if begin > self.released.min(end) {
            return Err(format!("batch {begin} is the first, {} are released", self.released));
        }
        match expected[begin..].iter().zip(replayed).position(|(expected, replayed)| *expected != replayed) {
            Some(wrong) => Err(format!("batch {} differs", begin + wrong)),
            None => Ok(()),
        }
    }

    /// A batch that no other one equals.
    fn next_batch(&mut self, random: &mut StdRng, largest: u64) -> Vec<u8> {
        self.appended += 1;
        let length = match random.random_range(0..20) {
            0 => largest,
            1..4 => random.random_range(8..=largest),
            _ => random.random_range(8..=6000),
        };
        let mut batch = vec![random.random::<u8>(); length as usize];
        batch[..8].copy_from_slice(&self.appended.to_le_bytes());
        batch
    }

    /// One random call of the journal. Errors count while the process lives.
    fn act(&mut self, random: &mut StdRng, opened: &mut Opened, sim: &SimMedium) -> Result<(), String> {
        match random.random_range(0..100) {
            0..60 => {
                let batch = self.next_batch(random, opened.writer.largest());
                let (first, second) = batch.split_at(random.random_range(0..=batch.len()));
                let appended = opened.writer.append(&[first, &[], second]);
                match appended {
                    Ok(position) => self.history.push((batch, position)),
                    Err(AppendError::Full { .. }) => {}
                    Err(_) if sim.is_dead() => self.in_flight = Some(batch),
                    Err(error) => return Err(error.to_string()),
                }
            }
            60..80 if self.released < self.history.len() => {
                let last = random.random_range(self.released..self.history.len());
                self.released = last + 1;
                let done = opened.recycler.release(self.history[last].1);
                done.or_else(|error| if sim.is_dead() { Ok(()) } else { Err(error.to_string()) })?;
            }
            _ => match opened.recycler.prepare() {
                Ok(()) | Err(JournalError::Full { .. }) => {}
                Err(_) if sim.is_dead() => {}
                Err(error) => return Err(error.to_string()),
            },
        }
        Ok(())
    }
}

/// A random history of one journal; an error tells the rule that it broke.
fn run(seed: u64, lie: Lie) -> Result<(), String> {
    let sim = SimMedium::new(seed, lie);
    let mut random = StdRng::seed_from_u64(!seed);
    let mut model = Model { history: Vec::new(), released: 0, in_flight: None, appended: 0 };
    if random.random_bool(0.3) {
        sim.set_room(random.random_range(1..6));
    }
    for _ in 0..8 {
        if random.random_bool(0.8) {
            sim.kill_in(random.random_range(1..120));
        }
        match try_open(&sim) {
            Ok(mut opened) => {
                model.judge(&opened)?;
                for _ in 0..random.random_range(0..40) {
                    if sim.is_dead() {
                        break;
                    }
                    model.act(&mut random, &mut opened, &sim)?;
                }
            }
            Err(_) if sim.is_dead() => {}
            Err(error) => return Err(error.to_string()),
        }
        if random.random_bool(0.6) {
            let shares = [0.0, 0.1, 0.5, 0.9, 1.0];
            let share = |random: &mut StdRng| shares[random.random_range(0..shares.len())];
            sim.power_cut(Cut { sectors: share(&mut random), names: share(&mut random) });
        } else {
            sim.restart();
        }
    }
    let opened = try_open(&sim).map_err(|error| error.to_string())?;
    model.judge(&opened)
}

/// `TWINBOX_JOURNAL_SEEDS` is the number of histories, `TWINBOX_JOURNAL_SEED` the first one.
#[test]
fn acknowledged_batches_come_back_in_order_after_kills_and_power_cuts() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("TWINBOX_JOURNAL_SEED").unwrap_or(0);
    let count = number("TWINBOX_JOURNAL_SEEDS").unwrap_or(2_000);
    for seed in first..first + count {
        if let Err(broken) = run(seed, Lie::None) {
            panic!("seed {seed}: {broken}; again with TWINBOX_JOURNAL_SEED={seed} TWINBOX_JOURNAL_SEEDS=1");
        }
    }
}

#[test]
fn simulation_finds_syncs_that_do_nothing() {
    assert!((0..200).any(|seed| run(seed, Lie::Syncs).is_err()), "no acknowledged batch was lost");
}

#[test]
fn simulation_finds_stale_batches_that_are_accepted() {
    assert!((0..200).any(|seed| run(seed, Lie::StaleBatches).is_err()), "no old batch came back");
}

/// Eight full segments, all but the last released; the header of the ninth permits the removal of most of them.
fn removed_after_a_header(lie: Lie) -> SimMedium {
    let sim = SimMedium::new(1, lie);
    let Opened { mut writer, recycler, .. } = open(&sim);
    let end = append_all(&mut writer, 0..56);
    recycler.release(end).expect("a release");
    recycler.prepare().expect("a segment");
    assert_eq!(sim.names(), [file(1), file(6), file(7), file(8)], "one is recycled, two are spare");
    sim.power_cut(Cut { sectors: 0.0, names: 1.0 });
    sim
}

#[test]
fn segments_are_removed_when_the_header_that_permits_it_is_durable() {
    assert_eq!(open(&removed_after_a_header(Lie::None)).replayed, batches(49..56));
}

#[test]
fn removal_that_a_lost_header_permitted_is_found() {
    let refused = refusal(&removed_after_a_header(Lie::HeaderSyncs));
    assert_eq!(refused, OpenError::Missing { segment: 2 });
}

#[test]
fn removals_that_a_power_cut_undoes_bring_no_batch_back() {
    let sim = SimMedium::new(1, Lie::None);
    let Opened { mut writer, recycler, .. } = open(&sim);
    let end = append_all(&mut writer, 0..56);
    recycler.release(end).expect("a release");
    recycler.prepare().expect("a segment");
    sim.power_cut(Cut { sectors: 1.0, names: 0.0 });
    assert_eq!(sim.names().len(), 8, "the removed files are back");
    let Opened { mut writer, recycler, replayed } = open(&sim);
    assert_eq!(replayed, batches(49..56));
    append_all(&mut writer, 56..57);
    recycler.prepare().expect("a segment");
    assert!(sim.names().len() <= 6, "they are removed again: {:?}", sim.names());
}

/// The last batch of a killed process may be in the page cache alone: a start that replays it makes it durable first.
#[test]
fn batch_that_a_start_replayed_is_durable() {
    for calls in 1..=2 {
        let sim = SimMedium::new(3, Lie::None);
        let Opened { mut writer, .. } = open(&sim);
        append_all(&mut writer, 0..2);
        sim.kill_in(calls);
        writer.append(&[&batch(2)]).expect_err("the process was killed");
        sim.restart();
        let first = open(&sim).replayed;
        sim.power_cut(Cut { sectors: 0.0, names: 0.0 });
        assert_eq!(open(&sim).replayed, first, "killed in call {calls}");
    }
}

#[test]
fn torn_batch_that_a_start_left_out_stays_out() {
    let sim = SimMedium::new(4, Lie::None);
    let Opened { mut writer, .. } = open(&sim);
    append_all(&mut writer, 0..2);
    let torn = vec![9_u8; CONFIG.segment_bytes as usize / 2];
    // The write is whole, the sync is not; then the power cut takes a part of it.
    sim.kill_in(2);
    writer.append(&[&torn]).expect_err("the process was killed");
    sim.power_cut(Cut { sectors: 0.5, names: 1.0 });
    let Opened { mut writer, replayed, .. } = open(&sim);
    assert!(replayed.len() == 2 || replayed.len() == 3, "{} batches", replayed.len());
    let mut expected = replayed;
    for number in 10..12 {
        let same_begin = vec![9_u8; 5000 * (number - 9)];
        writer.append(&[&same_begin]).expect("an append");
        expected.push(same_begin);
        assert_eq!(open(&sim).replayed, expected);
    }
}
