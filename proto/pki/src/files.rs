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

/// Writes a file of this directory, which is made if it is missing, as [`replace`] does.
pub(crate) fn write(dir: &Path, name: &str, mode: u32, text: &str) -> Result<(), PkiError> {
    let path = dir.join(name);
    let written = fs::create_dir_all(dir).and_then(|()| replace(&path, mode, text.as_bytes()));
    written.map_err(|source| PkiError::Write { path, source })
}

/// Writes a file that only its owner reads. It is complete and durable, or as it was.
///
/// # Errors
/// The folder is missing, or the file cannot be written there.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, SECRET, content)
}

/// Writes a temporary file, syncs it, renames it and syncs the directory.
fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let aside = dir.join(format!(".{}.new", name.display()));
    // An existing file would keep its own mode when opened again.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn file_is_replaced_as_a_whole_and_only_its_user_reads_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("twinbox.toml");
        fs::write(&path, "before").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its mode");
        fs::write(dir.path().join(".twinbox.toml.new"), "left by a power cut").expect("written");
        let before = fs::metadata(&path).expect("a file").ino();
        write_private(&path, b"after").expect("written");
        let after = fs::metadata(&path).expect("a file");
        assert_eq!((fs::read_to_string(&path).expect("a text").as_str(), after.mode() & 0o777), ("after", 0o600));
        assert_ne!(after.ino(), before, "a reader of the former one has it whole");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
}
