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
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{
    Command, Duty, Grant, KeepAlive, Ledger, Lives, NoGrant, Order, OrderId, Outcome, Policy, Speaks, State,
    Timing, plan, proposal,
};

use crate::{
    convert::Beside,
    exits::Proofs,
    raft::{Applied, Core, ProposeError, Pulse},
    reach::Reach,
};

/// Interval at which a leader plans again if it knows of no later change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Minimum time between two resignations of a leader whose planner has panicked; in between it goes on leading. A plan
/// that panics on every member would otherwise leave no leader long enough to renew leases.
const GIVE_UP_AGAIN: Duration = Duration::from_secs(10);
/// Maximum number of remembered commands that were set aside.
const ASIDE: usize = 64;

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
    reach: Arc<Reach>,
    heard: Mutex<Heard>,
    /// Call counts of the incarnations in the leader's last grant.
    told: Mutex<Lives>,
    nudge: Notify,
    /// Time at which this member resigned because its planner had panicked.
    gave_up: Mutex<Option<BootInstant>>,
    /// Planned commands that were set aside, without the time of their plan: they are not proposed again.
    aside: Mutex<Vec<Command>>,
    /// A batch did nothing: planned commands are proposed one by one until none is left.
    singly: AtomicBool,
    /// The planner has been started: if it starts again, it has panicked.
    begun: AtomicBool,
}

/// Contents of keep-alives that the ledger does not need.
#[derive(Debug, Default)]
struct Heard {
    /// Round trips from each member to the others.
    round_trips: BTreeMap<NodeName, BTreeMap<NodeName, Duration>>,
    /// Feature levels that each member knows.
    speaks: BTreeMap<NodeName, Speaks>,
    /// Stores of leaving members that have no data left that no other member has.
    handed_over: BTreeSet<u64>,
}

/// Boot time as the core counts it.
pub(crate) fn since_boot(at: BootInstant) -> Duration {
    Duration::from_nanos(at.as_nanos())
}

impl Leadership {
    pub(crate) fn new(core: Arc<Core>, timing: Timing, proofs: Arc<Proofs>, reach: Arc<Reach>) -> Self {
        Self {
            core,
            timing,
            ledger: Mutex::new(None),
            proofs,
            reach,
            heard: Mutex::default(),
            told: Mutex::default(),
            nudge: Notify::new(),
            gave_up: Mutex::default(),
            aside: Mutex::default(),
            singly: AtomicBool::new(false),
            begun: AtomicBool::new(false),
        }
    }

    /// An exit proof for this incarnation of a node has arrived (rule R1).
    pub(crate) fn exited(&self, node: &NodeName, life: Incarnation) {
        if let Some(ledger) = self.ledger().as_mut() {
            ledger.exited(since_boot(BootInstant::now()), node, life);
        }
        self.nudge.notify_one();
    }

