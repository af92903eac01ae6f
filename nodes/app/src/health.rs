//! Health of a node's services: each is checked in a separate task, restarted where that helps, shown, and reported
//! to the role manager, which moves duty and role.

mod checks;
mod cpu;
mod probe;
mod tally;
mod ward;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use twinbox_alarms::{Code, Kind};
use twinbox_clock::BootInstant;
use twinbox_roles::{HealthReport, ServiceHealth, Status};

use crate::{
    drift::Drift,
    lights::Lamps,
    members::{NodeFacts, Others},
    node::Node,
    roles::serves_elsewhere,
    selftest::SelfTests,
    watchdog::Pulse,
};

use cpu::Load;
pub use probe::Verdict;
use probe::{Pace, Probe};
pub use tally::{BOUNDS_US, Tally};
use ward::Ward;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Fixed properties of a service.
struct About {
    name: &'static str,
    /// A node without this service is not in service: the role manager gets a report.
    critical: bool,
    /// A node without this service cannot take calls.
    carries_calls: bool,
    /// An orderly stop of the node ends this service first, while calls in progress go on.
    ends_first: bool,
    /// Way to restart the service; `Err`: reason why that is impossible.
    restart: Result<Restart, &'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    Calls,
    Notifier,
}

/// All services, in display order.
const SERVICES: [About; 9] = [
    About { name: "calls", critical: true, carries_calls: true, ends_first: true, restart: Ok(Restart::Calls) },
    About {
        name: "media",
        critical: true,
        carries_calls: true,
        ends_first: false,
        restart: Err("its threads carry every call: drain the node ('twinbox cluster deactivate') and restart it"),
    },
    About {
        name: "store",
        critical: true,
        carries_calls: true,
        ends_first: false,
        restart: Err(
            "it is opened once in the life of a process (a failed disk is never written again): restart the node",
        ),
    },
    About {
        name: "replication",
        critical: true,
        carries_calls: false,
        ends_first: false,
        restart: Err("its streams begin anew by themselves: see 'twinbox cluster status' for the peer"),
    },
    About {
        name: "space",
        critical: true,
        carries_calls: true,
        ends_first: false,
        restart: Err("free space on the data disk, or move node.data_dir"),
    },
    About {
        name: ROLE_MANAGER,
        critical: true,
        carries_calls: false,
        ends_first: true,
        restart: Err("its tasks are started again automatically; if one goes on failing, restart the node"),
    },
    About {
        name: "notifier",
        critical: true,
        carries_calls: false,
        ends_first: true,
        restart: Ok(Restart::Notifier),
    },
    About {
        name: "clock",
        critical: false,
        carries_calls: false,
        ends_first: false,
        restart: Err("synchronise the machine's clock (chrony, systemd-timesyncd)"),
    },
    About {
        name: "cpu",
        critical: false,
        carries_calls: false,
        ends_first: false,
        restart: Err("give the machine or the container more, or find what uses it"),
    },
];

impl About {
    /// Judges the result of a check: a service ended by an orderly stop has not failed.
    fn judge(&self, checked: Verdict, stopping: bool) -> Verdict {
        if stopping && self.ends_first { Ok(()) } else { checked }
    }
}

/// Name of the role manager as a service and in alarms.
pub(crate) const ROLE_MANAGER: &str = "role-manager";

/// State of a service at the latest check.
#[derive(Debug, Clone)]
pub struct Service {
    /// One of the names of [`SERVICES`].
    pub name: &'static str,
    /// Whether the service works.
    pub ok: bool,
    /// Reason of the failure as text.
    pub detail: String,
    /// Number of local restarts since the process began.
    pub restarts: u32,
    /// Time of the latest change between working and failed.
    pub since: BootInstant,
    /// Reason of the latest failure.
    pub last_error: String,
    /// Whether a failure takes the node out of service.
    pub critical: bool,
}

/// Measures with which the role manager chooses a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// CPU use over the last minute, 0 to 1000 ‰ of the permitted CPU time.
    pub cpu_permille: u32,
    /// Free space on the data disk, in bytes.
    pub free_bytes: u64,
}

