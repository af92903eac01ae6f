//! The node's side of its leases and its solo work: sends keep-alives, opens and closes gates, stores solo records, and
//! publishes the view.
//!
//! One task owns all of it. Requests run concurrently, so that a leader that does not answer does not delay a release.
//! The decisions and their order are those of `NodeStep` in `role-manager/member`, which the simulation runs too: this
//! task waits, gathers the facts, and carries the actions out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use twinbox_clock::{BootInstant, wall};
use twinbox_gate::{Gate, GateExpirer};
use twinbox_ids::{Epoch, NodeName};
use twinbox_raft::{Applied, Core, StoreIdentity, wait};
use twinbox_roles_core::{
    Duty, Grant, HealthReport, KeepAlive, LocalFacts, Measures, Report, RolesView, SoloRecord, State,
};
use twinbox_roles_member::{
    HolderAction, KeepAliveExtras, LeaseDenied, NodeAction, NodeEvent, NodeFacts, NodeStep, ReportedFacts,
    SoloAction,
};
use twinbox_wire::roles::{self as wire, question::Question, reply::Reply};

use crate::{
    RolesConfig,
    boot_clock::now,
    connections::{
        convert,
        dialer::{Dialer, Lane},
    },
    failures::{exits::Proofs, failure_detector::FailureDetector},
    group::{members::leader_name, other_group_members::OtherGroupMembers},
    leading::{leader::Leadership, orders::LastGrant},
    leases::arbiter::Arbiter,
    task_monitor::TaskMonitor,
};

/// Parameters of the task.
pub(crate) struct LeaseAgent {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) identity: Arc<StoreIdentity>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) gates: BTreeMap<Duty, Gate>,
    pub(crate) expirer: GateExpirer,
    pub(crate) node: NodeStep,
    pub(crate) arbiter: Arc<Arbiter>,
    pub(crate) granted: Arc<LastGrant>,
    pub(crate) detector: Arc<FailureDetector>,
    pub(crate) other_group: Arc<OtherGroupMembers>,
    pub(crate) health: watch::Receiver<Option<HealthReport>>,
    pub(crate) measures: watch::Receiver<Measures>,
    /// Members whose SIP address does not answer this node (rule C3).
    pub(crate) unanswered: watch::Receiver<BTreeSet<NodeName>>,
    pub(crate) proofs: Arc<Proofs>,
    /// This node is being removed, and another node has all its data.
    pub(crate) handed_over: watch::Receiver<bool>,
    pub(crate) leave: watch::Receiver<bool>,
    pub(crate) view: watch::Sender<Arc<RolesView>>,
    pub(crate) monitor: TaskMonitor,
}

/// Answer to a keep-alive.
struct Answered {
    sent: Duration,
    leader: NodeName,
    result: Result<Box<Grant>, LeaseDenied>,
}

/// Work under way.
#[derive(Default)]
struct Pending {
    requests: JoinSet<Answered>,
    /// Gates closed for release, until nothing is in flight.
    releases: JoinSet<(Duty, Epoch)>,
}

impl LeaseAgent {
    /// Holds the leases until the node has left in good order.
    pub(crate) async fn run(&mut self) {
        self.gates.values().for_each(Gate::close);
        self.node.restart(now());
        let mut pending = Pending::default();
        let mut applied = self.core.applied();
        let mut status = self.core.status();
        let mut changes = self.identity.changes();
        let mut proofs = self.proofs.watch();
        loop {
            self.monitor.note_turn();
            if *self.leave.borrow_and_update() {
                self.step(&mut pending, NodeEvent::Leave);
            }
            // A change from here on is another turn.
            status.mark_unchanged();
            proofs.mark_unchanged();
            let known = applied.borrow_and_update().clone();
            while let Some(action) = self.next_action(&known) {
                match action {
                    NodeAction::Leases(actions) => self.carry_out(&mut pending, actions),
                    NodeAction::Solo(action) => self.carry_out_solo(&mut pending, action).await,
                }
            }
            if self.node.holder().has_left() {
                break;
            }
            if !self.node.holder().is_leaving() {
                self.publish_view(&known.state);
            }
            tokio::select! {
                () = wait(&mut applied) => {}
                () = wait(&mut status) => {}
                () = wait(&mut changes) => {}
                () = wait(&mut proofs) => {}
                () = wait(&mut self.leave) => {}
                () = wait(&mut self.health) => self.step(&mut pending, NodeEvent::FactsChanged),
                () = wait(&mut self.handed_over) => self.step(&mut pending, NodeEvent::FactsChanged),
                () = wait(&mut self.unanswered) => self.step(&mut pending, NodeEvent::FactsChanged),
                Some(Ok(answered)) = pending.requests.join_next() => self.take_answer(&mut pending, answered),
                Some(Ok((duty, epoch))) = pending.releases.join_next() => {
                    tracing::info!(%duty, %epoch, "duty released, with nothing in flight");
                    self.step(&mut pending, NodeEvent::Released { duty, epoch });
                }
                () = sleep(self.node.holder().next().saturating_sub(now())) => {}
            }
        }
        self.gates.values().for_each(Gate::close);
    }

