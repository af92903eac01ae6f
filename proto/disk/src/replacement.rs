//! The folders of an index that is replaced by a copy. A start finds one of these, whatever ended the process:
//!
//! | folders | meaning |
//! | --- | --- |
//! | `index` | no copy, or it is in its place |
//! | `index`, `index.next` | the copy is not complete, or was not put in its place |
//! | `index.next`, `index.old` | the copy is complete |
//! | `index`, `index.old` | the copy is in its place |

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{DiskError, file};

/// The folder of the index in a store's directory.
pub(crate) fn index(dir: &Path) -> PathBuf {
    dir.join("index")
}

/// The folder of its copy.
pub(crate) fn next(dir: &Path) -> PathBuf {
    dir.join("index.next")
}

fn old(dir: &Path) -> PathBuf {
    dir.join("index.old")
}

/// Completes or undoes the replacement that an earlier process began. Only for the process that has locked the directory.
pub(crate) fn settle(dir: &Path) -> Result<(), DiskError> {
    if !index(dir).exists() && old(dir).exists() && next(dir).exists() {
        file::rename_durably(&next(dir), &index(dir))?;
    }
    for left in [next(dir), old(dir)] {
        remove(&left)?;
    }
    Ok(())
}

/// Puts the complete, durable copy in the place of the index. Files that are open stay open.
pub(crate) fn put_in_place(dir: &Path) -> Result<(), DiskError> {
    file::rename_durably(&index(dir), &old(dir))?;
    file::rename_durably(&next(dir), &index(dir))?;
    remove(&old(dir))
}

/// Removes a folder, if it is there.
pub(crate) fn remove(folder: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::io("remove", folder, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "../tests/unit/replacement.rs"]
mod tests;
