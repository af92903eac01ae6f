//! Limits of deletions and disablings.

use proptest::prelude::*;
use twinbox_directory_core::{HeldBackReason, Limits, Present, Scope, difference, guard};
use twinbox_ids::Timestamp;
use twinbox_mailbox::{BindingState, EntryId};

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
