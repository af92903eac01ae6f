//! Administrators' orders on their way to the leader.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Request;
use twinbox_clock::BootInstant;
use twinbox_raft::{Core, ProposeError};
use twinbox_roles_core::{CommandOutcome, Order, OrderId, RolesView};
use twinbox_wire::roles as wire;

use crate::{
    CommandError, LongestGap, RolesConfig,
    boot_clock::now,
    connections::{
        convert,
        dialer::{Dialer, Lane},
    },
    group::members::leader_name,
    leading::leader::Leadership,
};

/// Pause before the next search for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Sender of orders to the leader.
pub(crate) struct Orders {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) granted: Arc<LastGrant>,
}

/// Time of the last grant to this node: while grants come, there is a majority.
#[derive(Default)]
pub(crate) struct LastGrant {
    sent: AtomicU64,
    gaps: Mutex<LongestGap>,
}

impl LastGrant {
    /// Notes a granted request that was sent at this time of the boot clock.
    pub(crate) fn note(&self, sent: Duration) {
        self.sent.fetch_max(u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.gaps().granted(sent, now());
    }

    /// The longest recent gap between grants.
    pub(crate) fn longest_gap(&self) -> Option<Duration> {
        self.gaps().longest(now())
    }

    /// A poisoned lock holds a value that is still whole.
    fn gaps(&self) -> MutexGuard<'_, LongestGap> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        Duration::from_nanos(BootInstant::now().as_nanos().saturating_sub(self.sent.load(Relaxed)))
    }
}

/// Result of one attempt.
enum Attempt {
    Outcome(CommandOutcome),
    /// Certainly not proposed.
    NotProposed,
    /// It may have been proposed.
    Unknown,
    Rejected(String),
}

impl Orders {
    /// Carries an order out or returns the reason for a failure, within 2 E. A retry with the same id is safe: the
    /// state machine does an order at most once.
    pub(crate) async fn give(
        &self,
        id: OrderId,
        order: Option<&Order>,
        mut view: watch::Receiver<Arc<RolesView>>,
    ) -> Result<(), CommandError> {
        let limit = self.config.timing.order_limit();
        let begun = BootInstant::now();
        // While leadership moves, no leader grants anything for a moment: that is not a lost majority. A longer lack
        // is, and is reported immediately.
        let fresh = (self.config.timing.quorum_lost() + limit).saturating_sub(self.granted.age());
        if !matches!(timeout(fresh, view.wait_for(|view| view.quorum)).await, Ok(Ok(_))) {
            return Err(CommandError::NoMajority { reason: view.borrow().reason.clone() });
        }
        let mut perhaps = false;
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let reason = "no leader was found in time; the members may be electing one: try again".to_owned();
                return Err(if perhaps {
                    CommandError::Unknown { id }
                } else {
                    CommandError::NoMajority { reason }
                });
            }
            match timeout(left, self.attempt(id, order)).await {
                Ok(Attempt::Outcome(CommandOutcome::Refused(refusal))) => return Err(refusal.into()),
                Ok(Attempt::Outcome(_)) => return Ok(()),
                Ok(Attempt::Rejected(reason)) => return Err(CommandError::Rejected { reason }),
                Ok(Attempt::NotProposed) => sleep(LOOK_AGAIN.min(left)).await,
                Ok(Attempt::Unknown) => {
                    perhaps = true;
                    sleep(LOOK_AGAIN.min(left)).await;
                }
                Err(_) => perhaps = true,
            }
        }
    }

    async fn attempt(&self, id: OrderId, order: Option<&Order>) -> Attempt {
        let Some(leader) = leader_name(&self.core.status().borrow()) else { return Attempt::NotProposed };
        if leader == self.config.node {
            return match self.leadership.operate(id, order.cloned()).await {
                Ok(outcome) => Attempt::Outcome(outcome),
                Err(ProposeError::NotLeader) => Attempt::NotProposed,
                Err(error @ ProposeError::SetAside) => Attempt::Rejected(error.to_string()),
                Err(_) => Attempt::Unknown,
            };
        }
        let Some(mut client) = self.dialer.client(&leader, None, Lane::Control) else {
            return Attempt::NotProposed;
        };
        use wire::operate_answer::Result as Answer;
        let request = match convert::operate(id, order) {
            Ok(request) => request,
            Err(error) => return Attempt::Rejected(error.to_string()),
        };
        match client.operate(Request::new(request)).await.map(|a| a.into_inner().result) {
            Ok(Some(Answer::Outcome(json))) => match serde_json::from_slice(&json) {
                Ok(outcome) => Attempt::Outcome(outcome),
                Err(_) => Attempt::Unknown,
            },
            Ok(Some(Answer::NotLeader(_))) => Attempt::NotProposed,
            Ok(Some(Answer::Refused(reason))) => Attempt::Rejected(reason),
            Ok(Some(Answer::Unknown(_)) | None) | Err(_) => Attempt::Unknown,
        }
    }
}
