//! Reaction of this node to the agreed state: a passive node leaves calls to the active one, a removed node hands
//! over the data that only it has, and each node measures itself for the leader.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use twinbox_alarms::{Alarms, Code};
use twinbox_calls::{CallsService, Passive};
use twinbox_clock::BootInstant;
use twinbox_health::{Health, serves_elsewhere};
use twinbox_ids::NodeName;
use twinbox_replication_peer::{PeerAddress, Peers};
use twinbox_replication_store::Store;
use twinbox_roles::{
    CallPolicy, FAR_BEHIND, Measures, MemberAddress, MemberKind, Order, OrderId, Roles, RolesView, Status, Timing,
    call_policy,
};
use twinbox_runtime as runtime;

use crate::SharedDrain;

/// Poll interval, several times per lease.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Interval of measurements; a change of the number of calls is measured immediately.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// A removed node leaves when its calls have ended and nothing was left to hand over for this period, which covers
/// the last stored call.
const SETTLED: Duration = Duration::from_millis(500);
/// Minimum interval between requests of a called passive node for the role.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Pause before the end of a fill is stored again, when the disk refused it.
const END_AGAIN: Duration = Duration::from_secs(5);

/// Replicates with the nodes among these members only.
pub fn follow_members(peers: &Peers, everyone: &[MemberAddress]) {
    let nodes = || everyone.iter().filter(|member| member.kind == MemberKind::Node);
    let gone = peers.status().into_iter().filter(|peer| nodes().all(|node| node.name != peer.name));
    gone.for_each(|peer| peers.remove(&peer.name));
    nodes().for_each(|m| peers.add(PeerAddress { name: m.name.clone(), address: m.address.clone() }));
}

/// Measures known before the first measurement: a node that lacks records never appears as in service (rule D13).
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
    /// Source of measures.
    pub health: Arc<Health>,
    /// Drain time of this node.
    pub drain: SharedDrain,
    /// The store was damaged and built again: without another node it is not known what it lacks.
    pub store_rebuilt: bool,
}

/// Follows the agreed state.
pub struct NodeReconciler {
    node: Arc<ReconcilerParts>,
    measured: Option<BootInstant>,
    /// Number of calls in the latest measurement.
    calls: Option<u32>,
    /// Time since which nothing is left to hand over.
    covered: Option<BootInstant>,
    passive: Option<Passive>,
    /// Number of calls received while passive, as last read.
    reached: u64,
    asked: Option<(BootInstant, JoinHandle<()>)>,
    /// The first fill is being ended, because no other node is left.
    fill_ends: bool,
    /// The alarm for a fill without a source has been raised.
    fill_reported: bool,
    /// Another node was a member since the start.
    had_others: bool,
}

impl NodeReconciler {
    /// Reconciler that has done nothing yet.
    pub fn new(parts: ReconcilerParts) -> Self {
        Self {
            node: Arc::new(parts),
            measured: None,
            calls: None,
            covered: None,
            passive: None,
            reached: 0,
            asked: None,
            fill_ends: false,
            fill_reported: false,
            had_others: false,
        }
    }

