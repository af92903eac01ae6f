//! Ageing: deletes the messages whose time by their class of service is over.

use twinbox_clock::wall;
use twinbox_mailstore::{Aged, Mailstore};

use crate::{JobOrder, JobWork};

/// The work of the kind `ageing`, over all mailboxes.
pub fn ageing(mailstore: Mailstore) -> impl JobWork {
    move |order| age(mailstore.clone(), order)
}

async fn age(mailstore: Mailstore, order: JobOrder) -> Result<String, String> {
    let (mut aged, mut failed) = (Aged::default(), None);
    let mailboxes = mailstore.mailboxes().await.map_err(|error| error.to_string())?;
    for mailbox in &mailboxes {
        order.check()?;
        match mailstore.age_messages(mailbox.id, wall(), || order.check().is_ok()).await {
            Ok(part) => aged += part,
            // The other mailboxes go on.
            Err(error) => failed = Some(format!("mailbox {}: {error}", mailbox.id)),
        }
    }
    order.check()?;
    let Aged { deleted, purged } = aged;
    let all = mailboxes.len();
    let text = format!("{deleted} messages deleted, {purged} deleted ones purged, of {all} mailboxes");
    failed.map_or(Ok(text.clone()), |failed| Err(format!("{text}; {failed}")))
}
