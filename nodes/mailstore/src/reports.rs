//! Reports of delivery to the senders of mails (RFC 3461), and mails of the system to users and administrators.

use twinbox_clock::wall;
use twinbox_ids::{MailboxId, MessageId, Timestamp};
use twinbox_outbox::{Cause, Channel, Effect, NewEffect, Report, SystemMail, Transition, schema};
use twinbox_replication_store::Draft;

use crate::{Acknowledgement, MailError, Mailstore};

/// Time after which a report that cannot be sent is given up, in milliseconds.
const LIFE_MS: u64 = 3 * 24 * 3_600 * 1_000;

impl Mailstore {
    /// Adds the report that a mail became this message; durable with the effect that sends it when this returns. A
    /// repeated delivery of the mail adds no other.
    pub async fn add_report(
        &self,
        mailbox: MailboxId,
        message: MessageId,
        report: Report,
    ) -> Result<Acknowledgement, MailError> {
        let now = wall();
        let effect = NewEffect {
            cause: Cause { mailbox, message, transition: Transition::Received },
            channel: Channel::Report,
            target: report.target(),
            repeat: 0,
            retry: 0,
            created: now,
            not_before: now,
            expires: Timestamp(now.0.saturating_add(LIFE_MS)),
        };
        let ((), acknowledgement) = self
            .commit(move |draft| {
                let key = schema::effect_key(effect.id());
                let mut edits = effect.edits(draft.get(&key)?.as_ref());
                if !edits.is_empty() {
                    edits.extend(report.edits());
                }
                Ok(draft.edit(key, edits)?)
            })
            .await?;
        Ok(acknowledgement)
    }

    /// The report that an effect sends; `None` for other effects, and if it was removed. An administrator's retry sends
    /// that of the first effect.
    pub fn report_of(&self, effect: &Effect) -> Result<Option<Report>, MailError> {
        if effect.new.channel != Channel::Report {
            return Ok(None);
        }
        let record = self.store().get(&schema::effect_key(effect.receiver_id()))?;
        Ok(record.and_then(|record| Report::read(&record)))
    }

    /// The mail of the system that an effect sends; `None` for other effects, and if its content was removed. An
    /// administrator's retry sends that of the first effect.
    pub fn system_mail_of(&self, effect: &Effect) -> Result<Option<SystemMail>, MailError> {
        if effect.new.channel != Channel::System {
            return Ok(None);
        }
        let record = self.store().get(&schema::effect_key(effect.receiver_id()))?;
        Ok(record.and_then(|record| SystemMail::read(&record)))
    }
}

/// Adds a mail of the system with the effect that sends it; false if the effect exists, so that its occasion has its mail.
pub fn system_mail_in(
    draft: &mut Draft<'_>,
    mail: &SystemMail,
    owner: MailboxId,
    occasion: u64,
) -> Result<bool, MailError> {
    let effect = mail.effect(owner, occasion, wall());
    let key = schema::effect_key(effect.id());
    let mut edits = effect.edits(draft.get(&key)?.as_ref());
    let new = !edits.is_empty();
    if new {
        edits.extend(mail.edits());
        draft.edit(key, edits)?;
    }
    Ok(new)
}
