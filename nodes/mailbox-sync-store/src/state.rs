//! The states of accounts and messages, as the duty saw them last, and its marks of messages here.
//!
//! Each write is checked against the account as it is in the same commit: a pass that began before a change of the
//! account writes nothing after it.

use std::collections::BTreeMap;

use twinbox_clock::wall;
use twinbox_ids::{Epoch, MailboxId, MessageId, Timestamp};
use twinbox_mailbox::{
    Mark,
    by_epoch::{self, Author},
};
use twinbox_mailbox_sync::{Account, AccountPlace, AccountState, LocalMessage, LocalState, MessageState, schema};
use twinbox_mailstore::{
    Acknowledgement, MailError, blocking,
    rows::{mark_in, message_in},
};
use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::Draft;

use crate::{
    MailboxSyncError, MailboxSyncStore,
    account_place::place_edit,
    resolve::{Resolver, Servers},
};

/// Rows of messages in one commit.
const GROUP: usize = 128;

/// Marks of a message here, for a change that was seen on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedHere {
    /// The message.
    pub message: MessageId,
    /// State of the message from which the marks were planned.
    pub expected: LocalState,
    /// Whether it was partial then: the deletion of a part does not delete audio that came since.
    pub partial: bool,
    /// The marks, in their order.
    pub marks: Vec<Mark>,
    /// State to be stored with the marks.
    pub then: MessageState,
}

impl MailboxSyncStore {
    /// The stored states of an account's messages; none if they are of another folder or account than the mailbox has
    /// now, and for a mailbox that is left out. Fails with [`MailError::LacksRecords`] until this node has all records.
    pub async fn rows(&self, mailbox: MailboxId) -> Result<BTreeMap<MessageId, MessageState>, MailError> {
        let store = self.clone();
        blocking(move || store.rows_now(mailbox)).await?
    }

    fn rows_now(&self, mailbox: MailboxId) -> Result<BTreeMap<MessageId, MessageState>, MailError> {
        self.check_complete()?;
        let store = self.mailstore.store();
        let mut rows = BTreeMap::new();
        let servers = Servers::read(store)?;
        let resolved = Resolver::new(store, &servers).resolve(mailbox)?;
        let resolved = resolved.and_then(Result::ok).filter(|resolved| resolved.in_place);
        let Some(place) = resolved.map(|resolved| resolved.place) else { return Ok(rows) };
        for row in store.rows(schema::SYNC_MESSAGE, &mailbox.to_bytes()) {
            let (key, record) = row?;
            let message = schema::message_of(&key).map(|(_, message)| message);
            rows.extend(message.zip(MessageState::read(&record, place)));
        }
        Ok(rows)
    }

    /// The messages of a mailbox as the plan of a pass needs them, oldest first; deleted ones too. Fails with
    /// [`MailError::LacksRecords`] until this node has all records: a message that has not arrived yet is not removed.
    pub async fn local(&self, mailbox: MailboxId) -> Result<Vec<LocalMessage>, MailError> {
        self.check_complete()?;
        let messages = self.mailstore.messages(mailbox).await?.into_iter();
        let local = messages.map(|message| LocalMessage {
            id: message.id,
            received: message.received,
            partial: message.is_partial(),
            audio_lost: self.mailstore.is_audio_lost(&message),
            state: LocalState { folder: message.folder, deleted: message.deleted },
        });
        Ok(local.collect())
    }

    fn check_complete(&self) -> Result<(), MailError> {
        if self.mailstore.has_all_records() { Ok(()) } else { Err(MailError::LacksRecords) }
    }

    /// Stores states of messages (`None`: the state is removed), then the state of the account, under the
    /// epoch of the duty. `permit` is asked before each commit, and its result is kept until the commit is
    /// acknowledged; `None` ends the call with [`MailError::DutyLost`]. Refused with [`MailError::StaleEpoch`] when a
    /// newer epoch has written, and with [`MailboxSyncError::AccountChanged`] when the mailbox does not have this
    /// account any more. Rows written until then stay; the state of the account is in the last commit.
    pub async fn write<P: Send>(
        &self,
        account: &Account,
        rows: Vec<(MessageId, Option<MessageState>)>,
        mut state: Option<AccountState>,
        epoch: &Epoch,
        permit: impl Fn() -> Option<P>,
    ) -> Result<Acknowledgement, MailboxSyncError> {
        let mut rows = rows.into_iter().peekable();
        loop {
            let group: Vec<_> = rows.by_ref().take(GROUP).collect();
            let last = rows.peek().is_none();
            let state = if last { state.take() } else { None };
            let Some(_permit) = permit() else { return Err(MailError::DutyLost.into()) };
            let (account, author) = (account.clone(), Author::Duty(epoch.clone()));
            let (written, acknowledgement) = self
                .mailstore
                .commit(move |draft| {
                    let Some(writer) = Writer::begin(draft, &account, author)? else { return Ok(false) };
                    for (message, row) in &group {
                        writer.put_message(draft, *message, row.as_ref())?;
                    }
                    if let Some(state) = &state {
                        writer.put_account(draft, state)?;
                    }
                    Ok(true)
                })
                .await?;
            if !written {
                return Err(MailboxSyncError::AccountChanged);
            }
            if last {
                return Ok(acknowledgement);
            }
        }
    }