    /// Follows the agreed state until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut view = self.node.roles.watch();
        let mut look = runtime::every(LOOK_EVERY);
        loop {
            let now = view.borrow_and_update().clone();
            self.look(&now);
            tokio::select! {
                _ = look.tick() => {}
                changed = view.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    fn look(&mut self, view: &RolesView) {
        let calls = self.node.calls.running().map(|calls| u32::try_from(calls.active()).unwrap_or(u32::MAX));
        if self.measured.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) || self.calls != calls {
            (self.measured, self.calls) = (Some(BootInstant::now()), calls);
            self.measure(calls);
        }
        self.drain();
        self.watch_fill(view);
        self.hand_over(view);
        self.set_passive(view);
    }

    fn measure(&self, calls: Option<u32>) {
        let known = self.node.health.measured();
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
        if !self.fill_reported && self.node.peers.fill_had_no_source() {
            self.fill_reported = true;
            let detail = "the first fill has ended without a node that has all records";
            self.node.alarms.raise(Code::FillIncomplete, self.node.name.as_str(), detail);
        }
        let state = self.node.roles.agreed();
        let mut others = state.members.iter().filter(|(name, _)| **name != self.node.name);
        let alone = state.members.contains_key(&self.node.name) && others.all(|(_, m)| m.kind != MemberKind::Node);
        self.had_others |= state.members.contains_key(&self.node.name) && !alone;
        // A store that was built again serves as it is only by an order: the removal of the last other node, or the mark
        // of the founder at a start.
        let may_end = self.had_others || !self.node.store_rebuilt;
        let ends = alone && may_end && !self.node.store.filled().has_records();
        if ends && !std::mem::replace(&mut self.fill_ends, true) {
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
    fn drain(&self) {
        let state = self.node.roles.agreed();
        // While Raft starts again the state is unknown and counts as unchanged.
        let (Some(own), Some(calls)) = (state.members.get(&self.node.name), self.node.calls.running()) else {
            return;
        };
        let out = (!own.activated).then(|| (own.revision, own.drain_ms.map(Duration::from_millis)));
        if self.node.drain.lock().look(out, calls.active(), BootInstant::now()) {
            warn!(calls = calls.active(), "the drain time has expired: ending the remaining calls");
            calls.end_calls();
        }
    }

    /// A node that is being removed leaves when its calls have ended and another node has all its data (rule D2).
    fn hand_over(&mut self, view: &RolesView) {
        let own = view.member(&self.node.name);
        let leaving = own.is_some_and(|own| own.status == Status::Leaving);
        let calls = self.node.calls.active();
        if !leaving || calls > 0 || self.node.peers.uncovered() > 0 {
            self.covered = None;
        } else if self.covered.is_none() {
            info!("this node is being removed: its calls have ended, and other nodes have all its data");
            self.covered = Some(BootInstant::now());
        }
        self.node.roles.has_handed_over(self.covered.is_some_and(|since| since.elapsed() >= SETTLED));
    }

    /// A passive node leaves calls to the active node as long as it hears that node.
    fn set_passive(&mut self, view: &RolesView) {
        let roles = &self.node.roles;
        let unheard = self.node.timing.silence_limit(&roles.agreed());
        // A node with an exit proof does not count as heard, however recent its last contact (rule R1).
        let heard = |name: &_| roles.since_contact(name).filter(|_| !roles.has_exited(name));
        let posture = call_policy(view, &self.node.name, unheard, heard);
        let seconds = |after: Duration| u32::try_from(after.as_secs().max(1)).unwrap_or(u32::MAX);
        let (passive, why) = match posture {
            CallPolicy::Answer => (None, String::new()),
            CallPolicy::Refuse { retry_after, reason: why } => {
                (Some(Passive { retry_after: seconds(retry_after), on_call: false }), why)
            }
            CallPolicy::OnCall { retry_after, reason: why } => {
                (Some(Passive { retry_after: seconds(retry_after), on_call: true }), why)
            }
        };
        if passive.is_some() != self.passive.is_some() {
            match passive {
                Some(_) => info!(reason = why, "new calls get 503"),
                None => info!("this node takes new calls: it is active, or the active node is unreachable"),
            }
        }
        self.passive = passive;
        let Some(calls) = self.node.calls.running() else { return };
        calls.set_passive(passive);
        let reached = *calls.reached_while_passive().borrow();
        if reached > std::mem::replace(&mut self.reached, reached) {
            let taken = passive.is_some_and(|passive| passive.on_call);
            let detail = if taken { "taken; the role is requested" } else { "refused with 503" };
            self.node.alarms.raise(Code::PassiveCalled, self.node.name.as_str(), detail);
            if taken {
                self.request_role();
            }
        }
    }

    /// The caller may be unable to reach the active node: request the role while the call is answered.
    fn request_role(&mut self) {
        let waits = |(at, task): &(BootInstant, JoinHandle<()>)| !task.is_finished() || at.elapsed() < ASK_AGAIN;
        if self.asked.as_ref().is_some_and(waits) {
            return;
        }
        let node = self.node.clone();
        let asking = tokio::spawn(async move {
            let order = Order::take_role_on_call(node.name.clone());
            if let Err(error) = node.roles.order(OrderId(rand::random()), order).await {
                warn!(%error, "a call reached this passive node, and its request for the role failed");
            }
        });
        self.asked = Some((BootInstant::now(), asking));
    }
}
