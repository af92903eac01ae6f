//! The node's side of its leases: sends keep-alives, opens and closes gates, and publishes the view.
//!
//! One task owns all of it. Requests run concurrently, so that a leader that does not answer does not delay a release.

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
    CallHeir, Duty, Grant, HealthReport, Holder, KeepAlive, LocalFacts, Measures, NoGrant, Report, RolesView,
    State, heirs_by_proof,
};
use twinbox_wire::roles::{self as wire, question::Question, reply::Reply};

use crate::{
    RolesConfig,
    convert::{self, KeepAliveExtras},
    dialer::{Dialer, Lane},
    exits::Proofs,
    failure_detector::FailureDetector,
    leader::{Leadership, NotGranted, since_boot},
    members::leader_name,
    orders::LastGrant,
    other_group_members::OtherGroupMembers,
    solo_controller::SoloController,
    task_monitor::TaskMonitor,
};

/// Maximum number of unanswered keep-alives.
const MAX_UNANSWERED: usize = 3;
/// Maximum number of remembered inheritances by proof alone that are not agreed on.
const INHERITED: usize = 8;
/// Interval at which a node that stops solo work checks for writes in flight.
const STOPPING: Duration = Duration::from_millis(10);
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
    result: Result<Grant, LeaseDenied>,
}

/// Reason for which there is no lease.
enum LeaseDenied {
    /// No leader answers, or none with a majority: temporary.
    NoLeader,
    /// The leader refuses this node.
    Refused(String),
}

struct LeaseState {
    holders: BTreeMap<Duty, Holder>,
    requests: JoinSet<Answered>,
    /// Gates closed for release, until nothing is in flight.
    releases: JoinSet<(Duty, Epoch)>,
    releasing: BTreeSet<Epoch>,
    /// The last grant, and the time at which its request was sent.
    granted: Option<(Duration, Grant)>,
    refused: String,
    /// The solo epoch of this node, and its end (rule R7).
    solo: Option<(Epoch, Duration)>,
    /// Inheritances of this node by proof alone (rule C4).
    inherited: Vec<CallHeir>,
    next: Duration,
}

fn now() -> Duration {
    since_boot(BootInstant::now())
}

