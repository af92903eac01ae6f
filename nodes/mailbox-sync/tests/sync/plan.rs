//! Each rule of the plan, as tables.

mod parts;
mod servers;

use std::collections::BTreeMap;

use twinbox_ids::{ClusterId, MessageId, Timestamp};
use twinbox_mailbox::{Folder, Mark};
use twinbox_mailbox_sync::{
    AccountState, Action, Extent, Link, LocalMessage, LocalState, MailState, MessageState, PARTIAL_WAIT_MS, Plan,
    RemoteFlags, RemoteView, message_id, needs_full_look, parse_message_id, plan,
};

use crate::model::NOW;

const A: MessageId = MessageId(0xa);
const B: MessageId = MessageId(0xb);
const VALIDITY: u32 = 7;
const NONE: RemoteFlags = RemoteFlags { seen: false, flagged: false, deleted: false };
const SEEN: RemoteFlags = RemoteFlags { seen: true, ..NONE };
const FLAGGED: RemoteFlags = RemoteFlags { flagged: true, ..NONE };
const BOTH: RemoteFlags = RemoteFlags { seen: true, flagged: true, deleted: false };
const DELETED: RemoteFlags = RemoteFlags { deleted: true, ..NONE };

const NEW: LocalState = LocalState { folder: Folder::New, deleted: false };
const HEARD: LocalState = LocalState { folder: Folder::Heard, deleted: false };
const SAVED: LocalState = LocalState { folder: Folder::Saved, deleted: false };
const NEW_DELETED: LocalState = LocalState { folder: Folder::New, deleted: true };

fn here(id: MessageId, state: LocalState) -> LocalMessage {
    LocalMessage { id, received: Timestamp(1), partial: false, audio_lost: false, state }
}

fn bound(uid: u32, remote: RemoteFlags) -> Link {
    Link::Bound { uid_validity: VALIDITY, uid, remote }
}

fn row(local: LocalState, link: Link) -> MessageState {
    MessageState { local, link, mail: MailState::default() }
}

fn appended(message: MessageId, flags: RemoteFlags) -> Action {
    Action::Append { message, flags, mail: MailState::default() }
}

fn before() -> AccountState {
    AccountState { uid_validity: VALIDITY, uid_next: 10, modseq: 100, ..AccountState::default() }
}

fn view() -> RemoteView {
    RemoteView { uid_validity: VALIDITY, uid_next: 10, modseq: Some(100), exists: 5, ..RemoteView::default() }
}

fn planned(local: &[LocalMessage], rows: &[(MessageId, MessageState)], view: &RemoteView) -> Plan {
    plan(NOW, local, &rows.iter().copied().collect(), &before(), view)
}

/// The actions for message A.
fn actions(local: LocalState, row: Option<MessageState>, view: &RemoteView) -> Vec<Action> {
    let rows: Vec<_> = row.into_iter().map(|row| (A, row)).collect();
    planned(&[here(A, local)], &rows, view).actions
}

fn gone(uids: &[u32]) -> RemoteView {
    RemoteView { gone: uids.iter().copied().collect(), ..view() }
}

fn found(uid: u32, flags: RemoteFlags) -> RemoteView {
    RemoteView { found: BTreeMap::from([(A, (uid, flags))]), ..view() }
}

fn other_folder(view: RemoteView) -> RemoteView {
    RemoteView { uid_validity: VALIDITY + 1, ..view }
}

#[test]
fn message_without_row_is_appended_once_it_is_complete() {
    let append = |flags| vec![appended(A, flags)];
    assert_eq!(actions(NEW, None, &view()), append(NONE));
    assert_eq!(actions(HEARD, None, &view()), append(SEEN));
    assert_eq!(actions(SAVED, None, &view()), append(BOTH));
    assert_eq!(actions(NEW_DELETED, None, &view()), []);
    // Deleted before it was known there: nothing says that it came back.
    assert_eq!(actions(NEW_DELETED, None, &found(12, NONE)), []);
    for (age, appended) in [(0, false), (PARTIAL_WAIT_MS - 1, false), (PARTIAL_WAIT_MS, true)] {
        let message = LocalMessage { received: Timestamp(NOW.0 - age), partial: true, ..here(A, NEW) };
        assert_eq!(planned(&[message], &[], &view()).actions.len(), usize::from(appended), "{age} ms");
    }
}

