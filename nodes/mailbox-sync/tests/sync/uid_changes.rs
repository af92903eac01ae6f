//! Folders that get new UIDs in look after look.

use std::collections::BTreeMap;

use twinbox_ids::Timestamp;
use twinbox_mailbox_sync::{AccountState, MOST_UID_CHANGES, RemoteView, UidChanges, plan};

fn state(uid_validity: u32, count: u32, latest: u32) -> AccountState {
    AccountState { uid_validity, uid_next: 4, uid_changes: UidChanges { count, latest }, ..AccountState::default() }
}

fn view(uid_validity: u32) -> RemoteView {
    RemoteView { uid_validity, uid_next: 4, ..RemoteView::default() }
}

fn look(before: &AccountState, view: &RemoteView) -> AccountState {
    plan(Timestamp(1), &[], &BTreeMap::new(), before, view).state
}

#[test]
fn looks_in_a_row_with_new_uids_are_counted_until_one_finds_the_same() {
    let mut now = look(&AccountState::default(), &view(7));
    assert_eq!(
        (now.uid_validity, now.uid_changes),
        (7, UidChanges::default()),
        "the first look has no look before"
    );
    for (uid_validity, count) in [(8, 1), (9, 2)] {
        assert_eq!(now.changes_after_full_look(uid_validity), Ok(UidChanges { count, latest: uid_validity }));
        now = look(&now, &view(uid_validity));
        assert_eq!((now.uid_validity, now.uid_changes), (uid_validity, UidChanges { count, latest: 0 }));
    }
    let refused = UidChanges { count: MOST_UID_CHANGES, latest: 10 };
    assert_eq!(now.changes_after_full_look(10), Err(refused));
    assert_eq!(look(&now, &view(9)).uid_changes, UidChanges::default(), "the same UIDVALIDITY");
}

#[test]
fn count_outlives_looks_without_a_position() {
    // The position was forgotten: the UIDVALIDITY of the look before is the latest.
    let forgotten = state(7, 1, 0).without_position(UidChanges { count: 1, latest: 7 });
    assert_eq!((forgotten.uid_validity, forgotten.uid_next), (0, 0));
    assert_eq!(forgotten.changes_after_full_look(7), Ok(UidChanges { count: 1, latest: 7 }));
    assert_eq!(forgotten.changes_after_full_look(8), Ok(UidChanges { count: 2, latest: 8 }));
    // UIDs that were given again count as new ones.
    let fallen = look(&state(7, 0, 0), &RemoteView { uid_next: 3, ..view(7) });
    assert_eq!((fallen.uid_validity, fallen.uid_changes), (0, UidChanges { count: 1, latest: 7 }));
    assert_eq!(look(&fallen, &view(7)).uid_changes, UidChanges { count: 1, latest: 0 });
}

#[test]
fn folder_is_trusted_again_after_its_uids_stayed_for_some_looks() {
    let (mut now, mut validity) = (state(7, 0, 0), 7);
    for _ in 0..50 {
        validity += 1;
        let (Ok(changes) | Err(changes)) = now.changes_after_full_look(validity);
        now = now.without_position(changes);
    }
    let mut refused = 0;
    while let Err(changes) = now.changes_after_full_look(validity) {
        now = now.without_position(changes);
        refused += 1;
        assert!(refused < 20, "the folder is never trusted again: {now:?}");
    }
    assert!(refused > 2, "after {refused} looks");
    let trusted = look(&now, &view(validity));
    assert_eq!((trusted.uid_validity, trusted.uid_changes.count), (validity, MOST_UID_CHANGES - 1));
    assert_eq!(look(&trusted, &view(validity)).uid_changes, UidChanges::default());
}
