//! All syncs of this crate, counted and timed; and the symbol that makes sled's flush a true sync.
//!
//! On Linux sled 0.34 ends a flush with `sync_file_range`, which protects from a killed process and not from a power
//! cut: it neither flushes the drive's cache nor writes the file's size. This module defines that symbol itself, as
//! `fdatasync`; the linker prefers a definition in the program over the C library's. `Disk::open` refuses to run if it
//! did not.

use std::{
    ffi::{c_int, c_uint},
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use twinbox_clock::BootInstant;

static COUNT: AtomicU64 = AtomicU64::new(0);
/// Time of the syncs, added up over threads, in nanoseconds.
static TIME: AtomicU64 = AtomicU64::new(0);

/// Files of journals, indexes and callers' folders with a failed sync. sled reports the failure to the next caller that
/// flushes; this list records it even when no caller waited for that sync.
static FAILED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Replaces the C library's function, for sled: `fdatasync` of the whole file, counted.
///
/// # Safety
/// None is needed: any `fd` is fine, one that is not open is answered with `EBADF`.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(fd: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    remembered(fd)
}

/// `fdatasync`, counted; a file for which it fails is remembered.
fn remembered(fd: c_int) -> c_int {
    // SAFETY: fdatasync takes any number; it touches no memory of ours.
    let result = counted(|| unsafe { libc::fdatasync(fd) });
    if result < 0 {
        let error = io::Error::last_os_error();
        close_for_writing(fd);
        if let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{fd}")) {
            FAILED.lock().unwrap_or_else(PoisonError::into_inner).push(path);
        }
        // SAFETY: the location of this thread's errno is always valid. The lines above may have changed it,
        // and the caller looks at it.
        unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EIO) };
    }
    result
}

/// Makes an open file read-only, for all threads: those of sled may write before they learn of a failed sync. If that is
/// impossible, the checks of each writer remain.
fn close_for_writing(fd: c_int) {
    if let Ok(read_only) = File::open(format!("/proc/self/fd/{fd}")) {
        // SAFETY: the caller has `fd` open for as long as it syncs it; from now on the number is the same file, read-only.
        unsafe { libc::dup3(read_only.as_raw_fd(), fd, libc::O_CLOEXEC) };
    }
}

fn counted<T>(sync: impl FnOnce() -> T) -> T {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let begun = BootInstant::now();
    let done = sync();
    TIME.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
    done
}

/// Number of syncs that this process did through this crate.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Time of these syncs, added up over threads.
pub(crate) fn time() -> Duration {
    Duration::from_nanos(TIME.load(Ordering::Relaxed))
}

/// True when a sync of a file under `dir` failed.
pub(crate) fn failed_under(dir: &Path) -> bool {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|path| path.starts_with(dir))
}

/// True when the symbol that sled calls is ours.
pub(crate) fn is_linked() -> bool {
    let before = count();
    // SAFETY: whichever function is linked, it takes any number and touches no memory of ours; descriptor -1
    // is never open.
    unsafe { libc::sync_file_range(-1, 0, 0, 0) };
    count() > before
}

/// `fdatasync` of a file of a journal or of a caller's folder: after a failure no store takes writes that has the file
/// under its directory.
pub(crate) fn remembering(file: &File) -> io::Result<()> {
    if remembered(file.as_raw_fd()) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `fdatasync` of an open file, counted.
pub(crate) fn data(file: &File) -> io::Result<()> {
    counted(|| file.sync_data())
}

/// `fsync` of an open file or directory, counted.
pub(crate) fn all(file: &File) -> io::Result<()> {
    counted(|| file.sync_all())
}
