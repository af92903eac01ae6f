//! Making a take a blob, off the writer's thread: its audio is made durable in place.

use std::sync::Arc;

use tokio::sync::watch;
use twinbox_disk::Need;
use twinbox_ids::BlobHash;
use twinbox_packs::{Extent, Frame, Hashed, Kind, MAX_PAYLOAD, Pieces};
use twinbox_replication_core::BlobRef;

use super::{
    Shared,
    take::{Stage, TakeKey},
};
use crate::{
    StoreError,
    blobs::{Appending, blocking},
};

/// A take of more pieces is copied into longer ones first: its row is one value of the index, and is read with each use.
const MAX_PIECES: usize = 1_024;

/// A take that is a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The blob.
    pub blob: BlobRef,
    /// Offset of the first hole, which is filled with silence, or the length of the take if it had none.
    pub whole: u64,
}

/// A take on its way to being a blob.
pub(super) enum Sealing {
    /// The caller is to make it a blob.
    Ready(Box<Ready>),
    /// Another caller makes it a blob, or has done so.
    Elsewhere(watch::Receiver<Option<Sealed>>),
}

/// A whole take, to be made durable off the writer's thread.
pub(super) struct Ready {
    pub(super) key: TakeKey,
    pub(super) length: u64,
    pub(super) whole: u64,
    /// The places of its audio, in order.
    pub(super) places: Vec<Extent>,
    /// Its hash, if it was computed.
    pub(super) hash: Option<BlobHash>,
    /// The hash of its beginning otherwise; the rest is read from its places.
    pub(super) hashed: Hashed,
    pub(super) rest: Vec<Extent>,
    /// Notified once the take is a blob; dropped if that fails.
    pub(super) done: watch::Sender<Option<Sealed>>,
}

/// A take that is a blob once all appended bytes are durable.
struct Unsynced {
    sealed: Sealed,
    /// The places of its audio, in order.
    places: Vec<Extent>,
    /// The copies that take their place, if there were too many pieces.
    joined: Option<Pieces>,
    done: watch::Sender<Option<Sealed>>,
    /// Until the blob names the copies, compaction must not take their packs for unused.
    appending: Appending,
}

impl Shared {
    /// Makes the take a blob. If it fails, the take is there as before, and can be sealed again. A thread waits for the disk only
    /// to read audio.
    pub(super) async fn make_blob(self: &Arc<Self>, ready: Ready) -> Result<Sealed, StoreError> {
        let (key, before, after) = (ready.key, Arc::clone(self), Arc::clone(self));
        let reads = (ready.hash.is_none() && !ready.rest.is_empty()) || ready.places.len() > MAX_PIECES;
        let unsynced = if reads { blocking(move || before.hash(ready)).await? } else { self.hash(ready)? };
        self.blobs.synced().await?;
        if self.blobs.waits_to_add(&unsynced.sealed.blob.hash) {
            return blocking(move || Ok(after.add(key, unsynced, false))).await;
        }
        Ok(self.add(key, unsynced, true))
    }

    /// Hashes the rest of a take, and joins its pieces if they are too many.
    fn hash(&self, ready: Ready) -> Result<Unsynced, StoreError> {
        let Ready { key, length, whole, places, hash, mut hashed, rest, done } = ready;
        self.writable()?;
        if hash.is_none() {
            hashed.read(self.blobs.packs(), &rest).map_err(|error| self.blobs.failed(error))?;
        }
        let hash = hash.unwrap_or_else(|| BlobHash(hashed.hash()));
        let appending = self.blobs.appending(None);
        let joined = if places.len() > MAX_PIECES { Some(self.join(key, length, &places)?) } else { None };
        let sealed = Sealed { blob: BlobRef { hash, length, recording: Some(key) }, whole };
        Ok(Unsynced { sealed, places, joined, done, appending })
    }

    /// Adds the blob, whose audio is durable. Waits for the disk unless the blob `is_new`.
    fn add(&self, key: TakeKey, unsynced: Unsynced, is_new: bool) -> Sealed {
        let Unsynced { sealed, places, joined, done, appending } = unsynced;
        let BlobRef { hash, length, .. } = sealed.blob;
        let places = match joined {
            Some(pieces) => {
                self.blobs.live_bounds().removed(&places);
                let places = pieces.places(0..length);
                // Only now: until the copies are durable, a start finds the earlier pieces.
                self.change(key, |take| take.pieces = pieces);
                places
            }
            None => places,
        };
        // Before the blob is here, so that it is never without a use.
        self.change(key, |take| take.stage = Stage::Sealing(Some(hash)));
        self.blobs.add_loose(sealed.blob, places, is_new);
        drop(appending);
        let mut rest = Vec::new();
        self.change(key, |take| {
            take.stage = Stage::Sealed(hash);
            rest = take.pieces.places(length..take.pieces.end());
        });
        self.blobs.live_bounds().removed(&rest);
        done.send_replace(Some(sealed));
        sealed
    }

    /// Copies a take into few long pieces, not durable yet. They are pieces of the same take: a start finds it whether
    /// or not the copy was completed.
    fn join(&self, key: TakeKey, length: u64, places: &[Extent]) -> Result<Pieces, StoreError> {
        self.reserve.check(Need::Data(length))?;
        let (mut joined, mut run, mut end) = (Pieces::default(), Vec::with_capacity(MAX_PAYLOAD), 0);
        for place in places {
            let read = self.blobs.packs().read(*place, 0..place.length);
            let bytes = read.map_err(|error| self.blobs.failed(error))?;
            if run.len() + bytes.len() > MAX_PAYLOAD {
                self.append_run(key, end, &mut run, &mut joined)?;
            }
            end += bytes.len() as u64;
            run.extend(bytes);
        }
        self.append_run(key, end, &mut run, &mut joined)?;
        Ok(joined)
    }

    /// Appends the bytes of a run, which end at `end` of the take, and empties it.
    fn append_run(&self, key: TakeKey, end: u64, run: &mut Vec<u8>, to: &mut Pieces) -> Result<(), StoreError> {
        let offset = end.saturating_sub(run.len() as u64);
        let frame = Frame { kind: Kind::Chunk, recording: key.0.0, take: key.1, offset, payload: run };
        let appended = self.blobs.packs().append(&[frame]).map_err(|error| self.blobs.failed(error))?;
        appended.into_iter().for_each(|extent| to.add(offset, extent));
        run.clear();
        Ok(())
    }
}
