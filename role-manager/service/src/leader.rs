//! What the leader does beside Raft: it grants leases and runs the planner.

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

/// A leader that knows of nothing to come looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A leader whose planner has panicked gives up once in this time; in between it leads on. What panics on every member would
/// else leave no leader long enough to renew leases.
const GIVE_UP_AGAIN: Duration = Duration::from_secs(10);
/// So many planned commands that were set aside are remembered.
const ASIDE: usize = 64;

/// Why a keep-alive is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotGranted {
    #[error("this member does not lead")]
    NotLeader,
    #[error(transparent)]
    No(#[from] NoGrant),
}

/// Leading, as long as this member does.
pub(crate) struct Leadership {
    core: Arc<Core>,
    timing: Timing,
    ledger: Mutex<Option<Ledger>>,
    proofs: Arc<Proofs>,
    reach: Arc<Reach>,
    heard: Mutex<Heard>,
    /// What whoever leads told last of the calls of each life.
    told: Mutex<Lives>,
    nudge: Notify,
    /// When this member gave up leading because its planner had panicked.
    gave_up: Mutex<Option<BootInstant>>,
    /// Commands that were planned and set aside, without the moment of their plan: they are not proposed again.
    aside: Mutex<Vec<Command>>,
    /// A batch did nothing: what is planned is proposed one by one until nothing is left.
    singly: AtomicBool,
    /// The planner has begun: if it begins again, it has panicked.
    begun: AtomicBool,
}

/// What came with keep-alives that the ledger does not need.
#[derive(Debug, Default)]
struct Heard {
    /// How long it takes whom to get an answer of whom.
    round_trips: BTreeMap<NodeName, BTreeMap<NodeName, Duration>>,
    /// Which feature levels who knows.
    speaks: BTreeMap<NodeName, Speaks>,
    /// Stores of members on their way out that have nothing any more that no other has.
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

    /// It is proved that this life of a node's process has exited (rule R1).
    pub(crate) fn exited(&self, node: &NodeName, life: Incarnation) {
        if let Some(ledger) = self.ledger().as_mut() {
            ledger.exited(since_boot(BootInstant::now()), node, life);
        }
        self.nudge.notify_one();
    }

    /// Whether this life had calls when it reported last, as far as this member has been told.
    pub(crate) fn had_calls(&self, node: &NodeName, life: Incarnation) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).had_calls(node, life);
        told || self.ledger().as_ref().is_some_and(|ledger| ledger.had_calls(node, life))
    }

    /// Whoever leads has told how many calls which life has.
    pub(crate) fn told(&self, lives: &Lives) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone_from(lives);
    }

    /// This node has inherited from that life by proof alone: it is not given to another when this node leads.
    pub(crate) fn inherited(&self, node: &NodeName, life: Incarnation) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).forget(node, life);
        if let Some(ledger) = self.ledger().as_mut() {
            ledger.inherited(node, life);
        }
    }

    /// A node asks for its leases.
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

    /// Whether this store's node has said that another has all that it had.
    pub(crate) fn has_handed_over(&self, raft_id: u64) -> bool {
        self.heard().handed_over.contains(&raft_id)
    }

    /// How long a leader there would wait for a majority of these voters, itself one of them, as far as that is known.
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

    /// The feature levels that a member says it knows; none as long as it has said nothing.
    pub(crate) fn speaks(&self, name: &NodeName) -> Speaks {
        self.heard().speaks.get(name).copied().unwrap_or(Speaks { min: 0, max: 0 })
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An administrator's order, or with `None` what became of it.
    pub(crate) async fn operate(&self, id: OrderId, order: Option<Order>) -> Result<Outcome, ProposeError> {
        let command = match order {
            // Here, and only here, an order gets its time, and what is known of whom it is about.
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

    /// The term in which this member leads, has a majority, and has applied what came before.
    pub(crate) fn term(&self) -> Option<u64> {
        self.refresh();
        self.ledger().as_ref().map(Ledger::term)
    }

    /// Whether voters may be added or taken out now (rule R7).
    pub(crate) fn may_change_voters(&self) -> bool {
        let state = self.core.applied().borrow().state.clone();
        let now = since_boot(BootInstant::now());
        self.ledger().as_ref().is_some_and(|ledger| ledger.may_change_voters(now, &state))
    }

    /// Whether this member leads, and that one is there.
    pub(crate) fn knows_live(&self, name: &NodeName) -> bool {
        let now = since_boot(BootInstant::now());
        self.ledger().as_ref().is_some_and(|ledger| ledger.is_live(now, name))
    }

    /// Whether all is as it should be and has been for a while: nothing to plan, every duty under a lease.
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

    /// Plans and proposes for as long as the process runs. Begun again after a panic, it gives up leading.
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

    /// Whether everything that was planned was done.
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

    /// Lets the next voter that is live lead: one whose planner is dead must not go on renewing leases and move nothing
    /// (rule R11). In a ring, because two whose planners panic must not hand over to each other past a third whose planner
    /// works.
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

    /// What is to be done first, by what is known now: one entry of the log. No more than that at once: while it is being
    /// agreed on, a holder may ask and be granted what the rest of the plan took for free.
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
        // From here on the ledger extends no lease of a duty that this moves, whatever comes of it (R3).
        ledger.proposing(&command);
        Some(command)
    }

    fn until_next_change(&self) -> Duration {
        let now = since_boot(BootInstant::now());
        let next = self.ledger().as_ref().and_then(|ledger| ledger.next_change(now));
        next.map_or(LOOK_AGAIN, |at| at.saturating_sub(now)).min(LOOK_AGAIN)
    }

    /// Begins or ends the ledger as Raft's leadership begins or ends.
    fn refresh(&self) {
        let Pulse { term, leading, quorum_heard, .. } = self.core.pulse().borrow().clone();
        let Applied { state, term: applied_term, .. } = self.core.applied().borrow().clone();
        let mut slot = self.ledger();
        match slot.as_ref().map(Ledger::term) {
            Some(known) if leading && known == term => {}
            // Only with an entry of its own term applied does a leader know every move before it.
            _ if leading && quorum_heard.is_some() && applied_term == term => {
                *slot = Some(self.begin(term, &state));
            }
            _ => *slot = None,
        }
    }

    fn begin(&self, term: u64, state: &State) -> Ledger {
        tracing::info!(term, "this member leads");
        // Now is later than the first quorum answer, which is the safe side.
        *self.heard() = Heard::default();
        let since = since_boot(BootInstant::now());
        #[cfg(feature = "simulation")]
        let since = match crate::simulation::breaks(crate::simulation::Broken::NewLeaderWait) {
            true => since.saturating_sub(self.timing.new_leader_wait()),
            false => since,
        };
        let mut ledger = Ledger::new(term, since, state, self.timing, &self.proofs.known());
        // What was heard of holders before this member led: how long nobody has acted is counted from there.
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

/// Until the value changes; for ever once nobody can change it.
pub(crate) async fn wait<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
