//! Servers that refuse a step, keep no flags or no names, or do not show a mail.

use std::collections::BTreeMap;

use twinbox_ids::Timestamp;
use twinbox_mailbox_sync::{
    AccountState, Action, Link, MailState, MessageState, NamesKept, Refusal, RemoteView, plan,
};

use super::{
    A, BOTH, FLAGGED, HEARD, NEW, NEW_DELETED, NONE, SAVED, SEEN, VALIDITY, actions, before, bound, found, gone,
    here, other_folder, planned, row, view, with,
};
use crate::model::NOW;

#[test]
fn flag_that_is_not_kept_is_no_evidence_and_is_not_set() {
    let unkept = RemoteView { unkept: FLAGGED, ..view() };
    let read = |flags| RemoteView { flags: BTreeMap::from([(3, flags)]), ..unkept.clone() };
    // Saved here; the server never has the flag.
    assert_eq!(actions(SAVED, Some(row(SAVED, bound(3, BOTH))), &read(SEEN)), []);
    let set = actions(SAVED, Some(row(NEW, bound(3, NONE))), &read(NONE));
    assert!(matches!(set.as_slice(), [Action::Flags { add: SEEN, remove: NONE, .. }]), "{set:?}");
    let marked = actions(SAVED, Some(row(SAVED, bound(3, BOTH))), &read(NONE));
    assert!(matches!(marked.as_slice(), [Action::MarkHere { then, .. }] if then.local == NEW), "{marked:?}");
    let released = actions(HEARD, Some(row(SAVED, bound(3, BOTH))), &read(SEEN));
    assert!(matches!(released.as_slice(), [Action::Store { .. }]), "{released:?}");
    // It begins to keep the flag: it is set, and does not count as removed there.
    let before = AccountState { unkept: FLAGGED, ..before() };
    let rows = BTreeMap::from([(A, row(SAVED, bound(3, BOTH)))]);
    let view = RemoteView { flags: BTreeMap::from([(3, SEEN)]), ..view() };
    let plan = plan(NOW, &[here(A, SAVED)], &rows, &before, &view);
    assert!(matches!(plan.actions.as_slice(), [Action::Flags { add: FLAGGED, remove: NONE, .. }]), "{plan:?}");
    assert_eq!(plan.state.unkept, NONE);
}

#[test]
fn refused_step_waits_for_its_time_with_growing_pauses() {
    let mut refusal = None;
    let pauses = [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360].map(|minutes| {
        let next = Refusal::after(refusal, NOW);
        refusal = Some(next);
        (next.retry_at.0 - NOW.0, minutes * 60_000)
    });
    assert!(pauses.iter().all(|(pause, expected)| pause == expected), "{pauses:?}");
    let mail = MailState { refusal: Some(Refusal::after(None, NOW)), ..MailState::default() };
    let refused = with(row(NEW, bound(3, NONE)), mail);
    let rows = BTreeMap::from([(A, refused)]);
    for (later, retry, waits) in [(0, false, true), (59_999, false, true), (60_000, false, false), (0, true, false)]
    {
        let view = RemoteView { retry, ..view() };
        let plan = plan(Timestamp(NOW.0 + later), &[here(A, HEARD)], &rows, &before(), &view);
        assert_eq!((plan.actions.is_empty(), plan.refused), (waits, u32::from(waits)), "{later} {retry}");
    }
    // A clock that was set back does not prolong the pause.
    let early = plan(Timestamp(NOW.0 / 2), &[here(A, HEARD)], &rows, &before(), &view());
    assert_eq!(early.actions.len(), 1);
    // After a full look, the row is of the new folder.
    let plan = planned(&[here(A, HEARD)], &[(A, refused)], &other_folder(found(1, NONE)));
    let [Action::Store { state, .. }] = plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!((state.mail.refusal, plan.state.uid_validity), (refused.mail.refusal, VALIDITY + 1));
    assert_eq!(state.link, Link::Bound { uid_validity: VALIDITY + 1, uid: 1, remote: NONE });
}

#[test]
fn refused_step_of_another_kind_does_not_hold_up_the_append_after_a_reset() {
    let refusal = Some(Refusal::after(None, NOW));
    let mail = MailState { refusal, ..MailState::default() };
    let append = Action::Append { message: A, flags: NONE, mail };
    let bound = with(row(NEW, bound(3, NONE)), mail);
    assert_eq!(actions(NEW, Some(bound), &other_folder(view())), [append]);
    // An APPEND that was refused waits.
    let refused = with(row(NEW, Link::Appending { uid_validity: VALIDITY, from_uid: 10 }), mail);
    let plan = planned(&[here(A, NEW)], &[(A, refused)], &view());
    assert_eq!((plan.actions.as_slice(), plan.refused), (&[][..], 1));
}

#[test]
fn old_attempt_that_nothing_repeats_does_not_make_looks_begin_where_it_was() {
    let refusal = Some(Refusal::after(None, NOW));
    let old = row(NEW, Link::Appending { uid_validity: VALIDITY, from_uid: 5 });
    let waits = with(old, MailState { refusal, ..MailState::default() });
    let stored = |state| vec![Action::Store { message: A, state }];
    let at = |state, from_uid| MessageState { link: Link::Appending { uid_validity: VALIDITY, from_uid }, ..state };
    for (local, state) in [(NEW, waits), (NEW_DELETED, old)] {
        for (uid_next, looked, end) in [(1_005, 0, 1_005), (60_000, 20_005, 20_005)] {
            let view = RemoteView { uid_next, looked, ..view() };
            assert_eq!(actions(local, Some(state), &view), stored(at(state, end)), "{uid_next} {looked}");
        }
        assert_eq!(actions(local, Some(state), &RemoteView { uid_next: 1_004, ..view() }), []);
    }
    // The position does not go back to the attempt.
    let before = AccountState { uid_next: 50_000, ..before() };
    let view = RemoteView { uid_next: 60_000, looked: 20_005, ..view() };
    let plan = plan(NOW, &[here(A, NEW)], &BTreeMap::from([(A, waits)]), &before, &view);
    assert_eq!(plan.state.uid_next, 50_000);
}

#[test]
fn mail_that_was_taken_and_is_not_shown_is_not_appended_at_each_mark() {
    let hidden = row(NEW, Link::Gone);
    assert_eq!(actions(SAVED, Some(hidden), &view()), []);
    let shown = actions(SAVED, Some(hidden), &found(12, NONE));
    assert!(matches!(shown.as_slice(), [Action::Flags { add: BOTH, .. }]), "{shown:?}");
}

#[test]
fn mail_without_our_names_is_held_and_never_appended_again() {
    let unnamed = with(row(NEW, bound(3, NONE)), MailState { alias: 5, ..MailState::default() });
    let held = Link::Held { uid: 0, remote: NONE };
    let store = [Action::Store { message: A, state: MessageState { link: held, ..unnamed } }];
    assert_eq!(actions(NEW, Some(unnamed), &other_folder(view())), store);
    assert_eq!(actions(NEW, Some(MessageState { link: held, ..unnamed }), &other_folder(view())), []);
    let nothing = RemoteView { names: NamesKept::Nothing, ..view() };
    let appending = row(NEW, Link::Appending { uid_validity: VALIDITY, from_uid: 10 });
    let state = MessageState { link: held, ..appending };
    assert_eq!(actions(NEW, Some(appending), &nothing), [Action::Store { message: A, state }]);
    // A deletion that was seen in the folder of the last look still counts.
    assert!(matches!(actions(NEW, Some(unnamed), &gone(&[3])).as_slice(), [Action::MarkHere { .. }]));
}
