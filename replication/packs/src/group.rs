//! Syncs: callers that come together share one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
};

use twinbox_journal::{Medium, MediumFile};

use crate::{
    PackError,
    folder::{PackFolder, file_name},
};

/// The packs with unsynced frames, and the rounds of syncs.
pub(crate) struct SyncGroup<M: Medium> {
    folder: Arc<PackFolder<M>>,
    rounds: Mutex<Rounds<M::File>>,
    ended: Condvar,
}

struct Rounds<F> {
    /// Packs with frames that no round has taken yet.
    unsynced: BTreeMap<u32, Arc<F>>,
    /// True while a caller syncs.
    running: bool,
    /// Number of rounds that have begun.
    begun: u64,
    /// Number of the last round that succeeded.
    done: u64,
}

impl<M: Medium> SyncGroup<M> {
    pub(crate) fn new(folder: Arc<PackFolder<M>>) -> Self {
        let rounds = Rounds { unsynced: BTreeMap::new(), running: false, begun: 0, done: 0 };
        Self { folder, rounds: Mutex::new(rounds), ended: Condvar::new() }
    }

    fn rounds(&self) -> MutexGuard<'_, Rounds<M::File>> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes frames written to this pack. Called after the write: a round that ran during the write would not cover them.
    pub(crate) fn written(&self, pack: u32, file: &Arc<M::File>) {
        self.rounds().unsynced.entry(pack).or_insert_with(|| Arc::clone(file));
    }

    /// Makes all frames durable that were written before the call. The round that runs now may have begun before those writes,
    /// so the caller waits for the next round, which one of the waiting callers leads.
    pub(crate) fn sync(&self) -> Result<(), PackError> {
        let mut rounds = self.rounds();
        let wanted = rounds.begun + 1;
        loop {
            self.folder.check()?;
            if !rounds.running {
                break;
            }
            rounds = self.ended.wait(rounds).unwrap_or_else(PoisonError::into_inner);
            if rounds.done >= wanted {
                return Ok(());
            }
        }
        rounds.running = true;
        rounds.begun += 1;
        let (round, unsynced) = (rounds.begun, std::mem::take(&mut rounds.unsynced));
        drop(rounds);
        self.folder.flow.syncs.fetch_add(1, Relaxed);
        // The older pack first: after a power cut in between, the frames that were appended first are there.
        let synced = unsynced.iter().try_for_each(|(pack, file)| {
            file.sync().map_err(|error| self.folder.fail("sync", &file_name(*pack), &error))
        });
        let mut rounds = self.rounds();
        rounds.running = false;
        if synced.is_ok() {
            rounds.done = round;
        }
        drop(rounds);
        self.ended.notify_all();
        synced
    }
}
