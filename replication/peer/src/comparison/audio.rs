//! Check that the audio that present records name is here, and undamaged.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use twinbox_clock::BootInstant;
use twinbox_replication_core::BlobRef;
use twinbox_replication_fetch::{Batch, Got, MAX_BLOB, batches};
use twinbox_replication_store::{Filled, RowFault, StoreError};

use super::{ComparisonReport, Difference, DifferenceOutcome, Subject};
use crate::{error::StreamError, fill::missing, peers::Inner, state_scan::blocking};

/// The audio that a comparison looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioCheck {
    /// No audio.
    None,
    /// The audio of present records: it must be here.
    Presence,
    /// The audio of present records, read and verified: takes long.
    Content,
}

/// Checks audio, and gets what is missing or damaged from any node that has it.
pub(super) async fn check(
    inner: &Arc<Inner>,
    check: AudioCheck,
    report: &mut ComparisonReport,
) -> Result<(), StreamError> {
    let store = inner.store.clone();
    // The fill still fetches missing audio: it is not lost.
    if store.filled() != Filled::Complete {
        return Ok(());
    }
    match check {
        AudioCheck::None => {}
        AudioCheck::Presence => {
            let mut after = None;
            loop {
                let part = missing(store.clone(), false, after).await?;
                for batch in batches(part.blobs) {
                    get(inner, batch, report).await?;
                }
                after = part.upto;
                if after.is_none() {
                    break;
                }
            }
        }
        AudioCheck::Content => {
            for blob in blocking(move || store.stats().map(|stats| stats.named)).await? {
                if blob.length > MAX_BLOB {
                    continue;
                }
                let began = BootInstant::now();
                let read = inner.store.blobs().read(&blob.hash).await;
                // Half of the time is left to others: the check reads all audio.
                sleep(began.elapsed().min(Duration::from_secs(1))).await;
                match read {
                    Ok(_) => {}
                    Err(StoreError::NoBlob(_)) if is_left_out(inner, &blob)? => {}
                    Err(StoreError::NoBlob(_)) => {
                        note_missing(inner, report, &blob, inner.fetcher.get_from_any(&blob).await);
                    }
                    Err(_) => {
                        let is_here = inner.fetcher.replace(&blob).await;
                        note(inner, report, &blob, RowFault::Unreadable, is_here);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Gets audio that is missing, and notes it.
async fn get(inner: &Inner, batch: Batch, report: &mut ComparisonReport) -> Result<(), StreamError> {
    let mut wanted = Vec::with_capacity(batch.blobs.len());
    for blob in batch.blobs {
        if !is_left_out(inner, &blob)? {
            wanted.push(blob);
        }
    }
    for (blob, got) in inner.fetcher.get_all(wanted, None).await {
        note_missing(inner, report, &blob, got);
    }
    Ok(())
}

/// True for audio that is too large to be fetched, and for that of records that were deleted since the rows were read.
fn is_left_out(inner: &Inner, blob: &BlobRef) -> Result<bool, StoreError> {
    let store = &inner.store;
    Ok(blob.length > MAX_BLOB || (store.is_indexed() && !store.is_referenced(&blob.hash)?))
}

/// Notes missing audio, unless its records are purged elsewhere, and their deletion is on its way.
fn note_missing(inner: &Inner, report: &mut ComparisonReport, blob: &BlobRef, got: Got) {
    if got != Got::GivenUp {
        note(inner, report, blob, RowFault::Missing, got == Got::Here);
    }
}

fn note(inner: &Inner, report: &mut ComparisonReport, blob: &BlobRef, fault: RowFault, is_here: bool) {
    report.note(Difference {
        subject: Subject::Audio(blob.hash),
        node: inner.config.node.clone(),
        fault,
        lacked: Default::default(),
        outcome: if is_here { DifferenceOutcome::Repaired } else { DifferenceOutcome::NotRepaired },
    });
}
