//! Users of directories: the users as a run sees them, binding by hand, and users that become local.

use std::collections::HashMap;

use twinbox_clock::wall;
use twinbox_ids::{DirectoryId, MailboxId, Pii, Timestamp};
use twinbox_mailbox::{
    Binding, BindingState, Class, EntryId, Mailbox, Number, SyncedFields,
    by_epoch::Author,
    directory::{Supplied, schema},
    schema as mailbox_schema,
};
use twinbox_mailstore::{
    Acknowledgement, MailError, blocking,
    rows::{directory_in, mailbox_in, name_in, supplied_in},
};
use twinbox_replication_core::Record;
use twinbox_replication_store::Draft;

use crate::{DirectoryStore, DirectoryStoreError, group::release_others};

/// Users in one commit.
const GROUP: usize = 128;

/// A user of the store as a run of the synchronisation sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentUser {
    /// The user.
    pub mailbox: MailboxId,
    /// Its binding, to this or another directory; `None` for a local user.
    pub binding: Option<Binding>,
    /// Number that callers dial, in digits.
    pub number: Pii<String>,
    /// Another mailbox has the number since a split.
    pub number_lost: bool,
    /// The owner's name.
    pub name: Pii<String>,
    /// The owner's mail address, in lower case.
    pub mail: Option<Pii<String>>,
    /// Language of prompts.
    pub language: String,
    /// IANA name of the time zone.
    pub timezone: String,
    /// Name of the class of service, in lower case; `None`: the default one.
    pub class: Option<String>,
    /// Sign-in is refused.
    pub disabled: bool,
}

impl DirectoryStore {
    /// All users, with their bindings: those of other directories and local ones count for conflicts and adoption. Two
    /// sides of a split may have bound two users to one entry: only one of them has the binding.
    pub async fn present_users(&self) -> Result<Vec<PresentUser>, MailError> {
        let classes = self.mailstore.classes().await?.into_iter();
        let classes: HashMap<_, _> = classes.map(|class| (class.id, class.name)).collect();
        let store = self.clone();
        blocking(move || {
            let mut bindings = HashMap::new();
            for row in store.mailstore.store().rows(schema::BINDING, &[]) {
                let (key, record) = row?;
                match Binding::read(&key, &record) {
                    Ok(Some(binding)) => {
                        bindings.insert((binding.directory, binding.entry), binding);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "binding cannot be read; its user counts as local"),
                }
            }
            let binding_of = |mailbox: &Mailbox| {
                let binding: Option<&Binding> = bindings.get(&mailbox.directory?);
                binding.filter(|binding| binding.mailbox == mailbox.id).cloned()
            };
            let user = |mailbox: Mailbox| PresentUser {
                mailbox: mailbox.id,
                binding: binding_of(&mailbox),
                number: Pii::new(mailbox.number),
                number_lost: mailbox.number_lost,
                name: mailbox.name,
                mail: mailbox.addresses.mail.map(|mail| Pii::new(mail.as_str().to_owned())),
                language: mailbox.language,
                timezone: mailbox.timezone,
                class: mailbox.class.filter(|id| *id != Class::DEFAULT).and_then(|id| classes.get(&id).cloned()),
                disabled: mailbox.disabled,
            };
            Ok(store.mailstore.mailboxes_now()?.into_iter().map(user).collect())
        })
        .await?
    }

    /// The binding of an entry; `None` when no user comes from it.
    pub fn binding(&self, directory: DirectoryId, entry: EntryId) -> Result<Option<Binding>, MailError> {
        let key = schema::binding_key(directory, entry);
        Ok(self.mailstore.store().get(&key)?.map(|record| Binding::read(&key, &record)).transpose()?.flatten())
    }

    /// The binding of a user; `None` for a local one.
    pub fn binding_of(&self, mailbox: &Mailbox) -> Result<Option<Binding>, MailError> {
        let Some((directory, entry)) = mailbox.directory else { return Ok(None) };
        Ok(self.binding(directory, entry)?.filter(|binding| binding.mailbox == mailbox.id))
    }

