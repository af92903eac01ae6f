//! The disk of a test: its image, the process of its drive, and its power.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    drive::Cut,
    leftovers::{self, DATA, run},
    server::{FOLDER, MEDIUM, SEED},
};

/// Requirement of a [`PowerDisk`] on the machine.
pub const NEEDS: &str = "a disk that loses power (root, /dev/fuse, loop devices; apt-get install mount e2fsprogs)";

/// Limit for an answer of the drive, on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// True when this machine can have a [`PowerDisk`]: one is made and removed. The test that calls
/// [`crate::serve_if_asked`] must be `drive`, in the root of its program.
pub fn possible() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let there = |path: &&str| Path::new(path).exists();
    if !root || !["/dev/fuse", "/dev/loop-control"].iter().all(there) {
        return false;
    }
    PowerDisk::make(16, 0).inspect_err(|error| println!("no disk that loses power: {error}")).is_ok()
}

/// An ext4 file system on a drive that forgets what was not flushed when its power is cut. Dropping it unmounts it and
/// removes its image.
#[derive(Debug)]
pub struct PowerDisk {
    folder: TempDir,
    /// Seed of the next cut.
    seed: u64,
    drive: Option<Process>,
}

/// The process of a drive that has or had power since the last start.
#[derive(Debug)]
struct Process {
    child: Child,
    answers: BufReader<UnixStream>,
    cut: Option<Cut>,
}

impl PowerDisk {
    /// A new disk, mounted. `seed` chooses the sectors that survive the first cut, the next number those of the second,
    /// and so on. The test `drive` of the same program must call [`crate::serve_if_asked`].
    pub fn new(megabytes: u64, seed: u64) -> Self {
        Self::make(megabytes, seed).unwrap_or_else(|error| panic!("a disk that loses power: {error}"))
    }

    fn make(megabytes: u64, seed: u64) -> io::Result<Self> {
        leftovers::remove_leftovers();
        let folder = tempfile::Builder::new().prefix("twinbox-power-cut-").tempdir()?;
        let medium = folder.path().join(MEDIUM);
        File::create(&medium)?.set_len(megabytes << 20)?;
        // Everything is initialized now: no thread of the kernel writes to the disk later.
        let settings =
            ["-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
        run(Command::new("mkfs.ext4").args(settings).arg(&medium).env("PATH", path_with_sbin()))?;
        let mut disk = Self { folder, seed, drive: None };
        disk.power_on()?;
        Ok(disk)
    }

    /// The folder on it, the same after each start.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join(DATA)
    }

    /// Cuts the power; the result, also if it was cut before.
    pub fn cut(&mut self) -> Cut {
        let drive = self.drive();
        if drive.cut.is_none() {
            drive.order("cut");
        }
        self.wait_cut(LIMIT).unwrap_or_else(|| panic!("the power is not cut within {LIMIT:?}"))
    }

    /// Cuts the power before the write or flush that follows `operations` others from now on.
    pub fn cut_after(&mut self, operations: u64) {
        self.arm(&format!("cut {operations}"));
    }

    /// Makes everything durable. The next flush fails, and the drive forgets what is written to it until then: the page cache has
    /// it, and the disk does not.
    pub fn fail_next_flush(&mut self) {
        let folder = File::open(self.folder()).unwrap_or_else(|error| panic!("the disk is mounted: {error}"));
        // SAFETY: the descriptor is open; the call touches no memory.
        assert_eq!(unsafe { libc::syncfs(folder.as_raw_fd()) }, 0, "the disk has power");
        self.arm("fail-flush");
    }

    fn arm(&mut self, order: &str) {
        let drive = self.drive();
        drive.order(order);
        let answer = drive.answer(LIMIT).unwrap_or_else(|error| panic!("the drive does not answer: {error}"));
        assert_eq!(answer, "armed");
    }

    /// Waits until the power is cut; `None` if it is not within `limit`.
    pub fn wait_cut(&mut self, limit: Duration) -> Option<Cut> {
        let drive = self.drive();
        if drive.cut.is_none() {
            match drive.answer(limit) {
                Ok(answer) => {
                    let cut = answer.strip_prefix("cut ").and_then(|cut| cut.parse().ok());
                    drive.cut = Some(cut.unwrap_or_else(|| panic!("the drive says: {answer}")));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the drive has ended: {error}"),
            }
        }
        drive.cut.clone()
    }

    /// Unmounts the disk and mounts it again, as the image now is. Processes that use it must have ended. Without a
    /// cut everything that was written is there, as after an orderly stop of the machine.
    pub fn restart(&mut self) {
        self.power_off();
        self.power_on().unwrap_or_else(|error| panic!("the disk does not start again: {error}"));
    }

    fn drive(&mut self) -> &mut Process {
        self.drive.as_mut().unwrap_or_else(|| panic!("the disk has no drive"))
    }

    fn power_on(&mut self) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(env::current_exe()?)
            .args(["--exact", "drive", "--nocapture", "--test-threads=1"])
            .env(FOLDER, self.folder.path())
            .env(SEED, self.seed.to_string())
            .env("PATH", path_with_sbin())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Lives on for a moment when the test is killed with its group, and unmounts.
            .process_group(0)
            .spawn()?;
        self.seed = self.seed.wrapping_add(1);
        let drive = self.drive.insert(Process { child, answers: BufReader::new(ours), cut: None });
        match drive.answer(LIMIT)?.as_str() {
            "ready" => Ok(()),
            other => Err(io::Error::other(other.to_owned())),
        }
    }

    fn power_off(&mut self) {
        let Some(mut drive) = self.drive.take() else { return };
        drive.order("off");
        // The answer to the cut may come first.
        let off = (0..2).any(|_| drive.answer(LIMIT).is_ok_and(|answer| answer == "off"));
        if !off {
            println!("the drive of {} does not stop and is killed", self.folder.path().display());
            let _ended = drive.child.kill();
        }
        let _status = drive.child.wait();
        leftovers::unmount(self.folder.path());
    }
}

impl Process {
    fn order(&mut self, order: &str) {
        // A drive that has ended is noticed by its answer.
        let _ended = writeln!(self.answers.get_mut(), "{order}");
    }

    fn answer(&mut self, limit: Duration) -> io::Result<String> {
        self.answers.get_ref().set_read_timeout(Some(limit))?;
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn path_with_sbin() -> String {
    env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin"
}
