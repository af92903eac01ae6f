//! Changes that could not be applied: they are durable in the log and go on to other nodes, but this node does not count
//! them as applied, tells no peer that it has them, and tries them again (rules D12, R11).

use std::sync::Arc;

use twinbox_disk::Transaction;
use twinbox_ids::Origin;
use twinbox_replication_core::Change;

use crate::{
    Store, StoreError,
    apply::{can_pass, merge},
    codec, keys,
    sums::RowChange,
};

/// Changes that one transaction tries: commits wait for it.
const STEP: usize = 64;

impl Store {
    /// Tries all changes again that were set aside; returns the number of those that remain. Observers and receivers of live
    /// changes hear of the others as of a repair, by a change with the number 0.
    pub async fn retry_set_aside(&self) -> Result<u64, StoreError> {
        let waiting: Vec<(Origin, u64)> = self.shared().have().aside.iter().copied().collect();
        for step in waiting.chunks(STEP) {
            self.retry(step.to_vec()).await?;
        }
        Ok(self.health().set_aside)
    }

    async fn retry(&self, step: Vec<(Origin, u64)>) -> Result<(), StoreError> {
        let (audio, written, after) = (self.blobs().clone(), self.blobs().clone(), self.shared());
        let run = move |transaction: &mut Transaction<'_>| {
            let (mut done, mut rows, mut notes) = (Vec::new(), Vec::new(), Vec::new());
            for (origin, seq) in step {
                let Some(bytes) = transaction.get(&keys::change(origin, seq))? else { continue };
                // A repair may have brought it meanwhile.
                let mark = keys::set_aside(origin, seq);
                if transaction.get(&mark)?.is_none() {
                    continue;
                }
                let Ok(change) = codec::decode_change(&bytes) else { continue };
                match merge(transaction, &change) {
                    Ok(row) => rows.push(row),
                    Err(error) if can_pass(&error) => continue,
                    Err(error) => return Err(error),
                }
                transaction.remove(mark);
                done.push((origin, seq));
                notes.push(Change { seq: 0, ..change });
            }
            audio.write_rows(transaction, &notes)?;
            Ok::<_, StoreError>((done, rows, notes))
        };
        let then = move |(done, rows, notes): (Vec<(Origin, u64)>, Vec<RowChange>, Vec<Change>)| {
            if !done.is_empty() {
                tracing::info!(changes = done.len(), "changes that were set aside are applied");
            }
            written.rows_written(&notes);
            after.sums.follow(rows);
            after.clear_set_aside(&done);
            after.tell(notes.into_iter().map(Arc::new));
        };
        Ok(self.disk().transact_then(run, then).await?)
    }
}
