//! Data folder of a member: its owner, and exclusive use by one process.
//!
//! Checked first: a refusal has changed nothing, neither on the disk nor for the process that uses the folder. The
//! owner is in a separate file, because a folder holds several stores (records, Raft's log) and opening a store
//! changes it.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, FlockOperation};
use twinbox_ids::{ClusterId, NodeName};

/// File with the owner of the folder, readable by administrators.
const MARK: &str = "owner.toml";

/// Owner of a folder. A witness has one folder for all its clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the member.
    pub member: NodeName,
    /// Cluster of the member, if any.
    pub cluster: Option<ClusterId>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member '{}'", self.member)?;
        self.cluster.map_or(Ok(()), |cluster| write!(f, " of cluster {cluster}"))
    }
}

/// Reason why a folder cannot be used. Each text names the setting and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder does not exist, for example because its disk is not mounted.
    #[error("{key}: there is no folder {}: mount its disk, or make it for the user that runs this", dir.display())]
    Missing {
        /// The setting.
        key: &'static str,
        /// The folder.
        dir: PathBuf,
    },
    /// Another process uses the folder.
    #[error("{key}: {} is in use by another process: end that one, or give each member a folder of its own", dir.display())]
    InUse {
        /// The setting.
        key: &'static str,
        /// The folder.
        dir: PathBuf,
    },
    /// The folder holds the data of another member.
    #[error(
        "{key}: {} holds the data of {theirs}, and this is {ours}: put the right disk there, or name another folder",
        dir.display()
    )]
    Taken {
        /// The setting.
        key: &'static str,
        /// The folder.
        dir: PathBuf,
        /// Owner of the folder.
        theirs: String,
        /// This member.
        ours: String,
    },
    /// The folder cannot be read or written.
    #[error("{key}: {} cannot be used ({source}): mount it for writing and give it to the user that runs this", dir.display())]
    Unusable {
        /// The setting.
        key: &'static str,
        /// The folder or its owner file.
        dir: PathBuf,
        /// Reason of the failure.
        source: io::Error,
    },
    /// Too little free space for a start.
    #[error("{key}: {} has {free_mb} MB free, and {needed_mb} are needed to start: make room, or name a larger disk", dir.display())]
    Full {
        /// The setting.
        key: &'static str,
        /// The folder.
        dir: PathBuf,
        /// Free space, in MB.
        free_mb: u64,
        /// Required space, in MB.
        needed_mb: u64,
    },
}

/// A folder that this process uses exclusively until it ends.
#[derive(Debug)]
pub struct Folder {
    _lock: File,
}

impl Folder {
    /// Takes the folder that the setting `key` names. At least `floor` bytes of its file system must be free.
    pub fn take(key: &'static str, dir: &Path, owner: &Owner, floor: u64) -> Result<Self, FolderError> {
        is_ours(key, dir, owner)?;
        takes_writes(key, dir, floor)?;
        let unusable = unusable(key, dir);
        let path = dir.join(MARK);
        let mut mark =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(&unusable)?;
        if !locked(&mark).map_err(&unusable)? {
            return Err(FolderError::InUse { key, dir: dir.to_owned() });
        }
        if read(&path).map_err(&unusable)?.is_none() {
            let written = mark.set_len(0).and_then(|()| mark.write_all(text(owner).as_bytes()));
            written.and_then(|()| mark.sync_all()).and_then(|()| File::open(dir)?.sync_all()).map_err(&unusable)?;
        }
        Ok(Self { _lock: mark })
    }

    /// Whether [`Self::take`] would succeed. The write test is skipped if a process already uses the folder: that
    /// process may go on with a failed disk.
    pub fn suits(key: &'static str, dir: &Path, owner: &Owner, floor: u64) -> Result<(), FolderError> {
        is_ours(key, dir, owner)?;
        match File::open(dir.join(MARK)).and_then(|mark| locked(&mark)) {
            Ok(false) => Ok(()),
            _ => takes_writes(key, dir, floor),
        }
    }
}

fn unusable(key: &'static str, dir: &Path) -> impl Fn(io::Error) -> FolderError {
    move |source| FolderError::Unusable { key, dir: dir.to_owned(), source }
}

