//! Reaction of this node to the agreed state: a passive node leaves calls to the active one, a removed node hands
//! over the data that only it has, and each node measures itself for the leader.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use twinbox_alarms::Code;
use twinbox_calls::Passive;
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_replication_peer::{PeerAddress, Peers};
use twinbox_replication_store::Store;
use twinbox_roles::{
    Doors, FAR_BEHIND, Measures, MemberAddress, MemberKind, MemberView, Order, OrderId, RolesView, Status, doors,
};

use crate::{beat, health::Health, node::Node};

/// Poll interval, several times per lease.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Interval of measurements; a change of the number of calls is measured immediately.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// A removed node leaves when its calls have ended and nothing was left to hand over for this period, which covers
/// the last stored call.
const SETTLED: Duration = Duration::from_millis(500);
/// Minimum interval between requests of a called passive node for the role.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Replicates with the nodes among these members only.
pub(crate) fn follow_members(peers: &Peers, everyone: &[MemberAddress]) {
    let nodes = || everyone.iter().filter(|member| member.kind == MemberKind::Node);
    let gone = peers.status().into_iter().filter(|peer| nodes().all(|node| node.name != peer.name));
    gone.for_each(|peer| peers.remove(&peer.name));
    nodes().for_each(|m| peers.add(PeerAddress { name: m.name.clone(), address: m.address.clone() }));
}

/// Whether another node is in service, as far as this one knows.
pub(crate) fn serves_elsewhere(view: &RolesView, own: &NodeName) -> bool {
    let serves = |member: &MemberView| member.kind == MemberKind::Node && member.status == Status::InService;
    view.quorum && view.members.iter().any(|member| member.name != *own && serves(member))
}

