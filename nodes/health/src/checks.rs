//! The checks.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_clock::BootInstant;
use twinbox_replication_store::StoreError;
use twinbox_roles::Duty;

use crate::{
    cpu::Reading,
    health::{Health, NodeHandles, lock},
    probe::{CheckResult, Probe, ProbeInterval},
    services::ROLE_MANAGER,
};

/// For checks of memory only.
const QUICK: ProbeInterval = ProbeInterval { every: Duration::from_millis(200), timeout: Duration::from_secs(3) };
/// For checks of the disk or the system.
const SLOW: ProbeInterval = ProbeInterval { every: Duration::from_secs(1), timeout: Duration::from_secs(5) };
/// For writes to the disk.
const WRITE: ProbeInterval = ProbeInterval { every: Duration::from_secs(5), timeout: Duration::from_secs(5) };
/// A duty whose loop has not turned for this time hangs.
const DUTY_HANGS: Duration = Duration::from_secs(3);

/// Starts all checks.
pub(crate) fn start(health: &Arc<Health>, tasks: &TaskTracker, stop: &CancellationToken) -> Vec<Probe> {
    let node = &health.node;
    let quick = |name, check: fn(&NodeHandles) -> CheckResult| quick(name, node.clone(), tasks, stop, check);
    let mut checks = vec![
        quick("calls", calls),
        self_test(health, tasks, stop),
        quick("media", media),
        quick("store", store),
        durable_write(health, tasks, stop),
        quick("replication", replication),
        space(health, tasks, stop),
        quick(ROLE_MANAGER, |node| node.roles.health()),
        clock(health, tasks, stop),
        cpu(health, tasks, stop),
    ];
    checks.extend(Duty::ALL.map(|duty| {
        let check = move |node: &NodeHandles| turns(node.duties.still_for(duty));
        self::quick(duty.name(), node.clone(), tasks, stop, check)
    }));
    checks
}

fn quick(
    name: &'static str,
    node: NodeHandles,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    check: impl Fn(&NodeHandles) -> CheckResult + Send + 'static,
) -> Probe {
    Probe::start(name, QUICK, tasks, stop.clone(), move || {
        let verdict = check(&node);
        async move { verdict }
    })
}

fn well(ok: bool, why_not: impl Into<String>) -> CheckResult {
    if ok { Ok(()) } else { Err(why_not.into()) }
}

fn calls(node: &NodeHandles) -> CheckResult {
    let Some(calls) = node.calls.running() else { return Err("the SIP server does not run".to_owned()) };
    let health = calls.health();
    well(health.ok, health.detail)
}

fn media(node: &NodeHandles) -> CheckResult {
    let health = node.media.health();
    well(health.ok, health.detail)
}

fn store(node: &NodeHandles) -> CheckResult {
    node.store.health().broken.map_or(Ok(()), Err)
}

/// An absent peer is no fault of this node's replication. A stream that a peer stopped because this disk has lost
/// acknowledged changes is a fault (rule D1).
fn replication(node: &NodeHandles) -> CheckResult {
    let stopped = node.peers.counters().own_origin_alarms > 0;
    well(!stopped, "a peer knows more of this node's changes than this node: its disk was rolled back; rejoin it")
}

/// The loop of a duty turns, whether this node holds the duty or not. `None`: its task has ended.
fn turns(still_for: Option<Duration>) -> CheckResult {
    match still_for {
        None => Err("its task has ended".to_owned()),
        Some(still) if still >= DUTY_HANGS => {
            Err(format!("its loop has not turned for {} s", DUTY_HANGS.as_secs()))
        }
        Some(_) => Ok(()),
    }
}

fn self_test(health: &Arc<Health>, tasks: &TaskTracker, stop: &CancellationToken) -> Probe {
    let tests = health.self_tests.clone();
    Probe::start("calls", QUICK, tasks, stop.clone(), move || {
        let verdict = tests.verdict();
        async move { verdict }
    })
}

fn durable_write(health: &Arc<Health>, tasks: &TaskTracker, stop: &CancellationToken) -> Probe {
    let (health, node) = (health.clone(), health.node.clone());
    Probe::start("store", WRITE, tasks, stop.clone(), move || {
        let (health, node) = (health.clone(), node.clone());
        async move {
            match node.store.probe().await {
                Ok(took) => {
                    health.writes.record(took);
                    Ok(())
                }
                // Reported by the check of `space`.
                Err(error) if error.is_full() => Ok(()),
                // The same text as from `store`.
                Err(error @ StoreError::Disk(_)) if error.is_broken() => store(&node),
                Err(error) => Err(format!("a durable write failed: {error}")),
            }
        }
    })
}

fn space(health: &Arc<Health>, tasks: &TaskTracker, stop: &CancellationToken) -> Probe {
    let (health, node) = (health.clone(), health.node.clone());
    let short = Arc::new(AtomicBool::new(false));
    Probe::start("space", SLOW, tasks, stop.clone(), move || {
        let (health, node, short) = (health.clone(), node.clone(), short.clone());
        // A hung disk blocks one separate thread at most: the next check waits for the answer.
        let asked = tokio::task::spawn_blocking(move || match node.store.space() {
            Ok(space) => {
                *lock(&health.free) = Some(space.free);
                let reserve = space.reserve >> 20;
                let failed = format!("less than node.reserve_mb = {reserve} is free: free space or move data_dir");
                let has_room = if short.load(Relaxed) { space.has_recovered() } else { space.takes_data() };
                short.store(!has_room, Relaxed);
                well(has_room, failed)
            }
            Err(error) => Err(error.to_string()),
        });
        async move { asked.await.unwrap_or_else(|broken| Err(broken.to_string())) }
    })
}

fn clock(health: &Arc<Health>, tasks: &TaskTracker, stop: &CancellationToken) -> Probe {
    let comparison = health.comparison.clone();
    Probe::start("clock", SLOW, tasks, stop.clone(), move || {
        let verdict = comparison.clock();
        async move { verdict }
    })
}

fn cpu(health: &Arc<Health>, tasks: &TaskTracker, stop: &CancellationToken) -> Probe {
    let (health, last) = (health.clone(), Mutex::new(Reading::take()));
    Probe::start("cpu", SLOW, tasks, stop.clone(), move || {
        let now = Reading::take();
        let before = std::mem::replace(&mut *lock(&last), now.clone());
        let mut load = lock(&health.load);
        if let Some(share) = now.share_since(&before) {
            health.cpu_now.store(share, Relaxed);
            load.note(BootInstant::now(), share);
        }
        let verdict = well(!load.too_much(), "the processor has been in use without a pause for a minute");
        async move { verdict }
    })
}
