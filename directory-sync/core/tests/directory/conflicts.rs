//! Values that one user alone may have: conflicts are named, moves are ordered.

use twinbox_directory_core::{AdoptBy, Person, Present, Step};
use twinbox_mailbox::{BindingState, SyncedField};

use crate::common::{NOW, OTHER, apply, bound, bound_to, dn, full, in_state, local, someone};

/// A person with a number and a mail address; an empty one is none.
fn with_mail(entry: u128, number: &str, mail: &str) -> Person {
    Person { mail: Some(mail.to_owned()).filter(|mail| !mail.is_empty()), ..someone(entry, number) }
}

/// A bound user of whom the directory supplies number and mail address.
fn user_with_mail(entry: u128, number: &str, mail: &str) -> Present {
    let mut user = bound(entry, number);
    user.mail = Some(mail.to_owned()).filter(|mail| !mail.is_empty());
    if let Some(binding) = &mut user.binding {
        binding.fields = binding.fields.with(SyncedField::Mail);
    }
    user
}

/// The reasons of the refused entries, by entry.
fn refused(people: &[Person], users: &[Present], adopt: Option<AdoptBy>) -> Vec<(u128, String)> {
    let found = full(people, users, adopt);
    apply(users, &found);
    found.refused.iter().map(|refused| (refused.entry.0, refused.reason.reveal().clone())).collect()
}

#[test]
fn one_number_twice_is_refused_and_named() {
    // Two new entries: neither gets it.
    let found = refused(&[someone(1, "1001"), someone(2, "1001"), someone(3, "1003")], &[], None);
    let reason =
        |other| format!("number 1001 is also that of {}: give each entry its own in the directory", dn(other));
    assert_eq!(found, [(1, reason(2)), (2, reason(1))]);
    // One of both has it: it keeps it.
    let found = refused(&[someone(1, "1001"), someone(2, "1001")], &[bound(1, "1001")], None);
    assert_eq!(found.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), [2]);
    for (holder, part) in [
        (local(9, "1001"), "the local user 1001"),
        (bound_to(OTHER, 9, "1001"), "of another directory"),
        (in_state(bound(9, "1001"), BindingState::Gone, NOW), "of this directory, whose entry is gone"),
    ] {
        // For a new user, and for one whose number changes.
        for users in [vec![holder.clone()], vec![holder.clone(), bound(1, "2000")]] {
            let found = refused(&[someone(1, "1001")], &users, None);
            assert_eq!(found.len(), 1, "{part}");
            assert!(found[0].1.contains(part), "{}", found[0].1);
        }
    }
}

#[test]
fn lost_number_is_a_conflict_that_names_its_holder() {
    let lost = Present { number_lost: true, ..bound(1, "1001") };
    let found = refused(&[someone(1, "1001")], &[lost.clone(), local(9, "1001")], None);
    assert!(matches!(found.as_slice(), [(1, reason)] if reason.contains("local user 1001")), "{found:?}");
    // Both come from the directory: the one that has the number keeps it.
    let found = refused(&[someone(1, "1001"), someone(2, "1001")], &[lost.clone(), bound(2, "1001")], None);
    assert!(matches!(found.as_slice(), [(1, reason)] if reason.contains(&dn(2))), "{found:?}");
    // Another number ends the conflict, and a disabled account is disabled with it.
    let users = [lost, local(9, "1001")];
    let moved = full(&[someone(1, "1002")], &users, None);
    assert!(moved.refused.is_empty() && matches!(moved.steps.as_slice(), [Step::Change { .. }]));
    let disabled = full(&[Person { disabled: true, ..someone(1, "1001") }], &users, None);
    assert!(disabled.refused.is_empty() && matches!(disabled.steps.as_slice(), [Step::Disable { .. }]));
}

#[test]
fn conflict_of_its_number_does_not_keep_an_account_enabled() {
    let disabled = |entry, number: &str| Person { disabled: true, ..someone(entry, number) };
    // The number of a local user, one number for two, and an exchange.
    let users = [bound(1, "1001"), bound(2, "1002"), local(9, "9000")];
    let cases = [
        [disabled(1, "9000"), someone(2, "1002")],
        [disabled(1, "1003"), someone(2, "1003")],
        [disabled(1, "1002"), someone(2, "1001")],
    ];
    for people in cases {
        let found = full(&people, &users, None);
        let of_first = |step: &&Step| matches!(step, Step::Disable { entry, .. } if entry.0 == 1);
        assert_eq!(found.steps.iter().filter(of_first).count(), 1, "{people:?}: {:?}", found.steps);
        assert_eq!(apply(&users, &found)[0].number, "1001", "it keeps its number: {people:?}");
    }
}