impl LeaseAgent {
    /// Holds the leases until the node leaves, and then until they are given back. Restarted after a panic, it has no
    /// lease, and opens no gate before one is granted.
    pub(crate) async fn run(&mut self) {
        self.gates.values().for_each(Gate::close);
        let incarnation = self.identity.incarnation();
        let holder = |duty| Holder::new(duty, self.config.node.clone(), incarnation, self.config.timing);
        let mut leases = LeaseState {
            holders: Duty::ALL.into_iter().map(|duty| (duty, holder(duty))).collect(),
            requests: JoinSet::new(),
            releases: JoinSet::new(),
            releasing: BTreeSet::new(),
            granted: None,
            refused: String::new(),
            solo: None,
            inherited: Vec::new(),
            next: now(),
        };
        let mut applied = self.core.applied();
        let mut status = self.core.status();
        let mut changes = self.identity.changes();
        let mut proofs = self.proofs.watch();
        let mut leader = None;
        while !*self.leave.borrow_and_update() {
            self.monitor.note_turn();
            let known = applied.borrow_and_update().clone();
            let state = known.state.clone();
            let urgent = self.apply_state(&mut leases, &state) | (leader != self.leader());
            leader = self.leader();
            status.mark_unchanged();
            self.go_solo(&mut leases, &known).await;
            if urgent || now() >= leases.next {
                leases.next = now() + self.config.timing.agreed(&state).keep_alive;
                self.ask(&mut leases, false);
            }
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
                () = wait(&mut self.health) => leases.next = now(),
                () = wait(&mut self.handed_over) => leases.next = now(),
                () = wait(&mut self.unanswered) => leases.next = now(),
                Some(Ok(answered)) = leases.requests.join_next() => self.take_answer(&mut leases, answered),
                Some(Ok((duty, epoch))) = leases.releases.join_next() => {
                    self.take_release(&mut leases, duty, epoch);
                    leases.next = now();
                }
                () = sleep(leases.next.saturating_sub(now())) => {}
            }
        }
        self.release_all(leases).await;
    }

    /// Whether the leader's last grant is so recent that there is a majority.
    fn quorum(&self, leases: &LeaseState, state: &State) -> bool {
        let limit = self.config.timing.agreed(state).quorum_lost();
        leases.granted.as_ref().is_some_and(|(sent, _)| now().saturating_sub(*sent) <= limit)
    }

    /// A node of a pair without a witness may go solo. It stops before it reports the solo work, and reports it before
    /// it gets a grant.
    async fn go_solo(&mut self, leases: &mut LeaseState, applied: &Applied) {
        // A node about to leave its group does no more solo work.
        let quorum = self.quorum(leases, &applied.state) || self.identity.is_held();
        let busy = || self.gates.values().any(Gate::is_busy);
        // As long as the gates are open, a write may be in flight at any moment.
        let open = leases.solo.is_some();
        leases.solo = self.solo.decide(applied, quorum, &|| open || busy()).await;
        if open && leases.solo.is_none() {
            self.gates.values().for_each(Gate::close);
            leases.solo = self.solo.decide(applied, quorum, &busy).await;
        }
        if self.solo.is_stopping() {
            leases.next = leases.next.min(now() + STOPPING);
        }
    }

    /// Applies the agreed state; returns whether a keep-alive is due immediately.
    fn apply_state(&self, leases: &mut LeaseState, state: &State) -> bool {
        let mut urgent = false;
        for (duty, holder) in &mut leases.holders {
            let before = holder.assigned().cloned();
            holder.applied(state);
            urgent |= holder.assigned().is_some() && holder.assigned() != before.as_ref();
            if let Some(epoch) = holder.must_release().filter(|epoch| !leases.releasing.contains(epoch)) {
                leases.releasing.insert(epoch.clone());
                Self::begin_release(&mut leases.releases, &self.gates, *duty, epoch.clone());
            }
        }
        urgent
    }

    fn begin_release(
        releases: &mut JoinSet<(Duty, Epoch)>,
        gates: &BTreeMap<Duty, Gate>,
        duty: Duty,
        epoch: Epoch,
    ) {
        let Some(gate) = gates.get(&duty).cloned() else { return };
        gate.close();
        releases.spawn(async move {
            gate.idle().await;
            (duty, epoch)
        });
    }

    fn take_release(&self, leases: &mut LeaseState, duty: Duty, epoch: Epoch) {
        leases.releasing.remove(&epoch);
        if let Some(holder) = leases.holders.get_mut(&duty) {
            tracing::info!(%duty, %epoch, "duty released, with nothing in flight");
            holder.release(epoch);
        }
    }

    fn take_answer(&self, leases: &mut LeaseState, answered: Answered) {
        match answered.result {
            Ok(grant) => {
                leases.holders.values_mut().for_each(|holder| holder.granted(answered.sent, &grant));
                leases.refused.clear();
                self.granted.note(answered.sent);
                // The leader may not know yet which calls this node has inherited by proof. If this node leads later, it
                // must not give them to another one (rule C4).
                let mut counts = grant.call_counts.clone();
                leases.inherited.iter().for_each(|item| counts.forget(&item.node, item.incarnation));
                self.leadership.note_call_counts(counts);
                if leases.granted.as_ref().is_none_or(|(sent, _)| *sent < answered.sent) {
                    leases.granted = Some((answered.sent, grant));
                }
            }
            Err(LeaseDenied::NoLeader) => leases.refused.clear(),
            Err(LeaseDenied::Refused(reason)) => {
                tracing::debug!(leader = %answered.leader, %reason, "lease refused");
                leases.refused = format!("{} grants no lease: {reason}", answered.leader);
            }
        }
    }

    fn set_gates(&self, leases: &mut LeaseState) {
        let at = now();
        if self.identity.is_held() {
            self.gates.values().for_each(Gate::close);
            return;
        }
        for (duty, gate) in &self.gates {
            let solo = leases.solo.as_ref().filter(|(_, until)| at < *until && self.solo.runs(*duty));
            let solo = solo.map(|(epoch, until)| (epoch, *until));
            let may = solo.or_else(|| leases.holders.get(duty).and_then(|holder| holder.may_act(at)));
            match may {
                Some((epoch, until)) => {
                    let was_open = gate.is_open();
                    let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
                    gate.open(epoch, BootInstant::from_nanos(until));
                    if !was_open {
                        self.expirer.wake();
                    }
                }
                None => gate.close(),
            }
        }
    }

    fn leader(&self) -> Option<NodeName> {
        leader_name(&self.core.status().borrow())
    }

    fn request(&self, leases: &LeaseState, leaving: bool, round_trips: &BTreeMap<NodeName, Duration>) -> KeepAlive {
        let level = self.core.applied().borrow().state.feature_level;
        let released = |(duty, holder): (&Duty, &Holder)| Some((*duty, holder.released()?.clone()));
        KeepAlive {
            node: self.config.node.clone(),
            raft_id: self.identity.raft_id(),
            run: self.identity.run(),
            incarnation: self.identity.incarnation(),
            failing: self.health.borrow().as_ref().map(|report| report.failing(level)),
            released: leases.holders.iter().filter_map(released).collect(),
            leaving,
            echo: leases.granted.as_ref().map(|(_, grant)| grant.echo()),
            report: Report {
                reaches: round_trips.keys().cloned().collect(),
                measures: *self.measures.borrow(),
                feature_levels: self.config.speaks,
                persisted: self.solo.persisted(),
                solo: self.solo.report(),
                unanswered: self.unanswered.borrow().clone(),
            },
        }
    }

    /// Sends a keep-alive to the leader.
    fn ask(&self, leases: &mut LeaseState, leaving: bool) {
        // A member that may not vote gets no lease either: its state may be old (rule R8).
        let may = leases.requests.len() < MAX_UNANSWERED && self.identity.may_take_part();
        let Some(leader) = self.leader().filter(|_| may) else { return };
        let round_trips = self.detector.round_trips(self.config.timing.lease);
        let request = self.request(leases, leaving, &round_trips);
        let extras = KeepAliveExtras { round_trips, handed_over: *self.handed_over.borrow() };
        // The holder counts from here (rule R2).
        let sent = now();
        if leader == self.config.node {
            let result = self.leadership.keep_alive(&request, &extras).map_err(|no| match no {
                NotGranted::NotLeader | NotGranted::No(NoGrant::NoQuorum { .. }) => LeaseDenied::NoLeader,
                NotGranted::No(reason) => LeaseDenied::Refused(reason.to_string()),
            });
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

    /// Makes the survivor of a pair without a witness the heir, by proof alone and without agreement.
    fn inherit(&self, leases: &mut LeaseState, applied: &Applied) {
        let Some((_, grant)) = leases.granted.as_ref() else { return };
        let own = (&self.config.node, self.identity.incarnation());
        let (state, voters) = (&applied.state, self.core.voters(applied));
        for item in heirs_by_proof(state, &voters, own, &self.proofs.known(), &grant.call_counts, wall().0) {
            if leases
                .inherited
                .iter()
                .any(|known| (&known.node, known.incarnation) == (&item.node, item.incarnation))
            {
                continue;
            }
            tracing::info!(
                node = %item.node,
                incarnation = %item.incarnation,
                calls = item.calls,
                "this node inherits calls by exit proof alone"
            );
            if leases.inherited.len() >= INHERITED {
                leases.inherited.remove(0);
            }
            self.leadership.inherited(&item.node, item.incarnation);
            leases.inherited.push(item);
        }
    }

    fn publish_view(&self, leases: &LeaseState, state: &State) {
        let quorum = self.quorum(leases, state);
        let grant = leases.granted.as_ref().map(|(_, grant)| grant.clone()).filter(|_| quorum);
        let (mut running, failed, cuts) = grant.map(|g| (g.running, g.failed, g.cuts)).unwrap_or_default();
        let solo = leases.solo.as_ref().filter(|(_, until)| now() < *until);
        let runs = || state.known_duties().filter(|duty| self.solo.runs(*duty));
        let solo = solo.map(|(epoch, _)| runs().map(|duty| (duty, epoch.clone())).collect()).unwrap_or_default();
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
            inherited: leases.inherited.clone(),
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
            true => leases.refused.clone(),
            false => "it has not been admitted to the cluster yet".to_owned(),
        }
    }

    /// Orderly end: nothing in flight, everything released, the leader notified.
    async fn release_all(&self, mut leases: LeaseState) {
        let held = leases.holders.iter().filter_map(|(duty, h)| Some((*duty, h.assigned()?.clone())));
        for (duty, epoch) in held.collect::<Vec<_>>() {
            if leases.releasing.insert(epoch.clone()) {
                Self::begin_release(&mut leases.releases, &self.gates, duty, epoch);
            }
        }
        let drained = async {
            while let Some(released) = leases.releases.join_next().await {
                if let Ok((duty, epoch)) = released
                    && let Some(holder) = leases.holders.get_mut(&duty)
                {
                    holder.release(epoch);
                }
            }
        };
        if timeout(LAST_WRITES, drained).await.is_err() {
            tracing::warn!("writes are still in flight: their duty moves when its lease has expired");
        }
        let notified = async {
            loop {
                leases.requests.shutdown().await;
                leases.granted = None;
                self.ask(&mut leases, true);
                if let Some(Ok(answered)) = leases.requests.join_next().await {
                    self.take_answer(&mut leases, answered);
                }
                if leases.granted.is_some() {
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

fn read_answer(answer: wire::KeepAliveAnswer) -> Result<Grant, LeaseDenied> {
    use wire::keep_alive_answer::Result as Answer;
    match answer.result {
        Some(Answer::Granted(granted)) => {
            convert::read_grant(&granted).map_err(|malformed| LeaseDenied::Refused(malformed.message().to_owned()))
        }
        Some(Answer::NotLeader(_)) | None => Err(LeaseDenied::NoLeader),
        Some(Answer::Refused(reason)) => Err(LeaseDenied::Refused(reason)),
    }
}
