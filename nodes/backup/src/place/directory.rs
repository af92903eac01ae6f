//! A directory of this machine. Files are readable by the user of this process alone, and are on the disk when they
//! have their name.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};

use super::{BackupPlace, Lock, NewFile, OldFile, Use, Visitor};
use crate::BackupError;

/// End of the names of files that are being written.
pub(crate) const UNFINISHED: &str = ".part";
/// Bytes that are read or written together.
const BUFFER: usize = 1 << 20;

/// A directory.
#[derive(Debug)]
pub(crate) struct Directory {
    dir: PathBuf,
}

impl Directory {
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn lock_file(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    }

    fn locked(&self, file: File, path: &Path, how: FlockOperation) -> Result<Box<dyn Lock>, BackupError> {
        match flock(&file, how) {
            Ok(()) => Ok(Box::new(FileLock { _file: Some(file) })),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(BackupError::Busy(self.dir.clone())),
            Err(error) => Err(BackupError::io("lock", path)(error.into())),
        }
    }
}

impl BackupPlace for Directory {
    fn locate(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.dir.clone() } else { self.dir.join(path) }
    }

    fn check_used(&self) -> Result<(), BackupError> {
        match self.dir.join("backups").is_dir() {
            true => Ok(()),
            false => Err(BackupError::NoFolder(self.dir.clone())),
        }
    }

    fn prepare(&self) -> Result<(), BackupError> {
        make_folder(&self.dir.join("backups"))?;
        make_folder(&self.dir.join("audio"))
    }

    fn begin(&self, path: &str) -> Result<bool, BackupError> {
        let made = make_new_folder(&self.locate(path))?;
        sync_folder(&self.dir)?;
        Ok(made)
    }

    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, BackupError> {
        let path = self.locate(path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BackupError::io("read", &path)(error)),
        };
        let length = file.metadata().map_or(0, |found| found.len());
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(most)).unwrap_or_default());
        file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(BackupError::io("read", &path))?;
        match bytes.len() as u64 > most {
            true => Err(BackupError::too_large(&path, most)),
            false => Ok(Some(bytes)),
        }
    }

    fn open(&self, path: &str) -> Result<Box<dyn OldFile>, BackupError> {
        let path = self.locate(path);
        let file = File::open(&path).map_err(BackupError::io("open", &path))?;
        Ok(Box::new(ReadFile { file: BufReader::with_capacity(BUFFER, file), path }))
    }

    fn put(&self, path: &str, bytes: Bytes) -> Result<(), BackupError> {
        let path = self.locate(path);
        path.parent().map_or(Ok(()), make_folder)?;
        write(&path, &bytes)
    }

    fn create(&self, path: &str) -> Result<Box<dyn NewFile>, BackupError> {
        let path = self.locate(path);
        Ok(Box::new(WrittenFile { file: BufWriter::with_capacity(BUFFER, create(&path)?), path }))
    }

    fn folders(&self, path: &str) -> Result<Vec<String>, BackupError> {
        let entries = entries(&self.locate(path))?.into_iter();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(folders.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn visit(&self, path: &str, visitor: &mut Visitor<'_>) -> Result<(), BackupError> {
        for folder in self.folders(path)? {
            for entry in entries(&self.locate(path).join(&folder))? {
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                if let Some(name) = entry.file_name().to_str().filter(|_| is_file) {
                    let length = entry.metadata().map_or(0, |found| found.len());
                    visitor(&format!("{folder}/{name}"), length)?;
                }
            }
        }
        Ok(())
    }

    fn remove(&self, paths: &[String]) -> Result<(), BackupError> {
        for path in paths {
            let path = self.locate(path);
            fs::remove_file(&path).map_err(BackupError::io("remove", &path))?;
        }
        Ok(())
    }

    fn remove_folder(&self, path: &str) -> Result<(), BackupError> {
        let path = self.locate(path);
        fs::remove_dir_all(&path).map_err(BackupError::io("remove", &path))
    }

    fn sync(&self, path: &str) -> Result<(), BackupError> {
        sync_folder(&self.locate(path))
    }

    fn lock(&self, purpose: Use) -> Result<Box<dyn Lock>, BackupError> {
        let path = self.dir.join("lock");
        match purpose {
            Use::Read => match File::open(&path).or_else(|_| self.lock_file(&path)) {
                Ok(file) => self.locked(file, &path, FlockOperation::NonBlockingLockShared),
                Err(_) if self.dir.is_dir() => Ok(Box::new(FileLock { _file: None })),
                Err(_) => Err(BackupError::NoFolder(self.dir.clone())),
            },
            Use::Add => {
                let file = match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => self.lock_file(&path),
                    opened => opened,
                };
                let file = file.map_err(BackupError::io("open", &path))?;
                self.locked(file, &path, FlockOperation::NonBlockingLockShared)
            }
            Use::Prune => {
                self.check_used()?;
                let file = self.lock_file(&path).map_err(BackupError::io("open", &path))?;
                self.locked(file, &path, FlockOperation::NonBlockingLockExclusive)
            }
        }
    }

    fn is_remote(&self) -> bool {
        false
    }
}