/// Reason why a service is not restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartRefused {
    /// No service has this name.
    #[error("there is no service '{name}'{}: services are {}", near(.name), names())]
    Unknown {
        /// Name as given.
        name: String,
    },
    /// The service cannot be restarted separately.
    #[error("{name} cannot be restarted by itself: {why}")]
    Impossible {
        /// Name of the service.
        name: &'static str,
        /// Reason and remedy.
        why: &'static str,
    },
    /// The restart would end calls.
    #[error("restarting calls would end {calls} in progress: wait until they are over, or say --force")]
    Calls {
        /// Number of calls in progress.
        calls: usize,
    },
    /// The node stops.
    #[error("this node is stopping: start it again instead")]
    Stopping,
    /// A restart is already in progress.
    #[error("{0} is being restarted already")]
    UnderWay(&'static str),
    /// The restart failed.
    #[error("{name} could not be started again: {why}")]
    Failed {
        /// Name of the service.
        name: &'static str,
        /// Reason of the failure.
        why: String,
    },
}

fn near(name: &str) -> String {
    let known: Vec<&str> = SERVICES.iter().map(|about| about.name).collect();
    crate::config::nearest(name, &known).map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default()
}

fn names() -> String {
    SERVICES.iter().map(|about| about.name).collect::<Vec<_>>().join(", ")
}

/// Latest results of the checks, and the objects that measure.
#[derive(Default)]
pub struct Health {
    services: Mutex<Vec<Service>>,
    wards: Mutex<BTreeMap<&'static str, Ward>>,
    load: Mutex<Load>,
    /// CPU use in the last second, in ‰.
    cpu_now: AtomicU32,
    /// Free space at the latest check of `space`: readers must not wait for a disk.
    free: Mutex<Option<u64>>,
    /// Durations of durable writes.
    pub writes: Tally,
    /// Test calls of the node to itself.
    pub self_tests: Arc<SelfTests>,
    /// Heartbeat of the event loop.
    pub pulse: Arc<Pulse>,
    /// Comparison with the other members.
    pub drift: Arc<Drift>,
    /// Command of the role manager that was set aside last, as in the alarm.
    set_aside: Mutex<Option<Arc<str>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Health {
    /// Services at the latest check; empty before the first check.
    pub fn services(&self) -> Vec<Service> {
        lock(&self.services).clone()
    }

    /// Reason why this node takes no calls; `None` if it takes calls.
    pub fn why_not_ready(&self, node: &Node) -> Option<String> {
        let services = self.services();
        match node.calls() {
            _ if services.is_empty() => Some("starting".to_owned()),
            _ if self.pulse.hung() => Some("the event loop hangs".to_owned()),
            None => Some("the SIP door is not open".to_owned()),
            Some(_) if !node.store.filled().has_records() => Some(format!("replicating: {}", node.store.filled())),
            Some(calls) if calls.draining() => Some("draining: new calls go elsewhere".to_owned()),
            Some(_) => unable(&services).map(|service| format!("{}: {}", service.name, service.detail)),
        }
    }

    /// Measures for the role manager; `None` before they are known.
    pub fn measured(&self) -> Option<Measured> {
        let free_bytes = (*lock(&self.free))?;
        Some(Measured { cpu_permille: lock(&self.load).sustained(), free_bytes })
    }

    /// CPU use in the last second, in ‰.
    pub fn cpu_now(&self) -> u32 {
        self.cpu_now.load(Relaxed)
    }

    /// Checks, restarts and reports, until stopped.
    pub async fn watch(
        self: Arc<Self>,
        node: Arc<Node>,
        facts: Arc<NodeFacts>,
        others: Arc<Others>,
        stop: CancellationToken,
    ) {
        let tasks = TaskTracker::new();
        tasks.spawn(self.pulse.clone().run(stop.clone()));
        tasks.spawn(self.drift.clone().watch(node.clone(), facts, others.clone(), stop.clone()));
        if let Some(every) = node.config.self_test {
            tasks.spawn(self.self_tests.clone().run(node.clone(), every, stop.clone()));
        }
        let probes = checks::start(&self, &node, &tasks, &stop);
        let mut look = crate::beat::every(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = stop.cancelled() => return,
            }
            let Some(verdicts) = gather(&probes, BootInstant::now()) else { continue };
            let mut seen = Vec::new();
            let stopping = node.is_stopping();
            for (about, verdict) in SERVICES.iter().zip(verdicts) {
                seen.push(self.care(about, about.judge(verdict, stopping), &node, &others));
            }
            node.roles.report(HealthReport {
                services: seen
                    .iter()
                    .filter(|service| service.critical)
                    .map(|s| ServiceHealth { name: s.name.to_owned(), ok: s.ok, detail: s.detail.clone() })
                    .collect(),
            });
            self.note(&node, seen);
            self.tell_set_aside(&node);
            self.set_door(&node);
        }
    }

