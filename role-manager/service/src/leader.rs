//! Work of the leader in addition to Raft: it grants leases and runs the planner.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
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
    CallCounts, Command, CommandOutcome, Duty, FeatureLevels, Grant, KeepAlive, Ledger, NoGrant, Order, OrderId,
    PlannerPolicy, State, Timing, plan, proposal,
};

use crate::{convert::KeepAliveExtras, exits::Proofs, failure_detector::FailureDetector};

/// Interval at which a leader plans again if it knows of no later change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Minimum time between two resignations of a leader whose planner has panicked; in between it goes on leading. A plan
/// that panics on every member would otherwise leave no leader long enough to renew leases.
const RESIGN_AGAIN: Duration = Duration::from_secs(10);
/// Maximum number of remembered commands that were set aside.
const MAX_SET_ASIDE: usize = 64;

/// Reason for which a keep-alive is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotGranted {
    #[error("this member does not lead")]
    NotLeader,
    #[error(transparent)]
    No(#[from] NoGrant),
}

/// The leader's state, while this member leads.
pub(crate) struct Leadership {
    core: Arc<Core>,
    timing: Timing,
    ledger: Mutex<Option<Ledger>>,
    proofs: Arc<Proofs>,
    detector: Arc<FailureDetector>,
    reports: Mutex<MemberReports>,
    /// Call counts of the incarnations in the leader's last grant.
    call_counts: Mutex<CallCounts>,
    replan: Notify,
    /// Time at which this member resigned because its planner had panicked.
    resigned_at: Mutex<Option<BootInstant>>,
    /// Planned commands that were set aside, without the time of their plan: they are not proposed again.
    set_aside: Mutex<Vec<Command>>,
    /// A batch did nothing: planned commands are proposed one by one until none is left.
    one_by_one: AtomicBool,
    /// The planner has been started: if it starts again, it has panicked.
    started: AtomicBool,
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

impl Leadership {
    pub(crate) fn new(
        core: Arc<Core>,
        timing: Timing,
        proofs: Arc<Proofs>,
        detector: Arc<FailureDetector>,
    ) -> Self {
        Self {
            core,
            timing,
            ledger: Mutex::new(None),
            proofs,
            detector,
            reports: Mutex::default(),
            call_counts: Mutex::default(),
            replan: Notify::new(),
            resigned_at: Mutex::default(),
            set_aside: Mutex::default(),
            one_by_one: AtomicBool::new(false),
            started: AtomicBool::new(false),
        }
    }

    /// An exit proof for this incarnation of a node has arrived (rule R1).
    pub(crate) fn exited(&self, node: &NodeName, incarnation: Incarnation) {
        if let Some(ledger) = self.ledger().as_mut() {
            ledger.exited(since_boot(BootInstant::now()), node, incarnation);
        }
        self.replan.notify_one();
    }

    /// Whether this incarnation had calls in its last report, as far as known to this member.
    pub(crate) fn had_calls(&self, node: &NodeName, incarnation: Incarnation) -> bool {
        let had = self.call_counts.lock().unwrap_or_else(PoisonError::into_inner).had_calls(node, incarnation);
        had || self.ledger().as_ref().is_some_and(|ledger| ledger.had_calls(node, incarnation))
    }

    /// Stores the call counts that the leader has sent, without those that this node has inherited.
    pub(crate) fn note_call_counts(&self, counts: CallCounts) {
        *self.call_counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// This node has inherited from that incarnation by proof alone: when it leads, it gives the calls to no other
    /// node.
    pub(crate) fn inherited(&self, node: &NodeName, incarnation: Incarnation) {
        self.call_counts.lock().unwrap_or_else(PoisonError::into_inner).forget(node, incarnation);
        if let Some(ledger) = self.ledger().as_mut() {
            ledger.inherited(node, incarnation);
        }
    }

    /// Handles a node's request for its leases.
    pub(crate) fn keep_alive(&self, request: &KeepAlive, extras: &KeepAliveExtras) -> Result<Grant, NotGranted> {
        self.refresh();
        let mut slot = self.ledger();
        let ledger = slot.as_mut().ok_or(NotGranted::NotLeader)?;
        let heard = self.core.quorum_heard(ledger.term()).ok_or(NotGranted::NotLeader)?;
        let state = self.core.applied().borrow().state.clone();
        let now = since_boot(BootInstant::now());
        ledger.voters(self.core.status().borrow().voters.iter().copied());
        let granted = ledger.keep_alive(now, since_boot(heard), &state, request);
        drop(slot);
        if granted.is_ok() {
            self.note(request, extras);
        }
        self.replan.notify_one();
        Ok(granted?)
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
                self.refresh();
                let level = self.core.applied().borrow().state.feature_level;
                if let Some(refusal) = order.refused_at(level) {
                    return Ok(CommandOutcome::Refused(refusal));
                }
                let now = since_boot(BootInstant::now());
                let informed = self.ledger().as_ref().map(|ledger| ledger.with_facts(now, wall().0, order));
                Command::Operate { id, order: informed.ok_or(ProposeError::NotLeader)? }
            }
            None => Command::Settle { id },
        };
        self.core.propose(command).await
    }

