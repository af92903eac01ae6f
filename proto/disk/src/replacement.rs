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

/// Ends what a process has begun. Only for the process that has locked the directory.
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
mod tests {
    use super::*;

    #[test]
    fn start_finds_one_index_whatever_ended_the_replacement() {
        for (folders, content) in [
            (vec!["index"], "index"),
            (vec!["index", "index.next"], "index"),
            (vec!["index.next", "index.old"], "index.next"),
            (vec!["index", "index.old"], "index"),
            (vec![], ""),
            // Nobody but a person removes the index alone: what is left says so.
            (vec!["index.next"], ""),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            for folder in &folders {
                fs::create_dir(dir.path().join(folder)).expect("a folder");
                fs::write(dir.path().join(folder).join("db"), folder).expect("a file");
            }
            settle(dir.path()).expect("it settles");
            let found = fs::read_to_string(index(dir.path()).join("db")).unwrap_or_default();
            assert_eq!(found, content, "{folders:?}");
            assert!(!next(dir.path()).exists() && !old(dir.path()).exists(), "{folders:?}");
        }
    }
}
