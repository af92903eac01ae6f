//! Work of the leader in addition to Raft: it grants leases and runs the planner. The decisions are those of
//! `LeaderStep` in `role-manager/member`, which the simulation runs too.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use twinbox_clock::wall;
use twinbox_ids::{Incarnation, NodeName};
use twinbox_raft::{Applied, Core, ProposeError, RaftStatus, wait};
use twinbox_roles_core::{
    CallCounts, Command, CommandOutcome, Grant, KeepAlive, Order, OrderId, PlannerPolicy, Timing,
};
use twinbox_roles_member::{
    KeepAliveExtras, LeaderAction, LeaderEvent, LeaderStep, NamedMember, NotGranted, NotProposed, ProposalOutcome,
    RaftFacts, RaftGroup,
};

use crate::{
    boot_clock::{now, since_boot},
    failures::{exits::Proofs, failure_detector::FailureDetector},
    group::roster::Roster,
};

/// The leader's state, while this member leads.
pub(crate) struct Leadership {
    core: Arc<Core>,
    timing: Timing,
    leader: Mutex<LeaderStep>,
    proofs: Arc<Proofs>,
    detector: Arc<FailureDetector>,
    roster: Arc<Roster>,
    replan: Notify,
}

impl Leadership {
    pub(crate) fn new(
        (node, incarnation): (NodeName, Incarnation),
        core: Arc<Core>,
        timing: Timing,
        proofs: Arc<Proofs>,
        detector: Arc<FailureDetector>,
        roster: Arc<Roster>,
    ) -> Self {
        Self {
            core,
            timing,
            leader: Mutex::new(LeaderStep::new(node, incarnation, timing, PlannerPolicy::from(timing))),
            proofs,
            detector,
            roster,
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
        let granted = leader.keep_alive(now(), heard, voters, &state, request, extras);
        drop(leader);
        if granted != Err(NotGranted::NotLeader) {
            self.replan.notify_one();
        }
        granted
    }

    /// Whether this store's node has reported that another node has all its data.
    pub(crate) fn has_handed_over(&self, raft_id: u64) -> bool {
        self.leader().has_handed_over(raft_id)
    }

    /// Proposes an administrator's order; with `None` queries its outcome.
    pub(crate) async fn operate(&self, id: OrderId, order: Option<Order>) -> Result<CommandOutcome, ProposeError> {
        let command = match order {
            Some(order) => {
                let leader = self.refresh();
                let state = self.core.applied().borrow().state.clone();
                match leader.order(now(), wall().0, &state, order, |name| self.named_member(name)) {
                    Ok(order) => Command::Operate { id, order },
                    Err(NotProposed::NotLeader) => return Err(ProposeError::NotLeader),
                    Err(NotProposed::Refused(refusal)) => return Ok(CommandOutcome::Refused(refusal)),
                }
            }
            None => Command::Settle { id },
        };
        self.core.propose(command).await
    }

    /// Facts about a member that an order names.
    fn named_member(&self, name: &NodeName) -> NamedMember {
        let is_expected = self.roster.member(name).is_some();
        let has_store = self.core.status().borrow().stores_of(name).next().is_some();
        NamedMember { is_expected, has_store, since_contact: self.detector.since_contact(name) }
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

    /// The Raft id of another voter to which leadership should move now (rule R10). This counts as a transfer.
    pub(crate) fn better_leader(&self, group: &RaftGroup) -> Option<u64> {
        let state = self.core.applied().borrow().state.clone();
        let event = LeaderEvent::Rest { wall_ms: wall().0, state: &state, group };
        match self.leader().step(now(), event) {
            Some(LeaderAction::Transfer(to)) => Some(to),
            _ => None,
        }
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
        let live = |id: &u64| status.peer(*id).is_some_and(|peer| self.leader().is_live(now(), &peer.name));
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
        // The facts are read under the lock: otherwise older ones could be taken after newer ones.
        let mut leader = self.leader();
        let RaftStatus { term, leading, quorum_heard, .. } = self.core.status().borrow().clone();
        let Applied { state, term: applied_term, .. } = self.core.applied().borrow().clone();
        let facts = RaftFacts { term, leads: leading, has_quorum: quorum_heard.is_some(), applied_term };
        let (exits, contacts) = (self.proofs.known(), self.detector.contacts());
        let at = now();
        #[cfg(feature = "simulation")]
        let at = match crate::simulation::breaks(crate::simulation::Broken::NewLeaderWait) {
            true => at.saturating_sub(self.timing.new_leader_wait()),
            false => at,
        };
        let action =
            leader.step(at, LeaderEvent::Raft { facts, state: &state, exits: &exits, contacts: &contacts });
        if let Some(LeaderAction::Begin { term }) = action {
            tracing::info!(term, "this member is the leader");
        }
        leader
    }

    fn leader(&self) -> MutexGuard<'_, LeaderStep> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
