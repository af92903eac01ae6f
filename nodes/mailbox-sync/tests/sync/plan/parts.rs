//! Mails of a part, which the whole replaces.

use std::collections::BTreeMap;

use twinbox_mailbox::Mark;
use twinbox_mailbox_sync::{Action, Extent, Link, LocalMessage, MailState, RemoteView};

use super::{
    A, DELETED, HEARD, NEW, NEW_DELETED, NONE, SEEN, VALIDITY, actions, bound, found, gone, here, other_folder,
    planned, row, view, with,
};

const PART: MailState = MailState { extent: Extent::Part, part: 0, alias: 0, scan: 0, refusal: None };

#[test]
fn part_is_replaced_by_the_whole_and_goes_only_when_the_whole_was_seen() {
    let part = with(row(NEW, bound(3, NONE)), PART);
    let replaces = MailState { part: 3, ..MailState::default() };
    let append = |flags, mail| Action::Append { message: A, flags, mail };
    // Still partial here: nothing to do.
    let partial = LocalMessage { partial: true, ..here(A, NEW) };
    assert_eq!(planned(&[partial], &[(A, part)], &view()).actions, []);
    assert_eq!(actions(NEW, Some(part), &view()), [append(NONE, replaces)]);
    // The flags that the owner set on the part count; its removal does not.
    let read = RemoteView { flags: BTreeMap::from([(3, SEEN)]), ..view() };
    let then = with(row(HEARD, bound(3, SEEN)), PART);
    let mark = Action::MarkHere { message: A, expected: NEW, partial: false, marks: vec![Mark::Heard], then };
    assert_eq!(actions(NEW, Some(part), &read), [mark, append(SEEN, replaces)]);
    let flagged = RemoteView { flags: BTreeMap::from([(3, DELETED)]), ..view() };
    assert_eq!(actions(NEW, Some(part), &flagged), [append(NONE, replaces)]);
    assert_eq!(actions(NEW, Some(part), &gone(&[3])), [append(NONE, MailState::default())]);
    // The deletion of a part that is no more than that counts.
    let plan = planned(&[partial], &[(A, part)], &gone(&[3]));
    assert!(matches!(plan.actions.as_slice(), [Action::MarkHere { partial: true, .. }]), "{plan:?}");
    // Cut after the APPEND, and before it.
    let appending = row(NEW, Link::Appending { uid_validity: VALIDITY, from_uid: 10 });
    let appending = with(appending, replaces);
    let both = with(row(NEW, bound(12, NONE)), replaces);
    let remove = |refused| Action::RemovePart { message: A, uid: 3, then: row(NEW, bound(12, NONE)), refused };
    assert_eq!(actions(NEW, Some(appending), &found(12, NONE)), [remove(both)]);
    assert_eq!(actions(NEW, Some(appending), &view()), [append(NONE, replaces)]);
    let ahead = RemoteView { uid_next: 13, ..view() };
    assert_eq!(actions(NEW, Some(both), &ahead), [remove(both)]);
    // After a change of UIDVALIDITY both are found again.
    let found_parts = BTreeMap::from([(A, (1, SEEN))]);
    let other = other_folder(RemoteView { found_parts: found_parts.clone(), ..found(2, NONE) });
    assert!(matches!(actions(NEW, Some(both), &other).as_slice(), [Action::RemovePart { uid: 1, .. }]));
    let other = other_folder(RemoteView { found_parts, ..view() });
    assert!(matches!(
        actions(NEW, Some(part), &other).as_slice(),
        [Action::Append { mail: MailState { part: 1, .. }, .. }]
    ));
}

#[test]
fn mail_of_a_part_goes_before_its_row_is_forgotten() {
    let left = with(row(NEW_DELETED, Link::Gone), MailState { part: 3, ..MailState::default() });
    let then = row(NEW_DELETED, Link::Gone);
    let remove = Action::RemovePart { message: A, uid: 3, then, refused: left };
    assert_eq!(planned(&[], &[(A, left)], &view()).actions, [remove]);
    assert_eq!(planned(&[], &[(A, then)], &view()).actions, [Action::Forget { message: A }]);
}
