//! Steps from people and users.

use std::slice::from_ref;

use twinbox_directory_core::{AdoptBy, DirectoryStep, FieldProblem, Person, Present, Scope, difference};
use twinbox_ids::{MailboxId, Pii, Timestamp};
use twinbox_mailbox::{BindingState, EntryId, SyncedField, mailbox_of};

use crate::common::{DIRECTORY, HOUR, NOW, apply, bound, dn, full, in_state, local, settings, someone};

const DAY: u64 = 24 * HOUR;

/// Anna with all values.
fn anna(entry: u128) -> Person {
    Person {
        name: Some("Anna Berg".to_owned()),
        mail: Some("anna@example.com".to_owned()),
        language: Some("de".to_owned()),
        timezone: Some("Europe/Berlin".to_owned()),
        class: Some("sales".to_owned()),
        ..someone(entry, "1001")
    }
}

fn lines(people: &[Person], users: &[Present], adopt: Option<AdoptBy>) -> Vec<String> {
    full(people, users, adopt).lines()
}

#[test]
fn new_entry_becomes_a_user_whose_id_follows_from_directory_and_entry() {
    let found = full(&[anna(1), someone(2, "1002")], &[local(9, "9000")], None);
    let mailboxes: Vec<_> = found.steps.iter().map(DirectoryStep::mailbox).collect();
    assert_eq!(mailboxes, [1, 2].map(|entry| mailbox_of(DIRECTORY, EntryId(entry))));
    assert_eq!(
        found.lines(),
        [
            "new: number 1001, name Anna Berg, mail anna@example.com, language de, timezone Europe/Berlin, class sales \
         (uid=u1,ou=people,dc=example)",
            "new: number 1002 (uid=u2,ou=people,dc=example)",
        ]
    );
    assert_eq!((found.counts().new, found.counts().refused, found.unchanged), (2, 0, 0));
    let fields = match found.steps.first() {
        Some(DirectoryStep::Create { fields, .. }) => fields.iter().collect::<Vec<_>>(),
        step => panic!("{step:?}"),
    };
    assert_eq!(fields, SyncedField::ALL);
}

#[test]
fn changed_fields_are_shown_one_by_one_and_renames_keep_the_user() {
    let users = apply(&[], &full(&[anna(1)], &[], None));
    let changed = Person {
        number: Some("1009".to_owned()),
        name: Some("Anna Tal\u{1b}[31m".to_owned()),
        mail: None,
        language: None,
        class: None,
        dn: Pii::new("uid=tal,ou=people,dc=example".to_owned()),
        ..anna(1)
    };
    let found = full(from_ref(&changed), &users, None);
    assert_eq!(
        found.lines(),
        [
            "changed: 1001 Anna Berg: number 1001 -> 1009, name Anna Berg -> Anna Tal\\u{1b}[31m, mail anna@example.com \
         -> none, class sales -> none, entry uid=u1,ou=people,dc=example -> uid=tal,ou=people,dc=example",
        ]
    );
    let after = apply(&users, &found);
    // The last language stays: no other one is better.
    assert_eq!((after[0].language.as_str(), after[0].mail.as_deref()), ("de", None));
    let fields = after[0].binding.as_ref().map(|binding| binding.fields.iter().collect::<Vec<_>>());
    assert_eq!(fields, Some(vec![SyncedField::Number, SyncedField::Name, SyncedField::Timezone]));
    let again = full(&[changed], &after, None);
    assert_eq!((again.steps.len(), again.unchanged), (0, 1));
}

#[test]
fn local_edit_of_an_unsupplied_field_stays() {
    let mut users = apply(&[], &full(&[someone(1, "1001")], &[], None));
    users[0].mail = Some("own@example.com".to_owned());
    users[0].class = Some("gold".to_owned());
    let found = full(&[someone(1, "1001")], &users, None);
    assert_eq!((found.steps.len(), found.unchanged), (0, 1));
}

#[test]
fn value_that_cannot_be_used_leaves_its_field_as_it_is() {
    let users = apply(&[], &full(&[anna(1)], &[], None));
    let problem = |field| FieldProblem { field, text: Pii::new("is wrong".to_owned()) };
    let person = Person { mail: None, problems: vec![problem(SyncedField::Mail)], ..anna(1) };
    let found = full(&[person], &users, None);
    assert_eq!((found.steps.len(), found.notices.len(), found.unchanged), (0, 1, 1));
    assert_eq!(found.lines(), [format!("left out: mail of {}: is wrong", dn(1))]);
    // Without its number nothing is taken of an entry.
    let person = Person { number: None, name: None, problems: vec![problem(SyncedField::Number)], ..anna(1) };
    for users in [&users[..], &[]] {
        let found = full(from_ref(&person), users, None);
        assert_eq!((found.steps.len(), found.counts().refused), (0, 1));
        assert_eq!(found.lines(), [format!("refused: {}: is wrong", dn(1))]);
    }
}

