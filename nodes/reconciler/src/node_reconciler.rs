//! Reaction of this node to the agreed state: a passive node leaves calls to the active one, a removed node hands
//! over the data that only it has, and each node measures itself for the leader.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use twinbox_alarms::{Alarms, Code};
use twinbox_calls::CallsService;
use twinbox_clock::BootInstant;
use twinbox_health::{Measured, serves_elsewhere};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_replication_peer::{PeerAddress, Peers};
use twinbox_replication_store::Store;
use twinbox_roles::{
    FAR_BEHIND, Measures, MemberAddress, MemberKind, Order, OrderId, Roles, RolesView, Status, Timing, call_policy,
};
use twinbox_runtime as runtime;

use crate::{FillFacts, FillWatch, HandOver, PassiveWatch, SharedDrain};

/// Poll interval, several times per lease.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Interval of measurements; a change of the number of calls is measured immediately.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Pause before the end of a fill is stored again, when the disk refused it.
const END_AGAIN: Duration = Duration::from_secs(5);

/// Replicates with the nodes among these members only.
pub fn follow_members(peers: &Peers, everyone: &[MemberAddress]) {
    let nodes = || everyone.iter().filter(|member| member.kind == MemberKind::Node);
    let gone = peers.status().into_iter().filter(|peer| nodes().all(|node| node.name != peer.name));
    gone.for_each(|peer| peers.remove(&peer.name));
    nodes().for_each(|m| peers.add(PeerAddress { name: m.name.clone(), address: m.address.clone() }));
}

/// Measures before the first measurement: a node that lacks records never appears as in service (rule D13).
pub fn first_measures(store: &Store) -> Measures {
    Measures { behind: (!store.filled().has_records()).then_some(FAR_BEHIND + 1), ..Measures::default() }
}

/// Number of changes of other nodes that are missing here. Until the first fill has ended it is at least
/// `FAR_BEHIND + 1`, so that the node is `replicating`.
fn behind(store: &Store, peers: &Peers) -> u64 {
    let known = peers.behind();
    if store.filled().has_records() { known } else { known.max(FAR_BEHIND + 1) }
}

/// The parts of a node that are reconciled.
pub struct ReconcilerParts {
    /// Name of the node.
    pub name: NodeName,
    /// Incarnation of this process.
    pub incarnation: Incarnation,
    /// Lease times.
    pub timing: Timing,
    /// Store of records and audio.
    pub store: Store,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Role manager, the source of the agreed state.
    pub roles: Roles,
    /// SIP server.
    pub calls: CallsService,
    /// Receiver of alarms.
    pub alarms: Alarms,
    /// Latest measures of the machine; `None` before they are known.
    pub measured: Box<dyn Fn() -> Option<Measured> + Send + Sync>,
    /// Drain time of this node.
    pub drain: SharedDrain,
    /// The store was damaged and built again: without another node this one cannot know which data it lacks.
    pub store_rebuilt: bool,
}

/// Follows the agreed state.
pub struct NodeReconciler {
    node: Arc<ReconcilerParts>,
    measured: Option<BootInstant>,
    /// Number of calls in the latest measurement.
    calls: Option<u32>,
    hand_over: HandOver,
    passive: PassiveWatch,
    fill: FillWatch,
    /// Request for the role.
    asking: Option<JoinHandle<()>>,
}

impl NodeReconciler {
    /// Creates the reconciler; [`Self::run`] starts it.
    pub fn new(parts: ReconcilerParts) -> Self {
        Self {
            fill: FillWatch::new(parts.incarnation, parts.store_rebuilt),
            node: Arc::new(parts),
            measured: None,
            calls: None,
            hand_over: HandOver::default(),
            passive: PassiveWatch::default(),
            asking: None,
        }
    }

