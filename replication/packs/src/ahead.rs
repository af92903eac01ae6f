//! New packs, made ahead on a thread of their own, so that an appender seldom waits for a file. While audio comes fast, the files of
//! removed packs become new ones: a new file costs as many bytes of zeros as it will hold of audio.

use std::{
    collections::VecDeque,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::Ordering::Relaxed,
        mpsc::{self, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_journal::{Blocks, Medium};

use crate::{
    BLOCK, Config, PackError,
    folder::{NewPack, PackFolder, file_name},
};

impl<F> Spare<F> {
    fn is_unused(&self) -> bool {
        let own = |reader: &Weak<F>| usize::from(ptr::eq(reader.as_ptr(), Arc::as_ptr(&self.file)));
        self.readers.iter().all(|reader| reader.strong_count() == own(reader))
    }
}

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
    /// The next pack to make. Locked while a file is made; then `ready` or `spares` may be locked too.
    next: Mutex<Next>,
    /// Files of removed packs. Locked for some instructions.
    spares: Mutex<Vec<Spare<M::File>>>,
}

/// The file of a removed pack, still under its name: a start that finds it takes it for the pack, as if the removal had been
/// undone.
pub(crate) struct Spare<F> {
    pub(crate) pack: u32,
    /// Length of the file.
    pub(crate) bytes: u64,
    pub(crate) file: Arc<F>,
    /// Open handles, `file` among them. The file is not written while one of them is in use.
    pub(crate) readers: Vec<Weak<F>>,
}

/// The next pack to make.
struct Next {
    number: u64,
    /// Length of the latest pack, at first the shortest, and the time of its making, at first `None`.
    length: u64,
    made: Option<BootInstant>,
    /// Bytes and syncs of all packs up to that time.
    flow: (u64, u64),
}

/// A pack that fills in less time is followed by one twice as long: the fewer packs hold the parts of a recording, the fewer
/// compaction must read for it.
const FAST: Duration = Duration::from_secs(2);
/// A pack that takes more time to fill is followed by one half as long.
const SLOW: Duration = Duration::from_secs(8);

/// Time after which spares that no new pack needed are removed.
const IDLE: Duration = Duration::from_secs(10);

/// Average bytes of a sync from which on the next pack is only reserved, not zeroed: its few syncs cost less than the zeros
/// would.
const BULK: u64 = 512 * 1024;

/// The blocks of the next pack, by the bytes and syncs between the making of the two packs before it.
fn next_blocks(bytes: u64, syncs: u64) -> Blocks {
    if bytes / BULK > syncs { Blocks::Reserved } else { Blocks::Zeroed }
}

/// The length of the next pack, which is made `after` one of `length` bytes.
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
        let next = Next { number: next, length: folder.config.pack_bytes, made: None, flow: (0, 0) };
        let (ready, spares) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { folder, ready, next: Mutex::new(next), spares });
        let (wishes, wished) = mpsc::sync_channel(1);
        let maker = Arc::clone(&shared);
        let serve = move || {
            loop {
                match wished.recv_timeout(IDLE) {
                    Ok(()) => maker.prepare(),
                    Err(RecvTimeoutError::Timeout) => maker.remove_spares(|_| true),
                    Err(RecvTimeoutError::Disconnected) => return maker.remove_spares(|_| true),
                }
            }
        };
        let thread = thread::Builder::new().name("packs".to_owned()).spawn(serve);
        let thread = thread.map_err(|error| PackError::io("start the thread for packs in", "", &error))?;
        Ok(Self { shared, wishes: Some(wishes), thread: Some(thread) })
    }

    /// Asks for a pack that is made ahead.
    pub(crate) fn ask(&self) {
        if let Some(wishes) = &self.wishes {
            // Refused when a request is in the queue already: one suffices.
            let _ = wishes.try_send(());
        }
    }

    /// Whether the file of a removed pack of this length is to be kept for a new one.
    pub(crate) fn wants(&self, bytes: u64) -> bool {
        let config = self.shared.folder.config;
        let kept: u64 = lock(&self.shared.spares).iter().map(|spare| spare.bytes).sum();
        // A damaged file may have another length.
        let fits = (config.pack_bytes..=config.longest_bytes).contains(&bytes) && bytes.is_multiple_of(BLOCK);
        fits && kept.saturating_add(bytes) <= config.spare_bytes && self.shared.is_in_use()
    }

    /// Keeps the file of a removed pack.
    pub(crate) fn keep(&self, spare: Spare<M::File>) {
        lock(&self.shared.spares).push(spare);
    }

    /// Takes this many new packs, in the order of their numbers; takes none if one cannot be made.
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
    /// Whether packs are being made, one after the other.
    fn is_in_use(&self) -> bool {
        match self.next.try_lock() {
            Ok(next) => next.made.is_some_and(|made| made.elapsed() <= SLOW),
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(_)) => false,
        }
    }

    /// A spare without readers, of this length or not much less. Removes spares that are too short by now.
    fn take_spare(&self, length: u64) -> Option<Spare<M::File>> {
        self.remove_spares(|spare| spare.bytes < length / 2);
        let mut spares = lock(&self.spares);
        let place = spares.iter().position(Spare::is_unused)?;
        Some(spares.swap_remove(place))
    }

    /// Removes spares. A file that stays is removed after the next start.
    fn remove_spares(&self, which: impl Fn(&Spare<M::File>) -> bool) {
        let removed: Vec<_> = lock(&self.spares).extract_if(.., |spare| which(spare)).collect();
        for Spare { pack, .. } in removed {
            let _ = self.folder.medium.remove(&file_name(pack));
        }
    }

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
            // The appender gets the same error when it needs the pack, and reports it.
            Err(error) => tracing::debug!(%error, "no pack is ready ahead"),
        }
    }

    /// Makes the next pack. Every number is used once, also after a failure: a file that could not be removed may have it.
    fn make(&self, next: &mut Next) -> Result<NewPack<M::File>, PackError> {
        let config = self.folder.config;
        next.length = next_length(next.length, next.made.map(|made| made.elapsed()), config);
        next.made = Some(BootInstant::now());
        let flow = &self.folder.flow;
        let (before, now) = (next.flow, (flow.bytes.load(Relaxed), flow.syncs.load(Relaxed)));
        next.flow = now;
        let blocks = next_blocks(now.0 - before.0, now.1 - before.1);
        let mut number = || {
            let number = u32::try_from(next.number).map_err(|_| PackError::Exhausted)?;
            next.number += 1;
            Ok(number)
        };
        while let Some(spare) = self.take_spare(next.length) {
            if let Some(pack) = self.folder.reuse(&spare, number()?)? {
                next.length = pack.bytes;
                return Ok(pack);
            }
        }
        match self.folder.make(number()?, next.length, blocks) {
            Err(PackError::Full { .. }) => self.remove_spares(|_| true),
            made => return made,
        }
        // The removed spares left room for as many bytes, or for a shorter pack.
        match self.folder.make(number()?, next.length, blocks) {
            Err(PackError::Full { .. }) if next.length > config.pack_bytes => {
                self.folder.make(number()?, config.pack_bytes, blocks)
            }
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
    fn file_that_somebody_reads_is_in_use() {
        let (file, other) = (Arc::new(()), Arc::new(()));
        let readers = vec![Arc::downgrade(&file), Arc::downgrade(&other)];
        let spare = Spare { pack: 1, bytes: 1, file: Arc::clone(&file), readers };
        drop(file);
        assert!(!spare.is_unused());
        drop(other);
        assert!(spare.is_unused());
        let reader = Arc::clone(&spare.file);
        assert!(!spare.is_unused());
        drop(reader);
        assert!(spare.is_unused());
    }

    #[test]
    fn packs_are_reserved_only_while_syncs_are_few() {
        const MIB: u64 = 1024 * 1024;
        for (bytes, syncs, blocks) in [
            (0, 0, Blocks::Zeroed),
            (16 * MIB, 400, Blocks::Zeroed),
            (16 * MIB, 32, Blocks::Zeroed),
            (16 * MIB, 31, Blocks::Reserved),
            (64 * MIB, 8, Blocks::Reserved),
            (16 * MIB, 0, Blocks::Reserved),
        ] {
            assert_eq!(next_blocks(bytes, syncs), blocks, "{bytes} bytes, {syncs} syncs");
        }
    }

    #[test]
    fn packs_become_longer_while_they_fill_fast() {
        let config = Config { pack_bytes: MIN_PACK, longest_bytes: 4 * MIN_PACK, spare_bytes: 0 };
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
