//! Whether a node answers calls (active-passive). Doors need no majority: a node decides by what it has heard itself.

use std::time::Duration;

use twinbox_ids::NodeName;

use crate::{Mode, RolesView, Status, Timing};

/// Whether this node answers new calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doors {
    /// It does.
    Open,
    /// It refuses them; the active node answers.
    Closed {
        /// When to try again.
        retry_after: Duration,
        /// In words.
        why: String,
    },
    /// It takes calls of authenticated trunks, and asks for the role of publisher beside each.
    OnCall {
        /// For all others, when to try again.
        retry_after: Duration,
        /// In words.
        why: String,
    },
}

/// Whether `own` answers new calls. `heard` says how long ago any authenticated word of a member was heard, by this node's
/// own clock; `unheard` is how long the active node may be silent: see [`Timing::unheard`].
///
/// In doubt they are open: a call answered twice is better than one answered by nobody.
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
    // What was agreed may be old: without a majority only what is heard counts.
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
    /// How long a node must have been silent before another goes on without it, by its own clock: until every lease that
    /// the silent one may have is out, those that it gave itself included.
    pub fn unheard(&self, state: &crate::State) -> Duration {
        self.wait_for(self.longest_lease(state)) + self.margin
    }
}
