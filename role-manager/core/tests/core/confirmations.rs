//! Safe confirmation of a store's run number (rule R8).

use twinbox_roles_core::{Confirmations, VoterSets};

fn voters(index: u64, sets: &[&[u64]]) -> VoterSets {
    VoterSets { index, sets: sets.iter().map(|set| set.iter().copied().collect()).collect() }
}

/// Whether these stores confirm the start of store 1, whose log names the voters at index 10.
fn suffice(sets: &[&[u64]], by: &[u64]) -> bool {
    let mut confirmations = Confirmations::default();
    by.iter().for_each(|id| confirmations.note([*id], VoterSets::default()));
    confirmations.suffice(1, &voters(10, sets))
}

#[test]
fn a_majority_including_the_store_itself_confirms() {
    let cases: [(&[u64], &[u64], bool); 12] = [
        (&[1], &[], true),
        (&[1, 2], &[], false),
        (&[1, 2], &[2], true),
        (&[1, 2, 3], &[], false),
        (&[1, 2, 3], &[3], true),
        (&[1, 2, 3, 4], &[2], false),
        (&[1, 2, 3, 4], &[2, 3], true),
        (&[1, 2, 3, 4, 5], &[2], false),
        (&[1, 2, 3, 4, 5], &[2, 5], true),
        // Non-voting followers, and stores replaced by another of the same name, do not count.
        (&[1, 2, 3, 4, 5], &[2, 6, 7], false),
        // A follower needs a majority without itself.
        (&[2, 3, 4], &[2], false),
        (&[2, 3, 4], &[2, 3], true),
    ];
    for (set, by, expected) in cases {
        assert_eq!(suffice(&[set], by), expected, "{set:?} by {by:?}");
    }
}

#[test]
fn a_majority_of_each_voter_set_must_confirm_during_a_voter_change() {
    assert!(!suffice(&[&[1, 2, 3], &[1, 4, 5]], &[2, 3]));
    assert!(suffice(&[&[1, 2, 3], &[1, 4, 5]], &[2, 4]));
}

#[test]
fn a_store_whose_log_names_no_voter_needs_one_answer() {
    assert!(!suffice(&[], &[]));
    assert!(suffice(&[], &[2]));
    // From an earlier release, with a name that this store does not know.
    let mut unnamed = Confirmations::default();
    unnamed.note([], VoterSets::default());
    assert!(unnamed.suffice(1, &VoterSets::default()));
    assert!(!unnamed.suffice(1, &voters(10, &[&[1, 2]])));
}

/// Store 1 was away while most of its group was removed: the old list has no majority any more.
#[test]
fn the_newest_list_of_voters_counts() {
    let old = voters(10, &[&[1, 2, 3, 4, 5]]);
    let mut confirmations = Confirmations::default();
    confirmations.note([2], voters(90, &[&[1, 2, 6]]));
    assert!(confirmations.suffice(1, &old));
    let mut behind = Confirmations::default();
    behind.note([2], voters(4, &[&[1, 2]]));
    assert!(!behind.suffice(1, &old), "an older list than its own counted");
    // A store whose log names no voter uses the lists of the others.
    let mut fresh = Confirmations::default();
    fresh.note([2], voters(0, &[&[2, 3, 4]]));
    assert!(!fresh.suffice(1, &VoterSets::default()));
}