/// A lock of the kernel, which ends with the process.
struct FileLock {
    _file: Option<File>,
}

impl Lock for FileLock {
    fn check(&self) -> Result<(), BackupError> {
        Ok(())
    }

    fn release(self: Box<Self>) {}
}

struct ReadFile {
    path: PathBuf,
    file: BufReader<File>,
}

impl OldFile for ReadFile {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, BackupError> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BackupError::io("read", &self.path)(error)),
            }
        }
        Ok(filled)
    }
}

struct WrittenFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl NewFile for WrittenFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(bytes).map_err(BackupError::io("write", &self.path))
    }

    fn finish(mut self: Box<Self>) -> Result<(), BackupError> {
        self.file.flush().map_err(BackupError::io("write", &self.path))?;
        self.file.get_ref().sync_all().map_err(BackupError::io("sync", &self.path))
    }
}

/// Makes a folder with all above it, unless it exists. The names of new folders are durable.
pub(crate) fn make_folder(dir: &Path) -> Result<(), BackupError> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
    above.map_or(Ok(()), make_folder)?;
    match (make_new_folder(dir)?, above) {
        (true, Some(above)) => sync_folder(above),
        (false, _) if !dir.is_dir() => Err(BackupError::io("create folder", dir)(rustix::io::Errno::NOTDIR.into())),
        _ => Ok(()),
    }
}

/// Makes a folder; false if it exists.
fn make_new_folder(dir: &Path) -> Result<bool, BackupError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(BackupError::io("create folder", dir)(error)),
    }
}

/// Creates a file that does not exist.
fn create(path: &Path) -> Result<File, BackupError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).map_err(BackupError::io("create", path))
}

/// Writes a file under another name, syncs it and gives it its name. The folder is not synced. After a failure the other
/// name is gone, so that it takes no space of a full disk.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{:016x}{UNFINISHED}", rand::random::<u64>()));
    let aside = Path::new(&aside);
    let mut file = create(aside)?;
    let mut named = || {
        file.write_all(bytes).map_err(BackupError::io("write", aside))?;
        file.sync_all().map_err(BackupError::io("sync", aside))?;
        fs::rename(aside, path).map_err(BackupError::io("rename", path))
    };
    named().inspect_err(|_| {
        // If it stays, prune removes it.
        let _ = fs::remove_file(aside);
    })
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(dir: &Path) -> Result<(), BackupError> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(BackupError::io("sync folder", dir))
}

/// The entries of a folder, by name; none if it does not exist.
fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>, BackupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BackupError::io("read folder", dir)(error)),
    };
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>().map_err(BackupError::io("read folder", dir))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}
