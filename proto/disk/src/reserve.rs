//! The reserve of space: the store must never fill the file system, since after one failed write it accepts no more
//! (rule A4). New data is refused first, small writes and deletes later.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::DiskError;

/// A measurement serves for this time where more than [`PLENTY`] was free beyond what a write needs: a gigabyte is not written in it.
const SERVES: Duration = Duration::from_millis(20);
const PLENTY: u64 = 1024 * 1024 * 1024;

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
    last: Arc<Measured>,
}

/// The last measurement of a check.
#[derive(Debug, Default)]
struct Measured {
    /// Bytes that were free.
    free: AtomicU64,
    /// Its time by the boot clock, in nanoseconds; 0 before the first one.
    at: AtomicU64,
}

impl Measured {
    fn note(&self, free: u64, at: BootInstant) {
        self.free.store(free, Ordering::Release);
        self.at.store(at.as_nanos(), Ordering::Release);
    }

    /// True when the last measurement serves a write that needs this much.
    fn serves(&self, needed: u64, now: BootInstant) -> bool {
        // The bytes are at least as new as the time.
        let at = self.at.load(Ordering::Acquire);
        let is_new = at != 0 && now.since(BootInstant::from_nanos(at)) < SERVES;
        is_new && self.free.load(Ordering::Acquire) > needed.saturating_add(PLENTY)
    }
}

impl Reserve {
    /// Keeps `bytes` free of the file system that holds `dir`.
    pub fn new(dir: &Path, bytes: u64) -> Self {
        Self { dir: dir.to_owned(), bytes, last: Arc::default() }
    }

    /// [`DiskError::StoreFull`] when there is no room for this write. Costs one `statvfs` at most.
    pub fn check(&self, need: Need) -> Result<(), DiskError> {
        let needed = match need {
            Need::Data(length) => self.bytes.saturating_add(length),
            Need::Small => self.bytes / 4,
        };
        let now = BootInstant::now();
        if self.last.serves(needed, now) {
            return Ok(());
        }
        let free = self.space()?.free;
        self.last.note(free, now);
        if free > needed { Ok(()) } else { Err(DiskError::StoreFull { dir: self.dir.clone(), free, needed }) }
    }

    /// Free and total space.
    pub fn space(&self) -> Result<Space, DiskError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|e| DiskError::io("measure", &self.dir, &e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks), reserve: self.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurement_serves_for_a_moment_where_plenty_is_free() {
        let (last, at) = (Measured::default(), BootInstant::from_nanos(5_000_000_000));
        assert!(!last.serves(0, at), "nothing was measured");
        last.note(PLENTY + 100, at);
        for (needed, after, serves) in [
            (99, Duration::ZERO, true),
            (99, SERVES - Duration::from_nanos(1), true),
            (99, SERVES, false),
            (100, Duration::ZERO, false),
            (u64::MAX, Duration::ZERO, false),
        ] {
            assert_eq!(last.serves(needed, at + after), serves, "{needed} bytes after {after:?}");
        }
    }

    #[test]
    fn check_measures_where_little_is_free() {
        let dir = tempfile::tempdir().expect("a folder");
        let free = Reserve::new(dir.path(), 0).space().expect("the space").free;
        let reserve = Reserve::new(dir.path(), free / 2);
        reserve.last.note(u64::MAX, BootInstant::from_nanos(1));
        assert!(reserve.check(Need::Data(free)).is_err(), "an old measurement serves nothing");
    }
}
