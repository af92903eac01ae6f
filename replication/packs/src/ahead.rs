//! New packs, made ahead on a thread of their own, so that an appender seldom waits for a file.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_journal::Medium;

use crate::{
    BLOCK, Config, PackError,
    folder::{NewPack, PackFolder},
};

/// The source of new packs. Dropping it ends its thread, and waits for a file that is being made.
pub(crate) struct Ahead<M: Medium> {
    shared: Arc<Shared<M>>,
    wishes: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<M: Medium> {
    folder: Arc<PackFolder<M>>,
    /// Packs that are ready, in the order of their numbers. Locked for some instructions.
    ready: Mutex<VecDeque<NewPack<M::File>>>,
    /// The next pack to make. Locked while a file is made; then `ready` may be locked too.
    next: Mutex<Next>,
}

/// The next pack to make.
struct Next {
    number: u64,
    /// The length of the latest pack, and when it was made; at first the shortest, and never.
    length: u64,
    made: Option<BootInstant>,
}

/// A pack that fills in less is followed by one twice as long: the fewer packs the parts of a recording lie in, the fewer
/// notes the index needs of it.
const FAST: Duration = Duration::from_secs(2);
/// A pack that fills in more is followed by one half as long.
const SLOW: Duration = Duration::from_secs(8);

/// The length of the next pack, so long after one of `length` bytes was made.
fn next_length(length: u64, after: Option<Duration>, config: Config) -> u64 {
    let next = match after {
        Some(after) if after < FAST => length.saturating_mul(2),
        Some(after) if after <= SLOW => length,
        Some(_) => length / 2 / BLOCK * BLOCK,
        None => config.pack_bytes,
    };
    next.clamp(config.pack_bytes, config.longest_bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Medium> Ahead<M> {
    /// New packs get the numbers from `next` on.
    pub(crate) fn begin(folder: Arc<PackFolder<M>>, next: u64) -> Result<Self, PackError> {
        let next = Next { number: next, length: folder.config.pack_bytes, made: None };
        let shared = Arc::new(Shared { folder, ready: Mutex::default(), next: Mutex::new(next) });
        let (wishes, wished) = mpsc::sync_channel(1);
        let maker = Arc::clone(&shared);
        let serve = move || {
            for () in wished {
                maker.prepare();
            }
        };
        let thread = thread::Builder::new().name("packs".to_owned()).spawn(serve);
        let thread = thread.map_err(|error| PackError::io("start the thread for packs in", "", &error))?;
        Ok(Self { shared, wishes: Some(wishes), thread: Some(thread) })
    }

    /// Asks for a pack that is made ahead.
    pub(crate) fn ask(&self) {
        if let Some(wishes) = &self.wishes {
            // Refused when a wish waits already: that one suffices.
            let _ = wishes.try_send(());
        }
    }

    /// So many new packs, in the order of their numbers, or none.
    pub(crate) fn take(&self, count: usize) -> Result<VecDeque<NewPack<M::File>>, PackError> {
        let mut taken = VecDeque::with_capacity(count);
        while taken.len() < count {
            match self.shared.take() {
                Ok(pack) => taken.push_back(pack),
                Err(error) => {
                    let mut ready = lock(&self.shared.ready);
                    taken.into_iter().rev().for_each(|pack| ready.push_front(pack));
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }
}

impl<M: Medium> Shared<M> {
    /// A ready pack, or else a new one.
    fn take(&self) -> Result<NewPack<M::File>, PackError> {
        if let Some(pack) = lock(&self.ready).pop_front() {
            return Ok(pack);
        }
        let mut next = lock(&self.next);
        // The thread may have been making one.
        if let Some(pack) = lock(&self.ready).pop_front() {
            return Ok(pack);
        }
        self.make(&mut next)
    }

    /// Makes a pack if none is ready.
    fn prepare(&self) {
        let mut next = lock(&self.next);
        if !lock(&self.ready).is_empty() {
            return;
        }
        match self.make(&mut next) {
            Ok(pack) => lock(&self.ready).push_back(pack),
            // The appender meets the same when it needs the pack, and reports it.
            Err(error) => tracing::debug!(%error, "no pack is ready ahead"),
        }
    }

    /// Every number is used once, also after a failure: a file that could not be removed may have it.
    fn make(&self, next: &mut Next) -> Result<NewPack<M::File>, PackError> {
        let config = self.folder.config;
        next.length = next_length(next.length, next.made.map(|made| made.elapsed()), config);
        next.made = Some(BootInstant::now());
        let mut make = |length| {
            let number = u32::try_from(next.number).map_err(|_| PackError::Exhausted)?;
            next.number += 1;
            self.folder.make(number, length)
        };
        match make(next.length) {
            // There may be room for a shorter one.
            Err(PackError::Full { .. }) if next.length > config.pack_bytes => make(config.pack_bytes),
            made => made,
        }
    }
}

impl<M: Medium> Drop for Ahead<M> {
    fn drop(&mut self) {
        self.wishes = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is in the log; nothing depends on it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MIN_PACK;

    #[test]
    fn packs_become_longer_while_they_fill_fast() {
        let config = Config { pack_bytes: MIN_PACK, longest_bytes: 4 * MIN_PACK };
        for (length, after, next) in [
            (1, None, 1),
            (4, None, 1),
            (1, Some(1_999), 2),
            (2, Some(0), 4),
            (4, Some(0), 4),
            (2, Some(2_000), 2),
            (2, Some(8_000), 2),
            (4, Some(8_001), 2),
            (1, Some(8_001), 1),
        ] {
            let found = next_length(length * MIN_PACK, after.map(Duration::from_millis), config);
            assert_eq!(found, next * MIN_PACK, "{length} {after:?}");
        }
    }
}