    /// Judges a service by its checks, and begins a restart where that may help.
    fn care(self: &Arc<Self>, about: &About, verdict: Verdict, node: &Arc<Node>, others: &Arc<Others>) -> Service {
        // A restart of the SIP server ends every call: permitted only if the server has failed, or has no calls.
        let harmless = about.restart != Ok(Restart::Calls)
            || node
                .calls()
                .is_none_or(|calls| !calls.health().ok || (calls.active() == 0 && self.self_tests.worth_mending()));
        let mut wards = lock(&self.wards);
        let ward = wards.entry(about.name).or_default();
        let (verdict, restart) = ward.judge(BootInstant::now(), verdict, about.restart.is_ok() && harmless);
        let restarts = ward.restarts();
        drop(wards);
        if let (true, Ok(how)) = (restart, about.restart) {
            let (health, name, node, others) = (self.clone(), about.name, node.clone(), others.clone());
            warn!(service = name, "restarting the service");
            tokio::spawn(async move {
                if let Err(failed) = health.carry_out(name, how, &node, &others).await {
                    error!(service = name, %failed, "the service could not be restarted");
                }
            });
        }
        let detail = verdict.err().unwrap_or_default();
        Service {
            name: about.name,
            ok: detail.is_empty(),
            restarts,
            since: BootInstant::now(),
            last_error: detail.clone(),
            critical: about.critical,
            detail,
        }
    }

    /// Restarts a service at an administrator's request.
    pub async fn restart(
        &self,
        name: &str,
        force: bool,
        node: &Arc<Node>,
        others: &Arc<Others>,
    ) -> Result<(), RestartRefused> {
        let (name, how) = may_restart(name)?;
        if node.is_stopping() {
            return Err(RestartRefused::Stopping);
        }
        let calls = node.calls().map_or(0, |calls| calls.active());
        if how == Restart::Calls && calls > 0 && !force {
            return Err(RestartRefused::Calls { calls });
        }
        if !lock(&self.wards).entry(name).or_default().begin_restart(BootInstant::now()) {
            return Err(RestartRefused::UnderWay(name));
        }
        info!(service = name, "restarted by an administrator");
        let outcome = self.carry_out(name, how, node, others).await;
        outcome.map_err(|why| RestartRefused::Failed { name, why })
    }

    async fn carry_out(
        &self,
        name: &'static str,
        how: Restart,
        node: &Arc<Node>,
        others: &Arc<Others>,
    ) -> Result<(), String> {
        let outcome = match how {
            Restart::Calls => {
                self.self_tests.mended();
                node.open_calls().await.map_err(|error| whole(&error))
            }
            Restart::Notifier => {
                node.start_notifier(Lamps::new(node.clone(), others.clone()));
                Ok(())
            }
        };
        lock(&self.wards).entry(name).or_default().restarted();
        node.alarms.event(Kind::ServiceRestarted, name, outcome.as_ref().err().map_or("", String::as_str));
        outcome
    }

    /// Stores the results; a change is logged and raises or clears an alarm.
    fn note(&self, node: &Node, mut seen: Vec<Service>) {
        let mut services = lock(&self.services);
        for now in &mut seen {
            let before = services.iter().find(|s| s.name == now.name);
            if let Some(before) = before {
                if before.ok == now.ok {
                    now.since = before.since;
                }
                if now.ok {
                    now.last_error.clone_from(&before.last_error);
                }
            }
            let code = alarm(now.name);
            // Also reported at the start: an alarm of an earlier incarnation ends or continues.
            match before {
                Some(before) if before.ok == now.ok => {}
                _ if !now.ok => {
                    error!(service = now.name, detail = now.detail, "a service has failed");
                    node.alarms.raise(code, subject(code, now.name, node), &now.detail);
                }
                before => {
                    if before.is_some() {
                        info!(service = now.name, "the service works again");
                    }
                    node.alarms.clear(code, subject(code, now.name, node));
                }
            }
        }
        *services = seen;
    }

    /// Raises an alarm for a command of the role manager that was set aside (rule R11).
    fn tell_set_aside(&self, node: &Node) {
        let aside = node.roles.set_aside();
        let mut told = lock(&self.set_aside);
        if let Some(words) = aside.as_ref().filter(|_| *told != aside) {
            node.alarms.raise(Code::ChangeSetAside, ROLE_MANAGER, &**words);
        }
        *told = aside;
    }

    /// Admits or refuses new calls: by an administrator's order, after a hung event loop has recovered, or if this
    /// node could not serve them while another can.
    fn set_door(&self, node: &Node) {
        let Some(calls) = node.calls().filter(|calls| !calls.leaving()) else { return };
        let view = node.roles.watch().borrow().clone();
        let status = view.members.iter().find(|member| member.name == node.name).map(|member| member.status);
        let another = serves_elsewhere(&view, &node.name);
        let closed = why_closed(status, another, &self.services());
        match closed {
            Some(why) if !calls.draining() => {
                info!("{why}: new calls get 503, those in progress go on");
                calls.drain();
            }
            None if calls.draining() && !self.pulse.hung() => {
                info!("calls are taken again");
                calls.undrain();
            }
            _ => {}
        }
    }
}

