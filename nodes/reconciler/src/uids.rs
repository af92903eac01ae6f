//! The publisher gives a new UID to each message whose UID another message has or had (rule D10): after a split, and when two
//! nodes filed into one mailbox at the same moment.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{MailboxId, MessageId, NodeName};
use twinbox_mailbox::{
    Numbers,
    schema::{self, COUNTERS, MESSAGE},
    uids::{MailboxUids, UidWatch, give_again},
};
use twinbox_mailstore::{MailError, Mailstore, blocking};
use twinbox_replication_store::{Draft, Store, StoreError};
use twinbox_roles::RolesView;

/// Minimum pause between rounds, and the pause as a multiple of the time of a round.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const PAUSES: u32 = 10;
/// Mailboxes that one round checks.
const MAILBOXES: usize = 64;
/// Messages that get a new UID in one commit.
const AT_A_TIME: usize = 16;

/// The part of a node that keeps UIDs unique.
pub struct UidKeeper {
    name: NodeName,
    mailstore: Mailstore,
    view: watch::Receiver<Arc<RolesView>>,
    watch: Arc<UidWatch>,
    /// The last mailbox of the first round, which examines all mailboxes; `None` when it has ended.
    first_round: Option<Vec<u8>>,
}

impl UidKeeper {
    /// Watches from now on; `view` is the cluster as this node sees it.
    pub fn new(name: NodeName, mailstore: Mailstore, view: watch::Receiver<Arc<RolesView>>) -> Self {
        let watch = Arc::new(UidWatch::default());
        let noted = watch.clone();
        mailstore.store().observe(move |change| noted.changed(change));
        Self { name, mailstore, view, watch, first_round: Some(Vec::new()) }
    }

    /// Gives new UIDs while this node is the publisher, until stopped.
    pub fn run(mut self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            let looks = async {
                let mut pause = LOOK_EVERY;
                loop {
                    tokio::time::sleep(pause).await;
                    let begun = BootInstant::now();
                    if let Err(error) = self.round().await {
                        warn!(%error, "messages whose UIDs clash cannot get new ones; retrying");
                    }
                    // Mailboxes into which two nodes file all the time are suspect in each round.
                    pause = LOOK_EVERY.max(begun.elapsed() * PAUSES);
                }
            };
            stop.run_until_cancelled(looks).await;
        }
        .boxed()
    }

    /// Two nodes that both act as publisher are harmless: both give UIDs as they give them to new messages.
    fn is_publisher(&self) -> bool {
        let view = self.view.borrow();
        view.quorum && view.publisher.as_ref() == Some(&self.name) && self.mailstore.has_all_records()
    }

    /// One round: gives new UIDs, if this node is the publisher and has all records.
    pub async fn round(&mut self) -> Result<(), MailError> {
        if !self.is_publisher() {
            return Ok(());
        }
        if let Some(after) = &self.first_round {
            let (store, after) = (self.mailstore.store().clone(), after.clone());
            let found = blocking(move || counted_mailboxes(&store, &after)).await?;
            self.first_round = found.last().map(|mailbox| mailbox.to_bytes().to_vec());
            self.watch.suspect(found);
        }
        let suspect = self.watch.take(MAILBOXES);
        let checked = self.check(suspect.clone()).await;
        if checked.is_err() {
            self.watch.suspect(suspect);
        }
        checked
    }

    async fn check(&self, mailboxes: Vec<MailboxId>) -> Result<(), MailError> {
        if mailboxes.is_empty() {
            return Ok(());
        }
        let store = self.mailstore.store().clone();
        let read = move || {
            let of = |mailbox| Ok((mailbox, read_uids(&store, mailbox)?));
            mailboxes.into_iter().map(of).collect::<Result<Vec<_>, StoreError>>()
        };
        let read = blocking(read).await??;
        let of = |(mailbox, uids): &(MailboxId, MailboxUids)| {
            let (mailbox, highest) = (*mailbox, uids.highest());
            uids.clashing().into_iter().map(move |(uid, id)| Clash { mailbox, uid, id, highest })
        };
        let clashes: Vec<Clash> = read.iter().flat_map(of).collect();
        for part in clashes.chunks(AT_A_TIME).map(<[_]>::to_vec) {
            self.mailstore.commit_in_background(move |draft| give_new_uids(draft, &part)).await?;
        }
        if !clashes.is_empty() {
            info!(messages = clashes.len(), "messages had UIDs of other messages, and got new ones");
        }
        read.iter().for_each(|(mailbox, uids)| self.watch.checked(*mailbox, uids.highest()));
        Ok(())
    }
}

/// A message with a UID that another message of the mailbox has, or had.
#[derive(Clone, Copy)]
struct Clash {
    mailbox: MailboxId,
    uid: u64,
    id: MessageId,
    /// The highest UID in the mailbox: its counters may come after its messages.
    highest: u64,
}

/// The next mailboxes behind `after` to which messages were ever filed.
fn counted_mailboxes(store: &Store, after: &[u8]) -> Vec<MailboxId> {
    let from = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
    let rows = store.rows_between(COUNTERS, &from, &[u8::MAX; 17]).take(MAILBOXES);
    // A mailbox that cannot be read has no counters to take a UID from.
    rows.flatten().filter_map(|(key, _)| MailboxId::from_slice(&key.id)).collect()
}

fn read_uids(store: &Store, mailbox: MailboxId) -> Result<MailboxUids, StoreError> {
    let mut uids = MailboxUids::default();
    for row in store.rows(MESSAGE, &mailbox.to_bytes()) {
        if let Some((key, record)) = readable(row)?
            && let Some((_, id)) = schema::message_of(&key)
        {
            uids.add(id, &record);
        }
    }
    Ok(uids)
}

/// A row that cannot be read has its turn when it is repaired, which is a change.
fn readable<R>(row: Result<R, StoreError>) -> Result<Option<R>, StoreError> {
    match row {
        Ok(row) => Ok(Some(row)),
        Err(StoreError::Format { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn give_new_uids(draft: &mut Draft<'_>, clashes: &[Clash]) -> Result<(), MailError> {
    for Clash { mailbox, uid, id, highest } in clashes {
        let (key, counters) = (schema::message_key(*mailbox, *id), schema::counters_key(*mailbox));
        let Some(Some(record)) = readable(draft.get(&key))? else { continue };
        let Some(numbered) = readable(draft.get(&counters))? else { continue };
        let numbers = Numbers::after(&numbered.unwrap_or_default()).above(*highest);
        let edits = give_again(&record, *uid, numbers);
        if !edits.is_empty() {
            draft.edit(key, edits)?;
            draft.edit(counters, numbers.take_both())?;
        }
    }
    Ok(())
}