    /// The next action of the present turn, by this applied state and the facts of this moment.
    fn next_action(&mut self, applied: &Applied) -> Option<NodeAction> {
        let state = &*applied.state;
        let (leader, voters) = (self.leader(), self.core.voters(applied));
        let (exits, contacts) = (self.proofs.known(), self.detector.contacts());
        self.node.turn(&NodeFacts {
            now: now(),
            wall_ms: wall().0,
            state,
            leader: leader.as_ref(),
            raft_id: self.identity.raft_id(),
            voters: &voters,
            exits: &exits,
            may_take_part: self.identity.may_take_part(),
            is_held: self.identity.is_held(),
            contacts: &contacts,
            arbiter: self.arbiter.answered(state),
            in_flight: self.gates.values().any(Gate::is_busy),
        })
    }

    fn step(&mut self, pending: &mut Pending, event: NodeEvent) {
        let actions = self.node.step(now(), event);
        self.carry_out(pending, actions);
    }

    fn carry_out(&mut self, pending: &mut Pending, actions: Vec<HolderAction>) {
        for action in actions {
            match action {
                HolderAction::Release { duty, epoch } => self.begin_release(pending, duty, epoch),
                HolderAction::Ask { leader, sent } => self.ask(pending, leader, sent),
                HolderAction::Open { duty, epoch, until } => self.open(duty, &epoch, until),
                HolderAction::Close(duty) => {
                    if let Some(gate) = self.gates.get(&duty) {
                        gate.close();
                    }
                }
                HolderAction::KeepCallCounts(counts) => self.leadership.note_call_counts(counts),
                HolderAction::Inherit(item) => {
                    tracing::info!(
                        node = %item.node,
                        incarnation = %item.incarnation,
                        calls = item.calls,
                        "this node inherits calls by exit proof alone"
                    );
                    self.leadership.inherited(&item.node, item.incarnation);
                }
                HolderAction::AbandonWrites => {
                    tracing::warn!("writes are still in flight: their duty moves when its lease has expired");
                }
                HolderAction::Left { notified: false } => tracing::warn!(
                    "no leader was notified of the shutdown: duties held here move when their leases have expired"
                ),
                HolderAction::Left { notified: true } => {}
            }
        }
    }

    async fn carry_out_solo(&mut self, pending: &mut Pending, action: SoloAction) {
        match action {
            SoloAction::Close => self.gates.values().for_each(Gate::close),
            SoloAction::Wait(reason) => tracing::info!(%reason, "no majority: this node does not go solo"),
            SoloAction::Store(record) => {
                let is_stored = self.store(&record).await;
                let event = if is_stored { NodeEvent::Stored(record) } else { NodeEvent::NotStored };
                self.step(pending, event);
            }
        }
    }

    /// Stores a solo record. Returns whether it is on disk.
    async fn store(&self, record: &SoloRecord) -> bool {
        if let Err(error) = self.identity.save_solo(record).await {
            tracing::error!(%error, "cannot store the solo record: no solo work; check the disk");
            return false;
        }
        match record.report.as_ref().map(|report| (report.is_acting(), &report.epoch)) {
            Some((true, epoch)) => tracing::warn!(%epoch, "no majority: this node runs duties solo"),
            Some((false, epoch)) => tracing::warn!(%epoch, "this node has ended its solo work"),
            None => {}
        }
        true
    }

    fn begin_release(&self, pending: &mut Pending, duty: Duty, epoch: Epoch) {
        let Some(gate) = self.gates.get(&duty).cloned() else { return };
        gate.close();
        pending.releases.spawn(async move {
            gate.idle().await;
            (duty, epoch)
        });
    }

    fn take_answer(&mut self, pending: &mut Pending, answered: Answered) {
        let Answered { sent, leader, result } = answered;
        match &result {
            Ok(_) => self.granted.note(sent),
            Err(LeaseDenied::NoLeader) => {}
            Err(LeaseDenied::Refused(reason)) => tracing::debug!(%leader, %reason, "lease refused"),
        }
        self.step(pending, NodeEvent::Answered { sent, leader, result });
    }