/// Follows the agreed state until stopped.
pub(crate) async fn follow(node: Arc<Node>, health: Arc<Health>, stop: CancellationToken) {
    let mut view = node.roles.watch();
    let mut steward = Steward::new(node, health);
    let mut look = beat::every(LOOK_EVERY);
    loop {
        let now = view.borrow_and_update().clone();
        steward.look(&now);
        tokio::select! {
            _ = look.tick() => {}
            changed = view.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Measures known before the first measurement: a node that lacks records never appears as in service (rule D13).
pub(crate) fn first_measures(store: &Store) -> Measures {
    Measures { behind: (!store.filled().has_records()).then_some(FAR_BEHIND + 1), ..Measures::default() }
}

/// Number of changes of other nodes that are missing here. Until the first fill has ended it is at least
/// `FAR_BEHIND + 1`, so that the node is `replicating`.
fn behind(store: &Store, peers: &Peers) -> u64 {
    let known = peers.behind();
    if store.filled().has_records() { known } else { known.max(FAR_BEHIND + 1) }
}

struct Steward {
    node: Arc<Node>,
    health: Arc<Health>,
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
    fill_told: bool,
}

impl Steward {
    fn new(node: Arc<Node>, health: Arc<Health>) -> Self {
        Self {
            node,
            health,
            measured: None,
            calls: None,
            covered: None,
            passive: None,
            reached: 0,
            asked: None,
            fill_ends: false,
            fill_told: false,
        }
    }

    fn look(&mut self, view: &RolesView) {
        let calls = self.node.calls().map(|calls| u32::try_from(calls.active()).unwrap_or(u32::MAX));
        if self.measured.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) || self.calls != calls {
            (self.measured, self.calls) = (Some(BootInstant::now()), calls);
            self.measure(calls);
        }
        self.drain();
        self.mind_fill(view);
        self.hand_over(view);
        self.set_doors(view);
    }

    fn measure(&self, calls: Option<u32>) {
        let known = self.health.measured();
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
    fn mind_fill(&mut self, view: &RolesView) {
        if let Some(calls) = self.node.calls() {
            calls.set_sole(!serves_elsewhere(view, &self.node.name));
        }
        if !self.fill_told && self.node.peers.fill_had_no_source() {
            self.fill_told = true;
            let detail = "the first fill has ended without a node that has all records";
            self.node.alarms.raise(Code::FillIncomplete, self.node.name.as_str(), detail);
        }
        let state = self.node.roles.agreed();
        let mut others = state.members.iter().filter(|(name, _)| **name != self.node.name);
        let alone = state.members.contains_key(&self.node.name) && others.all(|(_, m)| m.kind != MemberKind::Node);
        if alone && !self.node.store.filled().has_records() && !std::mem::replace(&mut self.fill_ends, true) {
            let node = self.node.clone();
            tokio::spawn(async move {
                if let Err(error) = node.peers.end_fill_without_source().await {
                    error!(%error, "the end of the first fill cannot be stored");
                }
            });
        }
    }

    /// Calls on a deactivated node end normally, or when the drain time of the order has expired.
    fn drain(&self) {
        let state = self.node.roles.agreed();
        // While Raft starts again the state is unknown and counts as unchanged.
        let (Some(own), Some(calls)) = (state.members.get(&self.node.name), self.node.calls()) else { return };
        let out = (!own.activated).then(|| (own.revision, own.drain_ms.map(Duration::from_millis)));
        if self.node.drain().look(out, calls.active(), BootInstant::now()) {
            warn!(calls = calls.active(), "the time for calls to end by themselves is up: they are ended");
            calls.end_calls();
        }
    }

    /// A node that is being removed leaves when its calls have ended and another node has all its data (rule D2).
    fn hand_over(&mut self, view: &RolesView) {
        let own = view.member(&self.node.name);
        let leaving = own.is_some_and(|own| own.status == Status::Leaving);
        let calls = self.node.calls().map_or(0, |calls| calls.active());
        if !leaving || calls > 0 || self.node.peers.uncovered() > 0 {
            self.covered = None;
        } else if self.covered.is_none() {
            info!("this node is being removed: its calls have ended, and others have all that it has");
            self.covered = Some(BootInstant::now());
        }
        self.node.roles.has_handed_over(self.covered.is_some_and(|since| since.elapsed() >= SETTLED));
    }

    /// A passive node leaves calls to the active node as long as it hears that node.
    fn set_doors(&mut self, view: &RolesView) {
        let roles = &self.node.roles;
        let unheard = self.node.config.cluster.timing.unheard(&roles.agreed());
        // A node with an exit proof does not count as heard, however recent its last contact (rule R1).
        let heard = |name: &_| roles.heard(name).filter(|_| !roles.has_exited(name));
        let posture = doors(view, &self.node.name, unheard, heard);
        let seconds = |after: Duration| u32::try_from(after.as_secs().max(1)).unwrap_or(u32::MAX);
        let (passive, why) = match posture {
            Doors::Open => (None, String::new()),
            Doors::Closed { retry_after, why } => {
                (Some(Passive { retry_after: seconds(retry_after), on_call: false }), why)
            }
            Doors::OnCall { retry_after, why } => {
                (Some(Passive { retry_after: seconds(retry_after), on_call: true }), why)
            }
        };
        if passive.is_some() != self.passive.is_some() {
            match passive {
                Some(_) => info!("{why}: new calls get 503"),
                None => info!("this node answers calls: it is active, or the active one is not heard"),
            }
        }
        self.passive = passive;
        let Some(calls) = self.node.calls() else { return };
        calls.set_passive(passive);
        let reached = *calls.reached_while_passive().borrow();
        if reached > std::mem::replace(&mut self.reached, reached) {
            let taken = passive.is_some_and(|passive| passive.on_call);
            let detail = if taken { "taken; the role is asked for" } else { "refused with 503" };
            self.node.alarms.raise(Code::PassiveCalled, self.node.name.as_str(), detail);
            if taken {
                self.ask_for_the_role();
            }
        }
    }

    /// The caller may be unable to reach the active node: request the role while the call is answered.
    fn ask_for_the_role(&mut self) {
        let waits = |(at, task): &(BootInstant, JoinHandle<()>)| !task.is_finished() || at.elapsed() < ASK_AGAIN;
        if self.asked.as_ref().is_some_and(waits) {
            return;
        }
        let node = self.node.clone();
        let asking = tokio::spawn(async move {
            let order = Order::take_role_on_call(node.name.clone());
            if let Err(error) = node.roles.order(OrderId(rand::random()), order).await {
                warn!(%error, "a call has reached this passive node, and it cannot have the role");
            }
        });
        self.asked = Some((BootInstant::now(), asking));
    }
}
