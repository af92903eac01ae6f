//! Whether a node answers calls (active-passive). This needs no majority: a node decides by its own last contacts.

use std::time::Duration;

use twinbox_ids::NodeName;
use twinbox_roles_core::{Mode, RolesView, Status};

/// Policy of this node for new calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallPolicy {
    /// The node answers calls.
    Answer,
    /// The node refuses calls; the active node answers.
    Refuse {
        /// Time after which the caller may try again.
        retry_after: Duration,
        /// Reason, as text.
        reason: String,
    },
    /// The node takes calls of authenticated trunks, and for each requests the role of publisher.
    OnCall {
        /// For all other calls, the time after which the caller may try again.
        retry_after: Duration,
        /// Reason, as text.
        reason: String,
    },
}

/// Call policy of `own`. `silence_of` returns the time since a member's last authenticated message, by this node's
/// clock. `silence_limit` is the longest permitted silence of the active node: see [`twinbox_roles_core::Timing::silence_limit`].
///
/// In doubt the node answers: a call answered twice is better than one not answered.
pub fn call_policy(
    view: &RolesView,
    own: &NodeName,
    silence_limit: Duration,
    silence_of: impl Fn(&NodeName) -> Option<Duration>,
) -> CallPolicy {
    if view.settings.mode == Mode::ActiveActive {
        return CallPolicy::Answer;
    }
    let Some(active) = view.publisher.as_ref().filter(|active| *active != own) else { return CallPolicy::Answer };
    let serves = view.member(active).is_some_and(|member| member.status == Status::InService);
    let in_contact = silence_of(active).is_some_and(|ago| ago <= silence_limit);
    // The agreed state may be old: without a majority only last contacts count.
    if !in_contact || (view.quorum && !serves) {
        return CallPolicy::Answer;
    }
    let retry_after = silence_limit;
    let reason = format!("this node is passive; {active} answers calls");
    match view.settings.force_failover_on_call {
        true => CallPolicy::OnCall { retry_after, reason },
        false => CallPolicy::Refuse { retry_after, reason },
    }
}
