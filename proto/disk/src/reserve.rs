//! The reserve of space: the store must never fill the file system, since after one failed write it accepts no more
//! (rule A4). New data is refused first, small writes and deletes later.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::DiskError;

/// A measure serves for so long …
const FRESH_FOR: Duration = Duration::from_millis(10);

/// … and while so many bytes more than needed are free.
const NOT_NEAR: u64 = 64 * 1024 * 1024;

/// Kind of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// New data of this many bytes: audio, or many records. Leaves the whole reserve free.
    Data(u64),
    /// A small record or a delete. May use three quarters of the reserve.
    Small,
}

/// Free space of a file system, as unprivileged processes have it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free.
    pub free: u64,
    /// Total.
    pub total: u64,
    /// Bytes that new data leaves free.
    pub reserve: u64,
}

impl Space {
    /// True when new data is accepted.
    pub fn takes_data(&self) -> bool {
        self.free > self.reserve
    }

    /// True when there is room for new data again after there was none: an eighth of the reserve more, so that a state does not
    /// change with each file that comes and goes.
    pub fn has_recovered(&self) -> bool {
        self.free > self.reserve.saturating_add(self.reserve / 8)
    }
}

/// Refuses writes before the file system is full. Clones share the last measure.
#[derive(Debug, Clone)]
pub struct Reserve {
    dir: PathBuf,
    bytes: u64,
    /// Time and free bytes of the last measure, less the new data since.
    last: Arc<Mutex<Option<(BootInstant, u64)>>>,
}

impl Reserve {
    /// Keeps `bytes` free of the file system that holds `dir`.
    pub fn new(dir: &Path, bytes: u64) -> Self {
        Self { dir: dir.to_owned(), bytes, last: Arc::default() }
    }

    /// [`DiskError::StoreFull`] when there is no room for this write. Measures at most each ten milliseconds while much is free.
    pub fn check(&self, need: Need) -> Result<(), DiskError> {
        let (needed, new) = match need {
            Need::Data(length) => (self.bytes.saturating_add(length), length),
            Need::Small => (self.bytes / 4, 0),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_near = |free: u64| free <= needed.saturating_add(NOT_NEAR);
        if let Some((_, free)) = last.as_mut().filter(|(at, free)| at.elapsed() < FRESH_FOR && !is_near(*free)) {
            *free -= new;
            return Ok(());
        }
        let free = self.space()?.free;
        *last = Some((BootInstant::now(), free.saturating_sub(new)));
        if free > needed { Ok(()) } else { Err(DiskError::StoreFull { dir: self.dir.clone(), free, needed }) }
    }

    /// Free and total space.
    pub fn space(&self) -> Result<Space, DiskError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|e| DiskError::io("measure", &self.dir, &e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks), reserve: self.bytes })
    }
}