#[test]
fn states_of_entries_become_states_of_users() {
    use BindingState::{Active, Disabled, Gone};
    let enabled = someone(1, "1001");
    let disabled = Person { disabled: true, number: None, ..someone(1, "1001") };
    let ago = |days: u64| Timestamp(NOW.0 - days * DAY);
    for (state, since, person, expected) in [
        (Active, ago(50), Some(&enabled), ""),
        (Active, ago(50), Some(&disabled), "disabled: 1001"),
        (Active, ago(50), None, "gone: 1001"),
        (Disabled, ago(50), Some(&enabled), "returned: 1001"),
        (Disabled, ago(50), Some(&disabled), ""),
        (Disabled, ago(50), None, "gone: 1001, disabled before"),
        (Gone, ago(50), Some(&enabled), "returned: 1001"),
        (Gone, ago(29), Some(&disabled), "disabled: 1001"),
        (Gone, ago(29), None, ""),
        (Gone, ago(30), None, "released: 1001: the grace time is over; the user is local and stays disabled"),
    ] {
        let users = [in_state(bound(1, "1001"), state, since), bound(2, "1002")];
        let people: Vec<Person> = person.into_iter().cloned().chain([someone(2, "1002")]).collect();
        let found = full(&people, &users, None);
        assert_eq!(found.lines().join("\n"), expected, "{state} {person:?}");
        let is_loss = found.steps.iter().any(DirectoryStep::is_loss);
        assert_eq!(is_loss, expected.starts_with("gone") || (expected.starts_with("disabled") && state == Active));
        let again = full(&people, &apply(&users, &found), None);
        assert!(again.steps.is_empty(), "{state}: {:?}", again.lines());
    }
    // An account that is disabled already gets no user.
    assert_eq!(lines(&[disabled], &[], None), [""; 0]);
}

#[test]
fn only_a_full_search_counts_absences() {
    let users = [bound(1, "1001"), bound(2, "1002"), bound(3, "1003")];
    let run = |scope: &Scope, people: Vec<Person>| {
        difference(DIRECTORY, &settings(&[]), scope, people, &users, None, NOW).lines()
    };
    let changes = |gone: &[u128]| Scope::Changes { gone: gone.iter().copied().map(EntryId).collect() };
    assert_eq!(run(&Scope::Full, vec![someone(1, "1001")]), ["gone: 1002", "gone: 1003"]);
    assert_eq!(run(&changes(&[]), vec![someone(1, "1009")]), ["changed: 1001: number 1001 -> 1009"]);
    assert_eq!(run(&changes(&[2, 77]), vec![]), ["gone: 1002"]);
    // Deleted and there again within one run.
    assert_eq!(run(&changes(&[2]), vec![someone(2, "1002")]), [""; 0]);
}

#[test]
fn grace_time_ends_in_a_run_without_changes_too() {
    let since = |days: u64| in_state(bound(1, "1001"), BindingState::Gone, Timestamp(NOW.0 - days * DAY));
    let run = |user: Present| {
        let scope = Scope::Changes { gone: Vec::new() };
        difference(DIRECTORY, &settings(&[]), &scope, Vec::new(), &[user], None, NOW).steps
    };
    assert!(run(since(29)).is_empty());
    assert!(matches!(run(since(30)).as_slice(), [DirectoryStep::Release { .. }]));
}

#[test]
fn local_users_are_adopted_only_when_told() {
    let mut carl = local(5, "1001");
    (carl.name, carl.mail) = ("Carl".to_owned(), Some("anna@example.com".to_owned()));
    let users = [carl, local(6, "2000")];
    let person = Person { language: None, timezone: None, class: None, ..anna(1) };
    let plain = lines(from_ref(&person), &users, None);
    assert_eq!(plain.len(), 1);
    let refused = plain.first().map_or("", String::as_str);
    for part in ["refused: uid=u1", "number 1001 is that of the local user 1001 (Carl)", "--adopt-by number"] {
        assert!(refused.contains(part), "{refused}");
    }
    let expected = format!("adopted: 1001 ({}): name Carl -> Anna Berg", dn(1));
    assert_eq!(lines(from_ref(&person), &users, Some(AdoptBy::Number)), [expected.as_str()]);
    let renumbered = Person { number: Some("1005".to_owned()), ..person.clone() };
    let found = full(&[renumbered], &users, Some(AdoptBy::Mail));
    let expected = format!("adopted: 1005 ({}): number 1001 -> 1005, name Carl -> Anna Berg", dn(1));
    assert_eq!(found.lines(), [expected.as_str()]);
    assert_eq!(found.steps.first().map(DirectoryStep::mailbox), Some(MailboxId(5)));
    let after = apply(&users, &found);
    assert!(after[1] == users[1] && after[0].binding.is_some());
}

#[test]
fn adopted_user_that_was_disabled_is_enabled() {
    let users = [Present { disabled: true, ..local(5, "1001") }];
    let found = full(&[someone(1, "1001")], &users, Some(AdoptBy::Number));
    assert_eq!(
        found.lines(),
        [format!("adopted: 1001 ({}): no field changes", dn(1)), "returned: 1001".to_owned()]
    );
    assert!(!apply(&users, &found)[0].disabled);
}

#[test]
fn user_that_was_made_local_is_not_taken_back() {
    let former = Present { mailbox: mailbox_of(DIRECTORY, EntryId(1)), ..local(0, "3000") };
    let found = lines(&[someone(1, "1001")], &[former], None);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("its user 3000 was made local: bind it with `twinbox directory bind`"), "{found:?}");
}

#[test]
fn entry_that_two_searches_return_counts_once() {
    let users = apply(&[], &full(&[anna(1), anna(1)], &[], None));
    assert_eq!(users.len(), 1);
}
