//! Mailboxes: find, make, change, remove.

use twinbox_ids::MailboxId;
use twinbox_mailbox::{
    Mailbox, MailboxChange, Mark, NewMailbox, Number, Numbers, UserAddresses, claim, is_timezone, release,
    renumber, schema,
};
use twinbox_replication_core::{Edit, Key, Record};
use twinbox_replication_store::Draft;

use crate::{
    Acknowledgement, CreateError, MailError, Mailstore, PinError,
    addresses::{set_addresses, taken_in},
    synced::{check_removable, check_synced},
    work::blocking,
};

impl Mailstore {
    /// The mailbox that has this number; the number is reduced to its digits. `None` for a text that is not a number.
    pub async fn find_by_number(&self, number: &str) -> Result<Option<Mailbox>, MailError> {
        let Ok(number) = Number::normalise(number) else { return Ok(None) };
        self.find_now(&number)
    }

    /// The mailbox that has this number.
    pub(crate) fn find_now(&self, number: &Number) -> Result<Option<Mailbox>, MailError> {
        match number.holder(|key| self.store().get(key))? {
            Some(id) => self.get_now(id),
            None => Ok(None),
        }
    }

    /// A mailbox by its id; `None` when there is none, or it was removed.
    pub async fn get(&self, id: MailboxId) -> Result<Option<Mailbox>, MailError> {
        self.get_now(id)
    }

    /// A mailbox, read on this thread; `None` when there is none.
    pub fn get_now(&self, id: MailboxId) -> Result<Option<Mailbox>, MailError> {
        let key = schema::mailbox_key(id);
        match self.store().get(&key)? {
            Some(record) => self.view(&key, &record),
            None => Ok(None),
        }
    }

    /// All mailboxes, by number. A mailbox that this release cannot read is skipped, and logged.
    pub async fn mailboxes(&self) -> Result<Vec<Mailbox>, MailError> {
        let store = self.clone();
        blocking(move || store.mailboxes_now()).await?
    }

    /// All mailboxes, read on this thread.
    pub fn mailboxes_now(&self) -> Result<Vec<Mailbox>, MailError> {
        let with_claims = self.listed().map(|mailbox| self.with_claim(mailbox?));
        let mut mailboxes = with_claims.collect::<Result<Vec<_>, MailError>>()?;
        mailboxes.sort_by(|a, b| (a.number.len(), &a.number).cmp(&(b.number.len(), &b.number)));
        Ok(mailboxes)
    }

    /// The ids of all mailboxes.
    pub async fn mailbox_ids(&self) -> Result<Vec<MailboxId>, MailError> {
        let store = self.clone();
        blocking(move || store.listed().map(|mailbox| Ok(mailbox?.id)).collect()).await?
    }

    /// All mailboxes, one at a time, by id, read on this thread, without a look at the claims of their numbers. A mailbox that
    /// this release cannot read is skipped, and logged.
    pub(crate) fn listed(&self) -> impl Iterator<Item = Result<Mailbox, MailError>> {
        self.store()
            .rows(schema::MAILBOX, &[])
            .filter_map(|row| match row {
                Ok((key, record)) => Mailbox::read(&key, &record).map_err(MailError::from).transpose(),
                Err(error) => Some(Err(error.into())),
            })
            .filter(|read| match read {
                Err(MailError::View(error)) => {
                    tracing::warn!(%error, "mailbox cannot be read; it is not listed");
                    false
                }
                _ => true,
            })
    }

    /// Makes a mailbox. Nodes separated by a split may give one number to two mailboxes: the earlier has it, the other
    /// is kept and marked ([`Mailbox::number_lost`], rule D6).
    pub async fn create(&self, new: NewMailbox) -> Result<(Mailbox, Acknowledgement), CreateError> {
        let number = Number::normalise(&new.number)
            .map_err(|reason| CreateError::Number { number: new.number.clone(), reason })?;
        check_timezone(&new.timezone)?;
        let pin = match &new.pin {
            Some(pin) => {
                self.accepts(pin, number.as_str(), &self.class_rules(new.class)?).map_err(PinError::from)?;
                Some(self.hash(pin, new.must_change).await?)
            }
            None => None,
        };
        let id = MailboxId::random();
        let edits = new.edits(&number, pin.as_ref(), twinbox_clock::wall());
        let (none, addresses) = (UserAddresses::default(), new.addresses);
        let (refused, acknowledgement) = self
            .commit(move |draft| {
                if let Some(taken) = taken_in(draft, id, &none, &addresses)? {
                    let address = taken.address.as_str().to_owned();
                    return Ok(Some(CreateError::AddressTaken { address, number: taken.number }));
                }
                if let Some(taken) = claim_in(draft, id, &number)? {
                    return Ok(Some(taken));
                }
                draft.edit(schema::mailbox_key(id), edits)?;
                set_addresses(draft, id, &none, &addresses)?;
                Ok(None)
            })
            .await?;
        if let Some(refused) = refused {
            return Err(refused);
        }
        let mailbox = self.get(id).await?.ok_or(MailError::NoMailbox(id))?;
        Ok((mailbox, acknowledgement))
    }

