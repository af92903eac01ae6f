//! Processes of the demo: start, stop and requests.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use twinbox_admin_client::{CliError, client};
use twinbox_clock::BootInstant;
use twinbox_wire::admin::{ClusterStatusReply, ClusterStatusRequest};

use super::plan::{Demo, Process};
use crate::members;

/// Timeout of each step of the demo.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The running demo. Dropping it ends all processes.
pub struct Cluster {
    dir: PathBuf,
    /// Content of `demo.json`.
    pub demo: Demo,
    children: Vec<Option<Child>>,
}

impl Cluster {
    /// Starts every process.
    pub fn start(dir: &Path, demo: Demo) -> Result<Self, CliError> {
        let dir = std::path::absolute(dir).map_err(CliError::failed)?;
        let children = demo.processes.iter().map(|_| None).collect();
        let mut cluster = Self { dir, demo, children };
        for i in 0..cluster.demo.processes.len() {
            cluster.start_one(i)?;
        }
        Ok(cluster)
    }

    /// Starts process `i` of the list.
    pub fn start_one(&mut self, i: usize) -> Result<(), CliError> {
        let process = &self.demo.processes[i];
        let failed = |e: std::io::Error| CliError::Failed(format!("cannot start {}: {e}", process.name));
        let log = File::options().create(true).append(true).open(&process.log).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .arg(&process.kind)
            .arg("--config")
            .arg(&process.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // Separate process group: Ctrl-C reaches only the demo, which stops its processes in order.
            .process_group(0);
        // SAFETY: prctl with these arguments touches no memory and is async-signal-safe.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().map_err(failed)?;
        let process = &mut self.demo.processes[i];
        match &mut process.supervisor {
            // The process id of the node is known after it answers.
            Some(supervisor) => (*supervisor, process.pid) = (child.id(), 0),
            None => process.pid = child.id(),
        }
        self.children[i] = Some(child);
        self.demo.save(&self.dir)
    }

    /// Ends process `i` like a power failure: `kill -9`, the supervisor of a node first, because it would restart
    /// the node.
    pub fn kill(&mut self, i: usize) -> Result<(), CliError> {
        if let Some(mut child) = self.children[i].take() {
            child.kill().and_then(|()| child.wait()).map_err(CliError::failed)?;
        }
        let process = &mut self.demo.processes[i];
        if process.supervisor.is_some()
            && let Some(pid) = rustix::process::Pid::from_raw(process.pid.cast_signed())
        {
            // The process may have ended already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        process.mark_ended();
        self.demo.save(&self.dir)
    }

    /// Records the process ids of the nodes, as reported by them.
    fn note_pids(&mut self, status: &ClusterStatusReply) -> Result<(), CliError> {
        let mut changed = false;
        for process in self.demo.processes.iter_mut().filter(|p| p.supervisor.is_some_and(|pid| pid > 0)) {
            let info = status.members.iter().find(|m| m.name == process.name).and_then(|m| m.info.as_ref());
            if let Some(info) = info.filter(|info| info.pid != process.pid) {
                (process.pid, changed) = (info.pid, true);
            }
        }
        if changed { self.demo.save(&self.dir) } else { Ok(()) }
    }

    /// Requests all processes to stop and waits; kills those that do not stop in time.
    pub async fn stop(&mut self) -> Result<(), CliError> {
        for child in self.children.iter().flatten() {
            if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
                // The process may have ended already.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let began = BootInstant::now();
        for (child, process) in self.children.iter_mut().zip(&mut self.demo.processes) {
            let Some(mut running) = child.take() else { continue };
            while running.try_wait().map_err(CliError::failed)?.is_none() {
                if began.elapsed() > TIMEOUT {
                    running.kill().and_then(|()| running.wait()).map_err(CliError::failed)?;
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            process.mark_ended();
        }
        self.demo.save(&self.dir)
    }

    /// A process of the list.
    pub fn process(&self, i: usize) -> &Process {
        &self.demo.processes[i]
    }

    /// The administrators' socket of node `i`.
    pub fn socket(&self, i: usize) -> Result<&Path, CliError> {
        self.demo.processes[i]
            .addresses
            .admin
            .as_deref()
            .ok_or_else(|| CliError::Failed(format!("{} is not a node", self.demo.processes[i].name)))
    }

    /// Status of the cluster, as node `i` reports it.
    pub async fn status(&mut self, i: usize) -> Result<ClusterStatusReply, CliError> {
        let mut node = client::connect(self.socket(i)?).await?;
        let status = node.cluster_status(ClusterStatusRequest {}).await?.into_inner();
        self.note_pids(&status)?;
        Ok(status)
    }

    /// Waits until node `i` reports that all members are in service and every node has a peer that counts.
    pub async fn wait_in_service(&mut self, i: usize) -> Result<(), CliError> {
        let began = BootInstant::now();
        loop {
            let last = match self.status(i).await {
                Ok(status) if client::all_in_service(&status) && all_counted(&status) => return Ok(()),
                Ok(status) => members(&status),
                Err(error) => error.to_string(),
            };
            self.check_running()?;
            if began.elapsed() > TIMEOUT {
                return Err(CliError::Failed(format!("not in service after {} s:\n{last}", TIMEOUT.as_secs())));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Fails with the end of its log if a process has ended unexpectedly.
    pub fn check_running(&mut self) -> Result<(), CliError> {
        for (child, process) in self.children.iter_mut().zip(&self.demo.processes) {
            let Some(running) = child else { continue };
            if let Some(status) = running.try_wait().map_err(CliError::failed)? {
                *child = None;
                let log = std::fs::read_to_string(&process.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n  ");
                return Err(CliError::Failed(format!(
                    "{} ended ({status}); end of {}:\n  {tail}",
                    process.name,
                    process.log.display()
                )));
            }
        }
        Ok(())
    }
}

impl Process {
    fn mark_ended(&mut self) {
        self.pid = 0;
        self.supervisor = self.supervisor.map(|_| 0);
    }
}

/// Whether every node has a peer that takes copies: from now on writes are acknowledged on two.
fn all_counted(status: &ClusterStatusReply) -> bool {
    status
        .members
        .iter()
        .filter(|m| m.kind == "node")
        .all(|m| m.info.as_ref().is_some_and(|info| info.peers_counting > 0))
}
