//! The reserve of space: the store must never fill the file system, since after one failed write it accepts no more
//! (rule A4). New data is refused first, small writes and deletes later.

use std::path::{Path, PathBuf};

use crate::DiskError;

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

    /// True when there is room for new data again after there was none: an eighth of the reserve more, so that the
    /// state does not change with each file that is written and removed.
    pub fn has_recovered(&self) -> bool {
        self.free > self.reserve.saturating_add(self.reserve / 8)
    }
}

/// Refuses writes before the file system is full.
#[derive(Debug, Clone)]
pub struct Reserve {
    dir: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// Keeps `bytes` free of the file system that holds `dir`.
    pub fn new(dir: &Path, bytes: u64) -> Self {
        Self { dir: dir.to_owned(), bytes }
    }

    /// [`DiskError::StoreFull`] when there is no room for this write. Costs one `statvfs`: about a microsecond.
    pub fn check(&self, need: Need) -> Result<(), DiskError> {
        let needed = match need {
            Need::Data(length) => self.bytes.saturating_add(length),
            Need::Small => self.bytes / 4,
        };
        let free = self.space()?.free;
        if free > needed { Ok(()) } else { Err(DiskError::StoreFull { dir: self.dir.clone(), free, needed }) }
    }

    /// Free and total space.
    pub fn space(&self) -> Result<Space, DiskError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|e| DiskError::io("measure", &self.dir, &e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks), reserve: self.bytes })
    }
}
