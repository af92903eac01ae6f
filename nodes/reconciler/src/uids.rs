//! The publisher gives messages a new UID whose UID another message has, too, or had (rule D10): after a split, and when two
//! nodes filed into one mailbox at the same moment.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_ids::{MailboxId, MessageId, NodeName};
use twinbox_mailbox::{
    Numbers,
    schema::{self, COUNTERS, MESSAGE},
    uids::{MailboxUids, UidWatch, give_again},
};
use twinbox_mailstore::{MailError, Mailstore, blocking};
use twinbox_replication_store::{Draft, Store};
use twinbox_roles::Roles;
use twinbox_runtime as runtime;

/// Interval of looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Mailboxes that one look checks.
const MAILBOXES: usize = 64;
/// Messages that get a new UID in one commit.
const AT_A_TIME: usize = 16;

/// The part of a node that keeps UIDs unique.
pub struct UidKeeper {
    name: NodeName,
    mailstore: Mailstore,
    roles: Roles,
    watch: Arc<UidWatch>,
    /// The last mailbox of the first round, which looks at all; `None` when it has ended.
    first_round: Option<Vec<u8>>,
}

impl UidKeeper {
    /// Watches from now on.
    pub fn new(name: NodeName, mailstore: Mailstore, roles: Roles) -> Self {
        let watch = Arc::new(UidWatch::default());
        let noted = watch.clone();
        mailstore.store().observe(move |change| noted.changed(change));
        Self { name, mailstore, roles, watch, first_round: Some(Vec::new()) }
    }

    /// Gives new UIDs while this node is the publisher, until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let looks = async {
            let mut look = runtime::every(LOOK_EVERY);
            loop {
                look.tick().await;
                if !self.is_publisher() {
                    continue;
                }
                if let Err(error) = self.look().await {
                    warn!(%error, "messages whose UIDs clash cannot get new ones; retrying");
                }
            }
        };
        stop.run_until_cancelled(looks).await;
    }

    /// Another node that takes itself for the publisher does no harm: both give UIDs as they give them to new messages.
    fn is_publisher(&self) -> bool {
        let roles = self.roles.watch();
        let view = roles.borrow();
        view.quorum && view.publisher.as_ref() == Some(&self.name) && self.mailstore.has_all_records()
    }

    async fn look(&mut self) -> Result<(), MailError> {
        if let Some(after) = &self.first_round {
            let (store, after) = (self.mailstore.store().clone(), after.clone());
            let found = blocking(move || counted_mailboxes(&store, &after)).await?;
            self.first_round = found.last().map(|mailbox| mailbox.to_bytes().to_vec());
            self.watch.suspect(found);
        }
        let mut suspect = self.watch.take(MAILBOXES).into_iter();
        while let Some(mailbox) = suspect.next() {
            if let Err(error) = self.check(mailbox).await {
                self.watch.suspect(suspect.chain([mailbox]));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn check(&self, mailbox: MailboxId) -> Result<(), MailError> {
        let store = self.mailstore.store().clone();
        let uids = blocking(move || read_uids(&store, mailbox)).await?;
        let clashing = uids.clashing();
        for part in clashing.chunks(AT_A_TIME).map(<[_]>::to_vec) {
            let give = move |draft: &mut Draft<'_>| give_new_uids(draft, mailbox, &part);
            self.mailstore.commit_in_background(give).await?;
        }
        if !clashing.is_empty() {
            info!(%mailbox, messages = clashing.len(), "messages had UIDs of other messages, and got new ones");
        }
        self.watch.checked(mailbox, uids.highest());
        Ok(())
    }
}

/// The next mailboxes behind `after` to which messages were ever filed.
fn counted_mailboxes(store: &Store, after: &[u8]) -> Vec<MailboxId> {
    let from = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
    let rows = store.rows_between(COUNTERS, &from, &[u8::MAX; 17]).take(MAILBOXES);
    // One that cannot be read has no numbers that a message could be given.
    rows.flatten().filter_map(|(key, _)| MailboxId::from_slice(&key.id)).collect()
}

fn read_uids(store: &Store, mailbox: MailboxId) -> MailboxUids {
    let mut uids = MailboxUids::default();
    for (key, record) in store.rows(MESSAGE, &mailbox.to_bytes()).flatten() {
        if let Some((_, id)) = schema::message_of(&key) {
            uids.add(id, &record);
        }
    }
    uids
}

fn give_new_uids(
    draft: &mut Draft<'_>,
    mailbox: MailboxId,
    clashing: &[(u64, MessageId)],
) -> Result<(), MailError> {
    let counters = schema::counters_key(mailbox);
    for (uid, id) in clashing {
        let key = schema::message_key(mailbox, *id);
        let Some(record) = draft.get(&key)? else { continue };
        let numbers = Numbers::after(&draft.get(&counters)?.unwrap_or_default());
        let edits = give_again(&record, *uid, numbers);
        if !edits.is_empty() {
            draft.edit(key, edits)?;
            draft.edit(counters.clone(), numbers.take_both())?;
        }
    }
    Ok(())
}
