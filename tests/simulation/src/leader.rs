//! The leader's side: the real decisions ([`LeaderStep`](twinbox_roles_member::LeaderStep)), carried out with the log
//! and the messages of this cluster.

use std::time::Duration;

use twinbox_roles_core::{Command, Grant, KeepAlive, PersistedBounds, Status, View};
use twinbox_roles_member::{KeepAliveExtras, LeaderAction, LeaderEvent, LeaseDenied, ProposalOutcome, RaftFacts};

use crate::{
    Mutant,
    clock::MS,
    member::Process,
    world::{Event, World},
};

/// Maximum number of proposals of one leader that no majority has accepted, before its planner waits.
const MOST_PENDING: usize = 3;

impl World {
    /// Starts or ends a member's ledger with Raft's leadership.
    pub(crate) fn refresh_leadership(&mut self, member: usize) {
        let early = if self.is(Mutant::NoNewLeaderWait) {
            self.timing.wait_for(self.timing.lease * 4)
        } else {
            Duration::ZERO
        };
        let now = self.local(member).saturating_sub(early);
        let needs_own = !self.is(Mutant::NoOwnEntry);
        let by_present_length = self.is(Mutant::ForgottenLength);
        let applied = self.members[member].process.as_ref().map_or(0, |process| process.applied);
        let applied_term = applied.checked_sub(1).map_or(0, |last| self.log.entries[last].term);
        let Some(Process { leads, leadership, state, exits, contacts, .. }) = self.awake(member) else { return };
        let facts = match leads {
            Some(leader) => RaftFacts {
                term: leader.term,
                leads: true,
                has_quorum: leader.quorum_contact.is_some(),
                applied_term: if needs_own { applied_term } else { leader.term },
            },
            None => RaftFacts { term: 0, leads: false, has_quorum: false, applied_term },
        };
        let mut shortened = by_present_length.then(|| state.clone());
        if let Some(leasing) = shortened.as_mut().and_then(|state| state.leasing.as_mut()) {
            leasing.bound_ms = leasing.lease_ms;
        }
        let state = shortened.as_ref().unwrap_or(state);
        leadership.step(now, LeaderEvent::Raft { facts, state, exits, contacts });
    }

    /// The leader plans and proposes, unless it waits for an outcome.
    pub(crate) fn plan(&mut self, member: usize) {
        self.lose_outcome(member);
        let now = self.local(member);
        let wall_ms = self.members[member].clock.wall_ms(self.now);
        let freezes = !self.is(Mutant::NoFreeze);
        let lowers_at_once = self.is(Mutant::BoundAtOnce);
        let last_stays_out = self.is(Mutant::LastStaysOut);
        let Some(Process { leads: Some(leader), leadership, state, .. }) = self.awake(member) else { return };
        if leader.pending.len() > MOST_PENDING {
            return;
        }
        let Some(mut view) = leadership.view(now, wall_ms, state) else { return };
        if lowers_at_once {
            view.longest_running_ms = 0;
        }
        let unfrozen = (!freezes).then(|| leadership.clone());
        let mut next = leadership.step(now, LeaderEvent::Plan(&view));
        while let Some(LeaderAction::Propose(command)) = &next
            && last_stays_out
            && command.parts().iter().any(|part| restores_a_failing_node(part, &view))
        {
            leadership.step(now, LeaderEvent::Proposed(ProposalOutcome::SetAside));
            next = leadership.step(now, LeaderEvent::Plan(&view));
        }
        let Some(LeaderAction::Propose(command)) = next else { return };
        if let Some(unfrozen) = unfrozen {
            *leadership = unfrozen;
        }
        leader.pending.push_back(Some(command.clone()));
        leader.proposed_at = Some(now);
        let term = leader.term;
        let name = self.members[member].name.clone();
        self.note(|| format!("{name} proposes in term {term}: {command}"));
        // Mostly it is agreed on soon, otherwise with the next heartbeats.
        if self.calm || (!self.hasty && self.chance(50)) {
            self.after(2 * MS, Event::LeaderWork(member));
        }
    }

    /// The outcome of a proposal stays unknown: its time has ended, or its leadership has, or the answer is lost. The
    /// leader may then plan again while the proposal is on its way: commands must compare. In a third of the worlds
    /// the planner starts again all the time, and never waits.
    fn lose_outcome(&mut self, member: usize) {
        let (now, limit) = (self.local(member), self.timing.order_limit());
        let (restarts, is_lost) = (!self.calm && self.hasty, !self.calm && self.chance(20));
        let Some(Process { leads, leadership, .. }) = self.awake(member) else { return };
        let proposed_at = leads.as_ref().and_then(|leader| leader.proposed_at);
        let waits = proposed_at.is_some_and(|at| now.saturating_sub(at) < limit);
        if leadership.proposed().is_none() {
            return;
        }
        if restarts {
            leadership.step(now, LeaderEvent::PlannerStarted { successor: None });
        } else if is_lost || !waits {
            leadership.step(now, LeaderEvent::Proposed(ProposalOutcome::Unknown));
        }
    }

    /// The answer of a member to a keep-alive.
    pub(crate) fn grant(
        &mut self,
        to: usize,
        mut request: KeepAlive,
        extras: &KeepAliveExtras,
    ) -> Result<Grant, LeaseDenied> {
        self.refresh_leadership(to);
        let now = self.local(to);
        let is_blind = self.is(Mutant::NoQuorumNeeded);
        if self.is(Mutant::SoloUnseen) {
            request.report.solo = None;
        }
        if self.is(Mutant::SoloUnlearned) {
            request.report.persisted = PersistedBounds { generation: u64::MAX, longest_lease_ms: u64::MAX };
        }
        let voters = self.voter_ids();
        let Process { leads, leadership, state, .. } = self.awake(to).ok_or(LeaseDenied::NoLeader)?;
        let quorum_contact = leads.as_ref().and_then(|leader| leader.quorum_contact);
        let quorum_contact = quorum_contact.map(|at| if is_blind { now } else { at });
        let granted = leadership.keep_alive(now, quorum_contact, voters, state, &request, extras);
        granted.map_err(LeaseDenied::from)
    }
}

/// Whether a planned change puts a node into service that reports a failure.
fn restores_a_failing_node(command: &Command, view: &View) -> bool {
    let Command::SetStatus { name, status: Status::InService, .. } = command else { return false };
    view.observed
        .get(name)
        .is_some_and(|observed| observed.failing.as_ref().is_some_and(|failing| !failing.is_empty()))
}
