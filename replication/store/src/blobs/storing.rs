//! Storing of blobs that come as a whole: from a peer, or as a file.

use bytes::Bytes;
use twinbox_clock::wall;
use twinbox_disk::{Need, Transaction};
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_packs::{Extent, Frame, Kind, PackError};
use twinbox_replication_core::BlobRef;

use super::{AudioPacks, Blobs, blocking, hash_of};
use crate::{StoreError, keys, pieces::Row, store::lock};

/// Maximum bytes of a blob in one frame.
const PIECE: usize = 256 * 1024;

/// Maximum bytes of blobs in one append: chunks of recordings wait no longer than for these.
const APPENDED: usize = 4 * PIECE;

impl Blobs {
    /// Stores bytes as a blob, durable when this resolves.
    pub async fn put(&self, bytes: Bytes) -> Result<BlobRef, StoreError> {
        self.put_one(None, bytes).await
    }

    /// Stores bytes that a peer sent as the blob `expected`; refused if their hash differs. Replaces a damaged blob.
    pub async fn put_as(&self, expected: BlobHash, bytes: Bytes) -> Result<BlobRef, StoreError> {
        self.put_one(Some(expected), bytes).await
    }

    async fn put_one(&self, expected: Option<BlobHash>, bytes: Bytes) -> Result<BlobRef, StoreError> {
        let blobs = self.clone();
        blocking(move || {
            let (hash, length) = (hash_of(&bytes), bytes.len() as u64);
            if let Some(expected) = expected.filter(|expected| *expected != hash) {
                return Err(StoreError::WrongBlob { expected, found: hash });
            }
            blobs.store(&[(hash, bytes)])?;
            Ok(BlobRef { hash, length, recording: None })
        })
        .await
    }

    /// As [`Self::put_as`], for many by one sync and one transaction. Returns those whose bytes have another hash, which are not stored.
    pub async fn put_all(&self, blobs: Vec<(BlobHash, Bytes)>) -> Result<Vec<BlobHash>, StoreError> {
        let this = self.clone();
        blocking(move || {
            let is_right = |(expected, bytes): &(BlobHash, Bytes)| hash_of(bytes) == *expected;
            let (mut right, wrong): (Vec<_>, Vec<_>) = blobs.into_iter().partition(is_right);
            right.sort_unstable_by_key(|(hash, _)| *hash);
            this.store(&right)?;
            Ok(wrong.into_iter().map(|(expected, _)| expected).collect())
        })
        .await
    }

    /// Stores blobs, which are in the order of their hashes.
    fn store(&self, blobs: &[(BlobHash, Bytes)]) -> Result<(), StoreError> {
        blobs.iter().for_each(|(hash, _)| self.0.uses.keep_new(hash));
        let (mut loose, mut new, mut rows) = (Vec::new(), Vec::new(), self.rows_in_order());
        for (hash, bytes) in blobs {
            let is_loose = self.is_loose(hash);
            let is_here = is_loose || rows.get(&keys::blob(hash)).is_ok_and(|row| row.is_some());
            // The disk may have corrupted the blob since it was stored.
            let is_whole = is_here && self.bytes_of(hash, |length| 0..length).is_ok_and(|found| found == *bytes);
            match (is_whole, is_loose) {
                (true, false) => {}
                // The blob is to stay even if its take is discarded.
                (true, true) => loose.push(*hash),
                (false, _) => new.push((*hash, bytes)),
            }
        }
        if loose.is_empty() && new.is_empty() {
            return Ok(());
        }
        self.writable()?;
        self.0.reserve.check(Need::Data(new.iter().map(|(_, bytes)| bytes.len() as u64).sum()))?;
        let _appending: Vec<_> = new.iter().map(|(hash, _)| self.appending(Some(*hash))).collect();
        let pieces = append(&self.0.packs, &new).map_err(|error| self.failed(error))?;
        self.sync()?;
        let written = wall().0;
        let rows = new.iter().zip(pieces).map(|((hash, _), pieces)| (*hash, Row::new(pieces, written)));
        let (this, of_takes, rows) = (self.clone(), loose.clone(), rows.collect::<Vec<_>>());
        self.0.disk.transact_blocking(move |transaction: &mut Transaction<'_>| {
            of_takes.iter().try_for_each(|hash| this.write_row(transaction, hash))?;
            rows.iter().try_for_each(|(hash, row)| this.put_row(transaction, hash, row))?;
            Ok::<_, StoreError>(())
        })?;
        loose.iter().for_each(|hash| self.row_written(hash));
        // The bytes that these blobs had before, if any, are damaged.
        let mut loose = lock(&self.0.loose);
        let replaced = new.iter().filter_map(|(hash, _)| loose.remove(hash));
        replaced.for_each(|loose| self.0.live.removed(&loose.row.pieces));
        Ok(())
    }
}

/// Appends the bytes of blobs; not durable yet. Returns the pieces of each.
fn append(packs: &AudioPacks, blobs: &[(BlobHash, &Bytes)]) -> Result<Vec<Vec<Extent>>, PackError> {
    let mut frames = Vec::new();
    for (_, blob) in blobs {
        let (recording, payloads) = (RecordingId::random().0, blob.chunks(PIECE).zip((0..).step_by(PIECE)));
        let frame = |(payload, offset)| Frame { kind: Kind::Blob, recording, take: 0, offset, payload };
        frames.extend(payloads.map(frame));
    }
    let (mut extents, mut rest) = (Vec::with_capacity(frames.len()), &frames[..]);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |frame: &&Frame<'_>| {
            bytes += frame.payload.len();
            bytes <= APPENDED
        };
        let (now, later) = rest.split_at(rest.iter().take_while(fits).count());
        extents.extend(packs.append(now)?);
        rest = later;
    }
    let mut extents = extents.into_iter();
    Ok(blobs.iter().map(|(_, blob)| extents.by_ref().take(blob.len().div_ceil(PIECE)).collect()).collect())
}
