//! Ageing: deletes the messages whose time by their class of service is over, and warns owners before.

use twinbox_ageing::{Aged, age_messages};
use twinbox_clock::wall;
use twinbox_ids::Timestamp;
use twinbox_mailstore::{MailError, Mailbox, Mailstore, Rule};
use twinbox_system_mail::SystemMails;

use super::owners::WarnedOwners;
use crate::{JobOrder, JobWork};

/// The work of the kind `ageing`, over all mailboxes.
pub fn ageing(mailstore: Mailstore, mails: SystemMails) -> impl JobWork {
    move |order| age(mailstore.clone(), mails.clone(), order)
}

async fn age(mailstore: Mailstore, mails: SystemMails, order: JobOrder) -> Result<String, String> {
    let (mut aged, mut warned, mut failed) = (Aged::default(), WarnedOwners::default(), None);
    let mailboxes = mailstore.mailboxes().await.map_err(|error| error.to_string())?;
    // By a clock that is ahead every message would be old: that of the purge has the word of the other nodes, too.
    let purge_clock = mailstore.store().purge_clock().map_err(|error| error.to_string())?;
    let now = purge_clock.map_or_else(wall, |agreed| agreed.min(wall()));
    for mailbox in &mailboxes {
        order.check()?;
        match age_messages(&mailstore, mailbox.id, now, || order.check().is_ok()).await {
            Ok(part) => aged += part,
            // The other mailboxes go on.
            Err(error) => failed = Some(format!("mailbox {}: {error}", mailbox.id)),
        }
        order.check()?;
        if let Err(error) = warn(&mailstore, &mails, mailbox, now, &mut warned).await {
            failed = Some(format!("warning of mailbox {}: {error}", mailbox.id));
        }
    }
    order.check()?;
    if let Err(error) = mails.forget_removed().await {
        failed = Some(error.to_string());
    }
    let Aged { deleted } = aged;
    let all = mailboxes.len();
    let text = format!("{deleted} messages deleted, of {all} mailboxes");
    let text = text + &warned.text(&mails);
    failed.map_or(Ok(text.clone()), |failed| Err(format!("{text}; {failed}")))
}

/// Warns the owner of a mailbox whose class says so.
async fn warn(
    mailstore: &Mailstore,
    mails: &SystemMails,
    mailbox: &Mailbox,
    now: Timestamp,
    warned: &mut WarnedOwners,
) -> Result<(), MailError> {
    let wanted = mailstore.rules(mailbox)?.get(Rule::WarnDays).is_some();
    if wanted && !mailbox.disabled {
        warned.look();
        if mails.ready().is_ok() {
            warned.add(mails.warn_of_ageing(mailbox, now).await?);
        }
    }
    Ok(())
}
