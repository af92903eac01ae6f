//! Quota warnings: lists the mailboxes that are nearly full, raises an alarm, and warns the owners.

use std::fmt::Write;

use twinbox_alarms::{Alarms, Code};
use twinbox_mailstore::Mailstore;
use twinbox_system_mail::SystemMails;

use super::owners::WarnedOwners;
use crate::{JobOrder, JobWork};

/// Share of the capacity from which a mailbox is listed unless the job says otherwise, in percent.
const USUAL_SHARE: u64 = 90;
/// Maximum number of mailboxes that the result names.
const MOST_NAMED: usize = 100;

/// The work of the kind `quota-warnings`, over all mailboxes.
pub fn quota_warnings(mailstore: Mailstore, alarms: Alarms, mails: SystemMails) -> impl JobWork {
    move |order| warn(mailstore.clone(), alarms.clone(), mails.clone(), order)
}

async fn warn(mailstore: Mailstore, alarms: Alarms, mails: SystemMails, order: JobOrder) -> Result<String, String> {
    let share = order.argument("share").and_then(|share| share.parse().ok()).unwrap_or(USUAL_SHARE);
    let (mut full, mut warned, mut failed) = (Vec::new(), WarnedOwners::default(), None);
    let tell = order.argument("owners") == Some("yes");
    if tell {
        warned.look();
        mails.forget_removed().await.map_err(|error| error.to_string())?;
    }
    for mailbox in mailstore.mailboxes().await.map_err(|error| error.to_string())? {
        // The other mailboxes go on.
        let used = match mailstore.used_percent(&mailbox).await {
            Ok(used) => used,
            Err(error) => {
                failed = Some(format!("mailbox {}: {error}", mailbox.id));
                continue;
            }
        };
        if tell && !mailbox.disabled && mails.ready().is_ok() {
            order.check()?;
            match mails.warn_of_quota(&mailbox, used, share).await {
                Ok(result) => warned.add(result),
                Err(error) => failed = Some(format!("warning of mailbox {}: {error}", mailbox.id)),
            }
        }
        if used >= share {
            full.push((used, mailbox.number));
        }
    }
    order.check()?;
    let told = warned.text(&mails);
    let outcome = |text: String| failed.map_or(Ok(text.clone()), |failed| Err(format!("{text}; {failed}")));
    if full.is_empty() {
        return outcome(format!("no mailbox is filled to {share} %{told}"));
    }
    full.sort_unstable();
    full.reverse();
    let count = format!("{} mailboxes are filled to {share} % or more", full.len());
    alarms.raise(Code::MailboxesNearlyFull, &order.job.name, &count);
    let mut text = format!("{count}{told}: ");
    for (index, (used, number)) in full.iter().take(MOST_NAMED).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a text does not fail.
        let _ = write!(text, "{comma}{number} ({used} %)");
    }
    if full.len() > MOST_NAMED {
        text.push_str(", and others");
    }
    outcome(text)
}
