//! Commits whose changes come in any order, again, and over several streams.

use std::{cell::Cell, collections::BTreeSet};

use proptest::prelude::*;
use twinbox_ids::Origin;
use twinbox_replication_core::{Change, CommitAssembly, CommitPart, Key, Record, Table};

/// Changes of one origin from 1 on, by the sizes of its commits.
fn changes(origin: u128, sizes: &[u32]) -> Vec<Change> {
    let parts =
        sizes.iter().flat_map(|size| (0..*size).map(move |at| CommitPart { before: at, after: size - 1 - at }));
    let change = |(seq, part)| {
        let (origin, key) = (Origin(origin), Key::new(Table(1), format!("{seq}")));
        Change { origin, seq, key, delta: Record::new(), part }
    };
    (1..).zip(parts).map(change).collect()
}

/// A node without any change.
fn nothing(_: Origin, from: u64) -> u64 {
    from
}

proptest! {
    #[test]
    fn commits_come_out_whole_and_once(
        sizes in prop::collection::vec(1..5u32, 1..6), other in prop::collection::vec(1..5u32, 1..4),
        order in prop::collection::vec((any::<prop::sample::Index>(), 0..20u8), 1..120),
    ) {
        let all = [changes(1, &sizes), changes(2, &other)].concat();
        let mut here: BTreeSet<(Origin, u64)> = BTreeSet::new();
        let mut assembly = CommitAssembly::default();
        let rest = (0..all.len()).map(|at| (at, 1));
        let order: Vec<(usize, u8)> = order.iter().map(|(index, kind)| (index.index(all.len()), *kind)).chain(rest).collect();
        for (at, kind) in order {
            if kind == 0 {
                // The stream ends, and what waits is dropped; the next one sends it again.
                assembly = CommitAssembly::default();
            }
            let change = all[at].clone();
            if here.contains(&(change.origin, change.seq)) {
                continue;
            }
            let seqs = change.commit();
            let missing = |origin: Origin, from: u64| {
                (from..).find(|seq| !here.contains(&(origin, *seq))).unwrap_or(from)
            };
            let Some(commit) = assembly.take(change.clone(), 1, missing) else {
                continue;
            };
            let taken: Vec<u64> = commit.iter().map(|part| part.seq).collect();
            prop_assert_eq!(taken, seqs.collect::<Vec<_>>(), "a part of a commit");
            for part in commit {
                prop_assert!(here.insert((part.origin, part.seq)), "twice");
            }
        }
        // The last pass has sent all: what does not wait is here.
        prop_assert_eq!(here.len() + assembly.waiting(), all.len());
        for change in &all {
            assembly.take(change.clone(), 1, nothing).into_iter().flatten().for_each(|part| {
                here.insert((part.origin, part.seq));
            });
        }
        prop_assert_eq!((here.len(), assembly.waiting(), assembly.waiting_bytes()), (all.len(), 0, 0));
    }
}

#[test]
fn commit_is_complete_with_the_changes_that_are_here_already() {
    let all = changes(1, &[3]);
    let mut assembly = CommitAssembly::default();
    assert_eq!(assembly.take(all[2].clone(), 1, nothing), None);
    let second_is_here = |_: Origin, from: u64| if from == 2 { 3 } else { from };
    let commit = assembly.take(all[0].clone(), 1, second_is_here).expect("a commit");
    assert_eq!(commit, [all[0].clone(), all[2].clone()]);

    let mut assembly = CommitAssembly::default();
    assert_eq!(assembly.take(all[1].clone(), 1, nothing), None);
    let remains = assembly.into_remains();
    assert!(remains.len() == 1 && remains[0].is_alone() && remains[0].seq == 2);
}

#[test]
fn number_of_parts_that_no_peer_can_send_costs_nothing() {
    let part = CommitPart { before: 0, after: u32::MAX };
    let change = Change { part, ..changes(1, &[1]).remove(0) };
    let mut assembly = CommitAssembly::default();
    assert_eq!(assembly.take(change, 1, nothing), None);
    assert_eq!(assembly.waiting(), 1);
}

/// A peer that lies says of each change that its commit has very many before it, which are all here.
#[test]
fn changes_of_a_commit_that_are_here_are_not_looked_at_one_by_one() {
    const HERE: u32 = 3_000_000_000;
    let part = CommitPart { before: HERE, after: 9 };
    let change = Change { seq: u64::from(HERE) + 1, part, ..changes(1, &[1]).remove(0) };
    let looked_at = Cell::new(0);
    let missing = |_: Origin, from: u64| {
        looked_at.set(looked_at.get() + 1);
        from.max(u64::from(HERE) + 1)
    };
    let mut assembly = CommitAssembly::default();
    assert_eq!(assembly.take(change, 1, missing), None);
    assert!(looked_at.get() <= 2, "{} looks", looked_at.get());
}

#[test]
fn gaps_between_parts_of_a_commit_are_looked_at_once() {
    let all = changes(1, &[2_001]);
    let looked_at = Cell::new(0);
    // Of each pair one change is here, and the other one comes.
    let missing = |_: Origin, from: u64| {
        looked_at.set(looked_at.get() + 1);
        from + from % 2
    };
    let mut assembly = CommitAssembly::default();
    let taken = all.iter().skip(1).step_by(2).filter_map(|part| assembly.take(part.clone(), 1, missing)).count();
    assert_eq!((taken, assembly.waiting()), (1, 0));
    assert!(looked_at.get() <= 4_000, "{} looks", looked_at.get());
}

#[test]
fn bytes_of_waiting_changes_are_counted_once_and_given_back() {
    let all = changes(1, &[3]);
    let mut assembly = CommitAssembly::default();
    let size = |assembly: &CommitAssembly| (assembly.waiting(), assembly.waiting_bytes());
    for (part, bytes, expected) in [(0, 100, (1, 100)), (0, 900, (1, 100)), (2, 20, (2, 120))] {
        assert_eq!(assembly.take(all[part].clone(), bytes, nothing), None);
        assert_eq!(size(&assembly), expected);
    }
    let larger = Change { key: Key::new(Table(1), "larger"), ..all[0].clone() };
    assert_eq!(assembly.take(larger, 900, nothing), None);
    assert_eq!(assembly.take(all[1].clone(), 5, nothing), Some(all), "not the larger one, which is not counted");
    assert_eq!(size(&assembly), (0, 0));
}
