//! Ageing: deletes messages whose time by their class of service has ended. Each node purges deleted messages elsewhere.

use std::ops::AddAssign;

use twinbox_ids::{MailboxId, MessageId, Timestamp};
use twinbox_mailbox::{Ageing, Mark, Message, Numbers, Rule, Rules, ageing, schema};
use twinbox_mailstore::{MailError, Mailstore, blocking};
use twinbox_replication_store::Draft;

/// Maximum number of messages in one commit: callers wait for one.
const AT_A_TIME: usize = 16;
/// Rules by which messages age.
const RULES: [Rule; 3] = [Rule::NewDays, Rule::RetentionDays, Rule::SavedDays];

/// Messages whose time was over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aged {
    /// Number of messages that were deleted.
    pub deleted: u64,
}

impl AddAssign for Aged {
    fn add_assign(&mut self, other: Self) {
        self.deleted += other.deleted;
    }
}

/// Deletes the messages of a mailbox whose time is over at `now`. `may_go_on` is asked before each commit; after
/// its first `false` nothing more is changed.
pub async fn age_messages(
    mailstore: &Mailstore,
    mailbox: MailboxId,
    now: Timestamp,
    may_go_on: impl Fn() -> bool,
) -> Result<Aged, MailError> {
    let mut aged = Aged::default();
    let Some(found) = mailstore.get_now(mailbox)? else { return Ok(aged) };
    let rules = mailstore.rules(&found)?;
    if RULES.iter().all(|rule| rules.get(*rule).is_none()) {
        return Ok(aged);
    }
    let store = mailstore.clone();
    let due = blocking(move || due_messages(&store, mailbox, &rules, now)).await??;
    for ids in due.chunks(AT_A_TIME).map(<[MessageId]>::to_vec) {
        if !may_go_on() {
            break;
        }
        let part = mailstore.commit_in_background(move |draft| age_in(draft, mailbox, &ids, &rules, now)).await?;
        aged += part;
    }
    Ok(aged)
}

fn due_messages(
    mailstore: &Mailstore,
    mailbox: MailboxId,
    rules: &Rules,
    now: Timestamp,
) -> Result<Vec<MessageId>, MailError> {
    let mut due = Vec::new();
    for row in mailstore.store().present_rows(&mailbox.to_bytes()) {
        let (key, record) = row?;
        // A message that cannot be read stays: a later release may read it.
        if let Ok(message) = Message::read(&key, &record, |_| None)
            && ageing(&message, &record, rules, now) == Some(Ageing::Delete)
        {
            due.push(message.id);
        }
    }
    Ok(due)
}

/// Changes those of these messages whose time is over as they are now.
fn age_in(
    draft: &mut Draft<'_>,
    mailbox: MailboxId,
    ids: &[MessageId],
    rules: &Rules,
    now: Timestamp,
) -> Result<Aged, MailError> {
    let (counters, mut aged) = (schema::counters_key(mailbox), Aged::default());
    for id in ids {
        let key = schema::message_key(mailbox, *id);
        let Some(record) = draft.get(&key)? else { continue };
        // The audio of a partial message may be overruled by its recording: its time does not depend on that.
        let message = Message::read(&key, &record, |_| None).ok();
        if message.and_then(|message| ageing(&message, &record, rules, now)) != Some(Ageing::Delete) {
            continue;
        }
        let numbers = Numbers::after(&draft.get(&counters)?.unwrap_or_default());
        draft.edit(counters.clone(), Numbers::take_modseq())?;
        aged.deleted += 1;
        let edits = Mark::Deleted.edits(&record, numbers);
        draft.edit(key, edits)?;
    }
    Ok(aged)
}