#[test]
fn found_message_is_bound_instead_of_appended() {
    let store = |uid, flags| vec![Action::Store { message: A, state: row(NEW, bound(uid, flags)) }];
    assert_eq!(actions(NEW, None, &found(12, NONE)), store(12, NONE));
    let appending = row(NEW, Link::Appending { uid_validity: VALIDITY, from_uid: 10 });
    assert_eq!(actions(NEW, Some(appending), &found(12, NONE)), store(12, NONE));
    assert_eq!(actions(NEW, Some(appending), &view()), [appended(A, NONE)]);
    // Its outcome is unknown: it may be found yet.
    assert_eq!(actions(NEW_DELETED, Some(appending), &view()), []);
    let removed = Action::Remove {
        message: A,
        uid: 12,
        then: row(NEW_DELETED, Link::Gone),
        refused: row(NEW, bound(12, DELETED)),
    };
    assert_eq!(actions(NEW_DELETED, Some(appending), &found(12, NONE)), [removed]);
}

#[test]
fn changed_flags_travel_both_ways() {
    // Base, here, flags there before and now; then the flags there and the folder here in the end.
    for (base, local, was, is, flags, folder) in [
        (NEW, NEW, NONE, NONE, NONE, Folder::New),
        (NEW, HEARD, NONE, NONE, SEEN, Folder::Heard),
        (NEW, SAVED, NONE, NONE, BOTH, Folder::Saved),
        (HEARD, NEW, SEEN, SEEN, NONE, Folder::New),
        (SAVED, NEW, BOTH, BOTH, NONE, Folder::New),
        (SAVED, HEARD, BOTH, BOTH, SEEN, Folder::Heard),
        (NEW, NEW, NONE, SEEN, SEEN, Folder::Heard),
        (NEW, NEW, NONE, BOTH, BOTH, Folder::Saved),
        (NEW, NEW, NONE, FLAGGED, FLAGGED, Folder::New),
        (SAVED, SAVED, BOTH, SEEN, SEEN, Folder::Heard),
        (SAVED, SAVED, BOTH, FLAGGED, FLAGGED, Folder::New),
        // Both sides: only the flags that changed here are pushed, and those win.
        (NEW, HEARD, FLAGGED, FLAGGED, BOTH, Folder::Saved),
        (NEW, HEARD, NONE, FLAGGED, BOTH, Folder::Saved),
        (HEARD, NEW, SEEN, BOTH, FLAGGED, Folder::New),
        (HEARD, SAVED, SEEN, NONE, BOTH, Folder::Saved),
        (SAVED, NEW, BOTH, SEEN, NONE, Folder::New),
        (NEW, HEARD, NONE, SEEN, SEEN, Folder::Heard),
        // They differ although neither changed: as it is here.
        (SAVED, SAVED, NONE, NONE, BOTH, Folder::Saved),
        (HEARD, HEARD, BOTH, BOTH, SEEN, Folder::Heard),
        (NEW, NEW, BOTH, BOTH, FLAGGED, Folder::New),
    ] {
        let case = format!("{base:?} {local:?} {was:?} {is:?}");
        let view = RemoteView { flags: BTreeMap::from([(3, is)]), ..view() };
        let (mut there, mut state, mut last) = (is, local, row(base, bound(3, was)));
        for action in actions(local, Some(last), &view) {
            match action {
                Action::Flags { uid, add, remove, then, .. } => {
                    assert_eq!((uid, add.with(remove).is_empty()), (3, false), "{case}");
                    (there, last) = (there.without(remove).with(add), then);
                }
                Action::MarkHere { expected, marks, then, .. } => {
                    assert_eq!((expected, marks.is_empty()), (state, false), "{case}");
                    (state, last) = (then.local, then);
                }
                Action::Store { state, .. } => last = state,
                other => panic!("{case}: {other:?}"),
            }
        }
        assert_eq!((there, state.folder, state.deleted), (flags, folder, false), "{case}");
        assert_eq!(last, row(state, bound(3, there)), "{case}");
    }
}

