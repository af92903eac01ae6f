//! The node's process: our own child, or one left behind by an earlier supervisor.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    process::{Command, Stdio},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, wait},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, unix::AsyncFd},
    net::UnixStream,
};
use twinbox_clock::BootInstant;

use crate::{ExitCause, ProcessInfo, Spec, SupervisorError, crash_report::ExitNotice, pidfile::Record};

/// The longest line of a child, in bytes. Children send short lines; a longer one is cut off.
const MAX_LINE: u64 = 1_024;

/// A watched process.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) since: BootInstant,
    /// The incarnation that it has reported.
    pub(crate) info: Option<ProcessInfo>,
    pidfd: AsyncFd<OwnedFd>,
    /// Socket of our child; none for a process left behind.
    pipe: Option<BufReader<UnixStream>>,
    /// Received part of a line.
    line: Vec<u8>,
    /// Whether the process is our child: only then its status is for us to take.
    is_own_child: bool,
    status: Option<i32>,
}

/// Event of a child.
pub(crate) enum ChildEvent {
    /// Its incarnation, and its progress.
    Reported(ProcessInfo),
    /// It has exited.
    Exited(ExitCause),
}

impl Child {
    /// Starts the program. Its standard input is a socket to us, in which the exit notice `before` waits.
    pub(crate) fn start(spec: &Spec, before: Option<&ExitNotice>) -> Result<Self, SupervisorError> {
        let (here, there) = StdStream::pair()?;
        here.set_nonblocking(true)?;
        if let Some(line) = before {
            io::Write::write_all(&mut &here, line.text().as_bytes())?;
        }
        let mut command = Command::new(&spec.program);
        // The child feeds the service manager's watchdog: the variable names us.
        command.args(&spec.arguments).stdin(Stdio::from(OwnedFd::from(there))).env_remove("WATCHDOG_PID");
        let child =
            command.spawn().map_err(|cause| SupervisorError::Program { program: spec.program.clone(), cause })?;
        // Not waited for before the pidfd exists, so the number is still its own.
        let pid = Pid::from_child(&child);
        let pidfd = register(pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?)?;
        let pipe = Some(BufReader::new(UnixStream::from_std(here)?));
        Ok(Self {
            pid,
            since: BootInstant::now(),
            info: None,
            pidfd,
            pipe,
            line: Vec::new(),
            is_own_child: true,
            status: None,
        })
    }

    /// Watches a live process. `None` if it has exited meanwhile.
    pub(crate) fn adopt(record: &Record) -> Result<Option<Self>, SupervisorError> {
        let Some(pid) = record.process.number() else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => register(pidfd)?,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        // Checked after the pidfd was opened: the pidfd is of this process, not of one that got the number since.
        if !record.process.is_running() {
            return Ok(None);
        }
        let (since, info) = (BootInstant::now(), record.info);
        Ok(Some(Self { pid, since, info, pidfd, pipe: None, line: Vec::new(), is_own_child: false, status: None }))
    }

    /// Sends a signal. A process that has exited needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(self.pidfd.get_ref(), signal)
            && error != Errno::SRCH
        {
            tracing::warn!(pid = self.pid.as_raw_pid(), %error, "cannot forward a signal to the node");
        }
    }

    /// The next report of the child, or its exit.
    pub(crate) async fn next(&mut self) -> io::Result<ChildEvent> {
        loop {
            let next_line = async {
                let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
                let room = MAX_LINE.saturating_sub(self.line.len() as u64);
                let length = pipe.take(room).read_until(b'\n', &mut self.line).await;
                length.ok().filter(|length| *length > 0).map(|_| std::mem::take(&mut self.line))
            };
            tokio::select! {
                // The exit first: earlier reports are of no more use.
                biased;
                exited = self.pidfd.readable() => {
                    exited?.retain_ready();
                    return Ok(ChildEvent::Exited(self.exit_cause()));
                }
                line = next_line => match line {
                    None => self.pipe = None,
                    Some(line) => {
                        let text = std::str::from_utf8(&line).unwrap_or_default();
                        if let Some(info) = ProcessInfo::parse(text.trim_end()) {
                            self.info = Some(info);
                            return Ok(ChildEvent::Reported(info));
                        }
                    }
                },
            }
        }
    }

    fn exit_cause(&mut self) -> ExitCause {
        if !self.is_own_child {
            return ExitCause::Unknown;
        }
        self.reap();
        self.status.map_or(ExitCause::Unknown, ExitCause::of_wait_status)
    }

    /// Takes the status of every exited child: our own, and as the first process of a container those of others.
    pub(crate) fn reap(&mut self) {
        reap(|pid, status| {
            if self.is_own_child && pid == self.pid {
                self.status = Some(status);
            }
        });
    }
}

/// As [`Child::reap`], while we have no child.
pub(crate) fn reap(mut take: impl FnMut(Pid, i32)) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        take(pid, status.as_raw());
    }
}

fn register(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps its descriptor open, and the same, for as long as it is in there.
    unsafe { AsyncFd::register(pidfd) }.map_err(|error| error.into_parts().1)
}