    /// Follows the agreed state until stopped.
    pub fn run(mut self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            let mut view = self.node.roles.watch();
            let mut look = runtime::every(LOOK_EVERY);
            loop {
                let now = view.borrow_and_update().clone();
                self.look(&now, BootInstant::now());
                tokio::select! {
                    _ = look.tick() => {}
                    changed = view.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => return,
                }
            }
        }
        .boxed()
    }

    fn look(&mut self, view: &RolesView, now: BootInstant) {
        let calls = self.node.calls.running().map(|calls| u32::try_from(calls.active()).unwrap_or(u32::MAX));
        if self.measured.is_none_or(|at| now.since(at) >= MEASURE_EVERY) || self.calls != calls {
            (self.measured, self.calls) = (Some(now), calls);
            self.measure(calls);
        }
        self.drain(now);
        self.watch_fill(view);
        self.hand_over(view, now);
        self.set_passive(view, now);
    }

    fn measure(&self, calls: Option<u32>) {
        let known = (self.node.measured)();
        self.node.roles.measure(Measures {
            cpu_permille: known.as_ref().map(|m| u16::try_from(m.cpu_permille).unwrap_or(u16::MAX)),
            free_bytes: known.map(|m| m.free_bytes),
            behind: Some(behind(&self.node.store, &self.node.peers)),
            calls,
            alarms: self.ruled_alarms(),
        });
    }

    /// Number of raises on this node of the alarm in the alarm rule; `None` without a rule, or if its code is
    /// unknown here.
    fn ruled_alarms(&self) -> Option<u32> {
        let agreed = self.node.roles.agreed();
        let rule = agreed.settings.alarm_rule.as_ref()?;
        let code: Code = rule.code.parse().ok()?;
        Some(self.node.alarms.raised_lately(code, Duration::from_secs(rule.seconds.into())))
    }

    /// Tracks whether this node is the only one that could take a message. Ends the first fill when no other node
    /// is left as its source (rule D13).
    fn watch_fill(&mut self, view: &RolesView) {
        if let Some(calls) = self.node.calls.running() {
            calls.set_sole(!serves_elsewhere(view, &self.node.name));
        }
        let (state, own) = (self.node.roles.agreed(), &self.node.name);
        let steps = self.fill.look(FillFacts {
            agreed: state.members.get(own).and_then(|member| member.incarnation),
            has_others: state.members.iter().any(|(name, m)| name != own && m.kind == MemberKind::Node),
            has_records: self.node.store.filled().has_records(),
            had_no_source: self.node.peers.fill_had_no_source(),
        });
        if steps.report {
            let detail = "the first fill has ended without a node that has all records";
            self.node.alarms.raise(Code::FillIncomplete, own.as_str(), detail);
        }
        if steps.end {
            let node = self.node.clone();
            tokio::spawn(async move {
                while let Err(error) = node.peers.end_fill_without_source().await {
                    error!(%error, "the end of the first fill cannot be stored; retrying");
                    tokio::time::sleep(END_AGAIN).await;
                }
            });
        }
    }

    /// Calls on a deactivated node end normally, or when the drain time of the order has expired.
    fn drain(&self, now: BootInstant) {
        let state = self.node.roles.agreed();
        // While Raft starts again the state is unknown and counts as unchanged.
        let (Some(own), Some(calls)) = (state.members.get(&self.node.name), self.node.calls.running()) else {
            return;
        };
        let out = (!own.activated).then(|| (own.revision, own.drain_ms.map(Duration::from_millis)));
        if self.node.drain.lock().look(out, calls.active(), now) {
            warn!(calls = calls.active(), "the drain time has expired: ending the remaining calls");
            calls.end_calls();
        }
    }

    /// A node that is being removed leaves when its calls have ended and another node has all its data (rule D2).
    fn hand_over(&mut self, view: &RolesView, now: BootInstant) {
        let own = view.member(&self.node.name);
        let leaving = own.is_some_and(|own| own.status == Status::Leaving);
        let (calls, peers) = (self.node.calls.active(), &self.node.peers);
        let may_leave = self.hand_over.look(leaving, calls, || peers.uncovered(), now);
        self.node.roles.has_handed_over(may_leave);
    }

    /// A passive node leaves calls to the active node while it has recent contact with that node.
    fn set_passive(&mut self, view: &RolesView, now: BootInstant) {
        let roles = &self.node.roles;
        let unheard = self.node.timing.silence_limit(&roles.agreed());
        // A node with an exit proof does not count as heard, however recent its last contact (rule R1).
        let heard = |name: &_| roles.since_contact(name).filter(|_| !roles.has_exited(name));
        let passive = self.passive.set(call_policy(view, &self.node.name, unheard, heard));
        let Some(calls) = self.node.calls.running() else { return };
        calls.set_passive(passive);
        let reached = *calls.reached_while_passive().borrow();
        let is_asking = self.asking.as_ref().is_some_and(|asking| !asking.is_finished());
        let Some(call) = self.passive.reached(reached, is_asking, now) else { return };
        self.node.alarms.raise(Code::PassiveCalled, self.node.name.as_str(), call.detail);
        if call.requests_role {
            self.asking = Some(tokio::spawn(request_role(self.node.clone())));
        }
    }
}

/// The caller may be unable to reach the active node: requests the role while the call is answered.
async fn request_role(node: Arc<ReconcilerParts>) {
    let order = Order::take_role_on_call(node.name.clone());
    if let Err(error) = node.roles.order(OrderId(rand::random()), order).await {
        warn!(%error, "a call reached this passive node, and its request for the role failed");
    }
}
