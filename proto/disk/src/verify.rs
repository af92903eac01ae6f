//! The request that the next opening reads all of the index: a file `verify` in the store's directory (rule A4).
//!
//! A process that failed to write or sync, or that read a damaged page of the index or a damaged block of its runs, leaves it. The file
//! need not be durable: a power cut takes the page cache with it. An administrator may create it as well.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::DiskError;

/// The request of one directory.
pub(crate) struct VerifyRequest(PathBuf);

impl VerifyRequest {
    pub(crate) fn of(dir: &Path) -> Self {
        Self(dir.join("verify"))
    }

    pub(crate) fn is_made(&self) -> bool {
        self.0.exists()
    }

    /// Makes the request, if the disk permits.
    pub(crate) fn make(&self, reason: &str) {
        if let Err(error) = fs::write(&self.0, reason) {
            tracing::warn!(file = %self.0.display(), %error, "the next start will not read all of the index");
        }
    }

    /// Removes the request: the index was read and opened.
    pub(crate) fn remove(&self) -> Result<(), DiskError> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::io("remove", &self.0, &error)),
            _ => Ok(()),
        }
    }
}

/// The error about damage in the index of the store in `dir`. Calls continue with the rows that can be read; the next start reads all
/// rows, and the store is built again.
pub(crate) fn damaged(dir: &Path, detail: String) -> DiskError {
    let request = VerifyRequest::of(dir);
    if !request.is_made() {
        request.make(&detail);
    }
    DiskError::Index { dir: dir.to_owned(), detail, damaged: true }
}
