//! Rows in runs: what stays among much that goes, and scans from both ends.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use super::world::{Faults, Random, SimulatedFolder, World};
use crate::{
    index::{Index, Note},
    range::KeyRange,
    runs::Runs,
};

fn key(number: u64) -> Vec<u8> {
    format!("log {number:02}").into_bytes()
}

fn open(world: &World) -> Runs<SimulatedFolder> {
    world.index().expect("an index").1.expect("runs")
}

/// A checkpoint without anything but the runs.
fn checkpoint(world: &World, runs: &Runs<SimulatedFolder>) {
    let index = world.index_alone();
    runs.tidy().expect("room");
    let extent = runs.sync().expect("a sync").expect("an extent");
    index.note(&Note { held: None, runs: Some(extent) }).expect("a note");
    index.flush().expect("a flush");
    runs.release(&extent);
}

#[test]
fn row_that_stays_keeps_no_old_files() {
    let world = World::new(1, Faults::default());
    let runs = open(&world);
    runs.append(&[(&key(7), Some(b"it stays"))]).expect("a write");
    let mut random = Random(1);
    let is_over = AtomicBool::new(false);
    thread::scope(|threads| {
        // It is there while it is moved.
        let reader = threads.spawn(|| {
            let mut reads = 0;
            while !is_over.load(Relaxed) {
                assert_eq!(runs.get(&key(7)), Ok(Some(b"it stays".to_vec())), "read {reads}");
                reads += 1;
            }
        });
        for number in 0..400 {
            let key = key(10 + number % 80);
            // Not shorter when compressed.
            let value: Vec<u8> = (0..500).map(|_| random.below(256) as u8).collect();
            runs.append(&[(&key, Some(&value))]).expect("a write");
            runs.append(&[(&key, None)]).expect("a removal");
            checkpoint(&world, &runs);
        }
        is_over.store(true, Relaxed);
        reader.join().expect("a reader");
    });
    let (bytes, files) = (world.run_bytes(), world.run_files());
    assert!(files > 20 && bytes <= 4 * 8192, "{bytes} bytes are left of {files} files");
    drop(runs);
    world.kill();
    let runs = open(&world);
    assert_eq!(runs.get(&key(7)), Ok(Some(b"it stays".to_vec())));
    assert_eq!(runs.range(KeyRange::prefix(b"")).count(), 1);
}

#[test]
fn ranges_are_those_of_a_map_from_both_ends() {
    for seed in 0..40 {
        let (world, mut random) = (World::new(seed, Faults::default()), Random(seed));
        let (mut runs, mut model) = (open(&world), BTreeMap::new());
        for _ in 0..60 {
            let mut rows: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
            for _ in 0..random.below(12) {
                let value = random.value(300);
                rows.insert(key(random.below(100)), (random.below(3) > 0).then_some(value));
            }
            let writes: Vec<_> = rows.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
            match random.coin() {
                true => runs.append(&writes).expect("a write"),
                false => runs.append_new(&writes).expect("a write"),
            }
            rows.into_iter().for_each(|(key, value)| {
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            });
            if random.below(4) == 0 {
                checkpoint_if_any(&world, &runs);
                if random.coin() {
                    runs = open(&world);
                }
            }
            let (one, other) = (key(random.below(100)), key(random.below(100)));
            let range = KeyRange::between(one.as_slice().min(&other), one.as_slice().max(&other));
            let expected: Vec<_> =
                model.range::<[u8], _>(range.bounds()).map(|(k, v)| (k.clone(), v.clone())).collect();
            let found = runs.range(range.clone()).collect::<Result<Vec<_>, _>>();
            assert_eq!(found.as_ref(), Ok(&expected), "seed {seed}");
            let back = runs.range(range.clone()).rev().collect::<Result<Vec<_>, _>>();
            assert!(
                back.expect("a read").into_iter().rev().eq(expected.iter().cloned()),
                "seed {seed}, from the end"
            );
            // From both ends by turns.
            let (mut pairs, mut front, mut rear) = (runs.range(range), Vec::new(), Vec::new());
            while let Some(pair) = if random.coin() { pairs.next() } else { None } {
                front.push(pair.expect("a read"));
                rear.extend(pairs.next_back().map(|pair| pair.expect("a read")));
            }
            front.extend(pairs.map(|pair| pair.expect("a read")));
            front.extend(rear.into_iter().rev());
            assert_eq!(front, expected, "seed {seed}, from both ends");
            assert_eq!(runs.get(&one), Ok(model.get(&one).cloned()), "seed {seed}");
        }
    }
}

fn checkpoint_if_any(world: &World, runs: &Runs<SimulatedFolder>) {
    if runs.sync().expect("a sync").is_some() {
        checkpoint(world, runs);
    }
}
