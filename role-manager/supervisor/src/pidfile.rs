//! Pid files: locked by their process as long as it runs, so a free lock proves its exit, whatever the cause and even
//! if the number is reused.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::Pid,
};

use crate::ProcessInfo;

/// File name in the data folder.
const NODE: &str = "node.pid";
/// The longest valid pid file, in bytes.
const MAX_LENGTH: u64 = 1_024;
/// Number of tries for the lock: a supervisor may hold it for a moment to check it.
const LOCK_TRIES: u32 = 20;
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Reason for which a pid file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// File error.
    #[error("{path} cannot be used: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        cause: io::Error,
    },
    /// Another process holds it.
    #[error("{path} is in use: {holder} runs already; stop it first, or give each node a data_dir of its own")]
    Taken {
        /// The file.
        path: PathBuf,
        /// Description of that process.
        holder: String,
    },
}

/// Identity of a process, distinct from another with the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Its start time, in clock ticks since boot.
    start: u64,
    boot: String,
    /// Device and inode of the file that the process wrote: a copy proves nothing.
    file: (u64, u64),
}

/// Contents of a pid file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) process: ProcessId,
    pub(crate) info: Option<ProcessInfo>,
}

/// State of a node's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// None; with the last record, if this machine has not been booted since.
    NotRunning(Option<Record>),
    /// A running process.
    Running(Record),
    /// A running process that cannot be identified here.
    Unclear,
}

/// The pid file of this process. Dropping it frees the lock.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
    process: ProcessId,
}

impl PidFile {
    /// Takes the file for this process.
    pub fn take(data_dir: &Path, info: &ProcessInfo) -> Result<Self, PidFileError> {
        let path = data_dir.join(NODE);
        let failed = |cause| PidFileError::Io { path: path.clone(), cause };
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path);
        let file = file.map_err(failed)?;
        for attempt in 1.. {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if attempt < LOCK_TRIES => std::thread::sleep(LOCK_RETRY),
                Err(Errno::WOULDBLOCK) => {
                    let pid = read(&file).map(|record| format!(" (pid {})", record.process.pid));
                    let holder = format!("the node's process{}", pid.unwrap_or_default());
                    return Err(PidFileError::Taken { path, holder });
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        let process = ProcessId::own(&file).map_err(failed)?;
        let taken = Self { file, path, process };
        taken.write(info)?;
        Ok(taken)
    }

    /// Writes the present state of this incarnation.
    pub fn write(&self, info: &ProcessInfo) -> Result<(), PidFileError> {
        self.replace(&(self.process.line() + &info.line()))
    }

    /// Orderly end of this incarnation: clears the file, so that the next reader finds no exit to report.
    pub fn end(&self) -> Result<(), PidFileError> {
        self.replace("")
    }

    fn replace(&self, text: &str) -> Result<(), PidFileError> {
        let written =
            self.file.write_all_at(text.as_bytes(), 0).and_then(|()| self.file.set_len(text.len() as u64));
        written.map_err(|cause| PidFileError::Io { path: self.path.clone(), cause })
    }
}

/// Locks the data folder for its only supervisor; nothing is written into it. `None` without such a folder: the node
/// refuses that itself.
pub(crate) fn lock_folder(data_dir: &Path) -> Result<Option<File>, PidFileError> {
    let path = data_dir.to_owned();
    let folder = match File::open(data_dir) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(PidFileError::Io { path, cause }),
    };
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder)),
        Err(Errno::WOULDBLOCK) => Err(PidFileError::Taken { path, holder: "a supervisor of this node".to_owned() }),
        Err(error) => Err(PidFileError::Io { path, cause: error.into() }),
    }
}

/// Finds the node's process.
pub(crate) fn find_process(data_dir: &Path) -> Result<Found, PidFileError> {
    let path = data_dir.join(NODE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::NotRunning(None)),
        Err(cause) => return Err(PidFileError::Io { path, cause }),
    };
    let record = read(&file);
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Found::NotRunning(record.filter(|record| record.process.has_exited(&file)))),
        Err(Errno::WOULDBLOCK) => match record {
            Some(record) if record.process.is_running() => Ok(Found::Running(record)),
            _ => Ok(Found::Unclear),
        },
        Err(error) => Err(PidFileError::Io { path, cause: error.into() }),
    }
}

fn read(file: &File) -> Option<Record> {
    let mut text = String::new();
    file.take(MAX_LENGTH).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let process = ProcessId::parse(lines.next()?, lines.next()?)?;
    Some(Record { process, info: lines.next().and_then(ProcessInfo::parse) })
}

