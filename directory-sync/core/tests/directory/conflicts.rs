//! Values that one user alone may have: conflicts are named, moves are ordered.

use std::ops::Range;

use twinbox_directory_core::{AdoptBy, DirectoryStep, Person, Present};
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
    assert!(moved.refused.is_empty() && matches!(moved.steps.as_slice(), [DirectoryStep::Change { .. }]));
    let disabled = full(&[Person { disabled: true, ..someone(1, "1001") }], &users, None);
    assert!(disabled.refused.is_empty() && matches!(disabled.steps.as_slice(), [DirectoryStep::Disable { .. }]));
}

#[test]
fn conflict_of_its_number_does_not_keep_an_account_enabled() {
    let disabled = |entry, number: &str| Person { disabled: true, ..someone(entry, number) };
    // The number of a local user, one number for two, and an exchange.
    let users = [bound(1, "1001"), bound(2, "1002"), local(9, "9000")];
    let cases = [
        ([disabled(1, "9000"), someone(2, "1002")], "1001"),
        ([disabled(1, "1003"), someone(2, "1003")], "1001"),
        ([disabled(1, "1002"), someone(2, "1001")], "1002"),
    ];
    for (people, number) in cases {
        let found = full(&people, &users, None);
        let of_first = |step: &&DirectoryStep| matches!(step, DirectoryStep::Disable { entry, .. } if entry.0 == 1);
        assert_eq!(found.steps.iter().filter(of_first).count(), 1, "{people:?}: {:?}", found.steps);
        let at = found.steps.iter().position(|step| of_first(&step));
        let is_before = |together: &Range<usize>| at < Some(together.start);
        assert!(found.exchanges.iter().all(is_before), "an exchange may be refused: {people:?}");
        assert_eq!(apply(&users, &found)[0].number, number, "{people:?}");
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
    assert!(matches!(found.steps.last(), Some(DirectoryStep::Create { .. })));
}

#[test]
fn exchanged_numbers_are_planned_together() {
    let users: Vec<Present> = (1..=6).map(|entry| bound(entry, &format!("100{entry}"))).collect();
    let numbers = |people: &[Person]| {
        let found = full(people, &users, None);
        assert!(found.refused.is_empty() && found.notices.is_empty(), "{:?}", found.lines());
        let after = apply(&users, &found);
        assert!(full(people, &after, None).steps.is_empty());
        let numbers: Vec<String> = after.into_iter().map(|user| user.number).collect();
        let exchanges: Vec<_> = found.exchanges.iter().map(|steps| (steps.start, steps.end)).collect();
        (numbers.join(" "), exchanges)
    };
    let people = |of: [&str; 6]| -> Vec<Person> { (1..).zip(of).map(|(entry, n)| someone(entry, n)).collect() };
    // Two users, three users, and two rings beside a chain.
    let two = people(["1002", "1001", "1003", "1004", "1005", "1006"]);
    assert_eq!(numbers(&two), ("1002 1001 1003 1004 1005 1006".to_owned(), vec![(0, 2)]));
    let three = people(["1002", "1003", "1001", "1004", "1005", "1006"]);
    assert_eq!(numbers(&three), ("1002 1003 1001 1004 1005 1006".to_owned(), vec![(0, 3)]));
    let rings = people(["1002", "1001", "1004", "1003", "1006", "1007"]);
    assert_eq!(numbers(&rings), ("1002 1001 1004 1003 1006 1007".to_owned(), vec![(2, 4), (4, 6)]));
}

#[test]
fn exchange_takes_returning_and_adopted_users_along() {
    // Entry 1 is back with the number of a local user, who takes that of entry 1 by the mail address.
    let back = in_state(bound(1, "1001"), BindingState::Disabled, NOW);
    let mut carl = Present { disabled: true, ..local(5, "1002") };
    carl.mail = Some("carl@x.example".to_owned());
    let users = [back, carl];
    let people = [someone(1, "1002"), with_mail(2, "1001", "carl@x.example")];
    let found = full(&people, &users, Some(AdoptBy::Mail));
    let kinds: Vec<&str> = found
        .steps
        .iter()
        .map(|step| match step {
            DirectoryStep::Return { .. } => "return",
            DirectoryStep::Change { .. } => "change",
            DirectoryStep::Adopt { .. } => "adopt",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["return", "change", "adopt", "return"]);
    let exchanges: Vec<_> = found.exchanges.iter().map(|steps| (steps.start, steps.end)).collect();
    assert_eq!(exchanges, [(1, 3)]);
    let after = apply(&users, &found);
    assert!(after.iter().all(|user| !user.disabled && user.binding.is_some()));
    assert_eq!([&after[0].number, &after[1].number], ["1002", "1001"]);
}

#[test]
fn exchange_with_a_taken_number_is_refused_and_named() {
    let users = [bound(1, "1001"), bound(2, "1002"), local(9, "9000")];
    // The second user wants a number of a local user instead: the first one waits for it.
    let found = refused(&[someone(1, "1002"), someone(2, "9000")], &users, None);
    assert_eq!(found.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), [1, 2]);
    // A third one wants a number of the exchange.
    let found = refused(&[someone(1, "1002"), someone(2, "1001"), someone(3, "1001")], &users, None);
    assert_eq!(found.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(found[1].1.contains(&dn(3)), "{}", found[1].1);
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