    /// Binds a local user to an entry by hand. The directory supplies no field until its next run.
    pub async fn bind_user(
        &self,
        mailbox: MailboxId,
        directory: DirectoryId,
        entry: EntryId,
        dn: Pii<String>,
        login: Pii<String>,
    ) -> Result<Acknowledgement, DirectoryStoreError> {
        let (author, now) = (self.local_author(), wall());
        let (refused, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let user = mailbox_in(draft, mailbox)?;
                if directory_in(draft, directory)?.is_none() {
                    return Ok(Some(DirectoryStoreError::None(directory)));
                }
                if let Some((by, _)) = user.directory {
                    let directory = name_in(draft, by)?;
                    return Ok(Some(DirectoryStoreError::Bound { number: user.number, directory }));
                }
                let key = schema::binding_key(directory, entry);
                let row = draft.get(&key)?.unwrap_or_default();
                if let Some(bound) = Binding::read(&key, &row)? {
                    match mailbox_in(draft, bound.mailbox) {
                        Ok(other) => return Ok(Some(DirectoryStoreError::EntryBound { number: other.number })),
                        // A binding that outlived its user.
                        Err(MailError::NoMailbox(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                let binding = Binding {
                    directory,
                    entry,
                    mailbox,
                    dn,
                    login,
                    state: BindingState::Active,
                    since: now,
                    lost_at: None,
                    fields: SyncedFields::default(),
                };
                let supplied = Supplied { directory, entry, disabled: false, values: Default::default() };
                let record = draft.get(&mailbox_schema::mailbox_key(mailbox))?.unwrap_or_default();
                draft.edit(mailbox_schema::mailbox_key(mailbox), supplied.edits(&record, &author, now)?)?;
                draft.edit(key, binding.edits(&row, &author, now)?)?;
                Ok(None)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Makes a user local: it keeps its values and messages, and edits are possible again. A disabled one is enabled,
    /// also if its directory was removed.
    pub async fn make_local(&self, mailbox: MailboxId) -> Result<Acknowledgement, DirectoryStoreError> {
        let (author, now) = (self.local_author(), wall());
        let (local, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let user = mailbox_in(draft, mailbox)?;
                if user.directory.is_none() && !user.disabled {
                    return Ok(Some(user.number));
                }
                make_local(draft, mailbox, &author, now, false)?;
                Ok(None)
            })
            .await?;
        local.map_or(Ok(acknowledgement), |number| Err(DirectoryStoreError::Local { number }))
    }

    /// Makes all users of a directory local; disabled ones stay disabled. Returns their number.
    pub(crate) async fn release_users(&self, directory: DirectoryId) -> Result<u64, MailError> {
        let users = self.users_of(directory, |_| true).await?;
        let count = users.len() as u64;
        for group in users.chunks(GROUP) {
            let (author, now, group) = (self.local_author(), wall(), group.to_vec());
            self.mailstore
                .commit(move |draft| {
                    for id in group {
                        if supplied_in(draft, id)?.is_some_and(|supplied| supplied.directory == directory) {
                            let disabled = mailbox_in(draft, id)?.disabled;
                            make_local(draft, id, &author, now, disabled)?;
                        }
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(count)
    }

    /// Withdraws the claims of numbers and addresses that users of a directory have beside those that count: a split
    /// leaves them behind. To be called before each full search; `permit` as for [`Self::apply_directory_steps`].
    /// Returns the number of users.
    pub async fn settle_directory<P: Send>(
        &self,
        directory: DirectoryId,
        permit: impl Fn() -> Option<P>,
    ) -> Result<u64, MailError> {
        let users = self.users_of(directory, |record| !Supplied::other_claims(record).is_empty()).await?;
        for group in users.chunks(GROUP) {
            let Some(_permit) = permit() else { return Err(MailError::DutyLost) };
            let group = group.to_vec();
            self.mailstore
                .commit(move |draft| {
                    for id in group {
                        let user = match mailbox_in(draft, id) {
                            Ok(user) => user,
                            Err(MailError::NoMailbox(_) | MailError::View(_)) => continue,
                            Err(error) => return Err(error),
                        };
                        let record = draft.get(&mailbox_schema::mailbox_key(id))?.unwrap_or_default();
                        let number = Number::normalise(&user.number).ok();
                        release_others(draft, id, &record, number.as_ref(), &user.addresses)?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(users.len() as u64)
    }

    /// The users of a directory for whose rows `wanted` is true.
    async fn users_of(
        &self,
        directory: DirectoryId,
        wanted: impl Fn(&Record) -> bool + Send + 'static,
    ) -> Result<Vec<MailboxId>, MailError> {
        let store = self.clone();
        blocking(move || {
            let mut users = Vec::new();
            for row in store.mailstore.store().rows(mailbox_schema::MAILBOX, &[]) {
                let (key, record) = row?;
                let of = Supplied::read(&record).ok().flatten().map(|supplied| supplied.directory);
                if record.tombstone().is_none() && of == Some(directory) && wanted(&record) {
                    users.extend(mailbox_schema::mailbox_of(&key));
                }
            }
            Ok(users)
        })
        .await?
    }

    fn local_author(&self) -> Author {
        Author::Local(self.mailstore.settings().node.clone())
    }
}

/// Makes a user local, as the committer sees it.
pub(crate) fn make_local(
    draft: &mut Draft<'_>,
    id: MailboxId,
    author: &Author,
    now: Timestamp,
    disabled: bool,
) -> Result<(), MailError> {
    let user = mailbox_in(draft, id)?;
    let key = mailbox_schema::mailbox_key(id);
    let record = draft.get(&key)?.unwrap_or_default();
    let mut edits = Supplied::disable_local(disabled);
    if let Some(supplied) = Supplied::read(&record)? {
        let number = Number::normalise(&user.number).ok();
        release_others(draft, id, &record, number.as_ref(), &user.addresses)?;
        edits.extend(Supplied::registers(&supplied.values));
        edits.extend(Supplied::removal(&record, author, now)?);
        let binding = schema::binding_key(supplied.directory, supplied.entry);
        let row = draft.get(&binding)?.unwrap_or_default();
        if Binding::read(&binding, &row)?.is_some_and(|bound| bound.mailbox == id) {
            draft.edit(binding, Binding::removal(&row, author, now)?)?;
        }
    }
    Ok(draft.edit(key, edits)?)
}
