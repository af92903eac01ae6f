//! Work of the leader in addition to Raft: it grants leases and runs the planner. The decisions are those of
//! `LeaderStep` in `role-manager/member`, which the simulation runs too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_raft::{Applied, Core, ProposeError, RaftStatus, wait};
use twinbox_roles_core::{
    CallCounts, Command, CommandOutcome, FeatureLevels, Grant, KeepAlive, Order, OrderId, PlannerPolicy, Timing,
};
use twinbox_roles_member::{LeaderAction, LeaderEvent, LeaderStep, NotGranted, ProposalOutcome, RaftFacts};

use crate::{convert::KeepAliveExtras, exits::Proofs, failure_detector::FailureDetector};

/// The leader's state, while this member leads.
pub(crate) struct Leadership {
    core: Arc<Core>,
    timing: Timing,
    leader: Mutex<LeaderStep>,
    proofs: Arc<Proofs>,
    detector: Arc<FailureDetector>,
    reports: Mutex<MemberReports>,
    replan: Notify,
}

/// Contents of keep-alives that the ledger does not need.
#[derive(Debug, Default)]
struct MemberReports {
    /// Round trips from each member to the others.
    round_trips: BTreeMap<NodeName, BTreeMap<NodeName, Duration>>,
    /// Feature levels that each member knows.
    speaks: BTreeMap<NodeName, FeatureLevels>,
    /// Stores of leaving members that have no data left that no other member has.
    handed_over: BTreeSet<u64>,
}

/// Boot time as the core counts it.
pub(crate) fn since_boot(at: BootInstant) -> Duration {
    Duration::from_nanos(at.as_nanos())
}

fn now() -> Duration {
    since_boot(BootInstant::now())
}

impl Leadership {
    pub(crate) fn new(
        (node, incarnation): (NodeName, Incarnation),
        core: Arc<Core>,
        timing: Timing,
        proofs: Arc<Proofs>,
        detector: Arc<FailureDetector>,
    ) -> Self {
        Self {
            core,
            timing,
            leader: Mutex::new(LeaderStep::new(node, incarnation, timing, PlannerPolicy::from(timing))),
            proofs,
            detector,
            reports: Mutex::default(),
            replan: Notify::new(),
        }
    }

    /// An exit proof for this incarnation of a node has arrived (rule R1).
    pub(crate) fn exited(&self, node: &NodeName, incarnation: Incarnation) {
        let action = self.leader().step(now(), LeaderEvent::Exited { node, incarnation });
        if action == Some(LeaderAction::Replan) {
            self.replan.notify_one();
        }
    }

    /// Whether this incarnation had calls in its last report, as far as known to this member.
    pub(crate) fn had_calls(&self, node: &NodeName, incarnation: Incarnation) -> bool {
        self.leader().had_calls(node, incarnation)
    }

    /// Stores the call counts that the leader has sent, without those that this node has inherited.
    pub(crate) fn note_call_counts(&self, counts: CallCounts) {
        self.leader().step(now(), LeaderEvent::CallCounts(counts));
    }

    /// This node has inherited from that incarnation by proof alone: when it leads, it gives the calls to no other
    /// node.
    pub(crate) fn inherited(&self, node: &NodeName, incarnation: Incarnation) {
        self.leader().step(now(), LeaderEvent::Inherited { node, incarnation });
    }

    /// Handles a node's request for its leases.
    pub(crate) fn keep_alive(&self, request: &KeepAlive, extras: &KeepAliveExtras) -> Result<Grant, NotGranted> {
        let mut leader = self.refresh();
        let term = leader.term().ok_or(NotGranted::NotLeader)?;
        let heard = self.core.quorum_heard(term).map(since_boot);
        let state = self.core.applied().borrow().state.clone();
        let voters = self.core.status().borrow().voters.clone();
        let granted = leader.keep_alive(now(), heard, voters, &state, request);
        drop(leader);
        if granted.is_ok() {
            self.note(request, extras);
        }
        if granted != Err(NotGranted::NotLeader) {
            self.replan.notify_one();
        }
        granted
    }

