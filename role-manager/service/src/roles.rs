//! The public handle of the role manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use twinbox_clock::wall;
use twinbox_handle::Handle;
use twinbox_ids::NodeName;
use twinbox_raft::{Apply, Core, RaftStatus, StoreError, StoreIdentity, wait};
use twinbox_roles_core::{
    Certificates, Duty, Exits, HealthReport, LocalFacts, Measures, Order, OrderId, RolesView, State,
};
use twinbox_roles_member::NodeStep;
use twinbox_wire::roles::{exits_server::ExitsServer, roles_server::RolesServer};

use crate::{
    CommandError, ExitsService, Gate, MemberAddress, RolesConfig, RolesError, RolesService,
    boot_clock::now,
    connections::dialer::{Dialer, MESSAGE_LIMIT},
    failures::{
        exits::{Proofs, SupervisorProber},
        failure_detector::{FailureDetector, MemberProber},
    },
    group::{
        go_on_alone::GoOnAloneSteps,
        members::Members,
        membership_reconciler::MembershipReconciler,
        other_group_members::{OtherGroupMembers, OtherGroupProber},
        roster::Roster,
    },
    leading::{
        leader::Leadership,
        orders::{LastGrant, Orders},
    },
    leases::{arbiter::Arbiter, lease_agent::LeaseAgent},
    raft_disk,
    task_monitor::TaskMonitor,
    tasks::{spawn, start_expirer},
};

/// Function by which a command changes the state. Tests make some commands panic.
#[cfg(not(test))]
const APPLY: Apply = State::apply;
#[cfg(test)]
const APPLY: Apply = crate::batch_tests::apply;

/// This member's part in the cluster. Clones share it; when the last is dropped everything stops immediately, as in a
/// crash: nothing is released, and the others wait for the leases to expire. [`Roles::shutdown`] is the orderly end.
#[derive(Clone)]
pub struct Roles(Handle<Running>);

struct Running {
    service: RolesService,
    orders: Orders,
    go_on_alone: Arc<GoOnAloneSteps>,
    proofs: Arc<Proofs>,
    gates: BTreeMap<Duty, Gate>,
    health: watch::Sender<Option<HealthReport>>,
    measures: watch::Sender<Measures>,
    unanswered: watch::Sender<BTreeSet<NodeName>>,
    handed_over: watch::Sender<bool>,
    leave: watch::Sender<bool>,
    view: watch::Receiver<Arc<RolesView>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    lease_agent: Mutex<Option<JoinHandle<()>>>,
    raft: Mutex<Option<JoinHandle<()>>>,
    monitor: TaskMonitor,
}

