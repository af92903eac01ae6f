//! New packs, made ahead on a thread of their own, so that an appender seldom waits for a file.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
};

use twinbox_journal::Medium;

use crate::{
    PackError,
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
    /// Number of the next pack to make. Locked while a file is made; then `ready` may be locked too.
    next: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Medium> Ahead<M> {
    /// New packs get the numbers from `next` on.
    pub(crate) fn begin(folder: Arc<PackFolder<M>>, next: u64) -> Result<Self, PackError> {
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
    fn make(&self, next: &mut u64) -> Result<NewPack<M::File>, PackError> {
        let number = u32::try_from(*next).map_err(|_| PackError::Exhausted)?;
        let pack = self.folder.make(number);
        *next += 1;
        pack
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
