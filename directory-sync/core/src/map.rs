//! The attribute map: from an entry to a person.

use std::collections::BTreeSet;

use twinbox_ids::Pii;
use twinbox_mailbox::{Class, Number, SyncedField, UserAddress, is_timezone};

use crate::{Dn, Entry, FieldProblem, Person, Template, entry::DISABLED_ATTRIBUTES};

/// Maximum length of a name, in characters.
const LONGEST_NAME: usize = 128;
/// Characters of a value that the text of a problem shows.
const LONGEST_SHOWN: usize = 80;

/// A rule of the map: members of the group have the class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRule {
    /// The group.
    pub group: Dn,
    /// Name of the class of service, in lower case.
    pub class: String,
}

/// Templates of the fields of a user. A field without a template is not supplied by the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeMap {
    /// The number that callers dial.
    pub number: Template,
    /// The owner's name.
    pub name: Option<Template>,
    /// The owner's mail address.
    pub mail: Option<Template>,
    /// Language of prompts.
    pub language: Option<Template>,
    /// Time zone, as IANA name.
    pub timezone: Option<Template>,
    /// Name by which the owner signs in.
    pub login: Option<Template>,
    /// First PIN of a new user; `{number}` is the number of the user.
    pub pin: Option<Template>,
    /// Classes of service by group: the first rule that fits counts.
    pub classes: Vec<ClassRule>,
    /// Attribute that lists the groups of an entry, in lower case.
    pub group_attribute: String,
}

impl AttributeMap {
    /// The attributes that a search must ask for, in lower case and sorted; those that disable accounts are among them.
    pub fn attributes(&self) -> Vec<String> {
        let templates = [&self.name, &self.mail, &self.language, &self.timezone, &self.login];
        let templates = templates.into_iter().flatten().chain([&self.number]);
        let mut names: BTreeSet<String> = templates.flat_map(Template::attributes).map(str::to_owned).collect();
        let of_pin = self.pin.iter().flat_map(Template::attributes).filter(|name| *name != "number");
        names.extend(of_pin.map(str::to_owned));
        names.extend(DISABLED_ATTRIBUTES.map(str::to_ascii_lowercase));
        if !self.classes.is_empty() {
            names.insert(self.group_attribute.clone());
        }
        names.into_iter().collect()
    }
}

/// Collects the values of one entry, and the problems with them.
struct Reader<'a> {
    entry: &'a Entry,
    problems: Vec<FieldProblem>,
}

impl Reader<'_> {
    fn problem(&mut self, field: SyncedField, text: String) {
        self.problems.push(FieldProblem { field, text: Pii::new(text) });
    }

    /// The results of a template; none, with a problem, if an attribute that it reads is cut.
    fn results(&mut self, field: SyncedField, template: &Template) -> Vec<String> {
        let entry = self.entry;
        if let Some(cut) = template.attributes().find(|name| entry.attributes.is_cut(name)) {
            self.problem(field, format!("attribute {cut} has too many or too long values: remove values"));
            return Vec::new();
        }
        template.results(|name| entry.attributes.texts(name))
    }

    /// The first result of a template, checked and brought into its form by `read`.
    fn field(
        &mut self,
        field: SyncedField,
        template: Option<&Template>,
        read: impl Fn(&str) -> Result<String, String>,
    ) -> Option<String> {
        let value = self.results(field, template?).into_iter().next()?;
        match read(&value) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(field, format!("{field} '{}' {problem}", beginning(&value)));
                None
            }
        }
    }

    /// The number. Several are a problem: which of them is meant cannot be known.
    fn number(&mut self, template: &Template) -> Option<String> {
        let found = self.results(SyncedField::Number, template);
        if self.problems.iter().any(|problem| problem.field == SyncedField::Number) {
            return None;
        }
        let (mut numbers, mut invalid) = (BTreeSet::new(), None);
        for text in &found {
            match Number::normalise(text) {
                Ok(number) => {
                    numbers.insert(number.as_str().to_owned());
                }
                Err(error) => invalid = Some(format!("number '{}' is invalid: {error}", beginning(text))),
            }
        }
        let several = numbers.len() > 1;
        let problem = match (numbers.pop_first(), invalid) {
            (Some(number), None) if !several => return Some(number),
            (_, Some(invalid)) => invalid,
            (None, None) => {
                let attributes: BTreeSet<&str> = template.attributes().collect();
                let attributes: Vec<&str> = attributes.into_iter().collect();
                format!("no number: no value of {} fits number={template}", attributes.join(", "))
            }
            (Some(first), None) => {
                let rest: Vec<String> = numbers.into_iter().collect();
                let rest = rest.join(", ");
                format!("several numbers ({first}, {rest}): choose one in the template, as with begins(4930)")
            }
        };
        self.problem(SyncedField::Number, problem);
        None
    }

    /// The class of the first rule whose group the entry is a member of.
    fn class(&mut self, map: &AttributeMap) -> Option<String> {
        if map.classes.is_empty() {
            return None;
        }
        let attribute = &map.group_attribute;
        if self.entry.attributes.is_cut(attribute) {
            self.problem(SyncedField::Class, format!("attribute {attribute} has too many values: leave groups"));
            return None;
        }
        let groups = self.entry.attributes.texts(attribute);
        let groups: BTreeSet<Dn> = groups.iter().filter_map(|group| Dn::parse(group)).collect();
        let rule = map.classes.iter().find(|rule| groups.contains(&rule.group));
        // Users without a class have the default one.
        rule.map(|rule| rule.class.clone()).filter(|class| class != Class::DEFAULT_NAME)
    }
}

