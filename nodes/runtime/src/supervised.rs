//! The reports of a node's process to its supervisor (rule R1), and to the next incarnation.

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    sync::{Mutex, PoisonError},
};

use rustix::fs::{FileType, fstat};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use twinbox_ids::Incarnation;
use twinbox_supervisor::{CrashReport, ExitNotice, PidFile, PidFileError, ProcessInfo, record_panics};

/// Maximum length of the supervisor's first message, in bytes.
const LONGEST: usize = 1_024;

/// State of the node's process for its supervisor and the next incarnation.
pub struct Supervised {
    pid_file: PidFile,
    life: Mutex<ProcessInfo>,
    supervisor: Option<UnixStream>,
    before: Option<CrashReport>,
}

impl Supervised {
    /// Begins an incarnation: takes the pid file of the data folder, reports to the supervisor, and records panics.
    pub fn begin(data_dir: &Path) -> Result<Self, PidFileError> {
        let life = ProcessInfo::begin();
        let pid_file = PidFile::take(data_dir, &life)?;
        let supervisor = supervisor();
        let before = CrashReport::take(data_dir, supervisor.as_ref().and_then(first_line));
        record_panics(data_dir, life.incarnation);
        let this = Self { pid_file, life: Mutex::new(life), supervisor, before };
        this.now(|_| {});
        Ok(this)
    }

    /// This incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).incarnation
    }

    /// Whether there is a supervisor.
    pub fn is_supervised(&self) -> bool {
        self.supervisor.is_some()
    }

    /// Records that the Raft store is open: its id and run number.
    pub fn opened(&self, (raft_id, run): (u64, u64)) {
        self.now(|life| (life.raft_id, life.run) = (raft_id, run));
    }

    /// Records that calls are taken.
    pub fn ready(&self) {
        self.now(|life| life.ready = true);
    }

    /// Records an orderly end.
    pub fn ends_well(&self) {
        if let Err(error) = self.pid_file.end() {
            warn!(%error, "the next supervisor will not know that this incarnation ended in good order");
        }
    }

    /// Logs how the previous incarnation ended, unless in good order, and returns it as text for administrators. The text of a
    /// panic may contain personal data: it stays in this machine's log.
    pub fn log_last_exit(&self) -> Option<String> {
        let CrashReport { cause: how, panic, .. } = self.before.as_ref()?;
        error!(how, panic = panic.as_deref().unwrap_or("none"), "the previous incarnation of this node failed");
        Some(format!("{how}; last panic: {}", if panic.is_some() { "see the log" } else { "none" }))
    }

    /// Logs the end of the supervisor: the node goes on, and the next supervisor finds it.
    pub async fn watch_supervisor(&self, stop: CancellationToken) {
        let clone = self.supervisor.as_ref().and_then(|stream| stream.try_clone().ok());
        let Some(Ok(mut stream)) = clone.map(tokio::net::UnixStream::from_std) else {
            return info!("this node has no supervisor");
        };
        let mut said = [0; 64];
        loop {
            let read = tokio::select! {
                read = stream.read(&mut said) => read,
                () = stop.cancelled() => return,
            };
            if !read.is_ok_and(|length| length > 0) {
                return warn!("the supervisor has ended; this node goes on, and the next supervisor finds it");
            }
        }
    }

    fn now(&self, change: impl FnOnce(&mut ProcessInfo)) {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut life);
        if let Err(error) = self.pid_file.write(&life) {
            warn!(%error, "the pid file cannot be written: the next supervisor will know less of this incarnation");
        }
        if let Some(Err(error)) =
            self.supervisor.as_ref().map(|mut stream| stream.write_all(life.line().as_bytes()))
        {
            warn!(%error, "the supervisor could not be notified of this incarnation");
        }
    }
}

/// The supervisor's socket, if it is the standard input.
fn supervisor() -> Option<UnixStream> {
    let stdin = io::stdin();
    let stat = fstat(stdin.as_fd()).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return None;
    }
    let stream = UnixStream::from(stdin.as_fd().try_clone_to_owned().ok()?);
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

/// Message that the supervisor sent before it started this process.
fn first_line(mut stream: &UnixStream) -> Option<ExitNotice> {
    let mut said = [0; LONGEST];
    let length = stream.read(&mut said).ok()?;
    ExitNotice::parse(std::str::from_utf8(&said[..length]).ok()?.lines().next()?)
}
