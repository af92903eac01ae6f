//! The node's side of its leases: sends keep-alives, opens and closes gates, and publishes the view.
//!
//! One task owns all of it. Requests run concurrently, so that a leader that does not answer does not delay a release.
//! The decisions are those of `HolderStep` in `role-manager/member`, which the simulation runs too.

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
use twinbox_roles_core::{Duty, Grant, HealthReport, KeepAlive, LocalFacts, Measures, Report, RolesView, State};
use twinbox_roles_member::{HolderAction, HolderEvent, HolderStep, LeaseDenied, ReportedFacts};
use twinbox_wire::roles::{self as wire, question::Question, reply::Reply};

use crate::{
    RolesConfig,
    convert::{self, KeepAliveExtras},
    dialer::{Dialer, Lane},
    exits::Proofs,
    failure_detector::FailureDetector,
    leader::{Leadership, since_boot},
    members::leader_name,
    orders::LastGrant,
    other_group_members::OtherGroupMembers,
    solo_controller::SoloController,
    task_monitor::TaskMonitor,
};

/// Time for which a leaving node waits for writes in flight …
const LAST_WRITES: Duration = Duration::from_secs(2);
/// … and time for which it waits to notify the leader.
const LAST_NOTICE: Duration = Duration::from_secs(1);

/// Parameters of the task.
pub(crate) struct LeaseAgent {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) identity: Arc<StoreIdentity>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) gates: BTreeMap<Duty, Gate>,
    pub(crate) expirer: GateExpirer,
    pub(crate) solo: SoloController,
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

struct LeaseState {
    holder: HolderStep,
    requests: JoinSet<Answered>,
    /// Gates closed for release, until nothing is in flight.
    releases: JoinSet<(Duty, Epoch)>,
}

fn now() -> Duration {
    since_boot(BootInstant::now())
}

impl LeaseAgent {
    /// Holds the leases until the node leaves, and then until they are given back. Restarted after a panic, it has no
    /// lease, and opens no gate before one is granted.
    pub(crate) async fn run(&mut self) {
        self.gates.values().for_each(Gate::close);
        let (node, incarnation) = (self.config.node.clone(), self.identity.incarnation());
        let mut leases = LeaseState {
            holder: HolderStep::new(node, incarnation, self.config.timing, now()),
            requests: JoinSet::new(),
            releases: JoinSet::new(),
        };
        let mut applied = self.core.applied();
        let mut status = self.core.status();
        let mut changes = self.identity.changes();
        let mut proofs = self.proofs.watch();
        while !*self.leave.borrow_and_update() {
            self.monitor.note_turn();
            let known = applied.borrow_and_update().clone();
            let state = known.state.clone();
            self.step(&mut leases, HolderEvent::Applied { state: &state, leader: self.leader() });
            status.mark_unchanged();
            self.go_solo(&mut leases, &known).await;
            let (unanswered, may_take_part) = (leases.requests.len(), self.identity.may_take_part());
            self.step(&mut leases, HolderEvent::Turn { state: &state, unanswered, may_take_part });
            self.set_gates(&mut leases);
            proofs.mark_unchanged();
            self.inherit(&mut leases, &known);
            self.publish_view(&leases, &state);
            tokio::select! {
                () = wait(&mut applied) => {}
                () = wait(&mut status) => {}
                () = wait(&mut changes) => {}
                () = wait(&mut proofs) => {}
                () = wait(&mut self.leave) => {}
                () = wait(&mut self.health) => self.step(&mut leases, HolderEvent::FactsChanged),
                () = wait(&mut self.handed_over) => self.step(&mut leases, HolderEvent::FactsChanged),
                () = wait(&mut self.unanswered) => self.step(&mut leases, HolderEvent::FactsChanged),
                Some(Ok(answered)) = leases.requests.join_next() => self.take_answer(&mut leases, answered),
                Some(Ok((duty, epoch))) = leases.releases.join_next() => self.take_release(&mut leases, duty, epoch),
                () = sleep(leases.holder.next().saturating_sub(now())) => {}
            }
        }
        self.release_all(leases).await;
    }

    /// Hands an event to the decisions, and carries their actions out.
    fn step(&self, leases: &mut LeaseState, event: HolderEvent<'_>) {
        for action in leases.holder.step(now(), event) {
            match action {
                HolderAction::Release { duty, epoch } => self.begin_release(leases, duty, epoch),
                HolderAction::Ask(leader) => self.ask(leases, leader),
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
            }
        }
    }

    /// A node of a pair without a witness may go solo. It stops before it reports the solo work, and reports it before
    /// it gets a grant.
    async fn go_solo(&mut self, leases: &mut LeaseState, applied: &Applied) {
        // A node about to leave its group does no more solo work.
        let quorum = leases.holder.has_quorum(now(), &applied.state) || self.identity.is_held();
        self.solo.decide(applied, quorum, &self.gates).await;
        if self.solo.is_stopping() {
            self.step(leases, HolderEvent::StopsSolo);
        }
    }

    fn begin_release(&self, leases: &mut LeaseState, duty: Duty, epoch: Epoch) {
        let Some(gate) = self.gates.get(&duty).cloned() else { return };
        gate.close();
        leases.releases.spawn(async move {
            gate.idle().await;
            (duty, epoch)
        });
    }