/// An error with all its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// First failed service without which no call can be taken.
fn unable(services: &[Service]) -> Option<&Service> {
    let carries =
        |service: &&Service| SERVICES.iter().any(|about| about.name == service.name && about.carries_calls);
    services.iter().filter(|service| !service.ok).find(carries)
}

/// Reason why new calls must go to another node, if so. The last serving node takes them regardless of failed
/// services (rule R9).
fn why_closed(status: Option<Status>, another_serves: bool, services: &[Service]) -> Option<String> {
    match status? {
        out @ (Status::Deactivated | Status::Leaving) => Some(out.to_string()),
        Status::NotFunctioning if another_serves => {
            unable(services).map(|failed| format!("{} has failed and another node serves", failed.name))
        }
        _ => None,
    }
}

fn alarm(service: &str) -> Code {
    match service {
        "space" => Code::Space,
        "clock" => Code::Clock,
        "cpu" => Code::Cpu,
        _ => Code::ServiceFailed,
    }
}

fn subject<'a>(code: Code, service: &'a str, node: &'a Node) -> &'a str {
    if code == Code::ServiceFailed { service } else { node.name.as_str() }
}

fn may_restart(name: &str) -> Result<(&'static str, Restart), RestartRefused> {
    let about = SERVICES.iter().find(|about| about.name == name);
    let about = about.ok_or_else(|| RestartRefused::Unknown { name: name.to_owned() })?;
    about.restart.map(|how| (about.name, how)).map_err(|why| RestartRefused::Impossible { name: about.name, why })
}

/// Results of the checks per service, in the order of [`SERVICES`]; `None` until each check has one result. A
/// service with several checks is as healthy as the worst result.
fn gather(probes: &[Probe], now: BootInstant) -> Option<Vec<Verdict>> {
    let of =
        |name: &str| probes.iter().filter(|probe| probe.service == name).map(|probe| probe.verdict(now)).collect();
    SERVICES
        .iter()
        .map(|about| of(about.name))
        .map(|all: Option<Vec<Verdict>>| Some(all?.into_iter().collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &'static str, ok: bool) -> Service {
        let (since, detail) = (BootInstant::from_nanos(0), String::new());
        Service { name, ok, last_error: detail.clone(), detail, restarts: 0, since, critical: true }
    }

    #[test]
    fn only_what_can_be_restarted_is_and_a_slip_is_pointed_out() {
        assert!(may_restart("calls").is_ok() && may_restart("notifier").is_ok());
        let refused = |name| may_restart(name).expect_err("refused").to_string();
        assert!(refused("notifer").contains("did you mean 'notifier'?"), "{}", refused("notifer"));
        assert!(refused("everything").contains("services are calls, media, store"));
        for about in SERVICES.iter().filter(|about| about.restart.is_err()) {
            assert!(refused(about.name).starts_with(&format!("{} cannot be restarted by itself: ", about.name)));
        }
    }

    #[test]
    fn an_orderly_stop_is_no_failure_of_what_it_ends_and_a_broken_disk_still_is() {
        let ended = || Err("its task has ended".to_owned());
        for about in &SERVICES {
            assert_eq!(about.judge(ended(), false), ended(), "{}", about.name);
            let excused = matches!(about.name, "calls" | "notifier" | ROLE_MANAGER);
            assert_eq!(about.judge(ended(), true).is_ok(), excused, "{}", about.name);
        }
    }

    #[test]
    fn a_node_that_cannot_serve_sends_callers_away_only_if_another_serves() {
        let failed = [service("space", true), service("store", false)];
        let well = [service("store", true), service("notifier", false)];
        for (what, status, another, services, closed) in [
            ("well", Status::InService, true, &well, false),
            ("a lamp is out", Status::NotFunctioning, true, &well, false),
            ("deactivated", Status::Deactivated, false, &well, true),
            ("failed, not yet out", Status::InService, true, &failed, false),
            ("failed and out", Status::NotFunctioning, true, &failed, true),
            ("failed, and nobody else", Status::NotFunctioning, false, &failed, false),
        ] {
            assert_eq!(why_closed(Some(status), another, services).is_some(), closed, "{what}");
        }
        assert_eq!(why_closed(None, true, &failed), None, "not a member yet");
    }
}
