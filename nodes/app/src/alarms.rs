//! Alarms and events of a node: their sources, receivers and administrators' requests.

mod copies;
mod gate;
mod load;
mod measures;
mod roles;
mod service;

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;
use twinbox_alarms::{Alarm, Item, Kind, Outbound, Since, Syslog};
use twinbox_clock::{BootInstant, wall};
use twinbox_roles::Duty;

use crate::{beat, node::Node};

use copies::Copies;
use gate::NotifierGate;
use load::Load;
pub use measures::measure;
use roles::{RolesWatch, Say, Seen};
pub use service::EventService;

/// Poll interval of counters and of conditions that must last for some time.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Writes reports, delivers them to outside receivers, and watches the role manager and replication, until stopped.
pub fn start(node: &Arc<Node>, tasks: &TaskTracker, stop: &CancellationToken) {
    let config = &node.config.alarms;
    let syslog = config.syslog.clone().map(|(target, facility)| Syslog::start(target, facility));
    let (alarms, writing) = (node.alarms.clone(), stop.clone());
    tasks.spawn(async move { alarms.serve(syslog, writing).await });
    let gate = NotifierGate(node.roles.gate(Duty::Notifier));
    let outbound = Outbound::new(&node.config.cluster.name, node.alarms.clone(), gate);
    tasks.spawn(outbound.run(config.webhook.clone(), config.traps.clone(), stop.clone()));
    let starts = format!("version {}, incarnation {}", env!("CARGO_PKG_VERSION"), node.incarnation);
    node.alarms.event(Kind::NodeStarted, node.name.as_str(), starts);
    tasks.spawn(watch(node.clone(), stop.clone()));
}

async fn watch(node: Arc<Node>, stop: CancellationToken) {
    let mut view = node.roles.watch();
    let mut roles = RolesWatch::new(&node.name, BootInstant::now(), wall(), told(&node));
    let mut copies = Copies::new(&node.name);
    let mut load = Load::new(&node.name);
    let mut look = beat::every(LOOK_EVERY);
    loop {
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            _ = look.tick() => {
                let (peers, counters) = (node.peers.status(), node.peers.counters());
                let set_aside = node.store.health().set_aside.max(counters.set_aside);
                let counting = node.peers.counting();
                say(&node, copies.look(&peers, &counters, counting, set_aside, &view.borrow(), BootInstant::now()));
                if let Some(calls) = node.calls() {
                    say(&node, load.look(&calls.overload(), BootInstant::now()));
                }
            }
            () = stop.cancelled() => return,
        }
        let now = view.borrow_and_update().clone();
        say(&node, roles.look(&now, &*node, BootInstant::now()));
    }
}

impl Seen for Node {
    fn alarms(&self) -> Vec<Alarm> {
        self.alarms.list().unwrap_or_default()
    }
}

/// Events that this node has already reported: a restarted node must not repeat a move that the group remembers.
fn told(node: &Node) -> Vec<(String, String)> {
    match node.alarms.follow(&Since::Start) {
        Ok(mut events) => std::iter::from_fn(|| events.try_next())
            .filter_map(|item| match item {
                Item::Event(event) if event.node == node.name => Some((event.subject, event.detail)),
                _ => None,
            })
            .collect(),
        Err(error) => {
            warn!(%error, "moves of before the start may be told again");
            Vec::new()
        }
    }
}

fn say(node: &Node, all: Vec<Say>) {
    for said in all {
        match said {
            Say::Raise(code, subject, detail) => node.alarms.raise(code, &subject, detail),
            Say::Clear(code, subject) => node.alarms.clear(code, &subject),
            Say::Event(kind, subject, detail) => node.alarms.event(kind, &subject, detail),
        }
    }
}
