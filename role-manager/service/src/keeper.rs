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
use twinbox_ids::{Epoch, NodeName};
use twinbox_roles_core::{
    Duty, Grant, HealthReport, Holder, Inheritance, KeepAlive, Known, Measures, NoGrant, Report, RolesView,
    ServiceHealth, State, by_proof,
};
use twinbox_wire::roles::{self as wire, question::Question, reply::Reply};

use crate::{
    RolesConfig,
    alone::GoingAlone,
    convert::{self, Beside},
    dialer::{Dialer, Lane},
    exits::Proofs,
    gate::Gate,
    leader::{Leadership, NotGranted, since_boot, wait},
    members::leader_name,
    orders::LastGrant,
    raft::{Applied, Core},
    reach::Reach,
    rivals::Rivals,
    standing::Standing,
    warden::Warden,
    watched::Watched,
};

/// Maximum number of unanswered keep-alives.
const AT_ONCE: usize = 3;
/// Maximum number of remembered inheritances by proof alone that are not agreed on.
const INHERITED: usize = 8;
/// Interval at which a node that stops solo work checks for writes in flight.
const STOPPING: Duration = Duration::from_millis(10);
/// Time for which a leaving node waits for writes in flight …
const LAST_WRITES: Duration = Duration::from_secs(2);
/// … and time for which it waits to notify the leader.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Parameters of the task.
pub(crate) struct Keeper {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) gates: BTreeMap<Duty, Gate>,
    pub(crate) warden: Warden,
    pub(crate) alone: GoingAlone,
    pub(crate) granted: Arc<LastGrant>,
    pub(crate) reach: Arc<Reach>,
    pub(crate) rivals: Arc<Rivals>,
    pub(crate) health: watch::Receiver<Option<HealthReport>>,
    pub(crate) measures: watch::Receiver<Measures>,
    /// Members whose SIP address does not answer this node (rule C3).
    pub(crate) unanswered: watch::Receiver<BTreeSet<NodeName>>,
    pub(crate) proofs: Arc<Proofs>,
    /// This node is being removed, and another node has all its data.
    pub(crate) handed_over: watch::Receiver<bool>,
    pub(crate) leave: watch::Receiver<bool>,
    pub(crate) view: watch::Sender<Arc<RolesView>>,
    pub(crate) watched: Watched,
}

/// Answer to a keep-alive.
struct Answered {
    sent: Duration,
    leader: NodeName,
    result: Result<Grant, No>,
}

/// Reason for which there is no lease.
enum No {
    /// No leader answers, or none with a majority: temporary.
    NoLeader,
    /// The leader refuses this node.
    Refused(String),
}

struct Keeping {
    holders: BTreeMap<Duty, Holder>,
    requests: JoinSet<Answered>,
    /// Gates closed for release, until nothing is in flight.
    releases: JoinSet<(Duty, Epoch)>,
    releasing: BTreeSet<Epoch>,
    /// The last grant, and the time at which its request was sent.
    granted: Option<(Duration, Grant)>,
    refused: String,
    /// The solo epoch of this node, and its end (rule R7).
    alone: Option<(Epoch, Duration)>,
    /// Inheritances of this node by proof alone (rule C4).
    inherited: Vec<Inheritance>,
    next: Duration,
}

fn now() -> Duration {
    since_boot(BootInstant::now())
}

