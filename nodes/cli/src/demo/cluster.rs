//! The demo's processes: started, stopped, asked.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_wire::admin::{ClusterStatusReply, ClusterStatusRequest};

use super::plan::{Demo, Process};
use crate::{client, commands::cluster::all_in_service, error::CliError};

/// How long any one step of the demo may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The running demo. Dropping it ends all processes.
pub struct Cluster {
    dir: PathBuf,
    /// What `demo.json` says.
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
            // A group of its own: Ctrl-C reaches the demo, and the demo stops its processes in order.
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
            // The node itself is known once it answers.
            Some(supervisor) => (*supervisor, process.pid) = (child.id(), 0),
            None => process.pid = child.id(),
        }
        self.children[i] = Some(child);
        self.demo.save(&self.dir)
    }

    /// Ends process `i` as a power switch would: `kill -9`, a node's supervisor first, which would start it again.
    pub fn kill(&mut self, i: usize) -> Result<(), CliError> {
        if let Some(mut child) = self.children[i].take() {
            child.kill().and_then(|()| child.wait()).map_err(CliError::failed)?;
        }
        let process = &mut self.demo.processes[i];
        if process.supervisor.is_some()
            && let Some(pid) = rustix::process::Pid::from_raw(process.pid.cast_signed())
        {
            // One that has ended already is what we want.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        process.is_over();
        self.demo.save(&self.dir)
    }

    /// Writes down under which process ids the nodes run now, as they say.
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

    /// Asks all processes to stop and waits; whoever does not is killed.
    pub async fn stop(&mut self) -> Result<(), CliError> {
        for child in self.children.iter().flatten() {
            if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
                // One that has ended already is what we want.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let began = BootInstant::now();
        for (child, process) in self.children.iter_mut().zip(&mut self.demo.processes) {
            let Some(mut running) = child.take() else { continue };
            while running.try_wait().map_err(CliError::failed)?.is_none() {
                if began.elapsed() > PATIENCE {
                    running.kill().and_then(|()| running.wait()).map_err(CliError::failed)?;
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            process.is_over();
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
            .ok_or_else(|| CliError::Failed(format!("{} is no node", self.demo.processes[i].name)))
    }

    /// What node `i` knows of the cluster.
    pub async fn status(&mut self, i: usize) -> Result<ClusterStatusReply, CliError> {
        let mut node = client::connect(self.socket(i)?).await?;
        let status = node.cluster_status(ClusterStatusRequest {}).await?.into_inner();
        self.note_pids(&status)?;
        Ok(status)
    }

    /// Waits until node `i` says that all members are in service and a peer counts on every node.
    pub async fn wait_in_service(&mut self, i: usize) -> Result<(), CliError> {
        let began = BootInstant::now();
        loop {
            let last = match self.status(i).await {
                Ok(status) if all_in_service(&status) && all_counted(&status) => return Ok(()),
                Ok(status) => crate::commands::cluster::render(&status),
                Err(error) => error.to_string(),
            };
            self.check_alive()?;
            if began.elapsed() > PATIENCE {
                return Err(CliError::Failed(format!("not in service after {} s:\n{last}", PATIENCE.as_secs())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A process that ended by itself is a failure, with the end of its log.
    pub fn check_alive(&mut self) -> Result<(), CliError> {
        for (child, process) in self.children.iter_mut().zip(&self.demo.processes) {
            let Some(running) = child else { continue };
            if let Some(status) = running.try_wait().map_err(CliError::failed)? {
                *child = None;
                let log = std::fs::read_to_string(&process.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n  ");
                return Err(CliError::Failed(format!(
                    "{} ended ({status}); {} says:\n  {tail}",
                    process.name,
                    process.log.display()
                )));
            }
        }
        Ok(())
    }
}

impl Process {
    fn is_over(&mut self) {
        self.pid = 0;
        self.supervisor = self.supervisor.map(|_| 0);
    }
}

/// Every node has a peer that takes copies: what is acknowledged now is acknowledged on two.
fn all_counted(status: &ClusterStatusReply) -> bool {
    status
        .members
        .iter()
        .filter(|m| m.kind == "node")
        .all(|m| m.info.as_ref().is_some_and(|info| info.peers_counting > 0))
}