#[test]
fn deletions_travel_both_ways_and_changes_here_outlive_them() {
    let held_here = row(NEW, bound(3, NONE));
    let deleted = |link| row(NEW_DELETED, link);
    let marked = |marks: &[Mark], expected: LocalState, then: MessageState| {
        vec![Action::MarkHere { message: A, expected, partial: false, marks: marks.to_vec(), then }]
    };
    // Deleted there: expunged, moved out, or flagged.
    assert_eq!(actions(NEW, Some(held_here), &gone(&[3])), marked(&[Mark::Deleted], NEW, deleted(Link::Gone)));
    let flagged = RemoteView { flags: BTreeMap::from([(3, DELETED)]), ..view() };
    let both = deleted(bound(3, DELETED));
    assert_eq!(actions(NEW, Some(held_here), &flagged), marked(&[Mark::Deleted], NEW, both));
    // Changed here meanwhile.
    assert_eq!(actions(HEARD, Some(held_here), &gone(&[3])), [appended(A, SEEN)]);
    let (then, refused) = (row(HEARD, bound(3, SEEN)), held_here);
    let back = Action::Flags { message: A, uid: 3, add: SEEN, remove: DELETED, then, refused };
    assert_eq!(actions(HEARD, Some(held_here), &flagged), [back]);
    // Deleted here, with a change of flags there or without.
    let half = row(NEW, bound(3, DELETED));
    let remove = Action::Remove { message: A, uid: 3, then: deleted(Link::Gone), refused: half };
    // Flagged as deleted: the connection was cut between the flag and the expunge.
    for flags in [NONE, BOTH, DELETED] {
        let view = RemoteView { flags: BTreeMap::from([(3, flags)]), ..view() };
        assert_eq!(actions(NEW_DELETED, Some(held_here), &view), std::slice::from_ref(&remove));
    }
    // The removal was refused or cut, and the message is undeleted here: the flag was no deletion there.
    let clear = Action::Flags { message: A, uid: 3, add: NONE, remove: DELETED, then: held_here, refused: half };
    assert_eq!(actions(NEW_DELETED, Some(half), &flagged), [remove]);
    assert_eq!(actions(NEW, Some(half), &flagged), [clear]);
    assert_eq!(actions(NEW, Some(half), &gone(&[3])), [appended(A, NONE)]);
    // Deleted on both sides.
    assert_eq!(
        actions(NEW_DELETED, Some(held_here), &gone(&[3])),
        [Action::Store { message: A, state: deleted(Link::Gone) }]
    );
    assert_eq!(actions(NEW_DELETED, Some(both), &view()), []);
    assert_eq!(actions(NEW_DELETED, Some(deleted(Link::Gone)), &view()), []);
    // Undone there, moved back there, undone here.
    let cleared = RemoteView { flags: BTreeMap::from([(3, NONE)]), ..view() };
    assert_eq!(actions(NEW_DELETED, Some(both), &cleared), marked(&[Mark::Undeleted], NEW_DELETED, held_here));
    assert_eq!(
        actions(NEW_DELETED, Some(deleted(Link::Gone)), &found(12, SEEN)),
        marked(&[Mark::Undeleted, Mark::Heard], NEW_DELETED, row(HEARD, bound(12, SEEN)))
    );
    assert_eq!(actions(NEW, Some(deleted(Link::Gone)), &view()), [appended(A, NONE)]);
    let clear = Action::Flags { message: A, uid: 3, add: NONE, remove: DELETED, then: held_here, refused: both };
    assert_eq!(actions(NEW, Some(both), &view()), [clear]);
    // Out and back between two looks.
    let moved = RemoteView { gone: [3].into(), ..found(12, NONE) };
    let state = row(NEW, bound(12, NONE));
    assert_eq!(actions(NEW, Some(held_here), &moved), [Action::Store { message: A, state }]);
}