    /// The term in which this member leads, has a majority, and has applied all earlier entries.
    pub(crate) fn term(&self) -> Option<u64> {
        self.refresh();
        self.ledger().as_ref().map(Ledger::term)
    }

    /// Whether voters may be added or removed now (rule R7).
    pub(crate) fn may_change_voters(&self) -> bool {
        let state = self.core.applied().borrow().state.clone();
        let now = since_boot(BootInstant::now());
        self.ledger().as_ref().is_some_and(|ledger| ledger.may_change_voters(now, &state))
    }

    /// Whether this member leads, and that member is live.
    pub(crate) fn is_reachable(&self, name: &NodeName) -> bool {
        let now = since_boot(BootInstant::now());
        self.ledger().as_ref().is_some_and(|ledger| ledger.is_live(now, name))
    }

    /// Whether the cluster has been at rest for a while: nothing to plan, every duty under a lease.
    pub(crate) fn at_rest(&self) -> bool {
        let state = self.core.applied().borrow().state.clone();
        let now = since_boot(BootInstant::now());
        let mut slot = self.ledger();
        let Some(ledger) = slot.as_mut() else { return false };
        let view = ledger.view(now, wall().0, &state);
        let leased = |duty: &Duty| view.leases.get(duty).is_some_and(|fact| fact.held && !fact.frozen);
        ledger.is_settled(now.saturating_sub(self.timing.new_leader_wait()))
            && state.known_duties().all(|duty| leased(&duty))
            && plan(&view, &PlannerPolicy::from(self.timing)).is_empty()
    }

