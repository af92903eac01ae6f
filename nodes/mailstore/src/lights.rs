//! Message lights: the counts, and who should look again.

use std::sync::Arc;

use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};
use twinbox_ids::MailboxId;
use twinbox_mailbox::{Lights, Mailbox, Quota, Recording, Rule, holder, schema};
use twinbox_replication_core::Change;

use crate::{MailError, Mailstore};

/// Whose counts may have changed. Asking again is cheap and a change may turn out to be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LightsChange {
    /// Of this mailbox.
    Mailbox(MailboxId),
    /// Of any: changes were missed, or a number moved.
    Everything,
}

/// Tells of changes, made here or by a peer, from when it was made on.
pub struct LightsWatch {
    mailstore: Mailstore,
    changes: Receiver<Arc<Change>>,
}

impl Mailstore {
    /// The counts of a mailbox's light; of one that is not there, none.
    pub async fn lights(&self, mailbox: MailboxId) -> Result<Lights, MailError> {
        Ok(Lights::count(&self.messages(mailbox).await?))
    }

    /// Whether no more messages fit into a mailbox.
    pub async fn is_full(&self, mailbox: &Mailbox) -> Result<bool, MailError> {
        let (rules, messages) = (self.rules(mailbox)?, self.messages(mailbox.id).await?);
        let max_messages = rules.get(Rule::Messages).unwrap_or(mailbox.quota.max_messages);
        let total_ms: u64 = messages.iter().filter(|m| m.is_present()).map(|m| m.length_ms).sum();
        let quota = Quota { max_messages, ..mailbox.quota };
        Ok(quota.is_full(Lights::count(&messages))
            || rules.get(Rule::TotalMinutes).is_some_and(|minutes| total_ms >= minutes.saturating_mul(60_000)))
    }

    /// Watches for changes of lights. Begin watching before asking for the counts, so that none is missed.
    pub fn watch_lights(&self) -> LightsWatch {
        LightsWatch { mailstore: self.clone(), changes: self.store().live() }
    }
}

impl LightsWatch {
    /// The next change; `None` when the store is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<LightsChange> {
        loop {
            match self.changes.recv().await {
                Ok(change) => {
                    if let Some(change) = self.meaning(&change) {
                        return Some(change);
                    }
                }
                Err(RecvError::Lagged(_)) => return Some(LightsChange::Everything),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// A change that is there already.
    pub fn try_next(&mut self) -> Option<LightsChange> {
        loop {
            match self.changes.try_recv() {
                Ok(change) => {
                    if let Some(change) = self.meaning(&change) {
                        return Some(change);
                    }
                }
                Err(TryRecvError::Lagged(_)) => return Some(LightsChange::Everything),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    fn meaning(&self, change: &Change) -> Option<LightsChange> {
        let mailbox = match change.key.table {
            schema::MESSAGE => schema::message_of(&change.key)?.0,
            schema::MAILBOX => schema::mailbox_of(&change.key)?,
            schema::NUMBER => match self.newcomer(change) {
                Some(mailbox) => mailbox,
                None => return Some(LightsChange::Everything),
            },
            schema::RECORDING if Recording::withdraws(&change.delta) => {
                let id = schema::recording_of(&change.key)?;
                match self.mailstore.recording(id) {
                    Ok(recording) => recording?.mailbox,
                    Err(_) => return Some(LightsChange::Everything),
                }
            }
            _ => return None,
        };
        Some(LightsChange::Mailbox(mailbox))
    }

    /// Who claimed a number that nobody else claims: then it is no other's light. Thousands of users that come at once
    /// must not each have everything looked at.
    fn newcomer(&self, change: &Change) -> Option<MailboxId> {
        let mailbox = holder(&change.delta)?;
        let record = self.mailstore.store().get(&change.key).ok()??;
        let alone = record.losers(schema::number::HOLDER).is_empty() && holder(&record) == Some(mailbox);
        alone.then_some(mailbox)
    }
}
