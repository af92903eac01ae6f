//! The watching: one loop, one thread. It never waits for a network, a name server or a disk.

use std::{io, sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::{
    signal::unix::{self, SignalKind, signal},
    time::sleep,
};
use tracing::{error, info, warn};
use twinbox_clock::BootInstant;

use crate::{
    Ended, ExitCause, ProcessInfo, RestartDecision, RestartPolicy, ServiceManager, Spec, SupervisorError,
    child::{self, Child, ChildEvent},
    crash_report::ExitNotice,
    pidfile::{self, Found},
    report::Reporter,
};

/// Interval of checks of a process that cannot be identified.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Time for a hanging process to write its core.
const CORE_WITHIN: Duration = Duration::from_secs(5);
/// Maximum delay of a supervisor's end by the last report.
const LAST_REPORT: Duration = Duration::from_millis(500);

/// Supervises until the node has stopped permanently; returns the exit code to pass on.
pub fn run(spec: Spec) -> Result<u8, SupervisorError> {
    let _lock = pidfile::lock_folder(&spec.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let signals = Signals::listen()?;
        let spec = Arc::new(spec);
        let reporter = Reporter::start(spec.clone())?;
        let manager = ServiceManager::from_env();
        let policy = RestartPolicy::default();
        let watch =
            Watch { spec, reporter, manager, signals, policy, serving: false, end_by: None, block_logged: false };
        watch.run().await
    })
}

/// Phase of the supervisor.
enum SupervisorPhase {
    /// The child runs.
    Watching(Child),
    /// The next incarnation starts at this time; it gets the exit notice of the one before.
    Pausing(BootInstant, Option<ExitNotice>),
    /// An unidentified process holds the node's lock.
    Blocked,
}

/// Event to handle.
enum Event {
    Child(ChildEvent),
    Signal(SignalRequest),
    /// A deadline has passed.
    Due,
}

struct Watch {
    spec: Arc<Spec>,
    reporter: Reporter,
    manager: ServiceManager,
    signals: Signals,
    policy: RestartPolicy,
    /// Whether an incarnation has been ready: from then on the service manager's watchdog runs.
    serving: bool,
    /// Time at which the child is killed, once it has been requested to stop.
    end_by: Option<BootInstant>,
    /// Whether the blocking process has been logged.
    block_logged: bool,
}

impl Watch {
    async fn run(mut self) -> Result<u8, SupervisorError> {
        let mut phase = self.find_node()?;
        loop {
            phase = match phase {
                SupervisorPhase::Pausing(at, before) if at <= BootInstant::now() => match self.start(before)? {
                    Ok(next) => next,
                    Err(code) => return Ok(code),
                },
                phase => phase,
            };
            match self.next(&mut phase).await? {
                Event::Child(ChildEvent::Reported(info)) => self.note_report(info),
                Event::Child(ChildEvent::Exited(cause)) => {
                    let SupervisorPhase::Watching(child) = phase else { continue };
                    match self.handle_exit(&child, cause).await {
                        RestartDecision::Again(pause) => {
                            let incarnation = child.info.map(|info| info.incarnation);
                            phase = SupervisorPhase::Pausing(
                                BootInstant::now() + pause,
                                Some(ExitNotice::new(incarnation, cause)),
                            );
                        }
                        RestartDecision::End(code) => return Ok(code),
                    }
                }
                Event::Signal(request) => match (&mut phase, request) {
                    (SupervisorPhase::Watching(child), SignalRequest::Reap) => child.reap(),
                    (_, SignalRequest::Reap) => child::reap(|_, _| {}),
                    (SupervisorPhase::Watching(child), SignalRequest::Stop) => {
                        child.signal(Signal::TERM);
                        let by = BootInstant::now() + self.spec.patience;
                        self.end_by.get_or_insert(by);
                    }
                    (SupervisorPhase::Watching(child), SignalRequest::Abort) => {
                        error!("the watchdog reports that the node hangs; sending SIGABRT");
                        child.signal(Signal::ABORT);
                        self.end_by = Some(BootInstant::now() + CORE_WITHIN);
                    }
                    (_, SignalRequest::Stop | SignalRequest::Abort) => return Ok(0),
                },
                Event::Due => match &phase {
                    SupervisorPhase::Watching(child) if self.end_by.is_some_and(|by| by <= BootInstant::now()) => {
                        warn!("the node has not stopped in time; sending SIGKILL");
                        child.signal(Signal::KILL);
                        self.end_by = Some(BootInstant::now() + CORE_WITHIN);
                    }
                    SupervisorPhase::Blocked => phase = self.find_node()?,
                    _ => {}
                },
            }
        }
    }

