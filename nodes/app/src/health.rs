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
    node::Node,
    restart::{Decision, Restarts},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A critical service as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `calls`, `store` or `space`.
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
    pub async fn watch(self: Arc<Self>, node: Arc<Node>, stop: CancellationToken) {
        let mut restarts = Restarts::default();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = stop.cancelled() => return,
            }
            follow_status(&node);
            let mut seen = see(&node);
            if !seen[0].ok {
                restart_calls(&node, &mut restarts, &mut seen[0]).await;
            }
            seen[0].restarts = restarts.total();
            node.roles.report(HealthReport {
                services: seen
                    .iter()
                    .map(|s| ServiceHealth { name: s.name.clone(), ok: s.ok, detail: s.detail.clone() })
                    .collect(),
            });
            self.note(seen.into());
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

/// The door first: it is the one that can be restarted here.
fn see(node: &Node) -> [Service; 3] {
    let service = |name: &str, ok, detail: String| Service { name: name.to_owned(), ok, detail, restarts: 0 };
    let calls = match node.calls() {
        Some(calls) => {
            let health = calls.health();
            service("calls", health.ok, health.detail)
        }
        None => service("calls", false, "the SIP door is not open".to_owned()),
    };
    let store = node.store.health();
    let space = node.store.space();
    [
        calls,
        service("store", store.ok(), store.broken.unwrap_or_default()),
        match space {
            Ok(space) if space.takes_data() => service("space", true, String::new()),
            // No figure that changes: every change of the words is told to the whole cluster.
            Ok(space) => service(
                "space",
                false,
                format!("less than node.reserve_mb = {} is free: free space or move data_dir", space.reserve >> 20),
            ),
            Err(error) => service("space", false, error.to_string()),
        },
    ]
}

async fn restart_calls(node: &Node, restarts: &mut Restarts, seen: &mut Service) {
    match restarts.decide(BootInstant::now()) {
        Decision::Start => {
            warn!(detail = seen.detail, "restarting the SIP door");
            if let Err(failed) = node.open_calls().await {
                seen.detail = failed.to_string();
            }
        }
        Decision::Wait => {}
        Decision::GiveUp => seen.detail.push_str(" (restarted too often; waiting)"),
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
