//! Half-written files of the index, left by a killed start or a power cut. sled treats them as damage and refuses to
//! open from then on; both are made again from durable data.
//!
//! * `snap.*.generating`: a snapshot before it gets its name. sled reads the one with the highest name, and that is
//!   this one. A snapshot under its own name is complete: sled syncs it before the rename, and since none is begun over
//!   the rest of another, no bytes of an earlier one stand behind its end. The previous snapshot is removed only after
//!   that, and without any sled reads its log from the beginning.
//! * `conf`: the settings, which sled writes in two steps and never syncs. This crate always opens with the same ones.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use crate::{DiskError, file};

/// The settings of the index: text, followed by its checksum.
const SETTINGS: &str = "conf";

/// Bytes of the checksum.
const CHECKSUM: usize = 4;

/// Removes half-written files in the folder of the index. Only for the process that has locked it.
pub(crate) fn remove(index: &Path) -> Result<(), DiskError> {
    if !index.is_dir() {
        return Ok(());
    }
    for path in file::list(index)? {
        let torn = match path.file_name().and_then(|name| name.to_str()) {
            Some(SETTINGS) => !is_whole(&fs::read(&path).map_err(|e| DiskError::io("read", &path, &e))?),
            Some(name) => name.starts_with("snap.") && name.ends_with(".generating"),
            None => false,
        };
        if torn {
            tracing::warn!(file = %path.display(), "file was left half-written by an earlier start; it is created again");
            fs::remove_file(&path).map_err(|e| DiskError::io("remove", &path, &e))?;
        }
    }
    Ok(())
}

/// Makes the settings durable that sled has written or found.
pub(crate) fn keep(index: &Path) -> Result<(), DiskError> {
    let path = index.join(SETTINGS);
    let settings = File::open(&path).map_err(|e: io::Error| DiskError::io("open", &path, &e))?;
    file::sync_data(&settings, &path)
}

fn is_whole(settings: &[u8]) -> bool {
    let text = settings.len().saturating_sub(CHECKSUM);
    let (text, checksum) = settings.split_at(text);
    !text.is_empty() && checksum == crc32fast::hash(text).to_le_bytes()
}
