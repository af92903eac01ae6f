//! A disk that can be filled.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A small file system that is unmounted at the end.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Makes a file system of this many megabytes.
    pub fn new(megabytes: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = format!("size={megabytes}m");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).status();
        assert!(status.is_ok_and(|s| s.success()), "a tmpfs can be mounted");
        Self(folder)
    }

    /// A folder on it for a member's data, which does not exist yet.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Its mount point.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it until only `left` bytes are free.
    pub fn fill(&self, left: u64) {
        let output = Command::new("df").args(["--output=avail", "-B1"]).arg(self.path()).output().expect("df runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let free: u64 = text.lines().nth(1).and_then(|l| l.trim().parse().ok()).expect("df tells the free space");
        fs::write(self.filler(), vec![0_u8; free.saturating_sub(left) as usize]).expect("there is room");
    }

    /// Removes the filler.
    pub fn empty(&self) {
        fs::remove_file(self.filler()).expect("the filler is there");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
