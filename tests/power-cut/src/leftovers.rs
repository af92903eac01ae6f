//! Mounts: how they are removed, and those that a killed earlier run left.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Name of the image in the folder of a disk: the mount point of the FUSE file system.
pub const IMAGE: &str = "drive";
/// Name of the mount point of the file system on the image.
pub const DATA: &str = "data";
/// Beginning of the source of a mounted image; the process that serves it follows, and the test's.
const SOURCE: &str = "twinbox-power-cut:";

/// The source of an image that this process serves for its parent, as `/proc/mounts` shows it.
pub fn source() -> String {
    format!("{SOURCE}{}:{}", std::process::id(), std::os::unix::process::parent_id())
}

/// Unmounts the file system on the image of a disk's folder, then the image. A mount that a process still uses is detached.
pub fn unmount(folder: &Path) {
    unmount_one(&folder.join(DATA));
    unmount_one(&folder.join(IMAGE));
}

fn unmount_one(at: &Path) {
    let Ok(path) = CString::new(at.as_os_str().as_bytes()) else { return };
    let flags = [0, libc::MNT_DETACH];
    // SAFETY: the path ends with a zero and lives until umount2 returns.
    let unmounted = |flag: &i32| unsafe { libc::umount2(path.as_ptr(), *flag) } == 0;
    // A second mount below this one would be hidden by it: there is none.
    let _done = is_mounted(at) && flags.iter().any(unmounted);
}

/// True when a file system is mounted there.
pub fn is_mounted(at: &Path) -> bool {
    mounts().iter().any(|(_, point)| point == at)
}

/// Sources and mount points.
fn mounts() -> Vec<(String, PathBuf)> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), PathBuf::from(words.next()?.replace("\\040", " "))))
    };
    text.lines().filter_map(line).collect()
}

/// Unmounts all in a disk's folder, and removes the folder.
pub fn remove(folder: &Path) {
    unmount(folder);
    // Never through a mount that is still there.
    if ![IMAGE, DATA].iter().any(|name| is_mounted(&folder.join(name))) {
        let _left = fs::remove_dir_all(folder);
    }
}

/// Removes the disks of tests that were killed together with their drives.
pub fn remove_leftovers() {
    for (source, point) in mounts() {
        let Some(pids) = source.strip_prefix(SOURCE) else { continue };
        let runs = |pid: &str| fs::exists(Path::new("/proc").join(pid)).unwrap_or(true);
        if !pids.split(':').any(runs)
            && let Some(folder) = point.parent()
        {
            println!("removed what a killed run left: {}", folder.display());
            remove(folder);
        }
    }
}

/// Runs a command to its end; its complaint as an error.
pub fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(io::Error::other(format!("{command:?}: {}: {complaint}", output.status)))
}
