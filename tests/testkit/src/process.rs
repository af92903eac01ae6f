//! A child process that never outlives its test.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::{Place, holds};

/// The program under test: `TWINBOX_BIN`, else the newest `twinbox` beside the running test's own binary.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TWINBOX_BIN") {
        return PathBuf::from(path);
    }
    let me = std::env::current_exe().expect("a running program has a path");
    let candidates: Vec<PathBuf> = me.ancestors().skip(1).take(3).map(|f| f.join("twinbox")).collect();
    candidates.iter().find(|c| c.is_file()).cloned().unwrap_or_else(|| {
        panic!("no twinbox binary at {candidates:?}: run `cargo build -p twinbox` or set TWINBOX_BIN")
    })
}

/// A running child. Its output goes to a log file; dropping it kills it; so does the death of the thread that
/// started it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` at `place`, with its output appended to `log`.
    pub fn start(name: &str, command: Command, place: &Place, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log).expect("the log file can be written");
        let (out, err) = (open(), open());
        Self::start_with(name, command, place, log, Stdio::from(out), Stdio::from(err))
    }

    /// Starts `command` with its standard output given out as a pipe (see [`Process::child`]).
    pub fn start_piped(name: &str, command: Command, place: &Place, log: &Path) -> Self {
        let err = File::options().create(true).append(true).open(log).expect("the log file can be written");
        Self::start_with(name, command, place, log, Stdio::piped(), Stdio::from(err))
    }

    fn start_with(name: &str, mut command: Command, place: &Place, log: &Path, out: Stdio, err: Stdio) -> Self {
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let enter = place.entry();
        let prepare = move || {
            enter.as_ref().map_or(Ok(()), |e| e.enter())?;
            // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and touches no memory.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec the closure makes two system calls, setns and prctl, and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} ({command:?}) does not start: {e}"));
        Self { name: name.to_owned(), log: log.to_owned(), child, ended: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.exit().is_none()
    }

    /// Whether it has ended and nobody has asked yet how.
    pub fn is_dead(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    /// How it ended, if it has.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waiting for one's own child works");
        }
        self.ended
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&mut self, signal: i32) {
        if self.runs() {
            // SAFETY: kill takes two numbers; the pid is our own child, not yet waited for.
            unsafe { libc::kill(self.pid() as i32, signal) };
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait(limit)
            .unwrap_or_else(|| panic!("{} does not stop within {limit:?} of SIGTERM\n{}", self.name, self.tail(40)))
    }

    /// Waits for its end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        holds(limit, || self.exit())
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log, with a heading.
    pub fn tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        let shown = all[all.len().saturating_sub(lines)..].join("\n");
        format!("--- {} (pid {}, {}), last {lines} lines ---\n{shown}\n", self.name, self.pid(), self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
