//! Changes that could not be applied: they are durable in the log and are passed on to other nodes, but this node does not
//! count them as applied, acknowledges them to no peer, and retries them (rules D12, R11).

use std::collections::BTreeMap;

use twinbox_disk::Transaction;
use twinbox_ids::Origin;
use twinbox_replication_core::Change;

use crate::{
    Store, StoreError,
    apply::{Merged, can_pass},
    codec, keys,
    sums::RowChange,
};

impl Store {
    /// Retries all changes that were set aside; returns the number of those that remain. Observers and receivers of live
    /// changes are notified of the others as of a repair, by a change with the number 0.
    pub async fn retry_set_aside(&self) -> Result<u64, StoreError> {
        // Each commit in one transaction.
        let mut commits: BTreeMap<(Origin, u64), Vec<u64>> = BTreeMap::new();
        let waiting: Vec<(Origin, u64)> = self.shared().have().aside.iter().copied().collect();
        for (origin, seq) in waiting {
            let Some(bytes) = self.disk().get(&keys::change(origin, seq))? else { continue };
            let Ok(change) = codec::decode_change(&bytes) else { continue };
            commits.entry((origin, *change.commit().start())).or_default().push(seq);
        }
        for ((origin, _), seqs) in commits {
            self.retry(origin, seqs).await?;
        }
        Ok(self.health().set_aside)
    }

    async fn retry(&self, origin: Origin, seqs: Vec<u64>) -> Result<(), StoreError> {
        let (audio, written, after) = (self.blobs().clone(), self.blobs().clone(), self.shared());
        let run = move |transaction: &mut Transaction<'_>| {
            let mut commit = Vec::with_capacity(seqs.len());
            for seq in seqs {
                // A repair may have brought the change meanwhile.
                if transaction.get(&keys::set_aside(origin, seq))?.is_none() {
                    continue;
                }
                let Some(bytes) = transaction.get(&keys::change(origin, seq))? else { continue };
                let format = |source| StoreError::Format { what: "a change in the log", source };
                commit.push(codec::decode_change(&bytes).map_err(format)?);
            }
            let rows = match Merged::read(transaction, &commit) {
                Ok(merged) => merged.write(transaction)?,
                Err(error) if can_pass(&error) => return Ok(Default::default()),
                Err(error) => return Err(error),
            };
            let done: Vec<(Origin, u64)> = commit.iter().map(|change| (origin, change.seq)).collect();
            done.iter().for_each(|(origin, seq)| transaction.remove(keys::set_aside(*origin, *seq)));
            let notes: Vec<Change> = commit.into_iter().map(|change| Change { seq: 0, ..change }).collect();
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
            after.tell(notes);
        };
        Ok(self.disk().transact_then(run, then).await?)
    }
}
