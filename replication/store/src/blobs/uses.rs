//! Uses of blobs and of packs in this process, which no row shows: blobs that must not be removed now, those that are
//! being removed, and appends whose places no row names yet.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::BlobHash;
use twinbox_replication_core::Pins;

use crate::store::lock;

/// A blob that was stored, sent, or found for a change is not removed for this time: the change that names it may be on
/// its way (rule D9). The grace of the purge is for all longer times.
const PINNED: Duration = Duration::from_secs(3_600);

#[derive(Default)]
pub(super) struct Uses {
    state: Mutex<State>,
    /// Notified when the removal of a blob has ended.
    removed: Condvar,
}

/// A blob is pinned or being removed, not both.
#[derive(Default)]
struct State {
    pins: Pins,
    removing: HashSet<BlobHash>,
    /// Appends by number, each with the first pack that it may have written to, and the blob, if it stores one.
    appends: BTreeMap<u64, (u32, Option<BlobHash>)>,
    next: u64,
}

fn now_ms() -> u64 {
    BootInstant::now().as_nanos() / 1_000_000
}

/// The time of a pin. Only a build for tests accepts a grace of less than a day, and its pins end with the grace.
fn pin_time(grace: Duration) -> Duration {
    if cfg!(debug_assertions) { PINNED.min(grace) } else { PINNED }
}

impl Uses {
    /// Pins a blob, unless it is being removed.
    pub(super) fn keep(&self, hash: &BlobHash) -> bool {
        let mut state = lock(&self.state);
        let stays = !state.removing.contains(hash);
        if stays {
            state.pins.pin(hash, now_ms(), PINNED);
        }
        stays
    }

    /// Pins a blob that is about to be stored; waits for the end of its removal.
    pub(super) fn keep_new(&self, hash: &BlobHash) {
        let mut state = lock(&self.state);
        while state.removing.contains(hash) {
            state = self.removed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.pins.pin(hash, now_ms(), PINNED);
    }

    pub(super) fn is_removing(&self, hash: &BlobHash) -> bool {
        lock(&self.state).removing.contains(hash)
    }

    /// True while the blob is being stored or removed.
    pub(super) fn is_changing(&self, hash: &BlobHash) -> bool {
        let state = lock(&self.state);
        state.removing.contains(hash) || state.appends.values().any(|(_, stored)| stored.as_ref() == Some(hash))
    }

    /// Runs the removal of those of these blobs that are not pinned and that no other caller removes.
    pub(super) fn removing<R>(
        &self,
        hashes: &[BlobHash],
        grace: Duration,
        remove: impl FnOnce(&[BlobHash]) -> R,
    ) -> R {
        let (mut free, pin_time, now) = (Vec::with_capacity(hashes.len()), pin_time(grace), now_ms());
        {
            let mut state = lock(&self.state);
            for hash in hashes {
                if !state.pins.hold(hash, now, pin_time) && state.removing.insert(*hash) {
                    free.push(*hash);
                }
            }
        }
        let removal = Removal { uses: self, hashes: free };
        remove(&removal.hashes)
    }

    /// Notes an append to `pack` or later ones, until [`Self::appended`] is called with the returned number.
    pub(super) fn append(&self, pack: u32, stored: Option<BlobHash>) -> u64 {
        let mut state = lock(&self.state);
        state.next += 1;
        let number = state.next;
        state.appends.insert(number, (pack, stored));
        number
    }

    pub(super) fn appended(&self, number: u64) {
        lock(&self.state).appends.remove(&number);
    }

    /// The first pack with bytes that no row may name yet; `None` if nothing is being appended.
    pub(super) fn first_append(&self) -> Option<u32> {
        lock(&self.state).appends.values().map(|(pack, _)| *pack).min()
    }
}

/// A removal in progress; it ends when this is dropped, also by a panic.
struct Removal<'a> {
    uses: &'a Uses,
    hashes: Vec<BlobHash>,
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.uses.state);
        for hash in &self.hashes {
            state.removing.remove(hash);
        }
        drop(state);
        self.uses.removed.notify_all();
    }
}
