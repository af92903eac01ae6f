//! One person of a run with the user that it has or gets, and the steps that make the user as the person is.

use twinbox_ids::{MailboxId, Pii};
use twinbox_mailbox::{Binding, BindingState, SyncedField, SyncedFields};

use crate::{DirectoryStep, FieldChange, Person, Present, UserLabel, claims::Claim};

/// Relation of a person to the users of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// A new user.
    New,
    /// A local user, to be bound.
    Local(&'a Present),
    /// The user that is bound to the entry.
    Bound(&'a Present, &'a Binding),
}

/// A person with its user.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub person: Person,
    pub mailbox: MailboxId,
    pub target: Target<'a>,
    /// The mail address of the user stays as it is.
    pub keeps_mail: bool,
    /// The ring of users who exchange their numbers, that this one is in.
    pub ring: Option<usize>,
}

impl<'a> Plan<'a> {
    /// The user of the store, bound or to be bound.
    pub(crate) fn present(&self) -> Option<&'a Present> {
        match self.target {
            Target::New => None,
            Target::Local(present) | Target::Bound(present, _) => Some(present),
        }
    }

    /// The value of a field that no other user may have.
    pub(crate) fn claim(&self, field: SyncedField) -> Claim<'_> {
        Claim { has: self.has(field), wants: self.wants(field) }
    }

    /// The value that the user has. A number that another user got in a split counts as missing, so that the run names
    /// the conflict. A disabled account keeps it: the account is disabled in any case.
    fn has(&self, field: SyncedField) -> Option<&str> {
        let lost =
            |present: &&Present| field == SyncedField::Number && present.number_lost && !self.person.disabled;
        self.present().filter(|present| !lost(present)).and_then(|present| present.value(field))
    }

    /// The fields that the entry supplied until now.
    fn before(&self) -> SyncedFields {
        match self.target {
            Target::Bound(_, binding) => binding.fields,
            Target::New | Target::Local(_) => SyncedFields::default(),
        }
    }

    fn keeps(&self, field: SyncedField) -> bool {
        self.person.problem(field).is_some() || (self.keeps_mail && field == SyncedField::Mail)
    }

    /// The value that the field is to have. One that the entry supplied and does not supply any more is emptied where
    /// it would mislead; the last language and time zone are still better than any other.
    fn wants(&self, field: SyncedField) -> Option<&str> {
        let is_emptied = matches!(field, SyncedField::Name | SyncedField::Mail | SyncedField::Class);
        match self.person.value(field) {
            _ if self.keeps(field) => self.has(field),
            Some(value) => Some(value),
            None if is_emptied && self.before().contains(field) => None,
            None => self.has(field),
        }
    }

    /// The fields that the entry supplies from now on. A value that cannot be used keeps its field where it is, and so
    /// does the number that a disabled account has lost.
    fn fields(&self) -> SyncedFields {
        let supplies = |field: &SyncedField| match self.person.value(*field) {
            Some(_) if !self.keeps(*field) => true,
            None if !self.keeps(*field) && *field != SyncedField::Number => false,
            _ => self.before().contains(*field),
        };
        SyncedField::ALL.into_iter().filter(supplies).collect()
    }

    fn changes(&self) -> Vec<FieldChange> {
        let private = |text: Option<&str>| text.map(|text| Pii::new(text.to_owned()));
        let change = |field| {
            let (from, to) = (self.has(field), self.wants(field));
            (from != to).then(|| FieldChange { field, from: private(from), to: private(to) })
        };
        SyncedField::ALL.into_iter().filter_map(change).collect()
    }

    /// The steps; none if the user is as the person is.
    pub(crate) fn steps(&self) -> Vec<DirectoryStep> {
        let (mailbox, entry, fields) = (self.mailbox, self.person.entry, self.fields());
        match self.target {
            Target::New => {
                let mut person = self.person.clone();
                person.mail = self.wants(SyncedField::Mail).map(str::to_owned);
                vec![DirectoryStep::Create { person, mailbox, fields }]
            }
            Target::Local(present) => {
                let mut steps = vec![DirectoryStep::Adopt {
                    person: self.person.clone(),
                    mailbox,
                    changes: self.changes(),
                    fields,
                }];
                if present.disabled {
                    steps.push(DirectoryStep::Return { mailbox, entry, user: label(present) });
                }
                steps
            }
            Target::Bound(present, binding) => {
                let (user, before) = (label(present), binding.state);
                let mut steps = match (self.person.disabled, before) {
                    (true, BindingState::Disabled) | (false, BindingState::Active) => Vec::new(),
                    (true, _) => vec![DirectoryStep::Disable { mailbox, entry, before, user }],
                    (false, _) => vec![DirectoryStep::Return { mailbox, entry, user }],
                };
                let changes = self.changes();
                let names = (&self.person.dn, &self.person.login) == (&binding.dn, &binding.login);
                if !changes.is_empty() || !names || fields != binding.fields {
                    steps.push(self.change(present, changes));
                }
                steps
            }
        }
    }

    /// The step that writes the mail address alone, after [`Self::steps`] of a plan that kept it.
    pub(crate) fn mail_step(&self) -> DirectoryStep {
        let mut changes = self.changes();
        changes.retain(|change| change.field == SyncedField::Mail);
        match self.present() {
            Some(present) => self.change(present, changes),
            None => {
                let user = UserLabel {
                    number: Pii::new(self.person.number.clone().unwrap_or_default()),
                    name: Pii::new(self.person.name.clone().unwrap_or_default()),
                    dn: self.person.dn.clone(),
                };
                self.change_of(user, changes)
            }
        }
    }

    fn change(&self, present: &Present, changes: Vec<FieldChange>) -> DirectoryStep {
        self.change_of(label(present), changes)
    }

    fn change_of(&self, user: UserLabel, changes: Vec<FieldChange>) -> DirectoryStep {
        let (person, mailbox, fields) = (self.person.clone(), self.mailbox, self.fields());
        DirectoryStep::Change { entry: person.entry, person, mailbox, changes, fields, user }
    }
}

/// A user of the store, for people to recognise.
pub(crate) fn label(present: &Present) -> UserLabel {
    UserLabel {
        number: Pii::new(present.number.clone()),
        name: Pii::new(present.name.clone()),
        dn: present.binding.as_ref().map(|binding| binding.dn.clone()).unwrap_or_default(),
    }
}
