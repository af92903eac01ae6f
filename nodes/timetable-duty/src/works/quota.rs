//! Quota warnings: lists the mailboxes that are nearly full, and raises an alarm.

use std::fmt::Write;

use twinbox_alarms::{Alarms, Code};
use twinbox_mailstore::Mailstore;

use crate::{JobOrder, JobWork};

/// Share of the capacity from which a mailbox is listed unless the job says otherwise, in percent.
const USUAL_SHARE: u64 = 90;
/// Maximum number of mailboxes that the result names.
const MOST_NAMED: usize = 100;

/// The work of the kind `quota-warnings`, over all mailboxes.
pub fn quota_warnings(mailstore: Mailstore, alarms: Alarms) -> impl JobWork {
    move |order| warn(mailstore.clone(), alarms.clone(), order)
}

async fn warn(mailstore: Mailstore, alarms: Alarms, order: JobOrder) -> Result<String, String> {
    let share = order.argument("share").and_then(|share| share.parse().ok()).unwrap_or(USUAL_SHARE);
    let mut full = Vec::new();
    for mailbox in mailstore.mailboxes().await.map_err(|error| error.to_string())? {
        let used = mailstore.used_percent(&mailbox).await.map_err(|error| error.to_string())?;
        if used >= share {
            full.push((used, mailbox.number));
        }
    }
    order.check()?;
    if full.is_empty() {
        return Ok(format!("no mailbox is filled to {share} %"));
    }
    full.sort_unstable();
    full.reverse();
    let count = format!("{} mailboxes are filled to {share} % or more", full.len());
    alarms.raise(Code::MailboxesNearlyFull, &order.job.name, &count);
    let mut text = format!("{count}: ");
    for (index, (used, number)) in full.iter().take(MOST_NAMED).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a text does not fail.
        let _ = write!(text, "{comma}{number} ({used} %)");
    }
    if full.len() > MOST_NAMED {
        text.push_str(", and others");
    }
    Ok(text)
}