    fn note(&self, request: &KeepAlive, extras: &KeepAliveExtras) {
        let mut reports = self.reports();
        reports.round_trips.insert(request.node.clone(), extras.round_trips.clone());
        reports.speaks.insert(request.node.clone(), request.report.feature_levels);
        match extras.handed_over {
            true => drop(reports.handed_over.insert(request.raft_id)),
            false => drop(reports.handed_over.remove(&request.raft_id)),
        }
    }

    /// Whether this store's node has reported that another node has all its data.
    pub(crate) fn has_handed_over(&self, raft_id: u64) -> bool {
        self.reports().handed_over.contains(&raft_id)
    }

    /// Time that a leader on that member, one of these voters, would wait for a majority of them, if known.
    pub(crate) fn quorum_round_trip(&self, name: &NodeName, voters: &BTreeSet<NodeName>) -> Option<Duration> {
        let reports = self.reports();
        let known = reports.round_trips.get(name)?;
        let mut others: Vec<_> = voters.iter().filter_map(|voter| known.get(voter).copied()).collect();
        others.sort_unstable();
        match voters.len() / 2 {
            0 => Some(Duration::ZERO),
            needed => others.get(needed - 1).copied(),
        }
    }

    /// The feature levels that a member reports; none before its first report.
    pub(crate) fn speaks(&self, name: &NodeName) -> FeatureLevels {
        self.reports().speaks.get(name).copied().unwrap_or(FeatureLevels { min: 0, max: 0 })
    }

    fn reports(&self) -> MutexGuard<'_, MemberReports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proposes an administrator's order; with `None` queries its outcome.
    pub(crate) async fn operate(&self, id: OrderId, order: Option<Order>) -> Result<CommandOutcome, ProposeError> {
        let command = match order {
            // Only here an order gets its time and the facts about the member that it names.
            Some(order) => {
                let leader = self.refresh();
                let state = self.core.applied().borrow().state.clone();
                if let Some(refusal) = order.refused_at(state.feature_level) {
                    return Ok(CommandOutcome::Refused(refusal));
                }
                let informed = leader.informed(now(), wall().0, &state, order);
                Command::Operate { id, order: informed.ok_or(ProposeError::NotLeader)? }
            }
            None => Command::Settle { id },
        };
        self.core.propose(command).await
    }

    /// The term in which this member leads, has a majority, and has applied all earlier entries.
    pub(crate) fn term(&self) -> Option<u64> {
        self.refresh().term()
    }

    /// Whether voters may be added or removed now (rule R7).
    pub(crate) fn may_change_voters(&self) -> bool {
        let state = self.core.applied().borrow().state.clone();
        self.leader().may_change_voters(now(), &state)
    }

    /// Whether this member leads, and that member is live.
    pub(crate) fn is_reachable(&self, name: &NodeName) -> bool {
        self.leader().is_live(now(), name)
    }

    /// Whether the cluster has been at rest for a while: nothing to plan, every duty under a lease.
    pub(crate) fn at_rest(&self) -> bool {
        let state = self.core.applied().borrow().state.clone();
        self.leader().at_rest(now(), wall().0, &state)
    }

    /// Plans and proposes for as long as the process runs. Restarted after a panic, it first resigns.
    pub(crate) async fn run(&self) {
        self.start_planner().await;
        let mut status = self.core.status();
        let mut applied = self.core.applied();
        loop {
            status.mark_unchanged();
            applied.mark_unchanged();
            self.plan_and_propose().await;
            let (pauses, next) = self.next_plan();
            tokio::select! {
                () = wait(&mut status), if !pauses => {}
                () = wait(&mut applied), if !pauses => {}
                () = self.replan.notified(), if !pauses => {}
                () = sleep(next) => {}
            }
        }
    }