impl Keeper {
    /// Keeps the leases until the node leaves, and then until they are given back. Restarted after a panic, it has no
    /// lease, and opens no gate before one is granted.
    pub(crate) async fn run(&mut self) {
        self.gates.values().for_each(Gate::close);
        let life = self.standing.incarnation();
        let holder = |duty| Holder::new(duty, self.config.node.clone(), life, self.config.timing);
        let mut keeping = Keeping {
            holders: Duty::ALL.into_iter().map(|duty| (duty, holder(duty))).collect(),
            requests: JoinSet::new(),
            releases: JoinSet::new(),
            releasing: BTreeSet::new(),
            granted: None,
            refused: String::new(),
            alone: None,
            inherited: Vec::new(),
            next: now(),
        };
        let mut applied = self.core.applied();
        let mut pulse = self.core.pulse();
        let mut standing = self.standing.changes();
        let mut proofs = self.proofs.watch();
        let mut leader = None;
        while !*self.leave.borrow_and_update() {
            self.watched.turns();
            let known = applied.borrow_and_update().clone();
            let state = known.state.clone();
            let urgent = self.take_state(&mut keeping, &state) | (leader != self.leader());
            leader = self.leader();
            pulse.mark_unchanged();
            self.go_alone(&mut keeping, &known).await;
            if urgent || now() >= keeping.next {
                keeping.next = now() + self.config.timing.agreed(&state).keep_alive;
                self.ask(&mut keeping, false);
            }
            self.set_gates(&mut keeping);
            proofs.mark_unchanged();
            self.inherit(&mut keeping, &known);
            self.show(&keeping, &state);
            tokio::select! {
                () = wait(&mut applied) => {}
                () = wait(&mut pulse) => {}
                () = wait(&mut standing) => {}
                () = wait(&mut proofs) => {}
                () = wait(&mut self.leave) => {}
                () = wait(&mut self.health) => keeping.next = now(),
                () = wait(&mut self.handed_over) => keeping.next = now(),
                () = wait(&mut self.unanswered) => keeping.next = now(),
                Some(Ok(answered)) = keeping.requests.join_next() => self.take_answer(&mut keeping, answered),
                Some(Ok((duty, epoch))) = keeping.releases.join_next() => {
                    self.take_release(&mut keeping, duty, epoch);
                    keeping.next = now();
                }
                () = sleep(keeping.next.saturating_sub(now())) => {}
            }
        }
        self.give_back(keeping).await;
    }

    /// Whether the leader's last grant is so recent that there is a majority.
    fn quorum(&self, keeping: &Keeping, state: &State) -> bool {
        let limit = self.config.timing.agreed(state).quorum_lost();
        keeping.granted.as_ref().is_some_and(|(sent, _)| now().saturating_sub(*sent) <= limit)
    }

    /// A node of a pair without a witness may go solo. It stops before it reports the solo work, and reports it before
    /// it gets a grant.
    async fn go_alone(&mut self, keeping: &mut Keeping, applied: &Applied) {
        // A node about to leave its group does no more solo work.
        let quorum = self.quorum(keeping, &applied.state) || self.standing.is_held();
        let busy = || self.gates.values().any(Gate::is_busy);
        // As long as the gates are open, a write may be in flight at any moment.
        let open = keeping.alone.is_some();
        keeping.alone = self.alone.decide(applied, quorum, &|| open || busy()).await;
        if open && keeping.alone.is_none() {
            self.gates.values().for_each(Gate::close);
            keeping.alone = self.alone.decide(applied, quorum, &busy).await;
        }
        if self.alone.is_stopping() {
            keeping.next = keeping.next.min(now() + STOPPING);
        }
    }

