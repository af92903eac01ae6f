//! Folders that were set aside, and the note in each of what was taken over from it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use twinbox_disk::{DiskError, file, set_asides};

/// The note in a folder.
const TAKEN_OVER: &str = "taken-over";

/// A folder that was set aside and is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The folder.
    pub folder: PathBuf,
    /// Description of the data taken over from it, as text; `None` until all was.
    pub taken_over: Option<String>,
}

/// The folders that were set aside from the index in `index`, oldest first.
pub fn find(index: &Path) -> Result<Vec<SetAside>, DiskError> {
    let read = |folder: PathBuf| {
        let taken_over = fs::read_to_string(folder.join(TAKEN_OVER)).ok();
        SetAside { taken_over: taken_over.map(|text| text.trim().to_owned()), folder }
    };
    Ok(set_asides(index)?.into_iter().map(read).collect())
}

/// Notes, durably, that all was taken over.
pub(crate) fn note(folder: &Path, text: &str) -> Result<(), DiskError> {
    file::write_durably(folder, TAKEN_OVER, format!("{text}\n").as_bytes())
}