    /// Plans and proposes for as long as the process runs. Restarted after a panic, it first resigns.
    pub(crate) async fn run(&self) {
        if self.started.swap(true, SeqCst) {
            self.resign().await;
        }
        let mut status = self.core.status();
        let mut applied = self.core.applied();
        let policy = PlannerPolicy::from(self.timing);
        loop {
            status.mark_unchanged();
            applied.mark_unchanged();
            let clean = self.plan_and_propose(&policy).await;
            let pause = if clean { self.until_next_change() } else { self.timing.keep_alive };
            tokio::select! {
                () = wait(&mut status), if clean => {}
                () = wait(&mut applied), if clean => {}
                () = self.replan.notified(), if clean => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Plans and proposes; returns whether all planned commands were done.
    async fn plan_and_propose(&self, policy: &PlannerPolicy) -> bool {
        while let Some(command) = self.next_command(policy) {
            let text = command.to_string();
            let proposed = timeout(self.timing.order_limit(), self.core.propose(command.clone())).await;
            if let (Ok(Ok(_)), Some(ledger)) = (&proposed, self.ledger().as_mut()) {
                ledger.applied(&command);
            }
            match proposed {
                Ok(Ok(CommandOutcome::Done)) => tracing::info!(change = %text, "planned change made"),
                Ok(Ok(outcome)) => {
                    tracing::warn!(change = %text, ?outcome, "planned change had no effect");
                    self.one_by_one.store(true, SeqCst);
                    return false;
                }
                Ok(Err(ProposeError::SetAside)) => {
                    let mut set_aside = self.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
                    if set_aside.len() >= MAX_SET_ASIDE {
                        set_aside.remove(0);
                    }
                    set_aside.push(command.timeless());
                    self.one_by_one.store(true, SeqCst);
                }
                Ok(Err(error)) => {
                    tracing::debug!(change = %text, %error, "planned change failed; it is retried");
                    return false;
                }
                Err(_) => return false,
            }
        }
        self.one_by_one.store(false, SeqCst);
        true
    }

    /// Transfers leadership to the next live voter: a leader with a failed planner must not go on renewing leases and
    /// move nothing (rule R11). The order is a ring: two members with panicking planners must not hand over to each
    /// other past a third with a working one.
    async fn resign(&self) {
        let lately = |at: BootInstant| at.elapsed() < RESIGN_AGAIN;
        if self.resigned_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(lately) {
            return;
        }
        let status = self.core.status().borrow().clone();
        let live = |id: &u64| status.peer(*id).is_some_and(|peer| self.is_reachable(&peer.name));
        let Some(successor) = status.next_voter(self.core.raft_id(), live).filter(|_| status.leading) else {
            return;
        };
        *self.resigned_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(BootInstant::now());
        let to = status.peer(successor).map(|peer| &peer.name);
        tracing::error!(?to, "the planner has panicked: leadership is transferred");
        if let Err(error) = self.core.transfer_to(successor).await {
            tracing::warn!(%error, "leadership transfer failed");
        }
    }

    /// The next command by the present knowledge: one log entry. No more than one, because during its commit a holder
    /// may get a grant for a duty that the rest of the plan assumed to be free.
    fn next_command(&self, policy: &PlannerPolicy) -> Option<Command> {
        self.refresh();
        let state = self.core.applied().borrow().state.clone();
        let mut slot = self.ledger();
        let ledger = slot.as_mut()?;
        let now = since_boot(BootInstant::now());
        let view = ledger.view(now, wall().0, &state);
        #[cfg(test)]
        tests::panic_if_requested();
        let set_aside = self.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
        let one_by_one = self.one_by_one.load(SeqCst);
        let is_set_aside = |command: &Command| set_aside.contains(&command.timeless());
        let command = proposal(plan(&view, policy), &state, one_by_one, is_set_aside)?;
        // From here on the ledger extends no lease of a duty that this command moves, whatever its outcome (R3).
        ledger.proposing(&command);
        Some(command)
    }

    fn until_next_change(&self) -> Duration {
        let now = since_boot(BootInstant::now());
        let next = self.ledger().as_ref().and_then(|ledger| ledger.next_change(now));
        next.map_or(LOOK_AGAIN, |at| at.saturating_sub(now)).min(LOOK_AGAIN)
    }

    /// Starts or ends the ledger with Raft's leadership.
    fn refresh(&self) {
        let RaftStatus { term, leading, quorum_heard, .. } = self.core.status().borrow().clone();
        let Applied { state, term: applied_term, .. } = self.core.applied().borrow().clone();
        let mut slot = self.ledger();
        match slot.as_ref().map(Ledger::term) {
            Some(known) if leading && known == term => {}
            // Only with an entry of its own term applied does a leader know every earlier move.
            _ if leading && quorum_heard.is_some() && applied_term == term => {
                *slot = Some(self.start_ledger(term, &state));
            }
            _ => *slot = None,
        }
    }

    fn start_ledger(&self, term: u64, state: &State) -> Ledger {
        tracing::info!(term, "this member is the leader");
        // The present time is later than the first quorum answer, which is the safe side.
        *self.reports() = MemberReports::default();
        let since = since_boot(BootInstant::now());
        #[cfg(feature = "simulation")]
        let since = match crate::simulation::breaks(crate::simulation::Broken::NewLeaderWait) {
            true => since.saturating_sub(self.timing.new_leader_wait()),
            false => since,
        };
        let mut ledger = Ledger::new(term, since, state, self.timing, &self.proofs.known());
        // Last contacts from before this member led: the time without an acting holder is counted from them.
        let agreed = state.members.iter().filter_map(|(name, member)| Some((name, member.incarnation?)));
        let held = state.duties.values().map(|a| (&a.epoch.node, a.incarnation));
        for (name, incarnation) in agreed.chain(held) {
            if let Some(at) = self.detector.last_contact_with(name, incarnation) {
                ledger.note_earlier_contact(name, incarnation, since_boot(at));
            }
        }
        ledger.adopt_call_counts(&self.call_counts.lock().unwrap_or_else(PoisonError::into_inner));
        ledger
    }

    fn ledger(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
