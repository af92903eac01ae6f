//! Random work, killed in random calls, with and without a power cut: what was synced comes back, and nothing else but
//! what was appended. A thread makes packs ahead, so a seed gives similar histories, not the same one.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng};
use twinbox_packs::{Config, Frame, Kind, PackError, Packs};

use crate::{CONFIG, REUSING, sim::SimMedium};

/// A frame that was given to an append.
struct Appended {
    kind: Kind,
    take: u32,
    offset: u64,
    payload: Vec<u8>,
    /// Its pack, unless the append was interrupted.
    pack: Option<u32>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is there in this process; a power cut may lose it.
    Written,
    /// It must come back.
    Durable,
    /// A start did not find it: it never comes back.
    Lost,
    /// Its pack was removed, which a power cut may undo.
    Removed,
}

#[derive(Default)]
struct Model {
    frames: BTreeMap<u128, Appended>,
}

impl Model {
    /// A frame that no other one equals.
    fn add(&mut self, random: &mut StdRng) -> u128 {
        let number = self.frames.len() as u128;
        let length = match random.random_range(0..20) {
            0 => random.random_range(0..=twinbox_packs::MAX_PAYLOAD),
            1..4 => random.random_range(0..200_000),
            _ => random.random_range(0..3_000),
        };
        let kind = if random.random_bool(0.5) { Kind::Chunk } else { Kind::Blob };
        let (take, offset) = (random.random(), random.random());
        let mut payload = vec![random.random::<u8>(); length];
        payload.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.frames.insert(number, Appended { kind, take, offset, payload, pack: None, fate: Fate::Written });
        number
    }

    fn append(&mut self, random: &mut StdRng, packs: &Packs<SimMedium>) -> Result<(), PackError> {
        let numbers: Vec<u128> = (0..random.random_range(1..5)).map(|_| self.add(random)).collect();
        let frame = |number: &u128| {
            let Appended { kind, take, offset, payload, .. } = &self.frames[number];
            Frame { kind: *kind, recording: *number, take: *take, offset: *offset, payload }
        };
        let extents = packs.append(&numbers.iter().map(frame).collect::<Vec<_>>())?;
        for (number, extent) in numbers.iter().zip(extents) {
            self.frames.get_mut(number).expect("the frame").pack = Some(extent.pack);
        }
        Ok(())
    }

    /// One random call. An error counts while the process lives.
    fn act(&mut self, random: &mut StdRng, packs: &Packs<SimMedium>) -> Result<(), PackError> {
        match random.random_range(0..100) {
            0..60 => self.append(random, packs)?,
            60..95 => {
                let mut covered: Vec<&mut Appended> =
                    self.frames.values_mut().filter(|frame| frame.fate == Fate::Written).collect();
                packs.sync()?;
                // Only what an append has returned; what a process before left is judged by its next start.
                covered.retain(|frame| frame.pack.is_some());
                covered.into_iter().for_each(|frame| frame.fate = Fate::Durable);
            }
            _ => {
                let Some(oldest) = packs.list().into_iter().next().filter(|pack| Some(*pack) != packs.active())
                else {
                    return Ok(());
                };
                for frame in self.frames.values_mut().filter(|frame| frame.pack == Some(oldest)) {
                    frame.fate = Fate::Removed;
                }
                packs.remove(oldest)?;
            }
        }
        Ok(())
    }

    /// Compares with what a start finds.
    fn judge(&mut self, packs: &Packs<SimMedium>) -> Result<Result<(), String>, PackError> {
        let mut found = BTreeSet::new();
        for pack in packs.list() {
            for frame in packs.scan(pack)? {
                let number = frame.recording;
                let Some(appended) = self.frames.get_mut(&number) else {
                    return Ok(Err(format!("frame {number} was never appended")));
                };
                let payload = packs.read(frame.extent, 0..frame.extent.length)?;
                let same = (frame.kind, frame.take, frame.offset)
                    == (appended.kind, appended.take, appended.offset)
                    && payload == appended.payload
                    && appended.pack.is_none_or(|pack| pack == frame.extent.pack);
                if !same || !found.insert(number) {
                    return Ok(Err(format!("frame {number} differs, or was found twice: {frame:?}")));
                }
                match appended.fate {
                    Fate::Lost => return Ok(Err(format!("frame {number} was lost and came back"))),
                    Fate::Written => appended.fate = Fate::Durable,
                    Fate::Durable | Fate::Removed => {}
                }
                appended.pack = Some(frame.extent.pack);
            }
        }
        for (number, frame) in self.frames.iter_mut().filter(|(number, _)| !found.contains(*number)) {
            match frame.fate {
                Fate::Durable => return Ok(Err(format!("frame {number} was durable and is lost"))),
                Fate::Written => frame.fate = Fate::Lost,
                Fate::Lost | Fate::Removed => {}
            }
        }
        Ok(Ok(()))
    }
}

/// One history of several processes.
fn history(seed: u64, config: Config) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let sim = SimMedium::new(seed);
    let mut model = Model::default();
    for _ in 0..random.random_range(2..6) {
        if random.random_bool(0.8) {
            sim.kill_in(random.random_range(1..80));
        }
        let worked = work(&mut random, &sim, &mut model, config);
        match worked {
            Err(_) if sim.is_dead() => {}
            Err(error) => return Err(error.to_string()),
            Ok(judged) => judged?,
        }
        match random.random_range(0..3) {
            0 => sim.restart(),
            _ => sim.power_cut(f64::from(random.random_range(0..=4_u8)) / 4.0),
        }
    }
    sim.restart();
    let packs = Packs::open(sim.clone(), config, 0).map_err(|error| error.to_string())?;
    model.judge(&packs).map_err(|error| error.to_string())?
}

/// The life of one process.
fn work(
    random: &mut StdRng,
    sim: &SimMedium,
    model: &mut Model,
    config: Config,
) -> Result<Result<(), String>, PackError> {
    let packs = Packs::open(sim.clone(), config, 0)?;
    let judged = model.judge(&packs)?;
    if judged.is_err() {
        return Ok(judged);
    }
    for _ in 0..random.random_range(0..40) {
        model.act(random, &packs)?;
    }
    Ok(Ok(()))
}

/// A number from the environment.
pub fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |value| value.parse().expect("a number"))
}

#[test]
fn synced_frames_survive_kills_and_power_cuts_and_no_frame_is_invented() {
    let first = setting("TWINBOX_PACKS_SEED", 0);
    for seed in first..first + setting("TWINBOX_PACKS_SEEDS", 200) {
        let config = if seed.is_multiple_of(2) { CONFIG } else { REUSING };
        history(seed, config).unwrap_or_else(|finding| panic!("seed {seed}: {finding}"));
    }
}