    /// Whether this incarnation had calls in its last report, as far as known to this member.
    pub(crate) fn had_calls(&self, node: &NodeName, life: Incarnation) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).had_calls(node, life);
        told || self.ledger().as_ref().is_some_and(|ledger| ledger.had_calls(node, life))
    }

    /// Stores the call counts that the leader has sent.
    pub(crate) fn told(&self, lives: &Lives) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone_from(lives);
    }

    /// This node has inherited from that incarnation by proof alone: when it leads, it gives the calls to no other
    /// node.
    pub(crate) fn inherited(&self, node: &NodeName, life: Incarnation) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).forget(node, life);
        if let Some(ledger) = self.ledger().as_mut() {
            ledger.inherited(node, life);
        }
    }

    /// Handles a node's request for its leases.
    pub(crate) fn keep_alive(&self, request: &KeepAlive, beside: &Beside) -> Result<Grant, NotGranted> {
        self.refresh();
        let mut slot = self.ledger();
        let ledger = slot.as_mut().ok_or(NotGranted::NotLeader)?;
        let heard = self.core.quorum_heard(ledger.term()).ok_or(NotGranted::NotLeader)?;
        let state = self.core.applied().borrow().state.clone();
        let now = since_boot(BootInstant::now());
        ledger.voters(self.core.pulse().borrow().voters.iter().copied());
        let granted = ledger.keep_alive(now, since_boot(heard), &state, request);
        drop(slot);
        if granted.is_ok() {
            self.note(request, beside);
        }
        self.nudge.notify_one();
        Ok(granted?)
    }

    fn note(&self, request: &KeepAlive, beside: &Beside) {
        let mut heard = self.heard();
        heard.round_trips.insert(request.node.clone(), beside.round_trips.clone());
        heard.speaks.insert(request.node.clone(), request.report.speaks);
        match beside.handed_over {
            true => drop(heard.handed_over.insert(request.raft_id)),
            false => drop(heard.handed_over.remove(&request.raft_id)),
        }
    }

    /// Whether this store's node has reported that another node has all its data.
    pub(crate) fn has_handed_over(&self, raft_id: u64) -> bool {
        self.heard().handed_over.contains(&raft_id)
    }

    /// Time that a leader on that member, one of these voters, would wait for a majority of them, if known.
    pub(crate) fn quorum_round_trip(&self, name: &NodeName, voters: &BTreeSet<NodeName>) -> Option<Duration> {
        let heard = self.heard();
        let known = heard.round_trips.get(name)?;
        let mut others: Vec<_> = voters.iter().filter_map(|voter| known.get(voter).copied()).collect();
        others.sort_unstable();
        match voters.len() / 2 {
            0 => Some(Duration::ZERO),
            needed => others.get(needed - 1).copied(),
        }
    }

    /// The feature levels that a member reports; none before its first report.
    pub(crate) fn speaks(&self, name: &NodeName) -> Speaks {
        self.heard().speaks.get(name).copied().unwrap_or(Speaks { min: 0, max: 0 })
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proposes an administrator's order; with `None` queries its outcome.
    pub(crate) async fn operate(&self, id: OrderId, order: Option<Order>) -> Result<Outcome, ProposeError> {
        let command = match order {
            // Only here an order gets its time and the facts about the member that it names.
            Some(order) => {
                self.refresh();
                let level = self.core.applied().borrow().state.feature_level;
                if let Some(refusal) = order.refused_at(level) {
                    return Ok(Outcome::Refused(refusal));
                }
                let now = since_boot(BootInstant::now());
                let informed = self.ledger().as_ref().map(|ledger| ledger.inform(now, wall().0, order));
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
    pub(crate) fn knows_live(&self, name: &NodeName) -> bool {
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
            && plan(&view, &Policy::from(self.timing)).is_empty()
    }

    /// Plans and proposes for as long as the process runs. Restarted after a panic, it first resigns.
    pub(crate) async fn run(&self) {
        if self.begun.swap(true, SeqCst) {
            self.give_up().await;
        }
        let mut pulse = self.core.pulse();
        let mut applied = self.core.applied();
        let policy = Policy::from(self.timing);
        loop {
            pulse.mark_unchanged();
            applied.mark_unchanged();
            let clean = self.plan_and_propose(&policy).await;
            let pause = if clean { self.until_next_change() } else { self.timing.keep_alive };
            tokio::select! {
                () = wait(&mut pulse), if clean => {}
                () = wait(&mut applied), if clean => {}
                () = self.nudge.notified(), if clean => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Plans and proposes; returns whether all planned commands were done.
    async fn plan_and_propose(&self, policy: &Policy) -> bool {
        while let Some(command) = self.next_command(policy) {
            let words = command.to_string();
            let proposed = timeout(self.timing.order_limit(), self.core.propose(command.clone())).await;
            if let (Ok(Ok(_)), Some(ledger)) = (&proposed, self.ledger().as_mut()) {
                ledger.applied(&command);
            }
            match proposed {
                Ok(Ok(Outcome::Done)) => tracing::info!(change = %words, "roles"),
                Ok(Ok(outcome)) => {
                    tracing::warn!(change = %words, ?outcome, "a planned change did nothing");
                    self.singly.store(true, SeqCst);
                    return false;
                }
                Ok(Err(ProposeError::SetAside)) => {
                    let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
                    if aside.len() >= ASIDE {
                        aside.remove(0);
                    }
                    aside.push(command.timeless());
                    self.singly.store(true, SeqCst);
                }
                Ok(Err(error)) => {
                    tracing::debug!(change = %words, %error, "a planned change was not made");
                    return false;
                }
                Err(_) => return false,
            }
        }
        self.singly.store(false, SeqCst);
        true
    }

    /// Transfers leadership to the next live voter: a leader with a failed planner must not go on renewing leases and
    /// move nothing (rule R11). The order is a ring: two members with panicking planners must not hand over to each
    /// other past a third with a working one.
    async fn give_up(&self) {
        let lately = |at: BootInstant| at.elapsed() < GIVE_UP_AGAIN;
        if self.gave_up.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(lately) {
            return;
        }
        let pulse = self.core.pulse().borrow().clone();
        let live = |id: &u64| pulse.peer(*id).is_some_and(|peer| self.knows_live(&peer.name));
        let Some(heir) = pulse.next_voter(self.core.raft_id(), live).filter(|_| pulse.leading) else { return };
        *self.gave_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(BootInstant::now());
        tracing::error!(to = ?pulse.peer(heir).map(|peer| &peer.name), "the planner has panicked: another member is to lead");
        if let Err(error) = self.core.transfer_to(heir).await {
            tracing::warn!(%error, "leadership was not handed over");
        }
    }

    /// The next command by the present knowledge: one log entry. No more than one, because during its commit a holder
    /// may get a grant for a duty that the rest of the plan assumed to be free.
    fn next_command(&self, policy: &Policy) -> Option<Command> {
        self.refresh();
        let state = self.core.applied().borrow().state.clone();
        let mut slot = self.ledger();
        let ledger = slot.as_mut()?;
        let now = since_boot(BootInstant::now());
        let view = ledger.view(now, wall().0, &state);
        #[cfg(test)]
        tests::trip();
        let aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let singly = self.singly.load(SeqCst);
        let is_aside = |command: &Command| aside.contains(&command.timeless());
        let command = proposal(plan(&view, policy), &state, singly, is_aside)?;
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
        let Pulse { term, leading, quorum_heard, .. } = self.core.pulse().borrow().clone();
        let Applied { state, term: applied_term, .. } = self.core.applied().borrow().clone();
        let mut slot = self.ledger();
        match slot.as_ref().map(Ledger::term) {
            Some(known) if leading && known == term => {}
            // Only with an entry of its own term applied does a leader know every earlier move.
            _ if leading && quorum_heard.is_some() && applied_term == term => {
                *slot = Some(self.begin(term, &state));
            }
            _ => *slot = None,
        }
    }

    fn begin(&self, term: u64, state: &State) -> Ledger {
        tracing::info!(term, "this member leads");
        // The present time is later than the first quorum answer, which is the safe side.
        *self.heard() = Heard::default();
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
        for (name, life) in agreed.chain(held) {
            if let Some(at) = self.reach.last_of(name, life) {
                ledger.heard_before(name, life, since_boot(at));
            }
        }
        ledger.recall(&self.told.lock().unwrap_or_else(PoisonError::into_inner));
        ledger
    }

    fn ledger(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the value changes; forever once no sender is left.
pub(crate) async fn wait<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
