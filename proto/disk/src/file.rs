//! Durable file operations: temporary file written, synced, renamed, directory synced.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{DiskError, sync};

/// Suffix of a temporary file.
const ASIDE: &str = ".aside";

/// Writes `bytes` to `dir/name` so that after a power cut the file has either its old content or this one; it has this
/// one when the function returns. After a failed sync the temporary file is removed and the old one stays.
pub fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let aside = dir.join(format!(".{name}.{}.{number}{ASIDE}", std::process::id()));
    let written = write_synced(&aside, bytes).and_then(|()| rename_durably(&aside, &dir.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let error = |what| move |e: io::Error| DiskError::io(what, path, &e);
    let mut file = File::options().write(true).create_new(true).open(path).map_err(error("create"))?;
    file.write_all(bytes).map_err(error("write"))?;
    sync_data(&file, path)
}

/// Renames a file whose content is durable, and makes the new name durable. The old name may come back after a
/// power cut if it was in another directory; its content is then the same.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(|e| DiskError::io("rename", from, &e))?;
    match to.parent() {
        Some(dir) => fsync_dir(dir),
        None => Ok(()),
    }
}

/// Makes the content of an open file durable (`fdatasync`). After a failure the file must not be written again.
pub fn sync_data(file: &File, path: &Path) -> Result<(), DiskError> {
    sync::data(file).map_err(|e| DiskError::sync(path, &e))
}

/// Makes the entries of a directory durable.
pub fn fsync_dir(dir: &Path) -> Result<(), DiskError> {
    let opened = File::open(dir).map_err(|e| DiskError::io("open directory", dir, &e))?;
    sync::all(&opened).map_err(|e| DiskError::sync(dir, &e))
}

/// Creates a directory and its parents, each durable.
pub fn create_dir_durably(dir: &Path) -> Result<(), DiskError> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.is_dir()).collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => fsync_dir(parent(dir))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(e) => return Err(DiskError::io("create directory", dir, &e)),
        }
    }
    Ok(())
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes the temporary files that earlier processes left in `dir`; call it before the first write there.
pub fn remove_asides(dir: &Path) -> Result<(), DiskError> {
    for path in list(dir)? {
        let aside =
            path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with('.') && n.ends_with(ASIDE));
        if aside {
            fs::remove_file(&path).map_err(|e| DiskError::io("remove", &path, &e))?;
        }
    }
    Ok(())
}

/// The paths in a directory.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let error = |e: io::Error| DiskError::io("list", dir, &e);
    fs::read_dir(dir).map_err(error)?.map(|entry| entry.map(|e| e.path()).map_err(error)).collect()
}
