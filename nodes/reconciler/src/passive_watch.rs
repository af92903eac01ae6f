//! New calls at a passive node, which leaves them to the active one (active-passive). Pure.

use std::time::Duration;

use tracing::info;
use twinbox_calls::Passive;
use twinbox_clock::BootInstant;
use twinbox_roles::CallPolicy;

/// Minimum interval between requests of a called passive node for the role.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Follows the policy for new calls, and counts those that reach this node while it is passive.
#[derive(Debug, Default)]
pub struct PassiveWatch {
    passive: Option<Passive>,
    /// Number of calls received while passive, as last read.
    reached: u64,
    /// Time of the last request for the role.
    asked: Option<BootInstant>,
}

/// Steps after calls have reached a passive node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassiveCall {
    /// Detail of the alarm.
    pub detail: &'static str,
    /// Request the role: the caller may be unable to reach the active node.
    pub requests_role: bool,
}

impl PassiveWatch {
    /// Applies the policy; returns the settings of the SIP server, `None` if it takes new calls.
    pub fn set(&mut self, policy: CallPolicy) -> Option<Passive> {
        let seconds = |after: Duration| u32::try_from(after.as_secs().max(1)).unwrap_or(u32::MAX);
        let (passive, why) = match policy {
            CallPolicy::Answer => (None, String::new()),
            CallPolicy::Refuse { retry_after, reason } => {
                (Some(Passive { retry_after: seconds(retry_after), on_call: false }), reason)
            }
            CallPolicy::OnCall { retry_after, reason } => {
                (Some(Passive { retry_after: seconds(retry_after), on_call: true }), reason)
            }
        };
        if passive.is_some() != self.passive.is_some() {
            match passive {
                Some(_) => info!(reason = why, "new calls get 503"),
                None => info!("this node takes new calls: it is active, or the active node is unreachable"),
            }
        }
        self.passive = passive;
        passive
    }

    /// Notes how many calls have reached this node while it was passive, in all; steps if there are more than before.
    /// `is_asking`: a request for the role waits for its answer.
    pub fn reached(&mut self, calls: u64, is_asking: bool, now: BootInstant) -> Option<PassiveCall> {
        if calls <= std::mem::replace(&mut self.reached, calls) {
            return None;
        }
        let taken = self.passive.is_some_and(|passive| passive.on_call);
        let asked_lately = self.asked.is_some_and(|at| now.since(at) < ASK_AGAIN);
        let requests_role = taken && !is_asking && !asked_lately;
        if requests_role {
            self.asked = Some(now);
        }
        let detail = if taken { "taken; the role is requested" } else { "refused with 503" };
        Some(PassiveCall { detail, requests_role })
    }
}
