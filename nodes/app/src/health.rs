//! The health of a node's critical services: looked at, restarted where that helps, reported to the role manager.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use twinbox_clock::BootInstant;
use twinbox_roles::{HealthReport, ServiceHealth, Status};

use crate::{
    lights::Lamps,
    members::Others,
    node::Node,
    restart::{Decision, Restarts},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A critical service as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `calls`, `notifier`, `media`, `store` or `space`.
    pub name: String,
    /// It works.
    pub ok: bool,
    /// In words.
    pub detail: String,
    /// Local restarts since the process began.
    pub restarts: u32,
}

/// What was last seen.
#[derive(Debug, Default)]
pub struct Health {
    services: Mutex<Vec<Service>>,
}

impl Health {
    /// The services as last seen; empty before the first look.
    pub fn services(&self) -> Vec<Service> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why this node takes no calls, if it takes none.
    pub fn why_not_ready(&self, node: &Node) -> Option<String> {
        let services = self.services();
        match node.calls() {
            _ if services.is_empty() => Some("starting".to_owned()),
            None => Some("the SIP door is not open".to_owned()),
            Some(calls) if calls.draining() => Some("draining: new calls go elsewhere".to_owned()),
            Some(_) => services.iter().find(|s| !s.ok).map(|s| format!("{}: {}", s.name, s.detail)),
        }
    }

    /// Looks, restarts, reports, until stopped.
    pub async fn watch(self: Arc<Self>, node: Arc<Node>, others: Arc<Others>, stop: CancellationToken) {
        let (mut calls_restarts, mut notifier_restarts) = (Restarts::default(), Restarts::default());
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = stop.cancelled() => return,
            }
            follow_status(&node);
            let mut calls = calls(&node);
            if !calls.ok && may_start(&mut calls_restarts, &mut calls) {
                warn!(detail = calls.detail, "restarting the SIP door");
                if let Err(failed) = node.open_calls().await {
                    calls.detail = failed.to_string();
                }
            }
            calls.restarts = calls_restarts.total();
            let mut notifier = service("notifier", node.notifier_runs(), "its task has ended");
            if !notifier.ok && may_start(&mut notifier_restarts, &mut notifier) {
                warn!("restarting the notifier");
                node.start_notifier(Lamps::new(node.clone(), others.clone()));
            }
            notifier.restarts = notifier_restarts.total();
            let seen = vec![calls, notifier, media(&node), store(&node), space(&node)];
            node.roles.report(HealthReport {
                services: seen
                    .iter()
                    .map(|s| ServiceHealth { name: s.name.clone(), ok: s.ok, detail: s.detail.clone() })
                    .collect(),
            });
            self.note(seen);
        }
    }

    /// Keeps what was seen; a change is worth a line in the log.
    fn note(&self, seen: Vec<Service>) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        for now in &seen {
            match services.iter().find(|s| s.name == now.name) {
                Some(before) if before.ok && !now.ok => {
                    error!(service = now.name, detail = now.detail, "a critical service has failed");
                }
                Some(before) if !before.ok && now.ok => info!(service = now.name, "the service works again"),
                _ => {}
            }
        }
        *services = seen;
    }
}

/// What is said of a service that works is nothing; and no figure that changes, since every change of the words is
/// told to the whole cluster.
fn service(name: &str, ok: bool, failed: impl Into<String>) -> Service {
    let detail = if ok { String::new() } else { failed.into() };
    Service { name: name.to_owned(), ok, detail, restarts: 0 }
}

fn calls(node: &Node) -> Service {
    match node.calls() {
        Some(calls) => {
            let health = calls.health();
            service("calls", health.ok, health.detail)
        }
        None => service("calls", false, "the SIP door is not open"),
    }
}

fn media(node: &Node) -> Service {
    let health = node.media.health();
    service("media", health.ok, health.detail)
}

fn store(node: &Node) -> Service {
    let broken = node.store.health().broken;
    service("store", broken.is_none(), broken.unwrap_or_default())
}

fn space(node: &Node) -> Service {
    match node.store.space() {
        Ok(space) => {
            let reserve = space.reserve >> 20;
            let failed = format!("less than node.reserve_mb = {reserve} is free: free space or move data_dir");
            service("space", space.takes_data(), failed)
        }
        Err(error) => service("space", false, error.to_string()),
    }
}

/// Whether a failed service may be started again now.
fn may_start(restarts: &mut Restarts, failed: &mut Service) -> bool {
    match restarts.decide(BootInstant::now()) {
        Decision::Start => true,
        Decision::Wait => false,
        Decision::GiveUp => {
            failed.detail.push_str(" (restarted too often; waiting)");
            false
        }
    }
}

/// A node that an administrator took out of service takes no new calls until it is activated.
fn follow_status(node: &Node) {
    let Some(calls) = node.calls().filter(|calls| !calls.leaving()) else { return };
    let view = node.roles.watch().borrow().clone();
    let Some(own) = view.members.iter().find(|m| m.name == node.name) else { return };
    let out = own.status == Status::Deactivated;
    if out && !calls.draining() {
        info!("deactivated: new calls get 503, those in progress go on");
        calls.drain();
    } else if !out && calls.draining() {
        info!("activated: calls are taken again");
        calls.undrain();
    }
}
