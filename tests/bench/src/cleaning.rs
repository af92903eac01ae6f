//! Deletion and purge of messages in the store itself, and compaction of its packs, as the reconciler of a node does
//! them (`nodes/reconciler`), without its graces: the members of a benchmark are known and have the deletions.

use std::time::Duration;

use tokio::task::JoinSet;
use twinbox_clock::wall;
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_mailbox::{
    Mark, purge,
    schema::{MESSAGE, RECORDING, message_key, recording_key},
};
use twinbox_mailstore::{
    MailError, Mailstore, blocking,
    rows::{mark_in, note_purged},
};
use twinbox_replication_core::{Edit, Table};
use twinbox_replication_store::{CompactedPacks, FreedSpace, Removal};

use crate::population::Written;

/// Messages that are deleted in one commit, as the reconciler marks them.
const AT_A_TIME: usize = 16;
/// Commits of deletions at once.
const AT_ONCE: usize = 8;
/// Records, blobs and packs that one look examines, as in the reconciler.
const ROWS: usize = 512;
const BLOBS: usize = 2_000;
const PACKS: usize = 16;

/// Number of removed items.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cleaned {
    /// Messages that were deleted.
    pub deleted: u64,
    /// Their records, and those of their recordings, that were removed.
    pub records: u64,
    /// Audio that was removed.
    pub freed: FreedSpace,
    /// Packs that were removed, and bytes that were moved out of them.
    pub packs: CompactedPacks,
}

/// Cleans one store.
pub struct Cleaner {
    mailstore: Mailstore,
    unreferenced: Option<BlobHash>,
    pack: u32,
    /// All that it removed so far.
    pub cleaned: Cleaned,
}

impl Cleaner {
    /// A cleaner of this store.
    pub fn new(mailstore: &Mailstore) -> Self {
        Self { mailstore: mailstore.clone(), unreferenced: None, pack: 0, cleaned: Cleaned::default() }
    }

    /// Deletes messages, and marks them as purged, many in one commit, and some commits at once.
    pub async fn delete(&mut self, messages: &[Written]) -> Result<(), MailError> {
        for group in messages.chunks(AT_A_TIME * AT_ONCE) {
            let mut commits = JoinSet::new();
            for part in group.chunks(AT_A_TIME) {
                commits.spawn(delete(self.mailstore.clone(), part.to_vec()));
            }
            commits.join_all().await.into_iter().collect::<Result<(), MailError>>()?;
            self.cleaned.deleted += group.len() as u64;
        }
        Ok(())
    }

    /// Removes the records of all deleted messages, then audio that none names.
    pub async fn purge(&mut self) -> Result<(), MailError> {
        let store = self.mailstore.store().clone();
        while !store.index_step().await? {}
        for table in [MESSAGE, RECORDING] {
            self.purge_rows(table).await?;
        }
        loop {
            self.cleaned.freed +=
                store.remove_unreferenced(&mut self.unreferenced, Duration::ZERO, wall(), BLOBS).await?;
            if self.unreferenced.is_none() {
                return Ok(());
            }
        }
    }

    async fn purge_rows(&mut self, table: Table) -> Result<(), MailError> {
        let store = self.mailstore.store().clone();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (looked, from) = (store.clone(), after.take());
            let rows = blocking(move || looked.deleted_rows(table, from.as_deref(), ROWS)).await??;
            after = rows.last().map(|row| row.key.id.clone());
            let last = rows.len() < ROWS;
            let removable = rows.into_iter().map(|row| (row, Removal::Whole)).collect();
            self.cleaned.records += store.purge(removable).await?.whole;
            if last {
                return Ok(());
            }
        }
    }

    /// Looks at the next packs; true after the last one.
    pub async fn compact(&mut self) -> Result<bool, MailError> {
        let CompactedPacks { removed, moved_bytes, .. } =
            self.mailstore.store().compact(&mut self.pack, PACKS).await?;
        self.cleaned.packs.removed += removed;
        self.cleaned.packs.moved_bytes += moved_bytes;
        Ok(self.pack == 0)
    }
}

async fn delete(mailstore: Mailstore, messages: Vec<Written>) -> Result<(), MailError> {
    let delete = move |draft: &mut twinbox_replication_store::Draft<'_>| {
        for Written { mailbox, message, .. } in messages {
            mark_in(draft, mailbox, message, Mark::Deleted)?;
            note_purged(draft, message)?;
            let key = message_key(mailbox, message);
            let record = draft.get(&key)?.unwrap_or_default();
            draft.edit(key, purge(&record))?;
            draft.edit(recording_key(RecordingId(message.0)), vec![Edit::Delete])?;
        }
        Ok::<_, MailError>(())
    };
    mailstore.commit_in_background(delete).await
}