    /// Marks a message here and stores its state, in one commit. False, without a change, if the message is not as
    /// expected any more. Permit and refusals as for [`Self::write`].
    pub async fn mark_here<P: Send>(
        &self,
        account: &Account,
        marked: MarkedHere,
        epoch: &Epoch,
        permit: impl Fn() -> Option<P>,
    ) -> Result<bool, MailboxSyncError> {
        let Some(_permit) = permit() else { return Err(MailError::DutyLost.into()) };
        let (account, author) = (account.clone(), Author::Duty(epoch.clone()));
        let (marked, _) = self
            .mailstore
            .commit(move |draft| {
                let Some(writer) = Writer::begin(draft, &account, author)? else { return Ok(None) };
                let MarkedHere { message, expected, partial, marks, then } = marked;
                let found = message_in(draft, account.mailbox, message)?;
                let state = found
                    .map(|found| (LocalState { folder: found.folder, deleted: found.deleted }, found.is_partial()));
                if state != Some((expected, partial)) {
                    return Ok(Some(false));
                }
                for mark in marks {
                    mark_in(draft, account.mailbox, message, mark)?;
                }
                writer.put_message(draft, message, Some(&then))?;
                Ok(Some(true))
            })
            .await?;
        marked.ok_or(MailboxSyncError::AccountChanged)
    }
}

/// Writes states of one account within a commit.
struct Writer {
    mailbox: MailboxId,
    author: Author,
    now: Timestamp,
    place: AccountPlace,
}

impl Writer {
    /// `None` if the mailbox does not have this account any more. Stored states of another place are removed.
    fn begin(draft: &mut Draft<'_>, account: &Account, author: Author) -> Result<Option<Self>, MailError> {
        let servers = Servers::read(&*draft)?;
        let resolved = Resolver::new(&*draft, &servers).resolve(account.mailbox)?.and_then(Result::ok);
        let Some(resolved) = resolved.filter(|resolved| resolved.account == *account) else { return Ok(None) };
        let writer = Self { mailbox: account.mailbox, author, now: wall(), place: resolved.place };
        let key = schema::account_key(account.mailbox);
        let record = draft.get(&key)?.unwrap_or_default();
        // The row of the account decides for all rows that the new epoch has not written yet.
        by_epoch::put(&record, &writer.author, writer.now, &[])?;
        if !resolved.in_place {
            let keys = stored_in(draft, account.mailbox)?;
            clear_in(draft, &keys, &writer.author)?;
            draft.edit(key, vec![place_edit(Some(resolved.place))])?;
        }
        Ok(Some(writer))
    }

    fn put_message(
        &self,
        draft: &mut Draft<'_>,
        message: MessageId,
        state: Option<&MessageState>,
    ) -> Result<(), MailError> {
        let key = schema::message_key(self.mailbox, message);
        let record = draft.get(&key)?.unwrap_or_default();
        let edits = match state {
            Some(state) => state.edits(&record, &self.author, self.now, self.place)?,
            None => MessageState::removal(&record, &self.author, self.now)?,
        };
        if MessageState::read(&record, self.place).as_ref() == state { Ok(()) } else { Ok(draft.edit(key, edits)?) }
    }

    fn put_account(&self, draft: &mut Draft<'_>, state: &AccountState) -> Result<(), MailError> {
        let key = schema::account_key(self.mailbox);
        let record = draft.get(&key)?.unwrap_or_default();
        let edits = state.edits(&record, &self.author, self.now, self.place)?;
        if AccountState::read(&record, self.place) == *state { Ok(()) } else { Ok(draft.edit(key, edits)?) }
    }
}

/// Keys of the rows of an account that hold a state: its own, and those of its messages.
pub(crate) fn stored_in(draft: &Draft<'_>, mailbox: MailboxId) -> Result<Vec<Key>, MailError> {
    let account = schema::account_key(mailbox);
    let row = draft.get(&account)?.unwrap_or_default();
    let messages = draft.scan(schema::SYNC_MESSAGE, &mailbox.to_bytes())?;
    let rows = [(account, row)].into_iter().chain(messages);
    Ok(rows.filter(|(_, record)| has_state(record)).map(|(key, _)| key).collect())
}

/// Removes the states of these rows.
pub(crate) fn clear_in(draft: &mut Draft<'_>, keys: &[Key], author: &Author) -> Result<(), MailError> {
    for key in keys {
        let record = draft.get(key)?.unwrap_or_default();
        if has_state(&record) {
            let edit = by_epoch::put(&record, author, wall(), &[])?;
            draft.edit(key.clone(), vec![edit])?;
        }
    }
    Ok(())
}

/// Whether a row holds a state.
fn has_state(record: &Record) -> bool {
    by_epoch::newest(record).is_some_and(|version| !version.value.is_empty())
}