#[test]
fn absences_count_only_in_the_folder_of_the_last_look() {
    let rows = [(A, row(NEW, bound(3, NONE))), (B, row(NEW, bound(4, NONE)))];
    let local = [here(A, NEW), here(B, NEW)];
    // Another UIDVALIDITY: what is not found is appended, what is found is bound, and flags become as they are here.
    let view = other_folder(RemoteView { exists: 0, ..gone(&[3, 4]) });
    let appends = [A, B].map(|message| appended(message, NONE));
    assert_eq!(planned(&local, &rows, &view).actions, appends);
    let then = row(NEW, Link::Bound { uid_validity: VALIDITY + 1, uid: 1, remote: NONE });
    let remove = RemoteFlags { deleted: true, ..SEEN };
    let refused = row(NEW, Link::Bound { uid_validity: VALIDITY + 1, uid: 1, remote: remove });
    let flags = Action::Flags { message: A, uid: 1, add: NONE, remove, then, refused };
    let view = other_folder(found(1, remove));
    assert_eq!(planned(&local, &rows, &view).actions, [flags, appended(B, NONE)]);
    // Deleted here before: it came back with the copy.
    let gone_row = (A, row(NEW_DELETED, Link::Gone));
    let plan = planned(&[here(A, NEW_DELETED)], &[gone_row], &other_folder(found(1, NONE)));
    assert!(matches!(plan.actions.as_slice(), [Action::MarkHere { marks, .. }] if *marks == [Mark::Undeleted]));
    // The same UIDVALIDITY, but an old copy: nothing before a full look.
    for view in [
        RemoteView { uid_next: 9, ..gone(&[3, 4]) },
        RemoteView { modseq: Some(99), ..gone(&[3, 4]) },
        RemoteView { uid_next: 4, ..gone(&[3]) },
    ] {
        let plan = planned(&local, &rows, &view);
        assert_eq!((plan.actions.as_slice(), plan.needs_another_look()), (&[][..], true), "{view:?}");
        let full = RemoteView { gone: [].into(), ..view };
        assert!(needs_full_look(&plan.state, full.uid_validity, full.uid_next));
        let rows = rows.iter().copied().collect();
        assert_eq!(twinbox_mailbox_sync::plan(NOW, &local, &rows, &plan.state, &full).actions, appends);
    }
    // A server that stopped to tell its HIGHESTMODSEQ is believed.
    let plan = planned(&local[..1], &rows[..1], &RemoteView { modseq: None, ..gone(&[3]) });
    assert_eq!((plan.actions.len(), plan.state.modseq), (1, 0));
}

#[test]
fn deletions_are_held_back_while_the_folder_is_empty() {
    let rows = [(A, row(NEW, bound(3, NONE))), (B, row(NEW, bound(4, NONE)))];
    let local = [here(A, NEW), here(B, NEW)];
    let empty = RemoteView { exists: 0, ..gone(&[3, 4]) };
    let held = planned(&local, &rows, &empty);
    let stored: Vec<_> = held.actions.iter().map(|action| matches!(action, Action::Store { .. })).collect();
    assert_eq!((stored, held.held_back, held.state.held_back), (vec![true, true], 2, 2));
    for view in [
        RemoteView { watched: true, ..empty.clone() },
        RemoteView { accepted: true, ..empty.clone() },
        RemoteView { exists: 1, ..empty.clone() },
    ] {
        let plan = planned(&local, &rows, &view);
        assert!(plan.actions.iter().all(|action| matches!(action, Action::MarkHere { .. })), "{view:?}");
        assert_eq!((plan.actions.len(), plan.held_back), (2, 0));
    }
    // A cut after the first action leaves no single absent message, which would be believed.
    let mixed = planned(&[here(A, NEW_DELETED), here(B, NEW)], &rows, &empty);
    assert_eq!(mixed.actions.iter().map(Action::message).collect::<Vec<_>>(), [B, A]);
    let one = planned(&local[..1], &rows[..1], &RemoteView { exists: 0, ..gone(&[3]) });
    assert!(matches!(one.actions.as_slice(), [Action::MarkHere { .. }]));

    // Held: until it is accepted, found again, or changed here.
    let link = Link::Held { uid: 3, remote: NONE };
    let held = row(NEW, link);
    let plan = planned(&local[..1], &[(A, held)], &view());
    assert_eq!((plan.actions.len(), plan.held_back), (0, 1));
    assert_eq!(actions(HEARD, Some(held), &view()), [appended(A, SEEN)]);
    let gone_here = Action::Store { message: A, state: row(NEW_DELETED, Link::Gone) };
    assert_eq!(actions(NEW_DELETED, Some(held), &view()), [gone_here]);
    let accepted = actions(NEW, Some(held), &RemoteView { accepted: true, ..view() });
    assert!(matches!(accepted.as_slice(), [Action::MarkHere { marks, .. }] if *marks == [Mark::Deleted]));
    for (view, uid) in [(RemoteView { flags: BTreeMap::from([(3, NONE)]), ..view() }, 3), (found(12, NONE), 12)] {
        let state = row(NEW, bound(uid, NONE));
        assert_eq!(actions(NEW, Some(held), &view), [Action::Store { message: A, state }]);
    }
    // The UID means nothing in another folder.
    let state = row(NEW, Link::Held { uid: 0, remote: NONE });
    assert_eq!(actions(NEW, Some(held), &other_folder(view())), [Action::Store { message: A, state }]);
    assert_eq!(actions(NEW, Some(state), &other_folder(view())), []);
}

