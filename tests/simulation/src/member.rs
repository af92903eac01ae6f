//! One member: its process, its clock, and the real parts of the role manager in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    Command, Duty, Exits, Measures, MemberKind, PlannerPolicy, SoloRecord, SoloReport, State, Timing,
};
use twinbox_roles_member::{Contacts, LeaderEvent, LeaderStep, MembershipStep, NodeStep, ProposalOutcome};

use crate::{
    clock::{Clock, Micros},
    outbox::DutyWork,
    raft::{Log, Pending},
};

/// A member. The fields that survive its process come first.
pub(crate) struct Member {
    pub(crate) name: NodeName,
    pub(crate) kind: MemberKind,
    pub(crate) clock: Clock,
    /// Id of its Raft store.
    pub(crate) raft_id: u64,
    /// The highest term that it has seen or voted in.
    pub(crate) term: u64,
    /// Number of starts of its store.
    pub(crate) run: u64,
    /// The voters by the last such entry of its log, by their Raft ids.
    pub(crate) voter_ids: BTreeSet<u64>,
    /// Number of entries before that one.
    pub(crate) voters_at: usize,
    /// The record of solo mode on its disk.
    pub(crate) solo_record: Option<SoloRecord>,
    pub(crate) process: Option<Process>,
}

/// The process.
pub(crate) struct Process {
    pub(crate) incarnation: Incarnation,
    pub(crate) run: u64,
    /// The process does nothing until then.
    pub(crate) hangs_until: Micros,
    /// Number of applied entries.
    pub(crate) applied: usize,
    pub(crate) state: State,
    /// Its side of its leases, and its solo work.
    pub(crate) node: NodeStep,
    /// The open gates: the epoch to act in, and its end by its own clock.
    pub(crate) gates: BTreeMap<Duty, (Epoch, Duration)>,
    /// Gates closed for release, until nothing is in flight.
    pub(crate) releases: Vec<(Duty, Epoch)>,
    /// Writes that have been checked and have not arrived.
    pub(crate) in_flight: Vec<(Duty, Epoch)>,
    /// Work from the outbox.
    pub(crate) outbox: BTreeMap<Duty, DutyWork>,
    pub(crate) failing: bool,
    pub(crate) measures: Measures,
    /// Probability, in per cent, that it does not apply new entries in a round.
    pub(crate) sluggish: u32,
    /// Its leadership in Raft.
    pub(crate) leads: Option<Leader>,
    /// Its side of the leases that it grants, and its planner.
    pub(crate) leadership: LeaderStep,
    /// Its changes of the group, while it leads.
    pub(crate) membership: MembershipStep,
    /// The last member that claimed leadership here.
    pub(crate) leader: Option<usize>,
    /// The proofs of death received.
    pub(crate) exits: Exits,
    /// The last contacts with the other members.
    pub(crate) contacts: Contacts,
    /// Time of the last answer of the arbiter.
    pub(crate) arbiter: Option<Duration>,
}

/// State of a leader.
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) pending: Pending,
    /// Time of its last proposal, by its own clock.
    pub(crate) proposed_at: Option<Duration>,
    /// Send time, by its own clock, of the last heartbeat that a majority answered.
    pub(crate) quorum_contact: Option<Duration>,
    /// Heartbeats sent, each with the members that answered.
    pub(crate) heartbeats: BTreeMap<Duration, Vec<usize>>,
}

impl Member {
    /// Starts a process on this member's disk.
    pub(crate) fn start(&mut self, now: Micros, incarnation: Incarnation, timing: Timing, policy: PlannerPolicy) {
        let (clocks, own) = ((self.clock.at(now), self.clock.wall_ms(now)), (self.name.clone(), incarnation));
        self.process = Some(Process {
            incarnation,
            run: self.run,
            hangs_until: 0,
            applied: 0,
            state: State::default(),
            node: NodeStep::new(own, timing, self.solo_record.clone(), clocks),
            gates: BTreeMap::new(),
            releases: Vec::new(),
            in_flight: Vec::new(),
            outbox: BTreeMap::new(),
            failing: false,
            measures: Measures::default(),
            sluggish: 0,
            leads: None,
            leadership: LeaderStep::new(self.name.clone(), incarnation, timing, policy),
            membership: MembershipStep::default(),
            leader: None,
            exits: Exits::default(),
            contacts: Contacts::default(),
            arbiter: None,
        });
    }
}

