//! Free space for a backup on the data disk of its node.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use twinbox_replication_store::Store;

use crate::{BackupError, BackupFolder};

/// Bytes that a backup leaves free on the data disk in addition to the reserve: messages go on coming in.
const MARGIN: u64 = 64 << 20;

/// Free space for a backup, which must not use up the reserve of its node (rule A4).
#[derive(Clone)]
pub(crate) struct Room {
    /// The node's store, if the destination is on the same file system.
    store: Option<Store>,
    dir: PathBuf,
}

impl Room {
    /// The space of a destination, which exists.
    pub(crate) fn of(store: &Store, folder: &BackupFolder) -> Result<Self, BackupError> {
        let dir = folder.place().locate("");
        let device = |dir: &Path| fs::metadata(dir).map(|found| found.dev());
        let is_shared = || Ok::<_, io::Error>(device(&dir)? == device(store.dir())?);
        let is_shared = !folder.place().is_remote() && is_shared().map_err(BackupError::io("measure", &dir))?;
        Ok(Self { store: is_shared.then(|| store.clone()), dir })
    }

    /// True on the data disk of the node.
    pub(crate) fn is_shared(&self) -> bool {
        self.store.is_some()
    }

    /// Fails if writing this many bytes would leave the node too little space.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), BackupError> {
        let Some(store) = &self.store else { return Ok(()) };
        let space = store.space()?;
        let needed = space.reserve.saturating_add(MARGIN).saturating_add(bytes);
        match space.free < needed {
            true => Err(BackupError::NoRoom { dir: self.dir.clone(), free: space.free, needed }),
            false => Ok(()),
        }
    }
}
