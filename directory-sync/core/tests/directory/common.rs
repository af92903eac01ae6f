//! People, users of a store, and a store that applies steps.

use std::ops::Range;

use twinbox_directory_core::{
    AdoptBy, Difference, DirectorySettings, DirectoryStep, FieldChange, Person, Present, Scope, difference,
};
use twinbox_ids::{DirectoryId, MailboxId, Pii, Timestamp};
use twinbox_mailbox::{Binding, BindingState, EntryId, SyncedField, SyncedFields, mailbox_of};

pub const DIRECTORY: DirectoryId = DirectoryId(7);
pub const OTHER: DirectoryId = DirectoryId(8);
pub const NOW: Timestamp = Timestamp(1_000_000_000_000);
pub const HOUR: u64 = 3_600_000;

/// Settings with those that a directory needs.
pub fn settings(more: &[&str]) -> DirectorySettings {
    let mut texts = vec!["url=ldaps://ldap.example.com", "base=ou=people,dc=example"];
    texts.extend(more);
    DirectorySettings::parse(&texts).unwrap_or_else(|error| panic!("{error}"))
}

/// The name of an entry in these tests.
pub fn dn(entry: u128) -> String {
    format!("uid=u{entry},ou=people,dc=example")
}

/// A person with a number only; an empty number is none.
pub fn someone(entry: u128, number: &str) -> Person {
    Person {
        entry: EntryId(entry),
        dn: Pii::new(dn(entry)),
        login: Pii::new(format!("u{entry}")),
        number: Some(number.to_owned()).filter(|number| !number.is_empty()),
        name: None,
        mail: None,
        language: None,
        timezone: None,
        class: None,
        pin: None,
        disabled: false,
        problems: Vec::new(),
    }
}

/// A local user.
pub fn local(mailbox: u128, number: &str) -> Present {
    Present {
        mailbox: MailboxId(mailbox),
        binding: None,
        number: number.to_owned(),
        number_lost: false,
        name: String::new(),
        mail: None,
        language: "en".to_owned(),
        timezone: "UTC".to_owned(),
        class: None,
        disabled: false,
    }
}

/// A user that comes from an entry of the directory.
pub fn bound(entry: u128, number: &str) -> Present {
    bound_to(DIRECTORY, entry, number)
}

/// A user that comes from an entry of a directory.
pub fn bound_to(directory: DirectoryId, entry: u128, number: &str) -> Present {
    let mailbox = mailbox_of(directory, EntryId(entry));
    let fields = SyncedFields::default().with(SyncedField::Number);
    let binding = Binding { directory, ..binding(&someone(entry, number), mailbox, fields) };
    Present { mailbox, binding: Some(binding), ..local(0, number) }
}

/// The same user in another state since then.
pub fn in_state(mut user: Present, state: BindingState, since: Timestamp) -> Present {
    if let Some(binding) = &mut user.binding {
        (binding.state, binding.since) = (state, since);
    }
    user.disabled = state != BindingState::Active;
    user
}

fn binding(person: &Person, mailbox: MailboxId, fields: SyncedFields) -> Binding {
    Binding {
        directory: DIRECTORY,
        entry: person.entry,
        mailbox,
        dn: person.dn.clone(),
        login: person.login.clone(),
        state: BindingState::Active,
        since: NOW,
        lost_at: None,
        fields,
    }
}

/// The difference of a full search, with the default settings.
pub fn full(people: &[Person], users: &[Present], adopt: Option<AdoptBy>) -> Difference {
    difference(DIRECTORY, &settings(&[]), &Scope::Full, people.to_vec(), users, adopt, NOW)
}

/// Applies the steps in their order, as the store does: a number or address that another user has is an error. Within an
/// exchange numbers are compared after its last step.
pub fn apply(users: &[Present], difference: &Difference) -> Vec<Present> {
    let mut users = users.to_vec();
    for (at, step) in difference.steps.iter().enumerate() {
        match step {
            DirectoryStep::Create { person, mailbox, fields } => {
                let text = |field| person.value(field).map(str::to_owned);
                assert!(users.iter().all(|user| user.mailbox != *mailbox), "{mailbox} is there already");
                let base = local(mailbox.0, &text(SyncedField::Number).expect("a number"));
                users.push(Present {
                    binding: Some(binding(person, *mailbox, *fields)),
                    name: text(SyncedField::Name).unwrap_or_default(),
                    mail: text(SyncedField::Mail),
                    language: text(SyncedField::Language).unwrap_or(base.language),
                    timezone: text(SyncedField::Timezone).unwrap_or(base.timezone),
                    class: text(SyncedField::Class),
                    ..local(mailbox.0, &base.number)
                });
            }
            DirectoryStep::Adopt { person, mailbox, changes, fields } => {
                let user = find(&mut users, *mailbox);
                assert!(user.binding.is_none(), "{mailbox} is bound");
                user.binding = Some(binding(person, *mailbox, *fields));
                changes.iter().for_each(|change| set(user, change));
            }
            DirectoryStep::Change { person, mailbox, changes, fields, .. } => {
                let user = find(&mut users, *mailbox);
                changes.iter().for_each(|change| set(user, change));
                let binding = user.binding.as_mut().expect("a binding");
                (binding.dn, binding.login) = (person.dn.clone(), person.login.clone());
                binding.fields = *fields;
            }
            DirectoryStep::Disable { mailbox, .. } => {
                enter(&mut users, *mailbox, BindingState::Disabled, step.is_loss())
            }
            DirectoryStep::Gone { mailbox, .. } => enter(&mut users, *mailbox, BindingState::Gone, step.is_loss()),
            DirectoryStep::Return { mailbox, .. } => enter(&mut users, *mailbox, BindingState::Active, false),
            DirectoryStep::Release { mailbox, .. } => find(&mut users, *mailbox).binding = None,
        }
        let goes_on = |exchange: &Range<usize>| exchange.contains(&at) && exchange.contains(&(at + 1));
        if !difference.exchanges.iter().any(goes_on) {
            assert_unique(&users, SyncedField::Number);
        }
        assert_unique(&users, SyncedField::Mail);
    }
    users
}

fn find(users: &mut [Present], mailbox: MailboxId) -> &mut Present {
    users.iter_mut().find(|user| user.mailbox == mailbox).expect("the user of a step")
}

fn set(user: &mut Present, change: &FieldChange) {
    let private = |text: &Option<Pii<String>>| text.as_ref().map(|text| text.reveal().clone());
    assert_eq!(user.value(change.field).map(str::to_owned), private(&change.from), "{}", change.field);
    let to = private(&change.to);
    match change.field {
        SyncedField::Number => user.number = to.expect("a number"),
        SyncedField::Name => user.name = to.unwrap_or_default(),
        SyncedField::Mail => user.mail = to,
        SyncedField::Language => user.language = to.expect("a language"),
        SyncedField::Timezone => user.timezone = to.expect("a time zone"),
        SyncedField::Class => user.class = to,
    }
}

fn enter(users: &mut [Present], mailbox: MailboxId, state: BindingState, lost: bool) {
    let user = find(users, mailbox);
    user.disabled = state != BindingState::Active;
    let binding = user.binding.as_mut().expect("a binding");
    (binding.state, binding.since) = (state, NOW);
    if lost {
        binding.lost_at = Some(NOW);
    }
}

fn assert_unique(users: &[Present], field: SyncedField) {
    let mut values: Vec<&str> = users.iter().filter_map(|user| user.value(field)).collect();
    values.sort_unstable();
    assert!(values.windows(2).all(|pair| pair[0] != pair[1]), "two users have one {field}: {values:?}");
}
