//! What the leader does beside Raft: it grants leases and runs the planner.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::NodeName;
use twinbox_roles_core::{
    Command, Duty, Grant, KeepAlive, Ledger, NoGrant, Order, OrderId, Outcome, Policy, State, Timing, plan,
};

use crate::raft::{Applied, Core, ProposeError, Pulse};

/// A leader that knows of nothing to come looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    nudge: Notify,
}

/// Boot time as the core counts it.
pub(crate) fn since_boot(at: BootInstant) -> Duration {
    Duration::from_nanos(at.as_nanos())
}

impl Leadership {
    pub(crate) fn new(core: Arc<Core>, timing: Timing) -> Self {
        Self { core, timing, ledger: Mutex::new(None), nudge: Notify::new() }
    }

    /// A node asks for its leases.
    pub(crate) fn keep_alive(&self, request: &KeepAlive) -> Result<Grant, NotGranted> {
        self.refresh();
        let mut slot = self.ledger();
        let ledger = slot.as_mut().ok_or(NotGranted::NotLeader)?;
        let heard = self.core.quorum_heard(ledger.term()).ok_or(NotGranted::NotLeader)?;
        let state = self.core.applied().borrow().state.clone();
        let now = since_boot(BootInstant::now());
        let granted = ledger.keep_alive(now, since_boot(heard), &state, request);
        drop(slot);
        self.nudge.notify_one();
        Ok(granted?)
    }

    /// An administrator's order, or with `None` what became of it.
    pub(crate) async fn operate(&self, id: OrderId, order: Option<Order>) -> Result<Outcome, ProposeError> {
        let command = match order {
            // Here, and only here, an order gets its time.
            Some(order) => Command::Operate { id, order: order.at(wall().0) },
            None => Command::Settle { id },
        };
        self.core.propose(command).await
    }

    /// The term in which this member leads, has a majority, and has applied what came before.
    pub(crate) fn term(&self) -> Option<u64> {
        self.refresh();
        self.ledger().as_ref().map(Ledger::term)
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
        let view = ledger.view(now, &state);
        let leased = |duty: &Duty| view.leases.get(duty).is_some_and(|fact| fact.held && !fact.frozen);
        ledger.is_settled(now.saturating_sub(self.timing.new_leader_wait()))
            && Duty::ALL.iter().all(leased)
            && plan(&view, &Policy::from(self.timing)).is_empty()
    }

    /// Plans and proposes for as long as the process runs.
    pub(crate) async fn run(&self) {
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
        self.refresh();
        for command in self.planned(policy) {
            // From here on the ledger extends no lease of a duty that this moves, whatever comes of it (R3).
            if let Some(ledger) = self.ledger().as_mut() {
                ledger.proposing(&command);
            }
            let words = command.to_string();
            match timeout(self.timing.order_limit(), self.core.propose(command)).await {
                Ok(Ok(Outcome::Done)) => tracing::info!(change = %words, "roles"),
                Ok(Ok(outcome)) => {
                    tracing::warn!(change = %words, ?outcome, "a planned change did nothing");
                    return false;
                }
                Ok(Err(error)) => {
                    tracing::debug!(change = %words, %error, "a planned change was not made");
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    }

    fn planned(&self, policy: &Policy) -> Vec<Command> {
        let state = self.core.applied().borrow().state.clone();
        let now = since_boot(BootInstant::now());
        let view = self.ledger().as_mut().map(|ledger| ledger.view(now, &state));
        view.map(|view| plan(&view, policy)).unwrap_or_default()
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
        Ledger::new(term, since_boot(BootInstant::now()), state, self.timing)
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
