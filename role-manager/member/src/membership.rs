//! The leader's changes of its group, over time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_roles_core::State;

use crate::votes::{RaftGroup, VoterStep, next_step};

/// Maximum time for which a removed member that does not answer is still notified.
const NOTIFY_FOR: Duration = Duration::from_secs(10);
/// Time for which a removed member that has everything is still notified: it learns of the commit later than of the entry.
const NOTIFY_AFTER: Duration = Duration::from_secs(1);

/// Facts from which the leader decides the next change.
#[derive(Debug, Clone, Copy)]
pub struct MembershipFacts<'a> {
    /// Raft's group.
    pub group: &'a RaftGroup,
    /// The applied state.
    pub state: &'a State,
    /// Raft id of this member.
    pub own: u64,
    /// Whether voters may be added or removed now: [`crate::LeaderStep::may_change_voters`].
    pub may_change_voters: bool,
}

/// Progress of a removed member's notification.
#[derive(Debug, Clone, Copy)]
struct RemovalNotice {
    since: Duration,
    /// Time since which it has everything.
    all: Option<Duration>,
}

/// The leader's changes of its group.
#[derive(Debug, Clone, Default)]
pub struct MembershipStep {
    removed: BTreeMap<u64, RemovalNotice>,
}

impl MembershipStep {
    /// The change to make now, at this time of the boot clock; look again when it is made or has failed.
    /// `has_handed_over` tells whether the node of this store has reported that another node has all its data.
    pub fn next(
        &mut self,
        now: Duration,
        facts: MembershipFacts<'_>,
        has_handed_over: impl Fn(u64) -> bool,
    ) -> Option<VoterStep> {
        let MembershipFacts { group, state, own, may_change_voters } = facts;
        match next_step(group, state, own, has_handed_over)? {
            // A node of a pair may be acting solo: that is settled first.
            VoterStep::Promote { .. } | VoterStep::Demote { .. } if !may_change_voters => None,
            VoterStep::Forget { ids } => {
                let ids = self.notified(now, group, &ids);
                (!ids.is_empty()).then_some(VoterStep::Forget { ids })
            }
            step => Some(step),
        }
    }

    /// Those of these removed members that have been notified for long enough.
    fn notified(&mut self, now: Duration, group: &RaftGroup, ids: &BTreeSet<u64>) -> BTreeSet<u64> {
        self.removed.retain(|id, _| ids.contains(id));
        let long_enough = |id: &u64| {
            let known = self.removed.entry(*id).or_insert(RemovalNotice { since: now, all: None });
            let all = group.matched.get(id).is_some_and(|matched| *matched == group.last_index);
            known.all = known.all.filter(|_| all).or(all.then_some(now));
            let past = |at: Duration, time| now.saturating_sub(at) > time;
            known.all.is_some_and(|at| past(at, NOTIFY_AFTER)) || past(known.since, NOTIFY_FOR)
        };
        ids.iter().copied().filter(long_enough).collect()
    }
}
