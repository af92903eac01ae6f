//! Commits whose changes come in any order, again, and over several streams.

use std::collections::BTreeSet;

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
            let Some(commit) = assembly.take(change.clone(), |origin, seq| here.contains(&(origin, seq))) else {
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
            assembly.take(change.clone(), |_, _| false).into_iter().flatten().for_each(|part| {
                here.insert((part.origin, part.seq));
            });
        }
        prop_assert_eq!((here.len(), assembly.waiting()), (all.len(), 0));
    }
}

#[test]
fn commit_is_complete_with_the_changes_that_are_here_already() {
    let all = changes(1, &[3]);
    let mut assembly = CommitAssembly::default();
    assert_eq!(assembly.take(all[2].clone(), |_, _| false), None);
    let here = |_: Origin, seq: u64| seq == 2;
    let commit = assembly.take(all[0].clone(), here).expect("a commit");
    assert_eq!(commit, [all[0].clone(), all[2].clone()]);

    let mut assembly = CommitAssembly::default();
    assert_eq!(assembly.take(all[1].clone(), |_, _| false), None);
    let remains = assembly.into_remains();
    assert!(remains.len() == 1 && remains[0].is_alone() && remains[0].seq == 2);
}

#[test]
fn number_of_parts_that_no_peer_can_send_costs_nothing() {
    let part = CommitPart { before: 0, after: u32::MAX };
    let change = Change { part, ..changes(1, &[1]).remove(0) };
    let mut assembly = CommitAssembly::default();
    assert_eq!(assembly.take(change, |_, _| false), None);
    assert_eq!(assembly.waiting(), 1);
}
