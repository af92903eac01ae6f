//! Properties of differences over arbitrary people and users.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;
use twinbox_directory_core::{AdoptBy, DirectoryStep, Person, Present, RefusedEntry, Scope, difference};
use twinbox_ids::{MailboxId, Pii};
use twinbox_mailbox::{BindingState, EntryId, SyncedField, SyncedFields, mailbox_of};

use crate::common::{DIRECTORY, NOW, OTHER, apply, bound_to, full, in_state, local, settings, someone};

/// Few values, so that conflicts, chains and rings are frequent.
const VALUES: u128 = 7;

fn number(at: u128) -> String {
    format!("100{at}")
}

/// The address of a value; `None` for 0.
fn mail(at: u128) -> Option<String> {
    (at > 0).then(|| format!("m{at}@example.com"))
}

prop_compose! {
    fn any_person()(
        entry in 0..8_u128,
        at in 0..VALUES,
        address in 0..VALUES,
        name in prop::option::of("[ab]"),
        disabled in prop::bool::weighted(0.2),
        without_number in prop::bool::weighted(0.1),
    ) -> Person {
        let number = if without_number { String::new() } else { number(at) };
        Person { mail: mail(address), name, disabled, ..someone(entry, &number) }
    }
}

prop_compose! {
    fn any_user()(
        kind in 0..6_u8,
        entry in 0..8_u128,
        at in 0..VALUES,
        address in 0..VALUES,
        state in prop::sample::select(BindingState::ALL.to_vec()),
        supplies_mail in any::<bool>(),
        disabled in any::<bool>(),
    ) -> Present {
        let number = number(at);
        let user = match kind {
            0 => Present { disabled, ..local(100 + entry, &number) },
            1 => Present { mailbox: mailbox_of(DIRECTORY, EntryId(entry)), ..local(0, &number) },
            2 => bound_to(OTHER, entry, &number),
            // Bound by hand.
            3 => {
                let mut user = in_state(bound_to(DIRECTORY, entry, &number), state, NOW);
                user.mailbox = MailboxId(200 + entry);
                if let Some(binding) = &mut user.binding {
                    binding.mailbox = user.mailbox;
                    binding.fields = SyncedFields::default();
                }
                user
            }
            _ => in_state(bound_to(DIRECTORY, entry, &number), state, NOW),
        };
        let mut user = Present { mail: mail(address), ..user };
        if let Some(binding) = user.binding.as_mut().filter(|_| supplies_mail) {
            binding.fields = binding.fields.with(SyncedField::Mail);
            binding.dn = Pii::new("uid=old,dc=example".to_owned());
        }
        user
    }
}

/// Users of a store: ids, entries, numbers and addresses are unique.
fn any_users() -> impl Strategy<Value = Vec<Present>> {
    prop::collection::vec(any_user(), 0..8).prop_map(|users| {
        let (mut ids, mut entries, mut numbers, mut mails) =
            (HashSet::new(), HashSet::new(), HashSet::new(), HashSet::new());
        users
            .into_iter()
            .filter(|user| {
                let entry = user.binding.as_ref().map(|binding| (binding.directory, binding.entry));
                let taken = ids.contains(&user.mailbox)
                    || numbers.contains(&user.number)
                    || entry.is_some_and(|entry| entries.contains(&entry))
                    || user.mail.as_ref().is_some_and(|mail| mails.contains(mail));
                if !taken {
                    ids.insert(user.mailbox);
                    numbers.insert(user.number.clone());
                    entries.extend(entry);
                    mails.extend(user.mail.clone());
                }
                !taken
            })
            .collect::<Vec<_>>()
    })
}

fn any_people() -> impl Strategy<Value = Vec<Person>> {
    prop::collection::vec(any_person(), 0..10)
}

fn any_adoption() -> impl Strategy<Value = Option<AdoptBy>> {
    prop::sample::select(vec![None, Some(AdoptBy::Number), Some(AdoptBy::Mail)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// `apply` checks that each number and address is free when it is taken.
    #[test]
    fn applied_difference_leaves_none(people in any_people(), users in any_users(), adopt in any_adoption()) {
        let found = full(&people, &users, adopt);
        let after = apply(&users, &found);
        let again = full(&people, &after, adopt);
        prop_assert!(again.steps.is_empty(), "{:?} after {:?}", again.lines(), found.lines());
        // The reasons may name the new state of a user.
        let entries = |refused: &[RefusedEntry]| refused.iter().map(|refused| refused.entry).collect::<Vec<_>>();
        prop_assert_eq!(entries(&again.refused), entries(&found.refused));
    }

    #[test]
    fn order_of_entries_and_users_does_not_matter(
        people in any_people(),
        users in any_users(),
        adopt in any_adoption(),
        turn in 0..8_usize,
    ) {
        let found = full(&people, &users, adopt);
        let (mut people, mut users) = (people, users);
        people.reverse();
        users.reverse();
        let (at, to) = (turn.min(people.len()), turn.min(users.len()));
        people.rotate_left(at);
        users.rotate_left(to);
        prop_assert_eq!(full(&people, &users, adopt), found);
    }

    #[test]
    fn every_entry_is_accounted_for_and_new_users_have_their_own_id(people in any_people(), users in any_users()) {
        let found = full(&people, &users, None);
        let changed: BTreeSet<EntryId> = found.steps.iter().map(DirectoryStep::entry).collect();
        let refused: BTreeSet<EntryId> = found.refused.iter().map(|refused| refused.entry).collect();
        prop_assert!(changed.intersection(&refused).next().is_none());
        for step in &found.steps {
            if let DirectoryStep::Create { person, mailbox, .. } = step {
                prop_assert_eq!(*mailbox, mailbox_of(DIRECTORY, person.entry));
                prop_assert!(!person.disabled && person.number.is_some());
            }
        }
        let counts = found.counts();
        prop_assert_eq!(counts.refused, refused.len() as u64);
        let lines = found.lines().len();
        prop_assert_eq!(lines, found.steps.len() + found.refused.len() + found.notices.len());
    }

    #[test]
    fn users_that_are_not_of_the_directory_stay_as_they_are(people in any_people(), users in any_users()) {
        let after = apply(&users, &full(&people, &users, None));
        let foreign = |user: &&Present| user.binding.as_ref().is_none_or(|binding| binding.directory != DIRECTORY);
        for user in users.iter().filter(foreign) {
            prop_assert!(after.contains(user));
        }
    }

    #[test]
    fn changes_take_only_reported_entries_away(
        people in any_people(),
        users in any_users(),
        gone in prop::collection::btree_set(0..8_u128, 0..4),
    ) {
        let scope = Scope::Changes { gone: gone.iter().copied().map(EntryId).collect() };
        let found = difference(DIRECTORY, &settings(&[]), &scope, people.clone(), &users, None, NOW);
        apply(&users, &found);
        for step in &found.steps {
            if let DirectoryStep::Gone { entry, .. } = step {
                prop_assert!(gone.contains(&entry.0) && people.iter().all(|person| person.entry != *entry));
            }
        }
    }
}
