//! A child process that never outlives its test.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::{NetPlace, holds, wait_for};

/// The program under test: `TWINBOX_BIN`, else the newest `twinbox` next to the running test's own binary.
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

/// A running child. Its output goes to a log file. Dropping it kills it and its own children (a supervisor's node). It
/// gets a stop signal when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
    /// Its own children at the time of the kill.
    frozen_children: Vec<u32>,
    /// A node that continues without its supervisor.
    left: Option<u32>,
}

impl Process {
    /// Starts `command` at `place`, with its output appended to `log`.
    pub fn start(name: &str, command: Command, place: &NetPlace, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log).expect("the log file can be written");
        let (out, err) = (open(), open());
        Self::start_with(name, command, place, log, Stdio::from(out), Stdio::from(err))
    }

    /// Starts `command` with its standard output as a pipe (see [`Process::child`]).
    pub fn start_piped(name: &str, command: Command, place: &NetPlace, log: &Path) -> Self {
        let err = File::options().create(true).append(true).open(log).expect("the log file can be written");
        Self::start_with(name, command, place, log, Stdio::piped(), Stdio::from(err))
    }

    fn start_with(name: &str, mut command: Command, place: &NetPlace, log: &Path, out: Stdio, err: Stdio) -> Self {
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let enter = place.entry();
        let prepare = move || {
            enter.as_ref().map_or(Ok(()), |e| e.enter())?;
            // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and touches no memory.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec the closure makes two system calls, setns and prctl, and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} ({command:?}) does not start: {e}"));
        Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
            ended: None,
            frozen_children: Vec::new(),
            left: None,
        }
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

    /// Whether it has ended and its status has not been collected yet.
    pub fn is_dead(&self) -> bool {
        is_dead(self.pid())
    }

    /// Its own child: of a supervisor, the node. Waits for one.
    pub fn child_pid(&self) -> u32 {
        wait_for(&format!("a process of {}", self.name), Duration::from_secs(20), || children(self.pid()).pop())
    }

    /// `kill -9` of a supervisor alone. Its node continues with the returned pid, and is still killed by this
    /// `Process`.
    pub fn lose_supervisor(&mut self) -> u32 {
        let node = self.child_pid();
        self.signal(libc::SIGKILL);
        self.ended = self.child.wait().ok();
        *self.left.insert(node)
    }

    /// Takes over the leftover node of `other`: this is the next supervisor.
    pub fn inherit(&mut self, mut other: Process) {
        self.left = other.left.take();
    }

    /// Sends a signal to its own child.
    pub fn signal_child(&self, signal: i32) {
        send(self.child_pid(), signal);
    }

    /// Its exit status, if it has ended.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waiting for one's own child works");
        }
        self.ended
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&mut self, signal: i32) {
        // Not yet waited for, so the pid is still our own child's.
        if self.runs() {
            send(self.pid(), signal);
        }
    }

    /// Stops it, so that it starts nothing more, and collects its children. [`Process::kill`] follows.
    pub fn hold(&mut self) {
        self.signal(libc::SIGSTOP);
        let held = || state(self.pid()).is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'));
        holds(Duration::from_secs(5), || held().then_some(()));
        self.frozen_children = children(self.pid());
    }

    /// `kill -9` of it and its children, as when its host is lost; waits until they have exited.
    pub fn kill(&mut self) {
        self.send_kill();
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
        let all_dead = || self.frozen_children.iter().all(|pid| is_dead(*pid));
        holds(Duration::from_secs(10), || all_dead().then_some(()));
        // Their pids may be reused from now on.
        self.frozen_children.clear();
        if let Some(left) = self.left.take().filter(|left| is_node(*left)) {
            send(left, libc::SIGKILL);
            holds(Duration::from_secs(10), || is_dead(left).then_some(()));
        }
    }

    /// As [`Process::kill`], but does not wait.
    pub fn send_kill(&mut self) {
        if self.runs() && self.frozen_children.is_empty() {
            self.hold();
        }
        self.signal(libc::SIGKILL);
        self.frozen_children.iter().for_each(|pid| send(*pid, libc::SIGKILL));
    }

    /// Sends SIGTERM, and waits for its end.
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

    /// Path of its log.
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

fn send(pid: u32, signal: i32) {
    // SAFETY: kill takes two numbers and touches no memory.
    unsafe { libc::kill(pid as i32, signal) };
}

/// Whether `pid` is a node's own process, and not another one that reuses the number.
fn is_node(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).any(|word| word == b"--child")
}

/// The state letter of a process; `None` if it has exited.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A leader that has ended is a zombie while its other threads still end, with their files open.
fn is_dead(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state(pid).is_none_or(|state| state == 'Z' && threads <= 1)
}

/// The children of `parent` that have not been waited for.
fn children(parent: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
        fields.next().is_some_and(|state| state != "Z") && fields.next() == Some(parent.to_string().as_str())
    };
    pids.filter(of_parent).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