    /// Plans and proposes until nothing is planned, or a proposal has no success.
    async fn plan_and_propose(&self) {
        while let Some(command) = self.next_command() {
            let text = command.to_string();
            let outcome = match timeout(self.timing.order_limit(), self.core.propose(command)).await {
                Ok(Ok(outcome)) => ProposalOutcome::Applied(outcome),
                Ok(Err(ProposeError::SetAside)) => ProposalOutcome::SetAside,
                Ok(Err(error)) => {
                    tracing::debug!(change = %text, %error, "planned change failed; it is retried");
                    ProposalOutcome::Unknown
                }
                Err(_) => ProposalOutcome::Unknown,
            };
            match &outcome {
                ProposalOutcome::Applied(CommandOutcome::Done) => {
                    tracing::info!(change = %text, "planned change made");
                }
                ProposalOutcome::Applied(outcome) => {
                    tracing::warn!(change = %text, ?outcome, "planned change had no effect");
                }
                ProposalOutcome::SetAside | ProposalOutcome::Unknown => {}
            }
            self.leader().step(now(), LeaderEvent::Proposed(outcome));
        }
    }

    /// Transfers leadership to the next live voter if the planner has panicked.
    async fn start_planner(&self) {
        let status = self.core.status().borrow().clone();
        let live = |id: &u64| status.peer(*id).is_some_and(|peer| self.is_reachable(&peer.name));
        let successor = status.next_voter(self.core.raft_id(), live).filter(|_| status.leading);
        let action = self.leader().step(now(), LeaderEvent::PlannerStarted { successor });
        let Some(LeaderAction::Resign(successor)) = action else { return };
        let to = status.peer(successor).map(|peer| &peer.name);
        tracing::error!(?to, "the planner has panicked: leadership is transferred");
        if let Err(error) = self.core.transfer_to(successor).await {
            tracing::warn!(%error, "leadership transfer failed");
        }
    }

    fn next_command(&self) -> Option<Command> {
        let mut leader = self.refresh();
        let state = self.core.applied().borrow().state.clone();
        let now = now();
        let view = leader.view(now, wall().0, &state)?;
        #[cfg(test)]
        tests::panic_if_requested();
        match leader.step(now, LeaderEvent::Plan(&view)) {
            Some(LeaderAction::Propose(command)) => Some(command),
            _ => None,
        }
    }

    /// Whether proposals pause, and the time until the next plan.
    fn next_plan(&self) -> (bool, Duration) {
        let (leader, now) = (self.leader(), now());
        (leader.is_paused(now), leader.next(now).saturating_sub(now))
    }

    /// Starts or ends the ledger with Raft's leadership.
    fn refresh(&self) -> MutexGuard<'_, LeaderStep> {
        let RaftStatus { term, leading, quorum_heard, .. } = self.core.status().borrow().clone();
        let Applied { state, term: applied_term, .. } = self.core.applied().borrow().clone();
        let facts = RaftFacts { term, leads: leading, has_quorum: quorum_heard.is_some(), applied_term };
        let exits = self.proofs.known();
        let at = now();
        #[cfg(feature = "simulation")]
        let at = match crate::simulation::breaks(crate::simulation::Broken::NewLeaderWait) {
            true => at.saturating_sub(self.timing.new_leader_wait()),
            false => at,
        };
        let mut leader = self.leader();
        let action = leader.step(at, LeaderEvent::Raft { facts, state: &state, exits: &exits });
        if let Some(LeaderAction::Begin { term }) = action {
            tracing::info!(term, "this member is the leader");
            *self.reports() = MemberReports::default();
            let agreed = state.members.iter().filter_map(|(name, member)| Some((name, member.incarnation?)));
            let held = state.duties.values().map(|a| (&a.epoch.node, a.incarnation));
            for (node, incarnation) in agreed.chain(held) {
                if let Some(at) = self.detector.last_contact_with(node, incarnation).map(since_boot) {
                    leader.step(at, LeaderEvent::EarlierContact { node, incarnation, at });
                }
            }
        }
        leader
    }

    fn leader(&self) -> MutexGuard<'_, LeaderStep> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
