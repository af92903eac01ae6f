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
    Ended, How, Life, Policy, ServiceManager, Spec, SupervisorError, Verdict,
    child::{self, Child, Said},
    pidfile::{self, Found},
    report::Reporter,
    words::Line,
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
        let manager = ServiceManager::of_environment();
        let policy = Policy::default();
        let watch = Watch { spec, reporter, manager, signals, policy, serving: false, end_by: None, barred: false };
        watch.run().await
    })
}

/// Phase of the supervisor.
enum Now {
    /// The child runs.
    Watching(Child),
    /// The next incarnation starts at this time; it gets the exit notice of the one before.
    Pausing(BootInstant, Option<Line>),
    /// An unidentified process holds the node's lock.
    Barred,
}

/// Event to handle.
enum Event {
    Said(Said),
    Asked(Asked),
    /// A deadline has passed.
    Due,
}

struct Watch {
    spec: Arc<Spec>,
    reporter: Reporter,
    manager: ServiceManager,
    signals: Signals,
    policy: Policy,
    /// Whether an incarnation has been ready: from then on the service manager's watchdog runs.
    serving: bool,
    /// Time at which the child is killed, once it has been told to end.
    end_by: Option<BootInstant>,
    /// Whether the blocking process has been logged.
    barred: bool,
}

impl Watch {
    async fn run(mut self) -> Result<u8, SupervisorError> {
        let mut now = self.look()?;
        loop {
            now = match now {
                Now::Pausing(at, before) if at <= BootInstant::now() => match self.start(before)? {
                    Ok(next) => next,
                    Err(code) => return Ok(code),
                },
                now => now,
            };
            match self.next(&mut now).await? {
                Event::Said(Said::Life(life)) => self.heard(life),
                Event::Said(Said::Exited(how)) => {
                    let Now::Watching(child) = now else { continue };
                    match self.ended(&child, how).await {
                        Verdict::Again(pause) => {
                            let life = child.life.map(|life| life.incarnation);
                            now = Now::Pausing(BootInstant::now() + pause, Some(Line::new(life, how)));
                        }
                        Verdict::End(code) => return Ok(code),
                    }
                }
                Event::Asked(asked) => match (&mut now, asked) {
                    (Now::Watching(child), Asked::Reap) => child.reap(),
                    (_, Asked::Reap) => child::reap(|_, _| {}),
                    (Now::Watching(child), Asked::Stop) => {
                        child.signal(Signal::TERM);
                        let by = BootInstant::now() + self.spec.patience;
                        self.end_by.get_or_insert(by);
                    }
                    (Now::Watching(child), Asked::Abort) => {
                        error!("the service manager's watchdog says that the node hangs: it is ended");
                        child.signal(Signal::ABORT);
                        self.end_by = Some(BootInstant::now() + CORE_WITHIN);
                    }
                    (_, Asked::Stop | Asked::Abort) => return Ok(0),
                },
                Event::Due => match &now {
                    Now::Watching(child) if self.end_by.is_some_and(|by| by <= BootInstant::now()) => {
                        warn!("the node does not end: it is killed");
                        child.signal(Signal::KILL);
                        self.end_by = Some(BootInstant::now() + CORE_WITHIN);
                    }
                    Now::Barred => now = self.look()?,
                    _ => {}
                },
            }
        }
    }

    /// Finds the node's process left behind by an earlier supervisor.
    fn look(&mut self) -> Result<Now, SupervisorError> {
        match pidfile::look(&self.spec.data_dir)? {
            Found::Nobody(last) => {
                let life = last.and_then(|record| record.life);
                if let Some(life) = life {
                    self.reporter.exited(&life, How::Unseen);
                }
                let before = life.map(|life| Line::new(Some(life.incarnation), How::Unseen));
                Ok(Now::Pausing(BootInstant::now(), before))
            }
            Found::Running(record) => match Child::adopt(&record)? {
                Some(child) => {
                    info!(pid = child.pid.as_raw_pid(), "watches a node that an earlier supervisor has started");
                    if let Some(life) = child.life {
                        self.heard(life);
                        if life.ready {
                            // Its own message went to the service manager before this supervisor was started.
                            self.manager.tell("READY=1");
                        }
                    }
                    Ok(Now::Watching(child))
                }
                None => Ok(Now::Barred),
            },
            Found::Unclear => {
                if !std::mem::replace(&mut self.barred, true) {
                    warn!("a process that cannot be seen from here runs this node: waiting for its end");
                }
                Ok(Now::Barred)
            }
        }
    }

    /// Starts the next incarnation; the error is an exit code. Only the first start may fail: then the supervisor ends.
    fn start(&mut self, before: Option<Line>) -> Result<Result<Now, u8>, SupervisorError> {
        match Child::start(&self.spec, before.as_ref()) {
            Ok(child) => {
                if before.is_some() {
                    info!(pid = child.pid.as_raw_pid(), "the node is started again");
                }
                Ok(Ok(Now::Watching(child)))
            }
            Err(error) if !self.serving => Err(error),
            Err(error) => {
                warn!(%error, "the node could not be started again");
                let end = Ended { how: How::Code(1), lived: Duration::ZERO, ready: false, stopping: false };
                Ok(match self.policy.ended(&end) {
                    Verdict::Again(pause) => Ok(Now::Pausing(BootInstant::now() + pause, before)),
                    Verdict::End(code) => Err(code),
                })
            }
        }
    }

    fn heard(&mut self, life: Life) {
        self.reporter.begun(&life);
        if life.ready {
            self.serving = true;
            self.policy.proven();
        }
    }

    async fn ended(&mut self, child: &Child, how: How) -> Verdict {
        // The exit proof first: everything else can wait.
        if let Some(life) = &child.life {
            self.reporter.exited(life, how);
        }
        let lived = child.since.elapsed();
        let ready = child.life.is_some_and(|life| life.ready);
        let verdict = self.policy.ended(&Ended { how, lived, ready, stopping: self.end_by.is_some() });
        let pid = child.pid.as_raw_pid();
        match verdict {
            Verdict::Again(pause) => error!(pid, %how, ?lived, again_in = ?pause, "the node's process has ended"),
            Verdict::End(0) => info!(pid, ?lived, "the node has stopped"),
            Verdict::End(_) => {
                error!(pid, %how, ?lived, "the node's process has ended, and so does its supervisor");
                if ready {
                    self.reporter.all_told(LAST_REPORT).await;
                }
            }
        }
        verdict
    }

    /// The next event.
    async fn next(&mut self, now: &mut Now) -> io::Result<Event> {
        let at = BootInstant::now();
        let ready = matches!(now, Now::Watching(child) if child.life.is_some_and(|life| life.ready));
        // A ready node notifies the service manager itself; until then only the supervisor can.
        let beat = self.manager.beat().filter(|_| self.serving && !ready);
        if beat.is_some() {
            self.manager.tell("WATCHDOG=1");
        }
        let due = match now {
            Now::Watching(_) => self.end_by.map(|by| by.since(at)),
            Now::Pausing(until, _) => Some(until.since(at)),
            Now::Barred => Some(LOOK_AGAIN),
        };
        let due = due.into_iter().chain(beat).min();
        let said = async {
            match now {
                Now::Watching(child) => child.next().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            said = said => Ok(Event::Said(said?)),
            asked = self.signals.next() => Ok(Event::Asked(asked)),
            () = sleep(due.unwrap_or_default()), if due.is_some() => Ok(Event::Due),
        }
    }
}

/// Action requested by a signal.
enum Asked {
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

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.abort.recv() => Asked::Abort,
            _ = self.child.recv() => Asked::Reap,
        }
    }
}
