//! Whether the store may be written. After the first failed write or sync it may not, in this process (rule A4).

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{DiskError, sync, verify::VerifyRequest};

/// The first failure of a store, shared by all its threads.
pub(crate) struct Health {
    dir: PathBuf,
    failure: OnceLock<String>,
}

impl Health {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, failure: OnceLock::new() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// An error once any write or sync has failed.
    pub(crate) fn check(&self) -> Result<(), DiskError> {
        if self.failure.get().is_none() && sync::failed_under(&self.dir) {
            return Err(self.fail("fdatasync of a file of the store failed".to_owned()));
        }
        match self.failure() {
            None => Ok(()),
            Some(detail) => Err(DiskError::Broken { detail: detail.to_owned() }),
        }
    }

    /// Notes a failure; the first one counts.
    pub(crate) fn fail(&self, detail: String) -> DiskError {
        if self.failure.set(detail.clone()).is_ok() {
            tracing::error!(dir = %self.dir.display(), detail, "store refuses further writes until the next start; check the disk");
            VerifyRequest::of(&self.dir).make(&detail);
        }
        DiskError::Broken { detail: self.failure().map_or(detail, str::to_owned) }
    }
}
