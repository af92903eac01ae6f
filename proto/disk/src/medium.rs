//! Folders of preallocated files on a real disk: that of a store's journal, and those of callers.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use twinbox_journal::{Blocks, Medium, MediumFile};

use crate::{DiskError, file, sync};

/// Zeros that are written at once into a new file, at an address that suits a direct write to any usual device.
#[repr(align(4096))]
struct Zeros([u8; 1024 * 1024]);

static ZEROS: Zeros = Zeros([0; 1024 * 1024]);

/// Bytes of the file system that no new file of a journal may take: an index, or another program, that finds no room
/// breaks for good, while a journal continues in the files that it has.
pub(crate) const KEPT_FREE: u64 = 16 * 1024 * 1024;

/// The same for the first two files of a journal: with two of them it needs no further space.
const KEPT_FREE_AT_FIRST: u64 = 4 * 1024 * 1024;

/// The same for the files of a caller, from the first one on: they grow with the data, and the journal of the same file
/// system, which also commits deletions, still finds room when they do not.
const KEPT_FREE_BY_CALLERS: u64 = 2 * KEPT_FREE;

/// A folder of real files of a fixed length each: made once, then written without a change of size. Their
/// syncs are counted, and a file with a failed sync is remembered, as those of the store's journal: a store refuses
/// further writes when the file is under its directory. For a file elsewhere the caller reports it to
/// [`Disk::mark_broken`](crate::Disk::mark_broken).
pub struct Folder {
    dir: PathBuf,
    /// Bytes of the file system that a new file leaves free.
    kept: u64,
    /// The same for the first two files, if it differs.
    kept_at_first: Option<u64>,
    /// Files whose pages this process has dropped from the page cache.
    dropped: Mutex<HashSet<String>>,
}

impl Folder {
    /// The folder `dir` of a caller, which is created durably if it is missing. A new file is refused with
    /// [`io::ErrorKind::StorageFull`] unless it leaves 32 MiB of the file system free, and while too many files are open.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        Self::keeping(dir, KEPT_FREE_BY_CALLERS, None)
    }

    /// The folder `dir` of a journal.
    pub(crate) fn of_journal(dir: &Path) -> Result<Self, DiskError> {
        Self::keeping(dir, KEPT_FREE, Some(KEPT_FREE_AT_FIRST))
    }

    /// A folder of the index, which may take the last bytes: a store breaks when its index has no room for committed writes.
    pub(crate) fn of_index(dir: &Path) -> Result<Self, DiskError> {
        Self::keeping(dir, 0, None)
    }

    fn keeping(dir: &Path, kept: u64, kept_at_first: Option<u64>) -> Result<Self, DiskError> {
        file::create_dir_durably(dir)?;
        Ok(Self { dir: dir.to_owned(), kept, kept_at_first, dropped: Mutex::default() })
    }

    fn dropped(&self) -> MutexGuard<'_, HashSet<String>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a file of `length` bytes that would leave too little space.
    fn check_space(&self, length: u64) -> io::Result<()> {
        let kept = match self.kept_at_first {
            Some(at_first) if self.list()?.len() < 2 => at_first,
            _ => self.kept,
        };
        let stat = rustix::fs::statvfs(&self.dir)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < length.saturating_add(kept) {
            let detail = format!("{free} bytes are free, and {kept} of them are kept");
            return Err(io::Error::new(io::ErrorKind::StorageFull, detail));
        }
        Ok(())
    }
}

impl Medium for Folder {
    type File = OpenFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        fs::read_dir(&self.dir).map_err(unopened)?.map(|entry| entry.map(name)).collect()
    }

    fn open(&self, name: &str) -> io::Result<OpenFile> {
        let file = File::options().read(true).write(true).open(self.dir.join(name)).map_err(unopened)?;
        // After a failed sync of an earlier process the page cache may hold data that is not on the disk (rule A4).
        if self.dropped().insert(name.to_owned()) {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(OpenFile(file))
    }

    fn create(&self, name: &str, length: u64, blocks: Blocks) -> io::Result<OpenFile> {
        self.check_space(length)?;
        let file = File::create_new(self.dir.join(name)).map_err(unopened)?;
        let is_reserved = blocks == Blocks::Reserved && reserve(&file, length)?;
        if !is_reserved {
            fill(&file, length)?;
        }
        // Not remembered as a failure: without room the file is given up. The caller notes all other failures.
        sync::data(&file)?;
        sync::all(&File::open(&self.dir).map_err(unopened)?)?;
        Ok(OpenFile(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.dropped().remove(name);
        fs::remove_file(self.dir.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        // Too many open files leave the old name.
        let dir = File::open(&self.dir).map_err(unopened)?;
        self.dropped().remove(from);
        fs::rename(self.dir.join(from), self.dir.join(to))?;
        sync::all(&dir)
    }
}

/// The reason why a file was not opened: too many open files are as passing as a full disk, and no write was lost.
fn unopened(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => io::Error::new(io::ErrorKind::StorageFull, error),
        _ => error,
    }
}

/// Reserves the blocks of a new file; false where the file system cannot.
fn reserve(file: &File, length: u64) -> io::Result<bool> {
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Fills a new file with zeros: past the page cache where the file system permits it, which takes less than half of the processor
/// time. Later writes end with their page, so that nothing has to be read for them.
fn fill(file: &File, length: u64) -> io::Result<()> {
    let mut is_direct = set_direct(file, true).is_ok();
    let mut at = 0;
    while at < length {
        let left = usize::try_from(length - at).unwrap_or(usize::MAX);
        match file.write_at(ZEROS.0.get(..left).unwrap_or(&ZEROS.0), at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => at += written as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The device wants whole blocks of its own, or the file system refuses only now.
            Err(error) if is_direct && error.raw_os_error() == Some(libc::EINVAL) => {
                set_direct(file, false)?;
                is_direct = false;
            }
            Err(error) => return Err(error),
        }
    }
    if is_direct { set_direct(file, false) } else { Ok(()) }
}

/// Lets the writes to a file pass the page cache by (`O_DIRECT`), or not.
fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(rustix::fs::OFlags::DIRECT, is_direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// An open file of a [`Folder`].
pub struct OpenFile(File);

impl MediumFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    /// The buffer is not zeroed before: audio that is sent to a peer is read here.
    fn read_new(&self, length: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(&self.0, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    fn write_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut slices = slices.as_mut_slice();
        // Leaves out empty parts.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match rustix::io::pwritev(&self.0, slices, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut slices, written);
                    offset += written as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        sync::remembering(&self.0)
    }
}