#[test]
fn uids_that_cannot_be_right_bind_and_delete_nothing() {
    // UID 0, one UID for two messages, the UID of another bound message.
    let append = |message| appended(message, NONE);
    assert_eq!(actions(NEW, None, &found(0, NONE)), [append(A)]);
    let twice = RemoteView { found: BTreeMap::from([(A, (12, NONE)), (B, (12, NONE))]), ..view() };
    assert_eq!(planned(&[here(A, NEW), here(B, NEW)], &[], &twice).actions, [append(A), append(B)]);
    let rows = [(B, row(NEW, bound(3, NONE)))];
    assert_eq!(planned(&[here(A, NEW), here(B, NEW)], &rows, &found(3, NONE)).actions, [append(A)]);
    // Such rows lead to a full look.
    for rows in [
        vec![(A, row(NEW, bound(0, NONE)))],
        vec![(A, row(NEW, bound(3, NONE))), (B, row(NEW, bound(3, NONE)))],
        vec![(A, row(NEW, bound(u32::MAX, NONE)))],
        vec![(A, row(NEW, Link::Bound { uid_validity: 1, uid: 3, remote: NONE }))],
    ] {
        let plan = planned(&[here(A, NEW), here(B, NEW)], &rows, &gone(&[0, 3, u32::MAX]));
        assert!(plan.actions.is_empty() && plan.needs_another_look(), "{rows:?}");
    }
}

#[test]
fn uids_that_were_given_again_stop_the_plan() {
    let rows = [(A, row(NEW, bound(3, NONE)))];
    let reused = RemoteView { reused: true, ..gone(&[3]) };
    let plan = planned(&[here(A, NEW)], &rows, &reused);
    assert!(plan.actions.is_empty() && plan.needs_another_look());
}

#[test]
fn row_without_message_is_forgotten_unless_the_message_may_yet_arrive() {
    let from = |from_uid| Link::Appending { uid_validity: VALIDITY, from_uid };
    let appending = from(view().uid_next);
    for (state, view, forgotten) in [
        (row(NEW_DELETED, bound(3, DELETED)), view(), true),
        (row(NEW_DELETED, Link::Gone), view(), true),
        (row(NEW, bound(3, NONE)), view(), false),
        (row(NEW, bound(3, NONE)), gone(&[3]), true),
        (row(NEW, appending), view(), false),
        // The mail of an attempt before this look would have been found.
        (row(NEW, from(5)), view(), true),
        (row(NEW, appending), other_folder(view()), true),
    ] {
        let plan = planned(&[], &[(A, state)], &view);
        let expected = if forgotten { vec![Action::Forget { message: A }] } else { vec![] };
        assert_eq!(plan.actions, expected, "{state:?} {view:?}");
    }
    // A stranger with our Message-ID, or a purged message that was moved back.
    assert_eq!(planned(&[], &[], &found(12, NONE)).actions, []);
}

