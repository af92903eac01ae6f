//! Limits of deletions, disablings and emptied fields.

use proptest::prelude::*;
use twinbox_directory_core::{HeldBackReason, Limits, Person, Present, Scope, difference, guard};
use twinbox_ids::Timestamp;
use twinbox_mailbox::{BindingState, EntryId, SyncedField};

use crate::common::{
    DIRECTORY, HOUR, NOW, OTHER, apply, bound, bound_to, full, in_state, local, settings, someone,
};

const LIMITS: Limits = Limits { percent: 10, count: 2 };

fn number(entry: u128) -> String {
    format!("1{entry:03}")
}

/// Users of these entries.
fn users(entries: std::ops::Range<u128>) -> Vec<Present> {
    entries.map(|entry| bound(entry, &number(entry))).collect()
}

/// The user as one that the directory lost at this time.
fn lost(user: Present, state: BindingState, at: Timestamp) -> Present {
    let mut user = in_state(user, state, at);
    if let Some(binding) = &mut user.binding {
        binding.lost_at = Some(at);
    }
    user
}

/// The outcome of a full search that finds these entries.
fn check(users: &[Present], found: std::ops::Range<u128>) -> Result<(), HeldBackReason> {
    let people: Vec<_> = found.map(|entry| someone(entry, &number(entry))).collect();
    guard(&full(&people, users, None), users, &LIMITS, None, NOW).map_err(|held| held.reason)
}

#[test]
fn share_and_number_of_losses_are_limited() {
    const SHARE: Result<(), HeldBackReason> = Err(HeldBackReason::Share { percent: 10 });
    const ALL: Result<(), HeldBackReason> = Err(HeldBackReason::All);
    let others = || [local(1, "9001"), local(2, "9002"), bound_to(OTHER, 900, "9003")];
    for (count, found, expected) in [
        (100, 100, Ok(())),
        (100, 90, Ok(())),
        (100, 89, SHARE),
        // Few users pass whatever their share is.
        (4, 2, Ok(())),
        (4, 1, SHARE),
        (2, 0, ALL),
        (100, 0, ALL),
        (1, 0, Ok(())),
    ] {
        let mut users = users(0..count);
        users.extend(others());
        assert_eq!(check(&users, 0..found), expected, "{found} of {count}");
    }
}

#[test]
fn losses_of_the_last_24_hours_count_on_all_paths() {
    let day = 24 * HOUR;
    for (state, age, expected) in [
        (BindingState::Gone, day - 1, false),
        (BindingState::Disabled, day - 1, false),
        // Lost and back: it counts as one that was lost.
        (BindingState::Active, day - 1, false),
        (BindingState::Gone, day, true),
        (BindingState::Disabled, day, true),
    ] {
        // 8 of 100 were lost before; 3 more are within the limit by themselves only.
        let mut users = users(0..100);
        for user in users.iter_mut().take(8) {
            *user = lost(user.clone(), state, Timestamp(NOW.0 - age));
        }
        let gone = (97..100).map(EntryId).collect();
        let scope = Scope::Changes { gone };
        let found = difference(DIRECTORY, &settings(&[]), &scope, Vec::new(), &users, None, NOW);
        let outcome = guard(&found, &users, &LIMITS, None, NOW);
        assert_eq!(outcome.is_ok(), expected, "{state} {age}");
        if let Err(held) = outcome {
            assert_eq!((held.losses, held.earlier, held.users), (3, 8, 100));
            let text = held.to_string();
            for part in ["3 of 100 users", "8 others", "10 %", "--accept-deletions"] {
                assert!(text.contains(part), "{text}");
            }
        }
    }
}

#[test]
fn disablings_count_as_deletions_and_returns_do_not() {
    let users = users(0..20);
    let mut people: Vec<_> = (0..20).map(|entry| someone(entry, &number(entry))).collect();
    for person in people.iter_mut().take(3) {
        person.disabled = true;
    }
    let found = full(&people, &users, None);
    assert_eq!(found.counts().disabled, 3);
    assert!(guard(&found, &users, &LIMITS, None, NOW).is_err());
    let disabled: Vec<_> = users.into_iter().map(|user| in_state(user, BindingState::Disabled, NOW)).collect();
    people.iter_mut().for_each(|person| person.disabled = false);
    let found = full(&people, &disabled, None);
    assert_eq!(found.counts().returned, 20);
    assert!(guard(&found, &disabled, &LIMITS, None, NOW).is_ok());
}

#[test]
fn accepted_run_lets_exactly_its_losses_through() {
    let users = users(0..20);
    let after = |found: &[u128]| {
        let people: Vec<_> = found.iter().map(|entry| someone(*entry, &number(*entry))).collect();
        full(&people, &users, None)
    };
    let left: Vec<u128> = (0..10).collect();
    let reversed: Vec<u128> = left.iter().rev().copied().collect();
    let digest = after(&left).digest();
    let accepted = |found: &[u128]| guard(&after(found), &users, &LIMITS, Some(&digest), NOW).is_ok();
    assert!(accepted(&left) && accepted(&reversed));
    assert!(!accepted(&left[..9]), "one more");
    assert!(!accepted(&(0..11).collect::<Vec<u128>>()), "one fewer");
    assert!(!accepted(&(1..11).collect::<Vec<u128>>()), "another one");
    // New users do not matter.
    let mut with_new = left.clone();
    with_new.push(50);
    assert!(accepted(&with_new));
}