    /// Gives a mailbox another number; the one that it had, or had lost to another mailbox, is free of it. Refused if a
    /// directory supplies the number.
    pub async fn renumber(&self, id: MailboxId, number: &str) -> Result<Acknowledgement, CreateError> {
        let number = Number::normalise(number)
            .map_err(|reason| CreateError::Number { number: number.to_owned(), reason })?;
        let (refused, acknowledgement) = self
            .commit(move |draft| {
                let (before, edits) = (mailbox_in(draft, id)?.number, renumber(&number));
                check_synced(draft, id, &edits)?;
                if let Some(taken) = claim_in(draft, id, &number)? {
                    return Ok(Some(taken));
                }
                if let Some(before) = Number::normalise(&before).ok().filter(|before| *before != number) {
                    draft.edit(schema::number_key(&before), release(id))?;
                }
                draft.edit(schema::mailbox_key(id), edits)?;
                Ok(None)
            })
            .await?;
        refused.map_or(Ok(acknowledgement), Err)
    }

    /// Changes a setting of a mailbox.
    pub async fn change(&self, id: MailboxId, change: MailboxChange) -> Result<Acknowledgement, MailError> {
        if let MailboxChange::Timezone(name) = &change {
            check_timezone(name)?;
        }
        self.edit_mailbox(id, change.edits()).await
    }

    /// Removes a mailbox: it and its messages are flagged as deleted, its number is free immediately. Their content
    /// stays until every member has the delete and the grace period has expired (rule D3). Refused for a user who comes
    /// from a directory: its next run would make the user again.
    pub async fn remove(&self, id: MailboxId) -> Result<Acknowledgement, MailError> {
        let ((), acknowledgement) = self
            .commit(move |draft| {
                let key = schema::mailbox_key(id);
                let mailbox = mailbox_in(draft, id)?;
                check_removable(draft, &mailbox)?;
                set_addresses(draft, id, &mailbox.addresses, &UserAddresses::default())?;
                if let Ok(number) = Number::normalise(&mailbox.number) {
                    draft.edit(schema::number_key(&number), release(id))?;
                }
                draft.edit(key, vec![Edit::Delete])?;
                let counters = schema::counters_key(id);
                let numbers = Numbers::after(&draft.get(&counters)?.unwrap_or_default());
                for (key, record) in draft.scan(schema::MESSAGE, &id.to_bytes())? {
                    draft.edit(key, Mark::Deleted.edits(&record, numbers))?;
                }
                Ok(draft.edit(counters, Numbers::take_modseq())?)
            })
            .await?;
        Ok(acknowledgement)
    }

    /// Commits edits of a mailbox's record, if there is such a mailbox. Refused for a field that a directory supplies.
    pub(crate) async fn edit_mailbox(&self, id: MailboxId, edits: Vec<Edit>) -> Result<Acknowledgement, MailError> {
        let ((), acknowledgement) = self
            .commit(move |draft| {
                mailbox_in(draft, id)?;
                check_synced(draft, id, &edits)?;
                Ok(draft.edit(schema::mailbox_key(id), edits)?)
            })
            .await?;
        Ok(acknowledgement)
    }

    fn view(&self, key: &Key, record: &Record) -> Result<Option<Mailbox>, MailError> {
        Mailbox::read(key, record)?.map(|mailbox| self.with_claim(mailbox)).transpose()
    }

    /// The mailbox, and whether another one has its number.
    fn with_claim(&self, mut mailbox: Mailbox) -> Result<Mailbox, MailError> {
        mailbox.number_lost = match Number::normalise(&mailbox.number) {
            Ok(number) => !number.is_held_by(mailbox.id, |key| self.store().get(key))?,
            Err(_) => true,
        };
        Ok(mailbox)
    }
}

/// The mailbox as the committer sees it.
pub fn mailbox_in(draft: &Draft<'_>, id: MailboxId) -> Result<Mailbox, MailError> {
    let key = schema::mailbox_key(id);
    let record = draft.get(&key)?.unwrap_or_default();
    if record.is_empty() {
        return Err(MailError::NoMailbox(id));
    }
    Mailbox::read(&key, &record)?.ok_or(MailError::NoMailbox(id))
}

/// Claims a number for a mailbox, unless another one has it: the last check of a change.
fn claim_in(draft: &mut Draft<'_>, id: MailboxId, number: &Number) -> Result<Option<CreateError>, MailError> {
    match number.holder(|key| draft.get(key))?.is_some_and(|by| by != id) {
        true => Ok(Some(CreateError::Taken { number: number.to_string() })),
        false => Ok(draft.edit(schema::number_key(number), claim(id)).map(|()| None)?),
    }
}

fn check_timezone(name: &str) -> Result<(), MailError> {
    if is_timezone(name) { Ok(()) } else { Err(MailError::Timezone { value: name.to_owned() }) }
}