    /// Finds the node's process left behind by an earlier supervisor.
    fn find_node(&mut self) -> Result<SupervisorPhase, SupervisorError> {
        match pidfile::find_process(&self.spec.data_dir)? {
            Found::NotRunning(last) => {
                let info = last.and_then(|record| record.info);
                if let Some(info) = info {
                    self.reporter.note_exit(&info, ExitCause::Unknown);
                }
                let before = info.map(|info| ExitNotice::new(Some(info.incarnation), ExitCause::Unknown));
                Ok(SupervisorPhase::Pausing(BootInstant::now(), before))
            }
            Found::Running(record) => match Child::adopt(&record)? {
                Some(child) => {
                    info!(pid = child.pid.as_raw_pid(), "watching a node started by an earlier supervisor");
                    if let Some(info) = child.info {
                        self.note_report(info);
                        if info.ready {
                            // Its own message went to the service manager before this supervisor was started.
                            self.manager.report("READY=1");
                        }
                    }
                    Ok(SupervisorPhase::Watching(child))
                }
                None => Ok(SupervisorPhase::Blocked),
            },
            Found::Unclear => {
                if !std::mem::replace(&mut self.block_logged, true) {
                    warn!("the pid file is locked by a process that cannot be identified; waiting for its exit");
                }
                Ok(SupervisorPhase::Blocked)
            }
        }
    }

    /// Starts the next incarnation; the error is an exit code. Only the first start may fail: then the supervisor ends.
    fn start(&mut self, before: Option<ExitNotice>) -> Result<Result<SupervisorPhase, u8>, SupervisorError> {
        match Child::start(&self.spec, before.as_ref()) {
            Ok(child) => {
                if before.is_some() {
                    info!(pid = child.pid.as_raw_pid(), "node restarted");
                }
                Ok(Ok(SupervisorPhase::Watching(child)))
            }
            Err(error) if !self.serving => Err(error),
            Err(error) => {
                warn!(%error, "cannot restart the node");
                let end =
                    Ended { cause: ExitCause::Code(1), uptime: Duration::ZERO, ready: false, stopping: false };
                Ok(match self.policy.ended(&end) {
                    RestartDecision::Again(pause) => {
                        Ok(SupervisorPhase::Pausing(BootInstant::now() + pause, before))
                    }
                    RestartDecision::End(code) => Err(code),
                })
            }
        }
    }

    fn note_report(&mut self, info: ProcessInfo) {
        self.reporter.note_running(&info);
        if info.ready {
            self.serving = true;
            self.policy.proven();
        }
    }

    async fn handle_exit(&mut self, child: &Child, cause: ExitCause) -> RestartDecision {
        // The exit proof first: everything else can wait.
        if let Some(info) = &child.info {
            self.reporter.note_exit(info, cause);
        }
        let uptime = child.since.elapsed();
        let ready = child.info.is_some_and(|info| info.ready);
        let decision = self.policy.ended(&Ended { cause, uptime, ready, stopping: self.end_by.is_some() });
        let pid = child.pid.as_raw_pid();
        match decision {
            RestartDecision::Again(pause) => {
                error!(pid, %cause, ?uptime, restart_in = ?pause, "the node's process has exited; it is restarted");
            }
            RestartDecision::End(0) => info!(pid, ?uptime, "the node has stopped"),
            RestartDecision::End(_) => {
                error!(pid, %cause, ?uptime, "the node's process has exited; the supervisor exits too");
                if ready {
                    self.reporter.all_acked(LAST_REPORT).await;
                }
            }
        }
        decision
    }

    /// The next event.
    async fn next(&mut self, phase: &mut SupervisorPhase) -> io::Result<Event> {
        let at = BootInstant::now();
        let ready = matches!(phase, SupervisorPhase::Watching(child) if child.info.is_some_and(|info| info.ready));
        // A ready node notifies the service manager itself; until then only the supervisor can.
        let watchdog = self.manager.watchdog_interval().filter(|_| self.serving && !ready);
        if watchdog.is_some() {
            self.manager.keep_alive("WATCHDOG=1");
        }
        let due = match phase {
            SupervisorPhase::Watching(_) => self.end_by.map(|by| by.since(at)),
            SupervisorPhase::Pausing(until, _) => Some(until.since(at)),
            SupervisorPhase::Blocked => Some(LOOK_AGAIN),
        };
        let due = due.into_iter().chain(watchdog).min();
        let child_event = async {
            match phase {
                SupervisorPhase::Watching(child) => child.next().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            event = child_event => Ok(Event::Child(event?)),
            request = self.signals.next() => Ok(Event::Signal(request)),
            () = sleep(due.unwrap_or_default()), if due.is_some() => Ok(Event::Due),
        }
    }
}

/// Action requested by a signal.
enum SignalRequest {
    Stop,
    /// The service manager's watchdog.
    Abort,
    Reap,
}

struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    abort: unix::Signal,
    child: unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            abort: signal(SignalKind::from_raw(Signal::ABORT.as_raw()))?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.terminate.recv() => SignalRequest::Stop,
            _ = self.interrupt.recv() => SignalRequest::Stop,
            _ = self.abort.recv() => SignalRequest::Abort,
            _ = self.child.recv() => SignalRequest::Reap,
        }
    }
}
