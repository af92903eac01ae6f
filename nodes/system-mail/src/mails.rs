//! Queueing of mails, and warnings to owners.

use std::sync::Arc;

use twinbox_ids::{MailboxId, Pii, Timestamp};
use twinbox_mailbox::{Message, MessageTime, message_time, schema as mailbox_schema};
use twinbox_mailstore::{
    MailError, Mailbox, Mailstore, Rule, Rules, SystemContent, SystemMail, blocking, rows::system_mail_in,
};
use twinbox_replication_core::{Edit, Record};
use twinbox_replication_store::Draft;

use crate::{
    schema::{OWNER_WARNING, warned_mailbox, warning_key},
    warning::{AgeingNote, QuotaNote, QuotaStep, ageing_warning, quota_step},
};

/// Maximum number of mails whose notes were lost.
const MOST_LOST: u64 = 64;

/// Mails cannot leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "mail out is not configured, and no mail is queued: set mail.domain and mail.smarthost ('twinbox setting set')"
)]
pub struct NoMailOut;

/// Result of a look at one mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warned {
    /// No warning is due.
    NotDue,
    /// A warning is queued.
    Queued,
    /// A warning is due, and the owner has no mail address.
    NoAddress,
}

/// Queues mails of the system. Cheap to clone.
#[derive(Clone)]
pub struct SystemMails {
    mailstore: Mailstore,
    mail_out: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl SystemMails {
    /// Mails in this store; `mail_out`: whether mail out is configured now.
    pub fn new(mailstore: Mailstore, mail_out: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { mailstore, mail_out: Arc::new(mail_out) }
    }

    /// Whether mails can leave. Queue none otherwise: each would be a dead letter.
    pub fn ready(&self) -> Result<(), NoMailOut> {
        if (self.mail_out)() { Ok(()) } else { Err(NoMailOut) }
    }

    /// Queues mails of one occasion of an owner; returns the number of those that were not queued before.
    pub async fn queue(&self, owner: MailboxId, occasion: u64, mails: Vec<SystemMail>) -> Result<usize, MailError> {
        let (queued, _) = self
            .mailstore
            .commit(move |draft| {
                let mut queued = 0;
                for mail in &mails {
                    queued += usize::from(system_mail_in(draft, mail, owner, occasion)?);
                }
                Ok(queued)
            })
            .await?;
        Ok(queued)
    }

    /// Warns the owner of a mailbox whose used share has passed `share` percent, or is full.
    pub async fn warn_of_quota(&self, mailbox: &Mailbox, used: u64, share: u64) -> Result<Warned, MailError> {
        let step = quota_step(QuotaNote::read(&self.record_of(mailbox.id)?), used, share);
        let to = match step {
            QuotaStep::Nothing => return Ok(Warned::NotDue),
            QuotaStep::Note(_) => None,
            QuotaStep::Warn(_) => match self.address_of(mailbox)? {
                Some(to) => Some(to),
                None => return Ok(Warned::NoAddress),
            },
        };
        let (id, number, name) = (mailbox.id, mailbox.number.clone(), mailbox.name.clone());
        let (queued, _) = self
            .mailstore
            .commit(move |draft| {
                // Another node may have warned meanwhile.
                let now = quota_step(QuotaNote::read(&record_in(draft, id)?), used, share);
                match (now, to) {
                    (QuotaStep::Warn(note), Some(to)) => {
                        let content = SystemContent::Quota { number, name, percent: used };
                        let noted = |count| QuotaNote { count, ..note }.edits();
                        note_and_queue(draft, &SystemMail { to, content }, id, note.count, noted)
                    }
                    (QuotaStep::Note(note), _) => {
                        draft.edit(warning_key(id), note.edits())?;
                        Ok(false)
                    }
                    _ => Ok(false),
                }
            })
            .await?;
        Ok(if queued { Warned::Queued } else { Warned::NotDue })
    }

    /// Warns the owner of a mailbox of messages that will be deleted by their age within the class's `warn-days`.
    pub async fn warn_of_ageing(&self, mailbox: &Mailbox, now: Timestamp) -> Result<Warned, MailError> {
        let rules = self.mailstore.rules(mailbox)?;
        if rules.get(Rule::WarnDays).is_none() {
            return Ok(Warned::NotDue);
        }
        let (store, id) = (self.mailstore.clone(), mailbox.id);
        let times = blocking(move || times_of(&store, id, &rules)).await??;
        let due = ageing_warning(AgeingNote::read(&self.record_of(id)?), &rules, times.iter().copied(), now);
        if due.is_none() {
            return Ok(Warned::NotDue);
        }
        let Some(to) = self.address_of(mailbox)? else { return Ok(Warned::NoAddress) };
        let (number, name, zone) = (mailbox.number.clone(), mailbox.name.clone(), mailbox.timezone.clone());
        let (queued, _) = self
            .mailstore
            .commit(move |draft| {
                let note = AgeingNote::read(&record_in(draft, id)?);
                let Some(warning) = ageing_warning(note, &rules, times, now) else { return Ok(false) };
                let (messages, first) = (warning.messages, warning.first);
                let content = SystemContent::Ageing { number, name, messages, first, zone };
                let noted = |count| AgeingNote { count, ..warning.note }.edits();
                note_and_queue(draft, &SystemMail { to, content }, id, warning.note.count, noted)
            })
            .await?;
        Ok(if queued { Warned::Queued } else { Warned::NotDue })
    }

    /// Removes the notes of mailboxes that were removed; returns their number.
    pub async fn forget_removed(&self) -> Result<usize, MailError> {
        let store = self.mailstore.clone();
        let removed = blocking(move || {
            let mut removed = Vec::new();
            for row in store.store().rows(OWNER_WARNING, &[]) {
                let (key, record) = row?;
                let Some(mailbox) = warned_mailbox(&key).filter(|_| record.tombstone().is_none()) else { continue };
                let owner = store.store().get(&mailbox_schema::mailbox_key(mailbox))?;
                if owner.is_some_and(|owner| owner.tombstone().is_some()) {
                    removed.push(key);
                }
            }
            Ok::<_, MailError>(removed)
        });
        let removed = removed.await??;
        let count = removed.len();
        if count > 0 {
            self.mailstore
                .commit(move |draft| {
                    removed.into_iter().try_for_each(|key| Ok(draft.edit(key, vec![Edit::Delete])?))
                })
                .await?;
        }
        Ok(count)
    }

    fn record_of(&self, mailbox: MailboxId) -> Result<Record, MailError> {
        Ok(self.mailstore.store().get(&warning_key(mailbox))?.unwrap_or_default())
    }

    /// The owner's address, unless another user has it since a split.
    fn address_of(&self, mailbox: &Mailbox) -> Result<Option<Pii<String>>, MailError> {
        let Some(mail) = &mailbox.addresses.mail else { return Ok(None) };
        let lost = self.mailstore.lost_addresses(mailbox)?.contains(mail);
        Ok((!lost).then(|| Pii::new(mail.as_str().to_owned())))
    }
}

fn record_in(draft: &Draft<'_>, mailbox: MailboxId) -> Result<Record, MailError> {
    Ok(draft.get(&warning_key(mailbox))?.unwrap_or_default())
}

/// Notes a warning and queues its mail, in this order; `noted` has the edits of the note with that count. A count that has a
/// mail is of a note that was lost when two sides of a split were merged: the next is taken.
fn note_and_queue(
    draft: &mut Draft<'_>,
    mail: &SystemMail,
    owner: MailboxId,
    count: u64,
    noted: impl Fn(u64) -> Vec<Edit>,
) -> Result<bool, MailError> {
    for count in count..count.saturating_add(MOST_LOST) {
        draft.edit(warning_key(owner), noted(count))?;
        if system_mail_in(draft, mail, owner, count)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Times of the messages of a mailbox.
fn times_of(store: &Mailstore, mailbox: MailboxId, rules: &Rules) -> Result<Vec<MessageTime>, MailError> {
    let mut times = Vec::new();
    for row in store.store().rows(mailbox_schema::MESSAGE, &mailbox.to_bytes()) {
        let (key, record) = row?;
        // A message that this release cannot read stays.
        if let Ok(message) = Message::read(&key, &record, |_| None) {
            times.extend(message_time(&message, &record, rules));
        }
    }
    Ok(times)
}