impl ProcessId {
    fn own(file: &File) -> io::Result<Self> {
        let pid = std::process::id().cast_signed();
        let start =
            start_of(pid).ok_or_else(|| io::Error::other("/proc/self/stat does not contain the start time"))?;
        Ok(Self { pid, start, boot: boot_id()?, file: device_and_inode(file)? })
    }

    /// The number comes first, as readers of pid files expect.
    fn line(&self) -> String {
        let Self { pid, start, boot, file: (device, inode) } = self;
        format!("{pid}\nprocess {start} {boot} {device} {inode}\n")
    }

    fn parse(number: &str, line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("process ")?.split(' ');
        Some(Self {
            pid: number.parse().ok()?,
            start: words.next()?.parse().ok()?,
            boot: words.next()?.to_owned(),
            file: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
        })
    }

    /// The number as a `Pid`.
    pub(crate) fn number(&self) -> Option<Pid> {
        Pid::from_raw(self.pid).filter(|_| self.pid > 0)
    }

    /// Whether the process with this number is still this process.
    pub(crate) fn is_running(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot) && start_of(self.pid) == Some(self.start)
    }
}

impl ProcessId {
    /// Whether the free lock of this file proves that the process has exited: the process held exactly this lock, in
    /// the present boot of this machine.
    fn has_exited(&self, file: &File) -> bool {
        let held_it = device_and_inode(file).is_ok_and(|id| id == self.file);
        held_it && boot_id().is_ok_and(|boot| boot == self.boot) && !self.is_running()
    }
}

fn device_and_inode(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Field 22 of `/proc/PID/stat`; the name before it may contain anything, so fields are counted from the last bracket.
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_holder_is_found_and_the_lock_cannot_be_taken_twice() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_process(dir.path()).unwrap(), Found::NotRunning(None));
        let info = ProcessInfo::begin();
        let own = PidFile::take(dir.path(), &info).unwrap();
        let Found::Running(found) = find_process(dir.path()).unwrap() else { panic!("it runs") };
        assert_eq!((found.process.pid, found.info), (std::process::id().cast_signed(), Some(info)));
        let taken = PidFile::take(dir.path(), &ProcessInfo::begin()).unwrap_err().to_string();
        assert!(taken.contains(&format!("(pid {})", std::process::id())), "{taken}");
        let ready = ProcessInfo { run: 3, raft_id: 9, ready: true, ..info };
        own.write(&ready).unwrap();
        drop(own);
        // This process runs, in spite of the free lock.
        assert_eq!(find_process(dir.path()).unwrap(), Found::NotRunning(None));
        PidFile::take(dir.path(), &info).unwrap().end().unwrap();
        assert_eq!(find_process(dir.path()).unwrap(), Found::NotRunning(None), "it ended well");
    }

    /// The number in the file may have been reused.
    #[test]
    fn a_reused_process_id_is_not_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NODE);
        let file = File::create(&path).unwrap();
        let own = ProcessId::own(&file).unwrap();
        assert!(own.is_running());
        let info = ProcessInfo::begin();
        let later = ProcessId { start: own.start + 1, ..own.clone() };
        let other_boot = ProcessId { boot: "another".to_owned(), ..own.clone() };
        assert!(!later.is_running() && !other_boot.is_running());
        let copied = ProcessId { file: (own.file.0, own.file.1 + 1), ..later.clone() };
        for (process, exited) in [(&own, false), (&later, true), (&other_boot, false), (&copied, false)] {
            // A free lock: no process is watched. The exit is reported only where it is certain.
            fs::write(&path, process.line() + &info.line()).unwrap();
            let Found::NotRunning(last) = find_process(dir.path()).unwrap() else {
                panic!("{process:?} is watched")
            };
            assert_eq!(last.is_some_and(|last| last.info == Some(info)), exited, "{process:?}");
        }
        // The lock is held, but not by the process that the file names.
        let file = PidFile::take(dir.path(), &info).unwrap();
        for text in [later.line() + &info.line(), other_boot.line(), String::new(), "7".to_owned()] {
            file.replace(&text).unwrap();
            assert_eq!(find_process(dir.path()).unwrap(), Found::Unclear, "{text}");
        }
    }

    #[test]
    fn a_folder_has_one_supervisor_and_the_lock_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_folder(dir.path()).unwrap();
        assert!(held.is_some());
        let second = lock_folder(dir.path()).unwrap_err().to_string();
        assert!(second.contains("a supervisor of this node runs already"), "{second}");
        drop(held);
        assert!(lock_folder(dir.path()).unwrap().is_some());
        assert!(lock_folder(&dir.path().join("none")).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_error_names_an_unusable_folder() {
        let error = PidFile::take(Path::new("/proc/nowhere"), &ProcessInfo::begin()).unwrap_err().to_string();
        assert!(error.starts_with("/proc/nowhere/node.pid cannot be used: "), "{error}");
    }
}
