//! Classes of service, and the rules in force for a mailbox.

use twinbox_ids::ClassId;
use twinbox_mailbox::{Class, ClassNameError, Mailbox, Rule, Rules, class_name, schema};
use twinbox_replication_core::Edit;

use crate::{Acknowledgement, MailError, Mailstore};

/// A class was not made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ClassError {
    /// The name is not valid.
    #[error("'{name}': {source}")]
    Name {
        /// The given name.
        name: String,
        /// The cause.
        source: ClassNameError,
    },
    /// A class of that name exists already.
    #[error("class of service '{name}' already exists: change it with `twinbox cos set`")]
    Taken {
        /// Its name.
        name: String,
    },
    /// The default class cannot be removed.
    #[error("the default class cannot be removed: unset its rules with `twinbox cos set default RULE=-`")]
    Default,
    /// Mailboxes use the class.
    #[error(
        "class of service '{name}' is used by {count} mailboxes: change their class first with `twinbox user set`"
    )]
    InUse {
        /// Its name.
        name: String,
        /// Number of these mailboxes.
        count: usize,
    },
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

impl Mailstore {
    /// All classes: the default one first, the others by name.
    pub async fn classes(&self) -> Result<Vec<Class>, MailError> {
        let mut classes = vec![self.class(Class::DEFAULT)?.unwrap_or_else(Class::unchanged_default)];
        for (key, record) in self.store().scan(schema::CLASS, &[])? {
            match Class::read(&key, &record) {
                Ok(Some(class)) if class.id != Class::DEFAULT => classes.push(self.with_name(class)?),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "class of service cannot be read; it is not listed"),
            }
        }
        classes.sort_by(|a, b| (a.id != Class::DEFAULT, &a.name).cmp(&(b.id != Class::DEFAULT, &b.name)));
        Ok(classes)
    }

    /// The class of that name.
    pub async fn find_class(&self, name: &str) -> Result<Class, MailError> {
        let none = || MailError::NoClass { name: name.to_owned() };
        let kept = class_name(name).map_err(|_| none())?;
        if kept == Class::DEFAULT_NAME {
            return Ok(self.class(Class::DEFAULT)?.unwrap_or_else(Class::unchanged_default));
        }
        let record = self.store().get(&schema::class_name_key(&kept))?;
        let id = record.as_ref().and_then(Class::holder).ok_or_else(none)?;
        self.class(id)?.ok_or_else(none)
    }

    /// Makes a class with these rules.
    pub async fn add_class(
        &self,
        name: &str,
        rules: Vec<(Rule, Option<u64>)>,
    ) -> Result<(ClassId, Acknowledgement), ClassError> {
        let kept = class_name(name).map_err(|source| ClassError::Name { name: name.to_owned(), source })?;
        if kept == Class::DEFAULT_NAME {
            return Err(ClassError::Taken { name: kept });
        }
        let id = ClassId::random();
        let (taken, acknowledgement) = self
            .commit({
                let name = kept.clone();
                move |draft| {
                    let key = schema::class_name_key(&name);
                    if draft.get(&key)?.as_ref().and_then(Class::holder).is_some() {
                        return Ok(true);
                    }
                    draft.edit(key, Class::claim(id))?;
                    let mut edits = Class::named(&name);
                    edits.extend(edits_of(&rules));
                    draft.edit(schema::class_key(id), edits)?;
                    Ok(false)
                }
            })
            .await?;
        if taken { Err(ClassError::Taken { name: kept }) } else { Ok((id, acknowledgement)) }
    }

    /// Changes rules of a class; `None` unsets a rule.
    pub async fn change_class(
        &self,
        name: &str,
        rules: Vec<(Rule, Option<u64>)>,
    ) -> Result<(ClassId, Acknowledgement), ClassError> {
        let id = self.find_class(name).await?.id;
        let ((), acknowledgement) =
            self.commit(move |draft| Ok(draft.edit(schema::class_key(id), edits_of(&rules))?)).await?;
        Ok((id, acknowledgement))
    }

    /// Removes a class that no mailbox uses.
    pub async fn remove_class(&self, name: &str) -> Result<(ClassId, Acknowledgement), ClassError> {
        let class = self.find_class(name).await?;
        if class.id == Class::DEFAULT {
            return Err(ClassError::Default);
        }
        // A mailbox that gets the class at this moment falls back to the default one.
        let count = self.mailboxes().await?.iter().filter(|mailbox| mailbox.class == Some(class.id)).count();
        if count > 0 {
            return Err(ClassError::InUse { name: class.name, count });
        }
        let ((), acknowledgement) = self
            .commit(move |draft| {
                draft.edit(schema::class_name_key(&class.name), Class::release(class.id))?;
                Ok(draft.edit(schema::class_key(class.id), vec![Edit::Delete])?)
            })
            .await?;
        Ok((class.id, acknowledgement))
    }

    /// The rules in force for a mailbox: those of its class, else of the default class. Rules unset in both come from
    /// the node's setting or the mailbox's own.
    pub fn rules(&self, mailbox: &Mailbox) -> Result<Rules, MailError> {
        self.class_rules(mailbox.class)
    }

    /// The rules of a class over those of the default one. A removed class has no rules.
    pub(crate) fn class_rules(&self, id: Option<ClassId>) -> Result<Rules, MailError> {
        let rules = |id| Ok::<_, MailError>(self.class(id)?.map(|class| class.rules).unwrap_or_default());
        let own = id.filter(|id| *id != Class::DEFAULT).map(rules).transpose()?.unwrap_or_default();
        Ok(own.over(rules(Class::DEFAULT)?))
    }

    /// The name of a mailbox's class.
    pub fn class_name_of(&self, mailbox: &Mailbox) -> Result<String, MailError> {
        let class = mailbox.class.map(|id| self.class(id)).transpose()?.flatten();
        Ok(class.map_or_else(|| Class::DEFAULT_NAME.to_owned(), |class| class.name))
    }

    fn class(&self, id: ClassId) -> Result<Option<Class>, MailError> {
        let key = schema::class_key(id);
        let Some(record) = self.store().get(&key)? else { return Ok(None) };
        match Class::read(&key, &record) {
            Ok(class) => Ok(class),
            Err(error) => {
                // A call is not refused because of it.
                tracing::warn!(class = %id, %error, "class of service cannot be read; it sets no rules");
                Ok(None)
            }
        }
    }

    fn with_name(&self, mut class: Class) -> Result<Class, MailError> {
        let record = self.store().get(&schema::class_name_key(&class.name))?;
        class.name_lost = record.as_ref().and_then(Class::holder) != Some(class.id);
        Ok(class)
    }
}

fn edits_of(rules: &[(Rule, Option<u64>)]) -> Vec<Edit> {
    rules.iter().flat_map(|(rule, value)| rule.edits(*value)).collect()
}
