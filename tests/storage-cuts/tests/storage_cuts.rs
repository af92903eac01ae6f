//! Storage under cuts, many histories. `TWINBOX_STORAGE_SEEDS` is their number (20 if it is not set), `TWINBOX_STORAGE_SEED` the first
//! one. Each mistake is searched from seed 0 on.

use twinbox_storage_cuts::{Counts, Mistake, play};

/// Histories within which each mistake must cause a violation of its own kind.
const SEEDS_FOR_MISTAKES: u64 = 300;

/// A number from the environment.
fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| value.parse().expect("a number"))
}

/// The events of all histories together; each must be without a violation.
fn play_all(nodes: usize) -> Counts {
    let first = setting("TWINBOX_STORAGE_SEED", 0);
    let mut all = Counts::default();
    for seed in first..first + setting("TWINBOX_STORAGE_SEEDS", 20) {
        all += play(nodes, seed, Mistake::None).unwrap_or_else(|finding| {
            panic!("{finding}; again with TWINBOX_STORAGE_SEED={seed} TWINBOX_STORAGE_SEEDS=1, {nodes} nodes")
        });
    }
    println!("{nodes} nodes: {all:?}");
    all
}

fn assert_found(nodes: usize, mistakes: &[Mistake]) {
    for mistake in mistakes {
        let found = (0..SEEDS_FOR_MISTAKES).find(|seed| {
            let Err(finding) = play(nodes, *seed, *mistake) else { return false };
            println!("{mistake:?}, seed {seed}: {finding}");
            mistake.causes(finding.kind)
        });
        assert!(found.is_some(), "{mistake:?} is never found by a violation that it is meant to cause");
    }
}

#[test]
fn one_node_has_all_acknowledged_changes_and_audio_after_a_cut_in_any_call() {
    let all = play_all(1);
    assert!(all.alone > 0 && all.ended > 0 && all.ended_opening > 0, "{all:?}");
    assert!(all.moved > 0 && all.packs > 0, "{all:?}");
}

#[test]
fn pair_has_each_change_on_the_disks_on_which_it_was_acknowledged() {
    let all = play_all(2);
    assert!(all.alone > 0 && all.on_two > 0 && all.both > 0 && all.ended_opening > 0, "{all:?}");
}

#[test]
fn broken_rules_of_one_node_are_found() {
    let mistakes = [
        Mistake::AcknowledgedBeforeSync,
        Mistake::SealedBeforeSync,
        Mistake::CheckpointBeforeJournal,
        Mistake::ReleasedBeforeFlush,
        Mistake::NotedBeforeRuns,
        Mistake::PackBeforeRows,
        Mistake::RowsBeforeCopies,
        Mistake::StaleBatches,
    ];
    assert_found(1, &mistakes);
}

#[test]
fn broken_rules_of_a_pair_are_found() {
    let mistakes =
        [Mistake::AcknowledgedBeforeSync, Mistake::AcknowledgedWhenSent, Mistake::AcknowledgedWithoutAudio];
    assert_found(2, &mistakes);
}

/// The disks see the same calls in the same order, with the same lengths.
#[test]
fn a_seed_determines_the_history() {
    for nodes in [1, 2] {
        for seed in 0..3 {
            let [once, again] = [(); 2].map(|()| play(nodes, seed, Mistake::None).expect("no violation"));
            assert_eq!(once, again, "{nodes} nodes, seed {seed}");
        }
    }
}