fn is_ours(key: &'static str, dir: &Path, owner: &Owner) -> Result<(), FolderError> {
    let unusable = unusable(key, dir);
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(unusable(io::Error::from(io::ErrorKind::NotADirectory))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(FolderError::Missing { key, dir: dir.to_owned() });
        }
        Err(error) => return Err(unusable(error)),
    }
    match read(&dir.join(MARK)).map_err(unusable)? {
        Some(theirs) if theirs != *owner => {
            let (theirs, ours) = (theirs.to_string(), owner.to_string());
            Err(FolderError::Taken { key, dir: dir.to_owned(), theirs, ours })
        }
        _ => Ok(()),
    }
}

fn takes_writes(key: &'static str, dir: &Path, floor: u64) -> Result<(), FolderError> {
    let unusable = |errno: rustix::io::Errno| unusable(key, dir)(errno.into());
    rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(unusable)?;
    let space = rustix::fs::statvfs(dir).map_err(unusable)?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free > floor {
        return Ok(());
    }
    let (free_mb, needed_mb) = (free >> 20, (floor >> 20).max(1));
    Err(FolderError::Full { key, dir: dir.to_owned(), free_mb, needed_mb })
}

/// Locks the file until it is closed; false if another process has locked it.
fn locked(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Owner of a folder; `None` without an owner file, or if a power cut left the file incomplete.
pub fn owner(dir: &Path) -> io::Result<Option<Owner>> {
    read(&dir.join(MARK))
}

fn read(path: &Path) -> io::Result<Option<Owner>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(table) = text.parse::<toml::Table>() else { return Ok(None) };
    let value = |key: &str| table.get(key).and_then(toml::Value::as_str);
    let Some(member) = value("member").and_then(|member| member.parse().ok()) else { return Ok(None) };
    Ok(Some(Owner { member, cluster: value("cluster").and_then(|id| id.parse().ok()) }))
}

fn text(owner: &Owner) -> String {
    let cluster = owner.cluster.map_or(String::new(), |id| format!("cluster = \"{id}\"\n"));
    format!("# Whose data this is. Kept by Twinbox.\nmember = \"{}\"\n{cluster}", owner.member)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(member: &str, cluster: Option<u128>) -> Owner {
        Owner { member: member.parse().expect("a name"), cluster: cluster.map(ClusterId) }
    }

    fn take(dir: &Path, owner: &Owner) -> Result<Folder, String> {
        Folder::take("node.data_dir", dir, owner, 0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_is_one_process_s_and_for_good_one_member_s() {
        let dir = tempfile::tempdir().expect("a folder");
        let (dir, a) = (dir.path(), of("a", Some(7)));
        let suits = |owner: &Owner| Folder::suits("node.data_dir", dir, owner, u64::MAX).is_ok();
        assert!(!suits(&a), "there is no room");
        let held = take(dir, &a).expect("taken");
        assert!(suits(&a) && !suits(&of("b", Some(7))), "it lives there already");
        assert_eq!(owner(dir).expect("read"), Some(a.clone()));
        assert!(take(dir, &a).expect_err("in use").contains("in use by another process"));
        drop(held);
        for other in [of("b", Some(7)), of("a", Some(8)), of("a", None)] {
            let refused = take(dir, &other).expect_err("another's");
            assert!(refused.starts_with("node.data_dir: ") && refused.contains("holds the data of member 'a'"));
        }
        take(dir, &a).expect("its own, again");
        // An incomplete owner file counts as none.
        fs::write(dir.join(MARK), "# Whose da").expect("written");
        take(dir, &of("w", None)).expect("nobody's");
        assert_eq!(owner(dir).expect("read"), Some(of("w", None)));
    }

    #[test]
    fn unusable_folder_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let a = of("a", Some(7));
        let missing = take(&dir.path().join("none"), &a).expect_err("missing");
        assert!(missing.contains("there is no folder"), "{missing}");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(take(&file, &a).expect_err("a file").contains("cannot be used"));
        let full = Folder::take("node.data_dir", dir.path(), &a, u64::MAX).expect_err("full").to_string();
        assert!(full.contains("MB free") && full.contains("make room"), "{full}");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing but what was there");
    }
}