#[test]
fn state_changes_only_when_something_does() {
    let failed = AccountState {
        error: Some("refused".to_owned()),
        failing_since: Some(Timestamp(5)),
        synced_at: Some(Timestamp(4)),
        ..before()
    };
    let after = plan(NOW, &[], &BTreeMap::new(), &failed, &view()).state;
    assert_eq!(after, AccountState { synced_at: Some(NOW), ..before() });
    let later = Timestamp(NOW.0 + 1);
    assert_eq!(plan(later, &[], &BTreeMap::new(), &after, &view()).state, after);
    let moved = plan(later, &[], &BTreeMap::new(), &after, &RemoteView { uid_next: 11, ..view() }).state;
    assert_eq!((moved.uid_next, moved.synced_at), (11, Some(later)));
    for (validity, next, full) in [(7, 10, false), (7, 11, false), (7, 9, true), (8, 10, true)] {
        assert_eq!(needs_full_look(&before(), validity, next), full);
    }
    assert!(needs_full_look(&AccountState::default(), 1, 1));
}

#[test]
fn actions_here_come_first_and_appends_last_by_age() {
    let local = [
        LocalMessage { received: Timestamp(9), ..here(A, NEW) },
        LocalMessage { received: Timestamp(2), ..here(B, NEW) },
        here(MessageId(1), NEW_DELETED),
        here(MessageId(2), HEARD),
        here(MessageId(3), NEW),
    ];
    let rows = [1, 2, 3].map(|id| (MessageId(u128::from(id)), row(NEW, bound(id, NONE))));
    let order: Vec<u128> = planned(&local, &rows, &gone(&[3])).actions.iter().map(|a| a.message().0).collect();
    assert_eq!(order, [3, 2, 1, 0xb, 0xa]);
}

/// A row of a mail with these facts.
fn with(row: MessageState, mail: MailState) -> MessageState {
    MessageState { mail, ..row }
}

#[test]
fn acceptance_of_deletions_counts_only_when_all_was_looked_at() {
    let held = row(NEW, Link::Held { uid: 0, remote: NONE });
    let accepted = RemoteView { accepted: true, ..view() };
    assert!(matches!(actions(NEW, Some(held), &accepted).as_slice(), [Action::MarkHere { .. }]));
    let early = RemoteView { uid_next: 90_000, looked: 30_000, ..accepted };
    assert_eq!(actions(NEW, Some(held), &early), []);
}

#[test]
fn look_that_ended_early_is_continued() {
    let plan = planned(&[], &[], &RemoteView { uid_next: 90_000, looked: 30_000, modseq: Some(400), ..view() });
    assert_eq!((plan.state.uid_next, plan.state.modseq), (30_000, before().modseq));
}

#[test]
fn message_ids_of_any_cluster_are_read_back_and_those_of_others_are_not() {
    let cluster = ClusterId(0xc);
    let text = message_id(A, Extent::Whole, cluster);
    assert_eq!(text, format!("<{A}@{cluster}.twinbox.invalid>"));
    for (extent, cluster) in [(Extent::Whole, cluster), (Extent::Part, ClusterId(1))] {
        let text = message_id(A, extent, cluster);
        assert_eq!(parse_message_id(&format!(" {} \r\n", text.to_uppercase())), Some((A, extent)));
    }
    let of_no_cluster = [text.replace('@', "@x."), text.replace("@0", "@+"), text.replace("@0", "@")];
    let changed = [text[1..].to_owned(), text.replacen('0', "+", 1), text.replace("twinbox", "other")];
    let others = ["", "<>", "<a@b>", "a", "<a@twinbox.invalid>"].map(str::to_owned);
    for other in others.iter().chain(&of_no_cluster).chain(&changed) {
        assert_eq!(parse_message_id(other), None, "{other}");
    }
}