impl Process {
    /// Applies the agreed entries, up to `upto`, at this time of its own clock.
    pub(crate) fn apply(&mut self, now: Duration, log: &Log, upto: usize, compare: bool) {
        if self.applied >= upto {
            return;
        }
        while self.applied < upto {
            let Some(entry) = log.entries.get(self.applied) else { break };
            if let Some(command) = &entry.command {
                let carried_out = if compare { command.clone() } else { blind(command, &self.state) };
                let outcome = self.state.apply(carried_out);
                // Of equal proposals the last one is awaited.
                let later = log.entries.get(self.applied + 1..).unwrap_or_default();
                let is_last = !later.iter().any(|later| later.command == entry.command && later.term == entry.term);
                let is_own = self.leads.as_ref().is_some_and(|leader| {
                    leader.term == entry.term && is_last && !leader.pending.contains(&entry.command)
                });
                if is_own && self.leadership.proposed() == Some(command) {
                    self.leadership.step(now, LeaderEvent::Proposed(ProposalOutcome::Applied(outcome)));
                }
            }
            self.applied += 1;
        }
    }

    /// Whether a write or an attempt of this epoch is in flight under this duty.
    pub(crate) fn flies_under(&self, duty: Duty, epoch: &Epoch) -> bool {
        let attempts = self.outbox.get(&duty).is_some_and(|work| work.flies_in(epoch));
        attempts || self.in_flight.iter().any(|(of, flying)| *of == duty && flying == epoch)
    }

    /// Whether a write or an attempt of this epoch is in flight, under any duty.
    pub(crate) fn flies_in(&self, epoch: &Epoch) -> bool {
        let attempts = self.outbox.values().any(|work| work.flies_in(epoch));
        attempts || self.in_flight.iter().any(|(_, flying)| flying == epoch)
    }

    /// The epoch in which it may begin a write under this duty now, and whether that is a solo epoch.
    pub(crate) fn may_act(&self, duty: Duty, now: Duration) -> Option<(&Epoch, bool)> {
        let (epoch, until) = self.gates.get(&duty)?;
        let is_solo = self.node.solo().report().is_some_and(|report| report.epoch == *epoch);
        (now < *until).then_some((epoch, is_solo))
    }

    /// Whether its record says that it acts solo.
    pub(crate) fn acts_alone(&self) -> bool {
        self.node.solo().report().is_some_and(SoloReport::is_acting)
    }

    /// Whether it may begin a write under any duty now.
    pub(crate) fn acts(&self, now: Duration) -> bool {
        Duty::ALL.into_iter().any(|duty| self.may_act(duty, now).is_some())
    }
}

/// The same command as if it had been planned from the present state: the effect of a state machine that does not
/// compare.
fn blind(command: &Command, state: &State) -> Command {
    let mut command = command.clone();
    match &mut command {
        Command::Assign { duty, from, .. } => *from = state.holder(*duty).map(|a| a.epoch.clone()),
        Command::SetPublisher { from, .. } => from.clone_from(&state.publisher),
        Command::Drain { duty, epoch } => {
            if let Some(assignment) = state.holder(*duty) {
                *epoch = assignment.epoch.clone();
            }
        }
        Command::SetStatus { name, revision, .. } => {
            *revision = state.members.get(name).map_or(0, |member| member.revision);
        }
        Command::Retime { from, .. } => *from = state.leasing,
        _ => {}
    }
    command
}
