//! Check and statistics of a node's store.

use std::{fs, path::Path};

use tokio::sync::mpsc;
use tonic::Status;
use twinbox_replication_store::{Filled, Store, StoreError};
use twinbox_wire::storage as wire;

use crate::{convert::owner_text, row_text, table_name};

/// Maximum number of missing, and of damaged recordings that are listed: the answer is one message.
const LISTED: usize = 300;
/// Maximum number of records that are listed for a recording.
const OWNERS: usize = 3;
/// Packs of one step of a compaction.
const STEP: usize = 4;
/// Most passes: what one moves makes the packs of before old enough for the next.
const PASSES: usize = 5;

/// Reads all rows, and all audio that present ones name if `audio`: then each is verified, else it must be here. On a node
/// that still receives the audio of the others, what is not here is awaited, and not missing.
pub(crate) async fn check(store: &Store, audio: bool) -> Result<wire::CheckReply, StoreError> {
    let (reading, is_filled) = (store.clone(), store.filled() == Filled::Complete);
    let stats = blocking(move || reading.stats()).await?;
    let mut reply = wire::CheckReply {
        rows: stats.tables.iter().map(|table| table.present + table.deleted).sum(),
        unreadable: stats.tables.iter().map(|table| table.unreadable).sum(),
        unreadable_rows: stats.unreadable.iter().map(row_text).collect(),
        audio: stats.named.len() as u64,
        set_aside: store.health().set_aside,
        ..wire::CheckReply::default()
    };
    for blob in stats.named {
        let is_missing = if !store.blobs().has(&blob.hash) {
            true
        } else if audio {
            match store.blobs().read(&blob.hash).await {
                Ok(_) => continue,
                Err(error) => matches!(error, StoreError::NoBlob(_)),
            }
        } else {
            continue;
        };
        let (count, listed) = match is_missing {
            true if !is_filled => {
                reply.awaited += 1;
                continue;
            }
            true => (&mut reply.missing, &mut reply.missing_audio),
            false => (&mut reply.damaged, &mut reply.damaged_audio),
        };
        *count += 1;
        if listed.len() < LISTED {
            listed.push(blob.hash.to_string());
            let reading = store.clone();
            let rows = blocking(move || reading.rows_naming(&blob.hash, OWNERS)).await?;
            let rows = rows.iter().map(owner_text).collect();
            reply.owners.push(wire::AudioOwners { audio: blob.hash.to_string(), rows });
        }
    }
    Ok(reply)
}

/// Counts all rows and files; `dir` is the folder of the store.
pub(crate) async fn stats(store: &Store, dir: &Path) -> Result<wire::StatsReply, StoreError> {
    let (store, dir) = (store.clone(), dir.to_owned());
    blocking(move || {
        let stats = store.stats()?;
        let tables = stats.tables.iter().map(|table| wire::TableStats {
            table: table_name(table.table).into_owned(),
            present: table.present,
            deleted: table.deleted,
            unreadable: table.unreadable,
            bytes: table.bytes,
        });
        Ok(wire::StatsReply {
            tables: tables.collect(),
            log_changes: stats.log.0,
            log_bytes: stats.log.1,
            audio: stats.named.len() as u64,
            audio_bytes: stats.named.iter().map(|blob| blob.length).sum(),
            disk_bytes: size(&dir),
            free_bytes: store.space()?.free,
            index: store.index_space().map(|space| wire::IndexSpace {
                file_bytes: space.file,
                rows_bytes: space.rows,
                rewriting: space.rewriting,
                log_files_bytes: space.runs,
            }),
        })
    })
    .await
}

/// Compacts the packs, pass after pass until one changes nothing, and reports the progress. Ends when the client is gone.
pub(crate) async fn compact(
    store: &Store,
    answers: &mpsc::Sender<Result<wire::CompactReply, Status>>,
) -> Result<(), StoreError> {
    let (mut reply, mut cursor) = (wire::CompactReply::default(), 0);
    for _ in 0..PASSES {
        let (all, before) = (store.packs_from(0).len() as u64, (reply.removed, reply.moved_bytes));
        loop {
            let step = store.compact(&mut cursor, STEP).await?;
            reply.removed += step.removed;
            reply.moved_bytes += step.moved_bytes;
            reply.freed_bytes = (reply.freed_bytes + step.freed_bytes).saturating_sub(step.moved_bytes);
            let left = if cursor == 0 { 0 } else { store.packs_from(cursor).len() as u64 };
            (reply.looked_at, reply.packs) = (all.saturating_sub(left), all);
            if answers.send(Ok(reply)).await.is_err() {
                return Ok(());
            }
            if cursor == 0 {
                break;
            }
        }
        if (reply.removed, reply.moved_bytes) == before {
            break;
        }
    }
    reply.done = true;
    let _ = answers.send(Ok(reply)).await;
    Ok(())
}

/// Bytes of all files of a folder and the folders in it, as far as they can be read: files come and go meanwhile.
fn size(dir: &Path) -> u64 {
    let (mut bytes, mut folders) = (0, vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => bytes += meta.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
}

#[cfg(test)]
#[path = "../tests/unit/store.rs"]
mod tests;
