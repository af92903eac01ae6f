//! Certificates and keys as files: a key is readable only by its owner, from the first byte on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::PkiError;

/// File mode of certificates: readable by all users.
pub(crate) const PUBLIC: u32 = 0o644;
/// File mode of keys: readable only by the owner.
pub(crate) const SECRET: u32 = 0o600;

pub(crate) fn read(dir: &Path, name: &str) -> Result<String, PkiError> {
    let path = dir.join(name);
    fs::read_to_string(&path).map_err(|source| PkiError::Read { path, source })
}

/// Writes a temporary file, syncs it, renames it and syncs the directory, which is made if it is missing.
pub(crate) fn write(dir: &Path, name: &str, mode: u32, text: &str) -> Result<(), PkiError> {
    let write = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let aside = dir.join(format!(".{name}.new"));
        // An existing file would keep its own mode when opened again.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, dir.join(name))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| PkiError::Write { path: dir.join(name), source })
}