#[test]
fn refused_change_keeps_its_number_and_refuses_those_who_want_it() {
    let users = [bound(1, "1001"), bound(2, "1002"), local(9, "1003")];
    let people = [someone(1, "1002"), someone(2, "1003"), someone(3, "1001")];
    let found = refused(&people, &users, None);
    assert_eq!(found.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn numbers_that_move_along_a_chain_are_free_when_they_are_taken() {
    // `apply` checks each step.
    let users = [bound(1, "1001"), bound(2, "1002"), bound(3, "1003"), local(9, "9000")];
    let people = [someone(1, "1002"), someone(2, "1003"), someone(3, "1004"), someone(4, "1001")];
    let found = full(&people, &users, None);
    let numbers: Vec<String> = apply(&users, &found).into_iter().map(|user| user.number).collect();
    assert_eq!(numbers, ["1002", "1003", "1004", "9000", "1001"]);
    assert!(matches!(found.steps.last(), Some(Step::Create { .. })));
}

#[test]
fn exchanged_numbers_are_refused_and_named() {
    let users = [bound(1, "1001"), bound(2, "1002"), bound(3, "1003")];
    let people = [someone(1, "1002"), someone(2, "1001"), someone(3, "1004")];
    let found = refused(&people, &users, None);
    assert_eq!(found.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), [1, 2]);
    assert!(found[0].1.contains("number 1002 is exchanged"), "{}", found[0].1);
}

#[test]
fn one_address_twice_is_left_out_and_the_rest_is_taken() {
    let people = [with_mail(1, "1001", "x@a.example"), with_mail(2, "1002", "x@a.example")];
    let found = full(&people, &[], None);
    assert_eq!((found.steps.len(), found.notices.len(), found.refused.len()), (2, 2, 0));
    let users = apply(&[], &found);
    assert!(users.iter().all(|user| user.mail.is_none()));
    let again = full(&people, &users, None);
    assert_eq!((again.steps.len(), again.notices.len()), (0, 2));
    let line = again.lines().remove(0);
    assert!(line.starts_with(&format!("left out: mail of {}: mail x@a.example is also", dn(1))), "{line}");
}

#[test]
fn addresses_are_handed_over_within_a_run() {
    let users = [user_with_mail(1, "1001", "a@x.example"), user_with_mail(2, "1002", "b@x.example")];
    for people in [
        // Given up, moved along against the order of numbers, and taken by a new user.
        vec![with_mail(1, "1001", ""), with_mail(2, "1002", "a@x.example")],
        vec![with_mail(1, "1002", "b@x.example"), with_mail(2, "1003", "c@x.example")],
        vec![
            with_mail(1, "1005", "c@x.example"),
            with_mail(2, "1001", "a@x.example"),
            with_mail(3, "1002", "b@x.example"),
        ],
    ] {
        let found = full(&people, &users, None);
        assert_eq!((found.notices.len(), found.refused.len()), (0, 0));
        let after = apply(&users, &found);
        let mails: Vec<_> = after.iter().map(|user| user.mail.clone()).collect();
        assert_eq!(mails, people.iter().map(|person| person.mail.clone()).collect::<Vec<_>>());
        assert!(full(&people, &after, None).steps.is_empty());
    }
    let exchanged = [with_mail(1, "1001", "b@x.example"), with_mail(2, "1002", "a@x.example")];
    let found = full(&exchanged, &users, None);
    assert_eq!((found.steps.len(), found.notices.len(), found.unchanged), (0, 2, 2));
}

#[test]
fn ambiguous_adoption_is_refused() {
    let mut users = [local(1, "1001"), local(2, "1002"), local(3, "1003")];
    users[0].mail = Some("a@x.example".to_owned());
    // Two entries for one user.
    let people = [with_mail(1, "5001", "a@x.example"), with_mail(2, "5002", "a@x.example")];
    let found = refused(&people, &users, Some(AdoptBy::Mail));
    assert_eq!(found.len(), 2);
    assert!(found[0].1.contains("2 entries fit the local user 1001"), "{}", found[0].1);
    // Of two entries with one number, the users of which are local.
    let found = refused(&[someone(1, "1003"), someone(2, "1003")], &users, Some(AdoptBy::Number));
    assert_eq!(found.len(), 2);
    // Adopted by the address, but the number is that of another local user.
    let found = refused(&[with_mail(1, "1002", "a@x.example")], &users, Some(AdoptBy::Mail));
    assert!(found[0].1.contains("number 1002 is that of the local user 1002"), "{}", found[0].1);
}