/// People with all values that an attribute can lose.
fn complete(count: u128) -> Vec<Person> {
    let person = |entry| Person {
        name: Some(format!("User {entry}")),
        mail: Some(format!("u{entry}@example.com")),
        language: Some("de".to_owned()),
        timezone: Some("Europe/Berlin".to_owned()),
        class: Some("sales".to_owned()),
        ..someone(entry, &number(entry))
    };
    (0..count).map(person).collect()
}

/// Takes the value of a field away from the first people.
fn hide(people: &mut [Person], field: SyncedField, count: usize) {
    for person in people.iter_mut().take(count) {
        match field {
            SyncedField::Number => person.number = None,
            SyncedField::Name => person.name = None,
            SyncedField::Mail => person.mail = None,
            SyncedField::Language => person.language = None,
            SyncedField::Timezone => person.timezone = None,
            SyncedField::Class => person.class = None,
        }
    }
}

#[test]
fn field_that_would_be_emptied_for_too_many_users_holds_the_run_back() {
    let users = apply(&[], &full(&complete(100), &[], None));
    for (field, count, is_held) in [
        (SyncedField::Mail, 10, false),
        (SyncedField::Mail, 11, true),
        (SyncedField::Mail, 100, true),
        (SyncedField::Class, 100, true),
        (SyncedField::Name, 100, true),
        // Their last values stay.
        (SyncedField::Language, 100, false),
        (SyncedField::Timezone, 100, false),
        // Entries without a number are refused: their users stay as they are.
        (SyncedField::Number, 100, false),
    ] {
        let mut people = complete(100);
        hide(&mut people, field, count);
        let found = full(&people, &users, None);
        assert_eq!(found.refused.is_empty(), field != SyncedField::Number, "{field}");
        let outcome = guard(&found, &users, &LIMITS, None, NOW);
        assert_eq!(outcome.is_err(), is_held, "{field} {count}");
        if let Err(held) = outcome {
            let reason = HeldBackReason::Emptied { field, percent: 10 };
            assert_eq!((held.losses, held.users, held.reason), (count as u64, 100, reason));
            let text = held.to_string();
            for part in [format!("{field} of {count} of the 100 users"), "--accept-deletions".to_owned()] {
                assert!(text.contains(&part), "{text}");
            }
        }
    }
}

#[test]
fn emptied_fields_are_compared_with_the_users_who_have_them_each_field_for_itself() {
    let mut people = complete(100);
    // Of 100 users, 3 have a class, and all of them lose it; 10 others lose the mail address.
    hide(&mut people[3..], SyncedField::Class, 97);
    let users = apply(&[], &full(&people, &[], None));
    let mut fewer = people.clone();
    hide(&mut fewer[3..], SyncedField::Mail, 10);
    assert!(guard(&full(&fewer, &users, None), &users, &LIMITS, None, NOW).is_ok());
    hide(&mut fewer, SyncedField::Class, 3);
    let held = guard(&full(&fewer, &users, None), &users, &LIMITS, None, NOW).expect_err("all classes");
    assert_eq!((held.losses, held.users), (3, 3));
    // Few emptied values pass whatever their share is.
    let mut fewer = people.clone();
    hide(&mut fewer, SyncedField::Class, 2);
    assert!(guard(&full(&fewer, &users, None), &users, &LIMITS, None, NOW).is_ok());
    // Another value is no empty one.
    let mut other = people.clone();
    other.iter_mut().for_each(|person| person.class = person.class.take().map(|_| "gold".to_owned()));
    assert!(guard(&full(&other, &users, None), &users, &LIMITS, None, NOW).is_ok());
    // A value that was set here is not emptied.
    let mut here = users.clone();
    here.iter_mut().skip(3).for_each(|user| user.class = Some("gold".to_owned()));
    assert!(guard(&full(&people, &here, None), &here, &LIMITS, None, NOW).is_ok());
}

#[test]
fn accepted_run_empties_exactly_its_fields() {
    let users = apply(&[], &full(&complete(20), &[], None));
    let after = |field, count| {
        let mut people = complete(20);
        hide(&mut people, field, count);
        full(&people, &users, None)
    };
    let digest = after(SyncedField::Mail, 10).digest();
    let accepted = |field, count| guard(&after(field, count), &users, &LIMITS, Some(&digest), NOW).is_ok();
    assert!(accepted(SyncedField::Mail, 10));
    assert!(!accepted(SyncedField::Mail, 11), "one more");
    assert!(!accepted(SyncedField::Class, 10), "another field");
    // Losses and emptied fields are accepted together only.
    let mut people = complete(20);
    hide(&mut people, SyncedField::Mail, 10);
    people.truncate(15);
    assert!(guard(&full(&people, &users, None), &users, &LIMITS, Some(&digest), NOW).is_err());
}

proptest! {
    #[test]
    fn no_sequence_of_runs_loses_more_than_the_limit_within_24_hours(
        runs in prop::collection::vec(prop::collection::vec(0_u128..40, 1..4), 1..20),
    ) {
        let mut present = users(0..40);
        for gone in runs {
            let scope = Scope::Changes { gone: gone.into_iter().map(EntryId).collect() };
            let found = difference(DIRECTORY, &settings(&[]), &scope, Vec::new(), &present, None, NOW);
            if guard(&found, &present, &LIMITS, None, NOW).is_ok() {
                present = apply(&present, &found);
            }
        }
        prop_assert!(present.iter().filter(|user| user.disabled).count() <= 4);
    }
}
