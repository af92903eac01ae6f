//! Whether a node answers calls (active-passive). This needs no majority: a node decides by its own last contacts.

use std::time::Duration;

use twinbox_ids::NodeName;

use crate::{Mode, RolesView, Status, Timing};

/// Policy of this node for new calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doors {
    /// The node answers calls.
    Open,
    /// The node refuses calls; the active node answers.
    Closed {
        /// Time after which the caller may try again.
        retry_after: Duration,
        /// Reason, as text.
        why: String,
    },
    /// The node takes calls of authenticated trunks, and for each requests the role of publisher.
    OnCall {
        /// For all other calls, the time after which the caller may try again.
        retry_after: Duration,
        /// Reason, as text.
        why: String,
    },
}

/// Call policy of `own`. `heard` returns the time since a member's last authenticated message, by this node's clock.
/// `unheard` is the longest permitted silence of the active node: see [`Timing::unheard`].
///
/// In doubt the node answers: a call answered twice is better than one not answered.
pub fn doors(
    view: &RolesView,
    own: &NodeName,
    unheard: Duration,
    heard: impl Fn(&NodeName) -> Option<Duration>,
) -> Doors {
    if view.settings.mode == Mode::ActiveActive {
        return Doors::Open;
    }
    let Some(active) = view.publisher.as_ref().filter(|active| *active != own) else { return Doors::Open };
    let serves = view.member(active).is_some_and(|member| member.status == Status::InService);
    let is_heard = heard(active).is_some_and(|ago| ago <= unheard);
    // The agreed state may be old: without a majority only last contacts count.
    if !is_heard || (view.quorum && !serves) {
        return Doors::Open;
    }
    let retry_after = unheard;
    let why = format!("this node is passive; {active} answers calls");
    match view.settings.force_failover_on_call {
        true => Doors::OnCall { retry_after, why },
        false => Doors::Closed { retry_after, why },
    }
}

impl Timing {
    /// Silence of a node, by this node's clock, after which another goes on without it: every lease that the silent one
    /// may have has expired then, including those that it granted itself.
    pub fn unheard(&self, state: &crate::State) -> Duration {
        self.wait_for(self.longest_lease(state)) + self.margin
    }
}