/// The person that an entry describes. Where an attribute has several values, the first in alphabetical order counts,
/// so that two runs agree; several numbers are a problem instead.
pub fn person(map: &AttributeMap, entry: &Entry) -> Person {
    let mut reader = Reader { entry, problems: Vec::new() };
    let number = reader.number(&map.number);
    let name = reader.field(SyncedField::Name, map.name.as_ref(), read_name);
    let mail = reader.field(SyncedField::Mail, map.mail.as_ref(), read_mail);
    let language = reader.field(SyncedField::Language, map.language.as_ref(), read_language);
    let timezone = reader.field(SyncedField::Timezone, map.timezone.as_ref(), read_timezone);
    let class = reader.class(map);
    let first = |template: &Template, of_number: bool| {
        let values = |name: &str| match (name, &number) {
            ("number", Some(number)) if of_number => vec![number.clone()],
            _ => entry.attributes.texts(name),
        };
        template.results(values).into_iter().next()
    };
    Person {
        entry: entry.id,
        dn: Pii::new(entry.dn.clone()),
        login: Pii::new(map.login.as_ref().and_then(|login| first(login, false)).unwrap_or_default()),
        pin: map.pin.as_ref().and_then(|pin| first(pin, true)).map(Pii::new),
        number,
        name,
        mail,
        language,
        timezone,
        class,
        disabled: entry.disabled,
        problems: reader.problems,
    }
}

/// The beginning of a value, so that the reason after it can be read.
fn beginning(value: &str) -> String {
    let mut chars = value.chars();
    let shown: String = chars.by_ref().take(LONGEST_SHOWN).collect();
    if chars.next().is_none() { shown } else { format!("{shown}…") }
}

fn read_name(text: &str) -> Result<String, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let name = words.join(" ");
    let fine = name.chars().count() <= LONGEST_NAME;
    if fine { Ok(name) } else { Err(format!("is too long: at most {LONGEST_NAME} characters")) }
}

fn read_mail(text: &str) -> Result<String, String> {
    UserAddress::address(text)
        .map(|address| address.as_str().to_owned())
        .map_err(|error| format!("is not usable: {error}"))
}

/// A language tag such as `de` or `pt-br`; `de_DE` and `de-DE` are both `de-de`.
fn read_language(text: &str) -> Result<String, String> {
    let tag = text.replace('_', "-").to_ascii_lowercase();
    let mut parts = tag.split('-');
    let first = parts.next().unwrap_or_default();
    let fine = (2..=3).contains(&first.len())
        && first.bytes().all(|b| b.is_ascii_alphabetic())
        && tag.len() <= 20
        && parts.all(|part| (2..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if fine {
        Ok(tag)
    } else {
        Err("is no language: use a template such as language={preferredLanguage:first(2)}".to_owned())
    }
}

fn read_timezone(text: &str) -> Result<String, String> {
    let fine = text.len() <= 64 && is_timezone(text);
    if fine { Ok(text.to_owned()) } else { Err("is no time zone: use IANA names such as Europe/Berlin".to_owned()) }
}
