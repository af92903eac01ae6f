//! Rules that raise and clear alarms from the state of the role manager, of replication and of the overload control.
//!
//! Each rule is pure: state and time in, [`Report`]s out. [`AlarmRules`] polls the sources and writes the reports.
//! The alarm of a store that was set aside follows its folder ([`stores_set_aside`]), and that of a listener's certificate
//! follows its files ([`served_certificates`]).

mod comparison;
mod load;
mod name_clashes;
mod names;
mod replication;
mod roles;
pub mod served_certificates;
pub mod stores_set_aside;

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use twinbox_alarms::{Alarm, Alarms, Item, Since};
use twinbox_calls::CallsService;
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::NodeName;
use twinbox_mailstore::Mailstore;
use twinbox_replication_peer::Peers;
use twinbox_replication_store::Store;
use twinbox_roles::Roles;
use twinbox_runtime as runtime;

use comparison::ComparisonRule;
use load::LoadRule;
pub use name_clashes::{NameClash, NameClashWatch, NameConflict, NameKind, name_conflicts};
use replication::ReplicationRules;
pub use roles::Report;
use roles::{AlarmSource, RolesRules};

/// Poll interval of counters and of conditions that must last for some time.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The rules of one node, with their sources.
pub struct AlarmRules {
    /// Name of the node.
    pub node: NodeName,
    /// Store, for changes that were set aside.
    pub store: Store,
    /// Mailboxes, for clashes of their names.
    pub mailstore: Mailstore,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Role manager.
    pub roles: Roles,
    /// SIP server, for its overload control.
    pub calls: CallsService,
    /// Receiver of the reports.
    pub alarms: Alarms,
}

impl AlarmRules {
    /// Applies the rules until stopped.
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
        let mut view = self.roles.watch();
        let mut of_roles = RolesRules::new(&self.node, BootInstant::now(), wall(), self.reported());
        let mut of_replication = ReplicationRules::new(&self.node);
        let mut of_load = LoadRule::new(&self.node);
        let mut of_comparison = ComparisonRule::default();
        let mut look = runtime::every(LOOK_EVERY);
        let mut clashes = self.clashes().await;
        loop {
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return },
                _ = look.tick() => {
                    let (peers, counters, now) = (self.peers.status(), self.peers.counters(), BootInstant::now());
                    let set_aside = self.store.health().set_aside.max(counters.set_aside);
                    let counting = self.peers.counting();
                    let view = view.borrow().clone();
                    self.write(of_replication.look(&peers, &counters, counting, set_aside, &view, now));
                    self.write(of_comparison.look(self.peers.comparisons()));
                    if let Some(calls) = self.calls.running() {
                        self.write(of_load.look(&calls.overload(), now));
                    }
                }
                Some(clash) = next_of(&mut clashes) => {
                    self.write(names::report(&clash, &self.alarms.alarms()).into_iter().collect());
                }
                () = stop.cancelled() => return,
            }
            let now = view.borrow_and_update().clone();
            self.write(of_roles.look(&now, &self.alarms, BootInstant::now()));
            self.write(of_roles.removed(&now, &self.roles.removed_members(), &self.alarms, BootInstant::now()));
        }
    }.boxed()
    }

    /// Clashes of names; `None` if they cannot be read.
    async fn clashes(&self) -> Option<NameClashWatch> {
        let watch = NameClashWatch::new(self.mailstore.clone()).await;
        watch.inspect_err(|error| warn!(%error, "claims of names cannot be read; clashes have no alarm")).ok()
    }

    /// Events that this node has already reported: a restarted node must not repeat a move that the group remembers.
    fn reported(&self) -> Vec<(String, String)> {
        match self.alarms.follow(&Since::Start) {
            Ok(mut events) => std::iter::from_fn(|| events.try_next())
                .filter_map(|item| match item {
                    Item::Event(event) if event.node == self.node => Some((event.subject, event.detail)),
                    _ => None,
                })
                .collect(),
            Err(error) => {
                warn!(%error, "earlier events cannot be read; moves before the start may be reported again");
                Vec::new()
            }
        }
    }

    fn write(&self, reports: Vec<Report>) {
        for report in reports {
            match report {
                Report::Raise(code, subject, detail) => self.alarms.raise(code, &subject, detail),
                Report::Clear(code, subject) => self.alarms.clear(code, &subject),
                Report::Event(kind, subject, detail) => self.alarms.event(kind, &subject, detail),
                Report::EndOf(removed) => self.alarms.end_of(removed),
            }
        }
    }
}

/// The next clash; `None` without a watch, and when the store is closed.
async fn next_of(clashes: &mut Option<NameClashWatch>) -> Option<NameClash> {
    clashes.as_mut()?.next().await
}

impl AlarmSource for Alarms {
    fn alarms(&self) -> Vec<Alarm> {
        self.list().unwrap_or_default()
    }
}
