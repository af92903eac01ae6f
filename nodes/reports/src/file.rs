//! Reports as files.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// Writes a file that only this user may read, whole or not at all: it has numbers of callers.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let (part, folder) = (file.with_extension("part"), file.parent().unwrap_or(Path::new("/")));
    std::fs::create_dir_all(folder)?;
    // A new file: an earlier one may be a link, or readable by others.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    open.write_all(bytes)?;
    open.sync_all()?;
    std::fs::rename(&part, file)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_run_replaces_the_file_and_only_its_user_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("twinbox-report-{}", std::process::id()));
        let file = folder.join("weekly.csv");
        for text in ["first", "second"] {
            write(&file, text.as_bytes()).expect("written");
            assert_eq!(std::fs::read_to_string(&file).expect("readable"), text);
        }
        let mode = std::fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!((mode & 0o777, std::fs::read_dir(&folder).expect("a folder").count()), (0o600, 1));
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
