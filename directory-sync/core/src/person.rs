//! A person as the directory describes it.

use std::fmt;

use twinbox_ids::Pii;
use twinbox_mailbox::{EntryId, SyncedField};

/// A value of a field that cannot be used: the field of the user stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldProblem {
    /// The field.
    pub field: SyncedField,
    /// The problem with its remedy, for the administrator.
    pub text: Pii<String>,
}

/// A user as an entry describes it. `None`: the entry supplies no value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Person {
    /// Stable id of the entry.
    pub entry: EntryId,
    /// Distinguished name of the entry.
    pub dn: Pii<String>,
    /// Name by which the owner signs in; empty for none.
    pub login: Pii<String>,
    /// Number that callers dial, in digits.
    pub number: Option<String>,
    /// The owner's name.
    pub name: Option<String>,
    /// The owner's mail address, in lower case.
    pub mail: Option<String>,
    /// Language of prompts, such as `de`, in lower case.
    pub language: Option<String>,
    /// IANA name of the time zone.
    pub timezone: Option<String>,
    /// Name of the class of service, in lower case.
    pub class: Option<String>,
    /// First PIN by the pattern of the directory, for a new user only.
    pub pin: Option<Pii<String>>,
    /// The account is disabled.
    pub disabled: bool,
    /// Values that cannot be used.
    pub problems: Vec<FieldProblem>,
}

impl Person {
    /// The value of a field.
    pub fn value(&self, field: SyncedField) -> Option<&str> {
        match field {
            SyncedField::Number => self.number.as_deref(),
            SyncedField::Name => self.name.as_deref(),
            SyncedField::Mail => self.mail.as_deref(),
            SyncedField::Language => self.language.as_deref(),
            SyncedField::Timezone => self.timezone.as_deref(),
            SyncedField::Class => self.class.as_deref(),
        }
    }

    /// Memory that it takes, in bytes: itself and its texts.
    pub fn bytes(&self) -> u64 {
        let fields = [&self.number, &self.name, &self.mail, &self.language, &self.timezone, &self.class];
        let fields = fields.into_iter().flatten().map(String::len);
        let private = [Some(&self.dn), Some(&self.login), self.pin.as_ref()];
        let private = private.into_iter().flatten().map(|text| text.reveal().len());
        let problems = self.problems.iter().map(|problem| size_of_val(problem) + problem.text.reveal().len());
        (size_of::<Self>() + fields.chain(private).chain(problems).sum::<usize>()) as u64
    }

    /// The problem with a field, if there is one.
    pub fn problem(&self, field: SyncedField) -> Option<&FieldProblem> {
        self.problems.iter().find(|problem| problem.field == field)
    }
}

/// Persons are private: the id of the entry alone is printed.
impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Person({})", self.entry)
    }
}