    fn take_release(&self, leases: &mut LeaseState, duty: Duty, epoch: Epoch) {
        tracing::info!(%duty, %epoch, "duty released, with nothing in flight");
        self.step(leases, HolderEvent::Released { duty, epoch });
    }

    fn take_answer(&self, leases: &mut LeaseState, answered: Answered) {
        let Answered { sent, leader, result } = answered;
        match &result {
            Ok(_) => self.granted.note(sent),
            Err(LeaseDenied::NoLeader) => {}
            Err(LeaseDenied::Refused(reason)) => tracing::debug!(%leader, %reason, "lease refused"),
        }
        self.step(leases, HolderEvent::Answered { sent, leader, result });
    }

    fn set_gates(&self, leases: &mut LeaseState) {
        let event = HolderEvent::Gates { is_held: self.identity.is_held(), solo: self.solo.leases() };
        self.step(leases, event);
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

    fn request(&self, leases: &LeaseState, round_trips: &BTreeMap<NodeName, Duration>) -> KeepAlive {
        let level = self.core.applied().borrow().state.feature_level;
        leases.holder.request(ReportedFacts {
            raft_id: self.identity.raft_id(),
            run: self.identity.run(),
            failing: self.health.borrow().as_ref().map(|report| report.failing(level)),
            report: Report {
                reaches: round_trips.keys().cloned().collect(),
                measures: *self.measures.borrow(),
                feature_levels: self.config.speaks,
                persisted: self.solo.persisted(),
                solo: self.solo.report(),
                unanswered: self.unanswered.borrow().clone(),
            },
        })
    }

    /// Sends a keep-alive to the leader.
    fn ask(&self, leases: &mut LeaseState, leader: NodeName) {
        let round_trips = self.detector.round_trips(self.config.timing.lease);
        let request = self.request(leases, &round_trips);
        let extras = KeepAliveExtras { round_trips, handed_over: *self.handed_over.borrow() };
        // The holder counts from here (rule R2).
        let sent = now();
        if leader == self.config.node {
            let result = self.leadership.keep_alive(&request, &extras).map(Box::new).map_err(LeaseDenied::from);
            self.take_answer(leases, Answered { sent, leader, result });
            return;
        }
        let Some(stream) = self.dialer.request_stream(&leader, None, Lane::KeepAlive) else { return };
        let message = convert::keep_alive(&request, &extras, &self.config.timing);
        let limit = self.config.timing.lease;
        leases.requests.spawn(async move {
            let result = match timeout(limit, stream.ask(Question::KeepAlive(message))).await {
                Ok(Ok(Reply::KeepAlive(answer))) => read_answer(answer),
                Ok(_) | Err(_) => Err(LeaseDenied::NoLeader),
            };
            Answered { sent, leader, result }
        });
    }

    /// Lets the decisions see the exit proofs, which may make this node an heir.
    fn inherit(&self, leases: &mut LeaseState, applied: &Applied) {
        if leases.holder.grant().is_none() {
            return;
        }
        let (voters, exits) = (self.core.voters(applied), self.proofs.known());
        let event = HolderEvent::Exits { state: &applied.state, voters: &voters, exits: &exits, wall_ms: wall().0 };
        self.step(leases, event);
    }

    fn publish_view(&self, leases: &LeaseState, state: &State) {
        let quorum = leases.holder.has_quorum(now(), state);
        let grant = leases.holder.grant().cloned().filter(|_| quorum);
        let (mut running, failed, cuts) = grant.map(|g| (g.running, g.failed, g.cuts)).unwrap_or_default();
        let solo = self.solo.leases().into_iter().map(|(duty, (epoch, _))| (duty, epoch)).collect();
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
            obstacle: self.obstacle(leases),
            inherited: leases.holder.inherited().to_vec(),
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

    fn obstacle(&self, leases: &LeaseState) -> String {
        let obstacle = self.identity.obstacle();
        if !obstacle.is_empty() {
            return obstacle;
        }
        match self.core.has_joined(&self.config.node) {
            true => leases.holder.refused().to_owned(),
            false => "it has not been admitted to the cluster yet".to_owned(),
        }
    }

    /// Orderly end: nothing in flight, everything released, the leader notified.
    async fn release_all(&self, mut leases: LeaseState) {
        self.step(&mut leases, HolderEvent::Leave);
        let drained = async {
            while let Some(released) = leases.releases.join_next().await {
                if let Ok((duty, epoch)) = released {
                    self.take_release(&mut leases, duty, epoch);
                }
            }
        };
        if timeout(LAST_WRITES, drained).await.is_err() {
            tracing::warn!("writes are still in flight: their duty moves when its lease has expired");
        }
        let notified = async {
            loop {
                leases.requests.shutdown().await;
                let may_take_part = self.identity.may_take_part();
                self.step(&mut leases, HolderEvent::Notify { leader: self.leader(), may_take_part });
                if let Some(Ok(answered)) = leases.requests.join_next().await {
                    self.take_answer(&mut leases, answered);
                }
                if leases.holder.grant().is_some() {
                    return;
                }
                sleep(self.config.timing.heartbeat / 2).await;
            }
        };
        if timeout(LAST_NOTICE, notified).await.is_err() {
            tracing::warn!(
                "no leader was notified of the shutdown: the duties move when their leases have expired"
            );
        }
        self.gates.values().for_each(Gate::close);
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
