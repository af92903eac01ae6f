//! From the steps of the core to those of the store.

use twinbox_directory_core::{DirectoryStep, FieldChange, FirstPin, FirstPinError, FirstPinStep, Person, Present};
use twinbox_directory_store::{AppliedStep, PresentUser, StepAction, SuppliedValues};
use twinbox_ids::Pii;
use twinbox_mailbox::{
    SyncedFields,
    pin::{self, RANDOM_DIGITS},
};

/// A user of the store as the core compares it.
pub(crate) fn present(user: PresentUser) -> Present {
    Present {
        mailbox: user.mailbox,
        binding: user.binding,
        number: user.number.into_revealed(),
        number_lost: user.number_lost,
        name: user.name.into_revealed(),
        mail: user.mail.map(Pii::into_revealed),
        language: user.language,
        timezone: user.timezone,
        class: user.class,
        disabled: user.disabled,
    }
}

/// The step for the store, outside an exchange, and the reason why a new user gets no first PIN. `mail_out`: mail out is
/// configured.
pub(crate) fn applied(
    step: &DirectoryStep,
    first_pin: &FirstPin,
    min_pin_length: u8,
    mail_out: bool,
) -> (AppliedStep, Option<String>) {
    let mut problem = None;
    let person = match step {
        DirectoryStep::Create { person, .. }
        | DirectoryStep::Adopt { person, .. }
        | DirectoryStep::Change { person, .. } => Some(person),
        DirectoryStep::Disable { .. }
        | DirectoryStep::Gone { .. }
        | DirectoryStep::Return { .. }
        | DirectoryStep::Release { .. } => None,
    };
    let action = match step {
        DirectoryStep::Create { person, fields, .. } => {
            let step = match first_pin.step(person, min_pin_length) {
                Ok(FirstPinStep::Mail(_)) if !mail_out => Err(FirstPinError::NoMailOut),
                step => step,
            };
            let (pin, mail_pin) = match step {
                Ok(FirstPinStep::Set(pin)) => (Some(pin), None),
                Ok(FirstPinStep::Mail(to)) => {
                    let number = person.number.as_deref().unwrap_or_default();
                    let digits = usize::from(min_pin_length).max(RANDOM_DIGITS);
                    (Some(Pii::new(pin::random(number, digits, rand::random))), Some(to))
                }
                Ok(FirstPinStep::None) => (None, None),
                Err(error) => {
                    problem = Some(error.to_string());
                    (None, None)
                }
            };
            StepAction::Create { values: values(person, *fields), fields: *fields, pin, mail_pin }
        }
        DirectoryStep::Adopt { mailbox, changes, fields, .. } => {
            StepAction::Adopt { mailbox: *mailbox, changes: changed(changes), fields: *fields }
        }
        DirectoryStep::Change { changes, fields, .. } => {
            StepAction::Change { changes: changed(changes), fields: *fields }
        }
        DirectoryStep::Disable { .. } => StepAction::Disable,
        DirectoryStep::Gone { .. } => StepAction::Gone,
        DirectoryStep::Return { .. } => StepAction::Return,
        DirectoryStep::Release { .. } => StepAction::Release,
    };
    let empty = || Pii::new(String::new());
    let step = AppliedStep {
        entry: step.entry(),
        dn: person.map_or_else(empty, |person| person.dn.clone()),
        login: person.map_or_else(empty, |person| person.login.clone()),
        action,
        exchange: None,
    };
    (step, problem)
}

fn values(person: &Person, fields: SyncedFields) -> SuppliedValues {
    let value = |field| person.value(field).map(|value| (field, Pii::new(value.to_owned())));
    fields.iter().filter_map(value).collect()
}

fn changed(changes: &[FieldChange]) -> SuppliedValues {
    let value = |change: &FieldChange| change.to.clone().unwrap_or_else(|| Pii::new(String::new()));
    changes.iter().map(|change| (change.field, value(change))).collect()
}

#[cfg(test)]
mod tests {
    use twinbox_ids::MailboxId;
    use twinbox_mailbox::{EntryId, SyncedField};

    use super::*;

    fn person() -> Person {
        Person {
            entry: EntryId(7),
            dn: Pii::new("uid=anna,dc=example".to_owned()),
            login: Pii::new("anna".to_owned()),
            number: Some("2001".to_owned()),
            name: Some("Anna".to_owned()),
            mail: None,
            language: Some("de".to_owned()),
            timezone: None,
            class: None,
            pin: Some(Pii::new("482913".to_owned())),
            disabled: false,
            problems: Vec::new(),
        }
    }

    #[test]
    fn new_user_gets_the_supplied_values_and_the_first_pin_by_pattern() {
        let fields: SyncedFields =
            [SyncedField::Number, SyncedField::Name, SyncedField::Mail].into_iter().collect();
        let step = DirectoryStep::Create { person: person(), mailbox: MailboxId(1), fields };
        let pattern = FirstPin::Pattern("{employeeNumber}".parse().expect("a template"));
        for (policy, expected) in [(&pattern, Some("482913")), (&FirstPin::None, None)] {
            let (applied, problem) = applied(&step, policy, 4, true);
            assert_eq!((applied.entry, applied.login.reveal().as_str(), problem), (EntryId(7), "anna", None));
            let StepAction::Create { values, pin, .. } = applied.action else { panic!("another action") };
            assert_eq!(values.keys().copied().collect::<Vec<_>>(), [SyncedField::Number, SyncedField::Name]);
            assert_eq!(pin.as_ref().map(|pin| pin.reveal().as_str()), expected);
        }
        let short = applied(&step, &pattern, 8, true).1.expect("the PIN is too short");
        assert!(short.contains("first-pin"), "{short}");
    }

    #[test]
    fn first_pin_by_mail_is_random_and_needs_an_address_and_mail_out() {
        let fields: SyncedFields = [SyncedField::Number, SyncedField::Mail].into_iter().collect();
        let step = |mail: Option<&str>| {
            let person = Person { mail: mail.map(str::to_owned), ..person() };
            DirectoryStep::Create { person, mailbox: MailboxId(1), fields }
        };
        let with_mail = step(Some("anna@example.test"));
        let (first, problem) = applied(&with_mail, &FirstPin::Mail, 4, true);
        let StepAction::Create { pin: Some(pin), mail_pin: Some(to), .. } = first.action else { panic!("no PIN") };
        assert_eq!((pin.reveal().len(), to.reveal().as_str(), problem), (6, "anna@example.test", None));
        for (step, mail_out, part) in [(&with_mail, false, "mail out"), (&step(None), true, "no mail address")] {
            let (applied, problem) = applied(step, &FirstPin::Mail, 4, mail_out);
            let StepAction::Create { pin, mail_pin, .. } = applied.action else { panic!("another action") };
            assert_eq!((pin, mail_pin), (None, None), "{part}");
            assert!(problem.is_some_and(|problem| problem.contains(part)), "{part}");
        }
    }

    #[test]
    fn removed_value_is_written_as_an_empty_text() {
        let change = FieldChange { field: SyncedField::Mail, from: Some(Pii::new("a@b.c".to_owned())), to: None };
        let fields = SyncedFields::default().with(SyncedField::Mail);
        let step = DirectoryStep::Adopt { person: person(), mailbox: MailboxId(5), changes: vec![change], fields };
        let StepAction::Adopt { mailbox, changes, .. } = applied(&step, &FirstPin::None, 4, true).0.action else {
            panic!("another action")
        };
        assert_eq!(mailbox, MailboxId(5));
        assert_eq!(changes.get(&SyncedField::Mail).map(|mail| mail.reveal().as_str()), Some(""));
    }
}