    fn open(&self, duty: Duty, epoch: &Epoch, until: Duration) {
        let Some(gate) = self.gates.get(&duty) else { return };
        let was_open = gate.is_open();
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        gate.open(epoch, BootInstant::from_nanos(until));
        if !was_open {
            self.expirer.wake();
        }
    }

    fn leader(&self) -> Option<NodeName> {
        leader_name(&self.core.status().borrow())
    }

    fn request(&self, round_trips: &BTreeMap<NodeName, Duration>) -> KeepAlive {
        let level = self.core.applied().borrow().state.feature_level;
        self.node.holder().request(ReportedFacts {
            raft_id: self.identity.raft_id(),
            run: self.identity.run(),
            failing: self.health.borrow().as_ref().map(|report| report.failing(level)),
            report: Report {
                reaches: round_trips.keys().cloned().collect(),
                measures: *self.measures.borrow(),
                feature_levels: self.config.speaks,
                persisted: self.node.solo().persisted(),
                solo: self.node.solo().report().cloned(),
                unanswered: self.unanswered.borrow().clone(),
            },
        })
    }

    /// Sends a keep-alive to the leader.
    fn ask(&mut self, pending: &mut Pending, leader: NodeName, sent: Duration) {
        let round_trips = self.detector.round_trips(self.config.timing.lease);
        let request = self.request(&round_trips);
        let extras = KeepAliveExtras { round_trips, handed_over: *self.handed_over.borrow() };
        if leader == self.config.node {
            let result = self.leadership.keep_alive(&request, &extras).map(Box::new).map_err(LeaseDenied::from);
            return self.take_answer(pending, Answered { sent, leader, result });
        }
        let Some(stream) = self.dialer.request_stream(&leader, None, Lane::KeepAlive) else {
            return self.take_answer(pending, Answered { sent, leader, result: Err(LeaseDenied::NoLeader) });
        };
        let message = convert::keep_alive(&request, &extras, &self.config.timing);
        let limit = self.config.timing.lease;
        pending.requests.spawn(async move {
            let result = match timeout(limit, stream.ask(Question::KeepAlive(message))).await {
                Ok(Ok(Reply::KeepAlive(answer))) => read_answer(answer),
                Ok(_) | Err(_) => Err(LeaseDenied::NoLeader),
            };
            Answered { sent, leader, result }
        });
    }

    fn publish_view(&self, state: &State) {
        let holder = self.node.holder();
        let quorum = holder.has_quorum(now(), state);
        let grant = holder.grant().cloned().filter(|_| quorum);
        let (mut running, failed, cuts) = grant.map(|g| (g.running, g.failed, g.cuts)).unwrap_or_default();
        let solo = self.node.solo().leases(now()).into_iter().map(|(duty, (epoch, _))| (duty, epoch)).collect();
        for (duty, gate) in &self.gates {
            let ours = state.holder(*duty).is_some_and(|a| a.epoch.node == self.config.node);
            if gate.is_open() {
                running.insert(*duty);
            } else if ours {
                running.remove(duty);
            }
        }
        let known = LocalFacts {
            leader: self.leader(),
            quorum,
            running,
            failed,
            solo,
            cuts,
            rivals: self.other_group.recent(),
            obstacle: self.obstacle(),
            inherited: holder.inherited().to_vec(),
        };
        let view = RolesView::new(&self.config.node, state, &known);
        self.view.send_if_modified(|shown| {
            let changed = **shown != view;
            if changed {
                *shown = Arc::new(view);
            }
            changed
        });
    }

    fn obstacle(&self) -> String {
        let obstacle = self.identity.obstacle();
        if !obstacle.is_empty() {
            return obstacle;
        }
        match self.core.has_joined(&self.config.node) {
            true => self.node.holder().refused().to_owned(),
            false => "it has not been admitted to the cluster yet".to_owned(),
        }
    }
}

fn read_answer(answer: wire::KeepAliveAnswer) -> Result<Box<Grant>, LeaseDenied> {
    use wire::keep_alive_answer::Result as Answer;
    match answer.result {
        Some(Answer::Granted(granted)) => convert::read_grant(&granted)
            .map(Box::new)
            .map_err(|malformed| LeaseDenied::Refused(malformed.message().to_owned())),
        Some(Answer::NotLeader(_)) | None => Err(LeaseDenied::NoLeader),
        Some(Answer::Refused(reason)) => Err(LeaseDenied::Refused(reason)),
    }
}