impl Roles {
    /// Opens the store, starts Raft, and then joins or founds the group. Returns before that is done: [`Roles::watch`]
    /// shows the progress.
    pub fn start(config: RolesConfig) -> BoxFuture<'static, Result<Self, RolesError>> {
        Self::open(config).boxed()
    }

    async fn open(config: RolesConfig) -> Result<Self, RolesError> {
        config.check()?;
        let config = Arc::new(config);
        let timing = config.timing;
        let raft_config = config.raft();
        let disk = raft_disk::open(&config).map_err(StoreError::Disk)?;
        let identity = Arc::new(StoreIdentity::open(&raft_config, disk.clone()).await?);
        let roster = Arc::new(Roster::new(&config));
        let detector = Arc::new(FailureDetector::default());
        let dialer = Arc::new(Dialer::new(config.tls.clone(), roster.clone(), detector.clone(), &timing));
        let monitor = TaskMonitor::new();
        let core = Core::open(&raft_config, disk, identity.clone(), dialer.clone(), APPLY)?;
        let core = Arc::new(core);
        let other_group = Arc::new(OtherGroupMembers::default());
        let proofs = Arc::new(Proofs::new());
        let own = (config.node.clone(), identity.incarnation());
        let (proving, detecting) = (proofs.clone(), detector.clone());
        let leadership = Arc::new(Leadership::new(own, core.clone(), timing, proving, detecting, roster.clone()));
        let members = Arc::new(Members {
            config: config.clone(),
            identity: identity.clone(),
            core: core.clone(),
            leadership: leadership.clone(),
            dialer: dialer.clone(),
            roster: roster.clone(),
            detector: detector.clone(),
            other_group: other_group.clone(),
        });
        let gates: BTreeMap<Duty, Gate> = Duty::ALL.into_iter().map(|duty| (duty, Gate::new(duty))).collect();
        let expirer = start_expirer(gates.values().cloned().collect()).map_err(RolesError::Thread)?;
        let health = watch::Sender::new(None);
        let measures = watch::Sender::new(Measures::default());
        let unanswered = watch::Sender::new(BTreeSet::new());
        let handed_over = watch::Sender::new(false);
        let granted = Arc::new(LastGrant::default());
        let arbiter = Arc::new(Arbiter::default());
        let clocks = (now(), wall().0);
        let node = NodeStep::new((config.node.clone(), identity.incarnation()), timing, identity.solo()?, clocks);
        let leave = watch::Sender::new(false);
        let known = LocalFacts { obstacle: identity.obstacle(), ..LocalFacts::default() };
        let view_sender = watch::Sender::new(Arc::new(RolesView::new(&config.node, &State::default(), &known)));
        let view = view_sender.subscribe();

        let raft_task = Arc::new(core.start().await?);
        let raft = monitor.run("raft", raft_task, |task| async move { task.run().await });
        let lease_agent = LeaseAgent {
            config: config.clone(),
            identity: identity.clone(),
            core: core.clone(),
            leadership: leadership.clone(),
            dialer: dialer.clone(),
            gates: gates.clone(),
            expirer,
            node,
            arbiter: arbiter.clone(),
            granted: granted.clone(),
            detector: detector.clone(),
            other_group,
            health: health.subscribe(),
            measures: measures.subscribe(),
            unanswered: unanswered.subscribe(),
            proofs: proofs.clone(),
            handed_over: handed_over.subscribe(),
            leave: leave.subscribe(),
            view: view_sender,
            monitor: monitor.clone(),
        };
        let prober = MemberProber {
            config: config.clone(),
            roster: roster.clone(),
            dialer: dialer.clone(),
            detector: detector.clone(),
        };
        let supervisors = Arc::new(SupervisorProber {
            config: config.clone(),
            roster: roster.clone(),
            detector: detector.clone(),
            proofs: proofs.clone(),
            leadership: leadership.clone(),
        });
        let reconciler = MembershipReconciler {
            config: config.clone(),
            identity: identity.clone(),
            core: core.clone(),
            leadership: leadership.clone(),
        };
        let other_group_prober = OtherGroupProber { members: members.clone(), dialer: dialer.clone() };
        let go_on_alone = Arc::new(GoOnAloneSteps {
            config: config.clone(),
            identity: identity.clone(),
            core: core.clone(),
            detector: detector.clone(),
            supervisors: supervisors.clone(),
            gates: gates.clone(),
            view: view.clone(),
            running: tokio::sync::Mutex::default(),
        });
        let tasks = vec![
            monitor.run("roster", (roster.clone(), core.clone()), |(roster, core)| async move {
                roster.follow(&core).await;
            }),
            monitor.run("joining", members.clone(), |members| async move { members.enter().await }),
            monitor.run("run numbers", (members.clone(), view.clone()), |(members, view)| async move {
                members.announce_run_number(view).await;
            }),
            monitor.run("removal", members.clone(), |members| async move { members.watch_removal().await }),
            monitor.run("members", Arc::new(reconciler), |reconciler| async move { reconciler.run().await }),
            monitor.run("planner", leadership.clone(), |leadership| async move { leadership.run().await }),
            monitor.run("failure detector", Arc::new(prober), |prober| async move { prober.run().await }),
            monitor.run("exits", supervisors, |supervisors| async move { supervisors.run().await }),
            monitor.run("other groups", Arc::new(other_group_prober), |prober| async move { prober.run().await }),
            monitor.run("arbiter", (arbiter, core.clone()), move |(arbiter, core)| async move {
                arbiter.probe(&core, timing).await;
            }),
        ];
        let lease_agent = Arc::new(tokio::sync::Mutex::new(lease_agent));
        let leases_task =
            monitor.run("leases", lease_agent, |lease_agent| async move { lease_agent.lock().await.run().await });
        let orders =
            Orders { config: config.clone(), core: core.clone(), leadership: leadership.clone(), dialer, granted };
        Ok(Self(Handle::new(Running {
            service: RolesService { config, identity, core, leadership, members, roster, detector },
            orders,
            go_on_alone,
            proofs,
            gates,
            health,
            measures,
            unanswered,
            handed_over,
            leave,
            view,
            tasks: Mutex::new(tasks),
            lease_agent: Mutex::new(Some(leases_task)),
            monitor,
            raft: Mutex::new(Some(raft)),
        })))
    }

    /// The service for the other members; serve it with mutual TLS on this member's node-to-node listener.
    pub fn service(&self) -> RolesServer<RolesService> {
        RolesServer::new(self.0.service.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// The service for supervisors, to prove that a process has exited (rule R1); serve it next to [`Self::service`].
    pub fn exits(&self) -> ExitsServer<ExitsService> {
        let Running { service, proofs, .. } = &*self.0;
        let (roles, leadership) = (service.clone(), service.leadership.clone());
        ExitsServer::new(ExitsService { roles, proofs: proofs.clone(), leadership })
    }

    /// The exit proofs that this member has received.
    pub fn proofs(&self) -> watch::Receiver<Arc<Exits>> {
        self.0.proofs.watch()
    }

    /// The Raft id of this member's store, and its number of starts.
    pub fn raft_id_and_run(&self) -> (u64, u64) {
        let identity = &self.0.service.identity;
        (identity.raft_id(), identity.run())
    }

    /// The cluster as this member sees it.
    pub fn watch(&self) -> watch::Receiver<Arc<RolesView>> {
        self.0.view.clone()
    }

    /// All possible members, this one included: configured ones, and those that have joined since.
    pub fn members(&self) -> watch::Receiver<Arc<Vec<MemberAddress>>> {
        self.0.service.roster.watch()
    }

    /// Removed members that have not joined again; changes with [`Self::members`].
    pub fn removed_members(&self) -> BTreeSet<NodeName> {
        self.0.service.roster.removed()
    }

    /// The voters, as far as this member knows.
    pub fn voters(&self) -> BTreeSet<NodeName> {
        let status = self.0.service.core.status().borrow().clone();
        status.voters.iter().filter_map(|id| status.peer(*id)).map(|peer| peer.name.clone()).collect()
    }

    /// Whether a change of voters is under way, as far as this member knows: until it ends, a majority of the former
    /// and one of the next voters are needed.
    pub fn voters_change(&self) -> bool {
        self.0.service.core.status().borrow().joint
    }

    /// Whether the role manager of this member works, otherwise the reason as text: a task has panicked lately or
    /// hangs, or its disk accepts no more writes. `Ok` while it is being shut down.
    pub fn health(&self) -> Result<(), String> {
        if self.0.service.identity.stopped() {
            return Ok(());
        }
        self.broken().map_or_else(
            || self.0.monitor.health(),
            |reason| Err(format!("its store takes no more writes: {reason}")),
        )
    }

    /// Reason for which the disk of Raft's store accepts no more writes in this process, if any (rule A4).
    pub fn broken(&self) -> Option<String> {
        self.0.service.core.broken()
    }

    /// Raft, for tests of it in a cluster.
    #[cfg(test)]
    pub(crate) fn core(&self) -> Arc<Core> {
        self.0.service.core.clone()
    }

    /// The last command set aside here since the start of the process, as text (rule R11).
    pub fn set_aside(&self) -> Option<Arc<str>> {
        self.0.service.core.applied().borrow().set_aside.clone()
    }

    /// Waits until this member has been removed from the cluster, and returns the notice with the remedy. The member
    /// takes part in nothing any more then.
    pub async fn removed(&self) -> String {
        let mut changes = self.0.service.identity.changes();
        loop {
            changes.mark_unchanged();
            if self.0.service.identity.is_removed() {
                return self.0.service.identity.obstacle();
            }
            wait(&mut changes).await;
        }
    }

    /// Whether joining members may come now: a join token is valid, or expired so recently that its user should get the
    /// reason.
    pub fn expects_joining_members(&self) -> bool {
        self.0.service.core.applied().borrow().state.accepts_joining_members(wall().0)
    }

    /// The agreed state, as far as this member knows it.
    pub fn agreed(&self) -> Arc<State> {
        self.0.service.core.applied().borrow().state.clone()
    }

    /// Waits until the agreed certificates differ from `seen`.
    pub async fn certificates_beyond(&self, seen: &Certificates) {
        let mut applied = self.0.service.core.applied();
        if applied.wait_for(|applied| applied.state.certificates != *seen).await.is_err() {
            // This member stops: nothing more is agreed.
            std::future::pending().await
        }
    }

    /// Report of this node on its critical services; until the first one it is `starting`. Report at each change: the
    /// leader is notified immediately.
    pub fn report(&self, report: HealthReport) {
        self.0.health.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&report);
            *known = Some(report);
            changed
        });
    }

    /// Measures of this node; sent with the next keep-alive.
    pub fn measure(&self, measures: Measures) {
        self.0.measures.send_replace(measures);
    }

    /// Members whose SIP address does not answer this one's probes (rule C3). If another member reports the same and
    /// the lease has expired, their calls get an heir. Report at each change.
    pub fn unanswered(&self, members: BTreeSet<NodeName>) {
        self.0.unanswered.send_if_modified(|known| {
            let changed = *known != members;
            *known = members;
            changed
        });
    }

    /// While this node is being removed: whether another node has all its data. Only then is it removed.
    pub fn has_handed_over(&self, all: bool) {
        self.0.handed_over.send_if_modified(|known| std::mem::replace(known, all) != all);
    }

    /// Whether the incarnation of this member that was heard last is known to have exited.
    pub fn has_exited(&self, node: &NodeName) -> bool {
        let RolesService { detector, core, .. } = &self.0.service;
        let agreed = || core.applied().borrow().state.members.get(node).and_then(|member| member.incarnation);
        detector
            .incarnation(node)
            .or_else(agreed)
            .is_some_and(|incarnation| self.0.proofs.known().has(node, incarnation))
    }

    /// Time since the last contact with another member; `None` when there was none since the start.
    pub fn since_contact(&self, node: &NodeName) -> Option<Duration> {
        self.0.service.detector.since_contact(node)
    }

    /// The longest gap between granted keep-alives of this member in the last [`LongestGap::WINDOW`], to be compared
    /// with the lease length; none as long as none was granted.
    ///
    /// [`LongestGap::WINDOW`]: crate::LongestGap::WINDOW
    pub fn longest_gap(&self) -> Option<Duration> {
        self.0.orders.granted.longest_gap()
    }

    /// Makes a node the publisher; its duties follow shortly after.
    pub async fn make_publisher(&self, node: &NodeName) -> Result<(), CommandError> {
        self.order(OrderId(rand::random()), Order::make_publisher(node.clone())).await
    }

    /// Lets a node serve again.
    pub async fn activate(&self, node: &NodeName) -> Result<(), CommandError> {
        self.order(OrderId(rand::random()), Order::Activate(node.clone())).await
    }

    /// Takes a node out; its duties move to another.
    pub async fn deactivate(&self, node: &NodeName) -> Result<(), CommandError> {
        self.order(OrderId(rand::random()), Order::deactivate(node.clone())).await
    }

    /// Carries out an order under an id chosen by the caller: at most once, however often it is requested.
    pub async fn order(&self, id: OrderId, order: Order) -> Result<(), CommandError> {
        self.give(id, Some(&order)).await
    }

    /// Outcome of an order whose outcome was unknown. An order not carried out by then never will be.
    pub async fn outcome(&self, id: OrderId) -> Result<(), CommandError> {
        self.give(id, None).await
    }

    /// Checks whether this node may go on alone now, without these permanently lost members.
    pub fn may_go_on_alone(&self, lost: &BTreeSet<NodeName>) -> Result<(), CommandError> {
        self.0.go_on_alone.check(lost).map(drop)
    }

    /// Goes on alone without a permanently lost majority: this node becomes the only member of a new group, with the
    /// agreed state. It first listens for a while for signs of the others, and continues even when the caller no longer
    /// waits.
    pub async fn go_on_alone(&self, lost: &BTreeSet<NodeName>) -> Result<(), CommandError> {
        if self.0.service.identity.stopped() {
            return Err(CommandError::Stopping);
        }
        let (go_on_alone, lost) = (self.0.go_on_alone.clone(), lost.clone());
        let going = spawn(async move { go_on_alone.run(&lost).await });
        going.await.unwrap_or(Err(CommandError::Stopping))
    }

    async fn give(&self, id: OrderId, order: Option<&Order>) -> Result<(), CommandError> {
        if self.0.service.identity.stopped() {
            return Err(CommandError::Stopping);
        }
        self.0.orders.give(id, order, self.0.view.clone()).await
    }

    /// The gate of a duty on this node.
    pub fn gate(&self, duty: Duty) -> Gate {
        // Every duty has one from the start; any other duty gets a gate that never opens.
        self.0.gates.get(&duty).cloned().unwrap_or_else(|| Gate::new(duty))
    }

    /// Orderly end: leadership and duties are handed over, then Raft stops.
    pub fn shutdown(&self) -> BoxFuture<'_, ()> {
        async move {
            let running = &self.0;
            let timing = running.service.config.timing;
            running.hand_over_leadership().await;
            running.leave.send_replace(true);
            let lease_agent = running.lease_agent.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(lease_agent) = lease_agent {
                let _ = lease_agent.await;
            }
            running.stop();
            let raft = running.raft.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(raft) = raft
                && timeout(timing.lease * 4, raft).await.is_err()
            {
                tracing::warn!("Raft did not stop in time");
            }
        }
        .boxed()
    }
}

impl Running {
    async fn hand_over_leadership(&self) {
        let RolesService { identity, core, config, .. } = &self.service;
        let own = identity.raft_id();
        let mut status = core.status();
        let current = status.borrow_and_update().clone();
        let Some(successor) = current.best_successor(own, |_| true).filter(|_| current.leading) else { return };
        if core.transfer_to(successor).await.is_ok() {
            let another = status.wait_for(|p: &RaftStatus| p.leader.is_some_and(|leader| leader != own));
            let _ = timeout(config.timing.order_limit(), another).await;
        }
    }

    fn stop(&self) {
        self.service.identity.stop();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|task| task.abort());
        self.gates.values().for_each(Gate::close);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        let lease_agent = self.lease_agent.lock().unwrap_or_else(PoisonError::into_inner).take();
        lease_agent.inspect(JoinHandle::abort);
    }
}
