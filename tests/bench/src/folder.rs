//! A folder of data: its size on the disk, and a plain copy of it for comparison.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use twinbox_clock::BootInstant;

/// Bytes that the files of a folder take on the disk, those of its folders included. A file that is removed meanwhile
/// counts nothing.
pub fn bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
            // The unit of this field is always 512 bytes.
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Copies a folder, each file synced; returns the bytes of the files and the time.
pub fn copy(from: &Path, to: &Path) -> io::Result<(u64, Duration)> {
    let begun = BootInstant::now();
    Ok((copy_files(from, to)?, begun.elapsed()))
}

fn copy_files(from: &Path, to: &Path) -> io::Result<u64> {
    fs::create_dir_all(to)?;
    let mut bytes = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()? {
            kind if kind.is_dir() => bytes += copy_files(&source, &target)?,
            kind if kind.is_file() => {
                bytes += fs::copy(&source, &target)?;
                File::open(&target)?.sync_all()?;
            }
            // A socket.
            _ => {}
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_has_all_files_and_as_many_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("inner")).unwrap();
        fs::write(from.join("inner/file"), [1; 10_000]).unwrap();
        assert_eq!(copy(&from, &to).unwrap().0, 10_000);
        assert_eq!(fs::read(to.join("inner/file")).unwrap(), [1; 10_000]);
        assert!(bytes(&to) >= 10_000);
    }
}
