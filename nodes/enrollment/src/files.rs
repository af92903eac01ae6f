//! Files and folders of a member: for its user alone, and durable.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Makes the folder of a member for its user alone; folders above it get the usual mode. An existing folder, which may
/// be a volume, stays as it is.
pub(crate) fn make_home(home: &Path) -> io::Result<()> {
    if let Some(above) = home.parent() {
        fs::create_dir_all(above)?;
    }
    make_folder(home)
}

/// Makes a folder in that of a member, for its user alone.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file for its user alone: it may hold passwords. The file is complete and durable, or as it was: a temporary
/// file is synced and renamed, and the folder synced.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let aside = folder.join(format!(".{}.new", name.display()));
    // An existing file would keep its own mode.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(folder)?.sync_all()
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
        write(&path, b"after").expect("written");
        let after = fs::metadata(&path).expect("a file");
        assert_eq!((fs::read_to_string(&path).expect("a text").as_str(), after.mode() & 0o777), ("after", 0o600));
        assert_ne!(after.ino(), before, "a reader of the former one has it whole");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
}