    /// Applies the agreed state; returns whether a keep-alive is due immediately.
    fn take_state(&self, keeping: &mut Keeping, state: &State) -> bool {
        let mut urgent = false;
        for (duty, holder) in &mut keeping.holders {
            let before = holder.assigned().cloned();
            holder.applied(state);
            urgent |= holder.assigned().is_some() && holder.assigned() != before.as_ref();
            if let Some(epoch) = holder.wanted_back().filter(|epoch| !keeping.releasing.contains(epoch)) {
                keeping.releasing.insert(epoch.clone());
                Self::begin_release(&mut keeping.releases, &self.gates, *duty, epoch.clone());
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

    fn take_release(&self, keeping: &mut Keeping, duty: Duty, epoch: Epoch) {
        keeping.releasing.remove(&epoch);
        if let Some(holder) = keeping.holders.get_mut(&duty) {
            tracing::info!(%duty, %epoch, "let go, with nothing in flight");
            holder.release(epoch);
        }
    }

    fn take_answer(&self, keeping: &mut Keeping, answered: Answered) {
        match answered.result {
            Ok(grant) => {
                keeping.holders.values_mut().for_each(|holder| holder.granted(answered.sent, &grant));
                keeping.refused.clear();
                self.granted.note(answered.sent);
                self.leadership.told(&grant.lives);
                if keeping.granted.as_ref().is_none_or(|(sent, _)| *sent < answered.sent) {
                    keeping.granted = Some((answered.sent, grant));
                }
            }
            Err(No::NoLeader) => keeping.refused.clear(),
            Err(No::Refused(reason)) => {
                tracing::debug!(leader = %answered.leader, %reason, "no lease");
                keeping.refused = format!("{} grants no lease: {reason}", answered.leader);
            }
        }
    }

    fn set_gates(&self, keeping: &mut Keeping) {
        let at = now();
        if self.standing.is_held() {
            self.gates.values().for_each(Gate::close);
            return;
        }
        for (duty, gate) in &self.gates {
            let alone =
                keeping.alone.as_ref().filter(|(_, until)| at < *until).map(|(epoch, until)| (epoch, *until));
            let may = alone.or_else(|| keeping.holders.get(duty).and_then(|holder| holder.may_act(at)));
            match may {
                Some((epoch, until)) => {
                    let was_open = gate.is_open();
                    let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
                    gate.open(epoch, BootInstant::from_nanos(until));
                    if !was_open {
                        self.warden.wake();
                    }
                }
                None => gate.close(),
            }
        }
    }

    fn leader(&self) -> Option<NodeName> {
        leader_name(&self.core.pulse().borrow())
    }

    fn request(&self, keeping: &Keeping, leaving: bool, round_trips: &BTreeMap<NodeName, Duration>) -> KeepAlive {
        let failing = |report: &HealthReport| -> Vec<ServiceHealth> {
            report.services.iter().filter(|service| !service.ok).cloned().collect()
        };
        let released = |(duty, holder): (&Duty, &Holder)| Some((*duty, holder.released()?.clone()));
        KeepAlive {
            node: self.config.node.clone(),
            raft_id: self.standing.raft_id(),
            run: self.standing.run(),
            incarnation: self.standing.incarnation(),
            failing: self.health.borrow().as_ref().map(failing),
            released: keeping.holders.iter().filter_map(released).collect(),
            leaving,
            echo: keeping.granted.as_ref().map(|(_, grant)| grant.echo()),
            report: Report {
                reaches: round_trips.keys().cloned().collect(),
                measures: *self.measures.borrow(),
                speaks: self.config.speaks,
                learned: self.alone.learned(),
                solo: self.alone.report(),
                unanswered: self.unanswered.borrow().clone(),
            },
        }
    }

    /// Sends a keep-alive to the leader.
    fn ask(&self, keeping: &mut Keeping, leaving: bool) {
        // A member that may not vote gets no lease either: its state may be old (rule R8).
        let may = keeping.requests.len() < AT_ONCE && self.standing.may_take_part();
        let Some(leader) = self.leader().filter(|_| may) else { return };
        let round_trips = self.reach.reaches(self.config.timing.lease);
        let request = self.request(keeping, leaving, &round_trips);
        let beside = Beside { round_trips, handed_over: *self.handed_over.borrow() };
        // The holder counts from here (rule R2).
        let sent = now();
        if leader == self.config.node {
            let result = self.leadership.keep_alive(&request, &beside).map_err(|no| match no {
                NotGranted::NotLeader | NotGranted::No(NoGrant::NoQuorum { .. }) => No::NoLeader,
                NotGranted::No(reason) => No::Refused(reason.to_string()),
            });
            self.take_answer(keeping, Answered { sent, leader, result });
            return;
        }
        let Some(line) = self.dialer.line(&leader, None, Lane::KeepAlive) else { return };
        let message = convert::keep_alive(&request, &beside, &self.config.timing);
        let limit = self.config.timing.lease;
        keeping.requests.spawn(async move {
            let result = match timeout(limit, line.ask(Question::KeepAlive(message))).await {
                Ok(Ok(Reply::KeepAlive(answer))) => read_answer(answer),
                Ok(_) | Err(_) => Err(No::NoLeader),
            };
            Answered { sent, leader, result }
        });
    }

    /// Makes the survivor of a pair without a witness the heir, by proof alone and without agreement.
    fn inherit(&self, keeping: &mut Keeping, applied: &Applied) {
        let Some((_, grant)) = keeping.granted.as_ref() else { return };
        let own = (&self.config.node, self.standing.incarnation());
        let (state, voters) = (&applied.state, self.core.voters(applied));
        for item in by_proof(state, &voters, own, &self.proofs.known(), &grant.lives, wall().0) {
            if keeping.inherited.iter().any(|known| (&known.node, known.life) == (&item.node, item.life)) {
                continue;
            }
            tracing::info!(node = %item.node, life = %item.life, calls = item.calls, "heir by proof alone");
            if keeping.inherited.len() >= INHERITED {
                keeping.inherited.remove(0);
            }
            self.leadership.inherited(&item.node, item.life);
            keeping.inherited.push(item);
        }
    }

    fn show(&self, keeping: &Keeping, state: &State) {
        let quorum = self.quorum(keeping, state);
        let grant = keeping.granted.as_ref().map(|(_, grant)| grant.clone()).filter(|_| quorum);
        let (mut running, failed, cuts) = grant.map(|g| (g.running, g.failed, g.cuts)).unwrap_or_default();
        let alone = keeping.alone.as_ref().filter(|(_, until)| now() < *until);
        let alone = alone.map(|(epoch, _)| state.known_duties().map(|duty| (duty, epoch.clone())).collect());
        let alone = alone.unwrap_or_default();
        for (duty, gate) in &self.gates {
            let ours = state.holder(*duty).is_some_and(|a| a.epoch.node == self.config.node);
            if gate.is_open() {
                running.insert(*duty);
            } else if ours {
                running.remove(duty);
            }
        }
        let known = Known {
            leader: self.leader(),
            quorum,
            running,
            failed,
            alone,
            cuts,
            rivals: self.rivals.heard(),
            obstacle: self.obstacle(keeping),
            inherited: keeping.inherited.clone(),
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

    fn obstacle(&self, keeping: &Keeping) -> String {
        let standing = self.standing.obstacle();
        if !standing.is_empty() {
            return standing;
        }
        match self.core.has_a_place(&self.config.node) {
            true => keeping.refused.clone(),
            false => "it has not been let into the cluster yet".to_owned(),
        }
    }

    /// Orderly end: nothing in flight, everything released, the leader notified.
    async fn give_back(&self, mut keeping: Keeping) {
        let held = keeping.holders.iter().filter_map(|(duty, h)| Some((*duty, h.assigned()?.clone())));
        for (duty, epoch) in held.collect::<Vec<_>>() {
            if keeping.releasing.insert(epoch.clone()) {
                Self::begin_release(&mut keeping.releases, &self.gates, duty, epoch);
            }
        }
        let drained = async {
            while let Some(released) = keeping.releases.join_next().await {
                if let Ok((duty, epoch)) = released
                    && let Some(holder) = keeping.holders.get_mut(&duty)
                {
                    holder.release(epoch);
                }
            }
        };
        if timeout(LAST_WRITES, drained).await.is_err() {
            tracing::warn!("writes are still in flight: their duty moves only when its lease is out");
        }
        let told = async {
            loop {
                keeping.requests.shutdown().await;
                keeping.granted = None;
                self.ask(&mut keeping, true);
                if let Some(Ok(answered)) = keeping.requests.join_next().await {
                    self.take_answer(&mut keeping, answered);
                }
                if keeping.granted.is_some() {
                    return;
                }
                sleep(self.config.timing.heartbeat / 2).await;
            }
        };
        if timeout(LAST_WORDS, told).await.is_err() {
            tracing::warn!("no leader heard that this node is leaving: its duties move when the lease is out");
        }
        self.gates.values().for_each(Gate::close);
    }
}

fn read_answer(answer: wire::KeepAliveAnswer) -> Result<Grant, No> {
    use wire::keep_alive_answer::Result as Answer;
    match answer.result {
        Some(Answer::Granted(granted)) => {
            convert::read_grant(&granted).map_err(|malformed| No::Refused(malformed.message().to_owned()))
        }
        Some(Answer::NotLeader(_)) | None => Err(No::NoLeader),
        Some(Answer::Refused(reason)) => Err(No::Refused(reason)),
    }
}
