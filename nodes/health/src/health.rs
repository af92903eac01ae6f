//! Health of a node's services: each is checked in a separate task, restarted where that helps, shown, and reported
//! to the role manager, which moves duty and role.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use twinbox_alarms::{Code, Kind};
use twinbox_clock::{BootInstant, DurationHistogram};
use twinbox_roles::{HealthReport, ServiceHealth, Status};

use twinbox_alarms::Alarms;
use twinbox_calls::CallsService;
use twinbox_diagnostics::comparison::Comparison;
use twinbox_ids::NodeName;
use twinbox_media::Engine;
use twinbox_replication_peer::Peers;
use twinbox_replication_store::Store;
use twinbox_roles::{MemberKind, MemberView, Roles, RolesView};
use twinbox_runtime as runtime;

use crate::{
    checks,
    cpu::Load,
    duties::DutyHandles,
    probe::{CheckResult, Probe},
    self_test::SelfTests,
    service_monitor::ServiceMonitor,
    services::{ROLE_MANAGER, Restart, RestartRefused, SERVICES, ServiceSpec, may_restart},
    watchdog::LoopHeartbeat,
};

/// Upper bounds of the histograms of health checks, in microseconds.
pub(crate) const BOUNDS_US: [u64; 12] =
    [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000, 5_000_000];

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// State of a service at the latest check.
#[derive(Debug, Clone)]
pub struct ServiceState {
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

/// The parts of a node that are checked, restarted and reported.
#[derive(Clone)]
pub struct NodeHandles {
    /// Name of the node.
    pub name: NodeName,
    /// Store of records and audio.
    pub store: Store,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Role manager, which gets the reports.
    pub roles: Roles,
    /// Media engine (RTP).
    pub media: Engine,
    /// SIP server.
    pub calls: CallsService,
    /// The duties.
    pub duties: DutyHandles,
    /// Receiver of alarms and events.
    pub alarms: Alarms,
    /// Cancelled when an orderly stop begins: services that it ends have not failed.
    pub stopping: CancellationToken,
}

/// Latest results of the checks, and the objects that measure.
pub struct Health {
    /// The parts of the node.
    pub(crate) node: NodeHandles,
    services: Mutex<Vec<ServiceState>>,
    monitors: Mutex<BTreeMap<&'static str, ServiceMonitor>>,
    pub(crate) load: Mutex<Load>,
    /// CPU use in the last second, in ‰.
    pub(crate) cpu_now: AtomicU32,
    /// Free space at the latest check of `space`: readers must not wait for a disk.
    pub(crate) free: Mutex<Option<u64>>,
    /// Durations of durable writes.
    pub writes: DurationHistogram,
    /// Test calls of the node to itself.
    pub self_tests: Arc<SelfTests>,
    /// Heartbeat of the event loop.
    pub heartbeat: Arc<LoopHeartbeat>,
    /// Comparison with the other members, which judges the clock.
    pub(crate) comparison: Arc<Comparison>,
    /// Command of the role manager that was set aside last, as in the alarm.
    set_aside: Mutex<Option<Arc<str>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Health {
    /// State before the first check.
    pub fn new(node: NodeHandles, comparison: Arc<Comparison>) -> Self {
        Self {
            node,
            comparison,
            services: Mutex::default(),
            monitors: Mutex::default(),
            load: Mutex::default(),
            cpu_now: AtomicU32::default(),
            free: Mutex::default(),
            writes: DurationHistogram::new(&BOUNDS_US),
            self_tests: Arc::default(),
            heartbeat: Arc::default(),
            set_aside: Mutex::default(),
        }
    }

    /// Services at the latest check; empty before the first check.
    pub fn services(&self) -> Vec<ServiceState> {
        lock(&self.services).clone()
    }

    /// Reason why this node takes no calls; `None` if it takes calls.
    pub fn why_not_ready(&self) -> Option<String> {
        let (mut services, filled) = (self.services(), self.node.store.filled());
        match self.node.calls.running() {
            _ if services.is_empty() => Some("starting".to_owned()),
            _ if self.heartbeat.hung() => Some("the event loop hangs".to_owned()),
            None => Some("the SIP server does not run".to_owned()),
            Some(_) if !filled.has_records() => Some(format!("replicating: {filled}")),
            Some(calls) if calls.draining() => Some("draining: new calls go elsewhere".to_owned()),
            Some(_) => {
                // The last node serves as far as it can: owners listen and delete on a full disk.
                let is_last = !serves_elsewhere(&self.node.roles.watch().borrow(), &self.node.name);
                services.retain(|service| !(is_last && service.name == "space"));
                unable(&services).map(|service| format!("{}: {}", service.name, service.detail))
            }
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

    /// Checks, restarts and reports, until stopped. `self_test`: interval of the self-test calls, if any.
    pub fn watch(self: Arc<Self>, self_test: Option<Duration>, stop: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            let tasks = TaskTracker::new();
            tasks.spawn(self.heartbeat.clone().run(stop.clone()));
            if let Some(every) = self_test {
                tasks.spawn(self.self_tests.clone().run(self.node.calls.clone(), every, stop.clone()));
            }
            let probes = checks::start(&self, &tasks, &stop);
            let mut look = runtime::every(LOOK_EVERY);
            loop {
                tokio::select! {
                    _ = look.tick() => {}
                    () = stop.cancelled() => return,
                }
                let Some(verdicts) = gather(&probes, BootInstant::now()) else { continue };
                let mut seen = Vec::new();
                let stopping = self.node.stopping.is_cancelled();
                for (about, verdict) in SERVICES.iter().zip(verdicts) {
                    seen.push(self.judge(about, about.judge(verdict, stopping)));
                }
                self.node.roles.report(HealthReport {
                    services: seen
                        .iter()
                        .filter(|service| service.critical)
                        .map(|s| ServiceHealth { name: s.name.to_owned(), ok: s.ok, detail: s.detail.clone() })
                        .collect(),
                });
                self.note(seen);
                self.report_set_aside();
                self.admit_or_refuse_calls();
            }
        }
        .boxed()
    }

    /// Judges a service by its checks, and begins a restart where that may help.
    fn judge(self: &Arc<Self>, about: &ServiceSpec, verdict: CheckResult) -> ServiceState {
        // A restart of the SIP server ends every call: permitted only if the server has failed, or has no calls.
        let harmless = about.restart != Ok(Restart::Calls)
            || self.node.calls.running().is_none_or(|calls| {
                !calls.health().ok || (calls.active() == 0 && self.self_tests.restart_may_help())
            });
        let mut monitors = lock(&self.monitors);
        let monitor = monitors.entry(about.name).or_default();
        let (verdict, restart) = monitor.judge(BootInstant::now(), verdict, about.restart.is_ok() && harmless);
        let restarts = monitor.restarts();
        drop(monitors);
        if let (true, Ok(how)) = (restart, about.restart) {
            let (health, name) = (self.clone(), about.name);
            warn!(service = name, "restarting service");
            tokio::spawn(async move {
                if let Err(failed) = health.carry_out(name, how).await {
                    error!(service = name, %failed, "service could not be restarted");
                }
            });
        }
        let detail = verdict.err().unwrap_or_default();
        ServiceState {
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
    pub fn restart<'a>(&'a self, name: &'a str, force: bool) -> BoxFuture<'a, Result<(), RestartRefused>> {
        self.restart_by_order(name, force).boxed()
    }

    async fn restart_by_order(&self, name: &str, force: bool) -> Result<(), RestartRefused> {
        let (name, how) = may_restart(name)?;
        if self.node.stopping.is_cancelled() {
            return Err(RestartRefused::Stopping);
        }
        let calls = self.node.calls.active();
        if how == Restart::Calls && calls > 0 && !force {
            return Err(RestartRefused::Calls { calls });
        }
        if !lock(&self.monitors).entry(name).or_default().begin_restart(BootInstant::now()) {
            return Err(RestartRefused::UnderWay(name));
        }
        info!(service = name, "administrator restarts service");
        let outcome = self.carry_out(name, how).await;
        outcome.map_err(|why| RestartRefused::Failed { name, why })
    }

    async fn carry_out(&self, name: &'static str, how: Restart) -> Result<(), String> {
        let outcome = match how {
            Restart::Calls => {
                self.self_tests.restarted();
                self.node.calls.restart().await.map_err(|error| whole(&error))
            }
            Restart::Duty(duty) => {
                self.node.duties.restart(duty);
                Ok(())
            }
        };
        lock(&self.monitors).entry(name).or_default().restarted();
        self.node.alarms.event(Kind::ServiceRestarted, name, outcome.as_ref().err().map_or("", String::as_str));
        outcome
    }

    /// Stores the results; a change is logged and raises or clears an alarm.
    fn note(&self, mut seen: Vec<ServiceState>) {
        let mut services = lock(&self.services);
        report(&self.node.alarms, self.node.name.as_str(), &services, &mut seen);
        *services = seen;
    }

    /// Raises an alarm for a command of the role manager that was set aside (rule R11).
    fn report_set_aside(&self) {
        let node = &self.node;
        let aside = node.roles.set_aside();
        let mut reported = lock(&self.set_aside);
        if let Some(text) = aside.as_ref().filter(|_| *reported != aside) {
            node.alarms.raise(Code::ChangeSetAside, ROLE_MANAGER, &**text);
        }
        *reported = aside;
    }

    /// Admits or refuses new calls: by an administrator's order, after a hung event loop has recovered, or if this
    /// node could not serve them while another can.
    fn admit_or_refuse_calls(&self) {
        let node = &self.node;
        let Some(calls) = node.calls.running().filter(|calls| !calls.leaving()) else { return };
        let view = node.roles.watch().borrow().clone();
        let status = view.members.iter().find(|member| member.name == node.name).map(|member| member.status);
        let another = serves_elsewhere(&view, &node.name);
        let closed = why_closed(status, another, &self.services());
        match closed {
            Some(why) if !calls.draining() => {
                info!(reason = why, "new calls get 503, those in progress go on");
                calls.drain();
            }
            None if calls.draining() && !self.heartbeat.hung() => {
                info!("new calls are taken again");
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

/// Whether another node is in service, as far as this one knows.
pub fn serves_elsewhere(view: &RolesView, own: &NodeName) -> bool {
    let serves = |member: &MemberView| member.kind == MemberKind::Node && member.status == Status::InService;
    view.quorum && view.members.iter().any(|member| member.name != *own && serves(member))
}

/// First failed service without which no call can be taken.
fn unable(services: &[ServiceState]) -> Option<&ServiceState> {
    let carries =
        |service: &&ServiceState| SERVICES.iter().any(|about| about.name == service.name && about.carries_calls);
    services.iter().filter(|service| !service.ok).find(carries)
}

/// Reason why new calls must go to another node, if so. The last serving node takes them regardless of failed
/// services (rule R9).
fn why_closed(status: Option<Status>, another_serves: bool, services: &[ServiceState]) -> Option<String> {
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

fn subject<'a>(code: Code, service: &'a str, node: &'a str) -> &'a str {
    if code == Code::ServiceFailed { service } else { node }
}

/// Logs changes since `services`, and raises or clears their alarms. `seen` gets the times and errors that last.
fn report(alarms: &Alarms, node: &str, services: &[ServiceState], seen: &mut [ServiceState]) {
    for now in seen {
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
                error!(service = now.name, detail = now.detail, "service has failed");
                alarms.raise(code, subject(code, now.name, node), &now.detail);
            }
            before => {
                if before.is_some() {
                    info!(service = now.name, "service works again");
                }
                alarms.clear(code, subject(code, now.name, node));
            }
        }
    }
}

/// Results of the checks per service, in the order of [`SERVICES`]; `None` until each check has one result. A
/// service with several checks is as healthy as the worst result.
fn gather(probes: &[Probe], now: BootInstant) -> Option<Vec<CheckResult>> {
    let of =
        |name: &str| probes.iter().filter(|probe| probe.service == name).map(|probe| probe.verdict(now)).collect();
    SERVICES
        .iter()
        .map(|about| of(about.name))
        .map(|all: Option<Vec<CheckResult>>| Some(all?.into_iter().collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use twinbox_alarms::Severity;

    use super::*;

    fn service(name: &'static str, ok: bool) -> ServiceState {
        let (since, detail) = (BootInstant::from_nanos(0), String::new());
        ServiceState { name, ok, last_error: detail.clone(), detail, restarts: 0, since, critical: true }
    }

    #[test]
    fn a_node_that_cannot_serve_refuses_calls_only_if_another_serves() {
        let failed = [service("space", true), service("store", false)];
        let well = [service("store", true), service("notifier", false)];
        for (what, status, another, services, closed) in [
            ("well", Status::InService, true, &well, false),
            ("the notifier has failed", Status::NotFunctioning, true, &well, false),
            ("deactivated", Status::Deactivated, false, &well, true),
            ("failed, not yet out", Status::InService, true, &failed, false),
            ("failed and out", Status::NotFunctioning, true, &failed, true),
            ("failed, and no other node", Status::NotFunctioning, false, &failed, false),
        ] {
            assert_eq!(why_closed(Some(status), another, services).is_some(), closed, "{what}");
        }
        assert_eq!(why_closed(None, true, &failed), None, "not a member yet");
    }

    #[tokio::test]
    async fn failed_role_manager_raises_a_critical_alarm_until_it_works_again() {
        let about = SERVICES.iter().find(|about| about.name == ROLE_MANAGER).expect("it is watched");
        assert!(about.critical, "the node is taken out of service");
        let dir = tempfile::TempDir::new().expect("a folder");
        let node = twinbox_store_kit::Node::alone(dir.path(), "a");
        let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
        let stop = tokio_util::sync::CancellationToken::new();
        let serving = tokio::spawn({
            let (alarms, stop) = (alarms.clone(), stop.clone());
            async move { alarms.serve(None, stop).await }
        });
        let shown = || -> Vec<_> {
            let all = alarms.list().expect("a list").into_iter();
            all.map(|alarm| (alarm.code, alarm.code.map(Code::severity), alarm.subject.clone(), alarm.is_open()))
                .collect()
        };
        let expected =
            |open| vec![(Some(Code::ServiceFailed), Some(Severity::Critical), ROLE_MANAGER.to_owned(), open)];

        let well = [service(ROLE_MANAGER, true)];
        let mut failed = [service(ROLE_MANAGER, false)];
        failed[0].detail = "its task 'planner' has panicked".to_owned();
        report(&alarms, "a", &well, &mut failed);
        twinbox_store_kit::eventually("the alarm is raised", async || shown() == expected(true)).await;
        report(&alarms, "a", &failed, &mut [service(ROLE_MANAGER, true)]);
        twinbox_store_kit::eventually("the alarm is cleared", async || shown() == expected(false)).await;
        stop.cancel();
        serving.await.expect("it ends");
    }
}
