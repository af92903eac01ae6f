//! One member: its process, its clock, and the real parts of the role manager in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    CallCounts, Command, Duty, Echo, Exits, Holder, KeepAlive, Ledger, Measures, MemberKind, Report, ServiceHealth,
    Solo, SoloRecord, State, Timing,
};

use crate::{
    clock::{Clock, Micros},
    heirs::with_calls,
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
    pub(crate) holders: BTreeMap<Duty, Holder>,
    /// Writes that have been checked and have not arrived.
    pub(crate) in_flight: Vec<(Duty, Epoch)>,
    /// Work from the outbox.
    pub(crate) outbox: BTreeMap<Duty, DutyWork>,
    pub(crate) failing: bool,
    pub(crate) measures: Measures,
    /// Probability, in per cent, that it does not apply new entries in a round.
    pub(crate) sluggish: u32,
    pub(crate) leads: Option<Leader>,
    /// The last member that claimed leadership here.
    pub(crate) leader: Option<usize>,
    /// Time of its next request for leases, by its own clock.
    pub(crate) keep_alive_at: Duration,
    /// The last grant received.
    pub(crate) echo: Option<Echo>,
    /// Time of the request for that grant.
    pub(crate) granted: Option<Duration>,
    /// The proofs of death received.
    pub(crate) exits: Exits,
    /// The reported calls of incarnations.
    pub(crate) call_counts: CallCounts,
    pub(crate) solo: Solo,
    /// Its solo epoch, and the time until which it acts in it.
    pub(crate) acts_solo: Option<(Epoch, Duration)>,
    /// Last contact with any other member.
    pub(crate) last_contact: Duration,
    /// Time of the last answer of the arbiter.
    pub(crate) arbiter: Option<Duration>,
}

/// State of a leader.
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) pending: Pending,
    pub(crate) ledger: Option<Ledger>,
    /// Send time, by its own clock, of the last heartbeat that a majority answered.
    pub(crate) quorum_contact: Option<Duration>,
    /// Heartbeats sent, each with the members that answered.
    pub(crate) heartbeats: BTreeMap<Duration, Vec<usize>>,
}

impl Member {
    /// Starts a process on this member's disk.
    pub(crate) fn start(&mut self, now: Micros, incarnation: Incarnation, timing: Timing) {
        let holder = |duty| (duty, Holder::new(duty, self.name.clone(), incarnation, timing));
        let wall_ms = self.clock.wall_ms(now);
        self.process = Some(Process {
            incarnation,
            run: self.run,
            hangs_until: 0,
            applied: 0,
            state: State::default(),
            holders: Duty::ALL.into_iter().map(holder).collect(),
            in_flight: Vec::new(),
            outbox: BTreeMap::new(),
            failing: false,
            measures: Measures::default(),
            sluggish: 0,
            leads: None,
            leader: None,
            keep_alive_at: Duration::ZERO,
            echo: None,
            granted: None,
            exits: Exits::default(),
            call_counts: CallCounts::default(),
            solo: Solo::new(self.name.clone(), timing, self.solo_record.clone(), wall_ms),
            acts_solo: None,
            last_contact: self.clock.at(now),
            arbiter: None,
        });
    }
}

impl Process {
    /// Applies the agreed entries, up to `upto`.
    pub(crate) fn apply(&mut self, log: &Log, upto: usize, compare: bool) {
        if self.applied >= upto {
            return;
        }
        while self.applied < upto {
            let Some(entry) = log.entries.get(self.applied) else { break };
            if let Some(command) = &entry.command {
                let command = if compare { command.clone() } else { blind(command, &self.state) };
                self.state.apply(command.clone());
                let leads = self.leads.as_mut().filter(|leader| leader.term == entry.term);
                if let Some(ledger) = leads.and_then(|leader| leader.ledger.as_mut()) {
                    ledger.applied(&command);
                }
            }
            self.applied += 1;
        }
        self.holders.values_mut().for_each(|holder| holder.applied(&self.state));
    }

    /// Gives back the requested duties, once no write is in flight.
    pub(crate) fn release(&mut self, in_flight_too: bool) -> bool {
        let mut released = false;
        for (duty, holder) in &mut self.holders {
            let wanted = holder.must_release().cloned();
            let attempts = |epoch: &Epoch| self.outbox.get(duty).is_some_and(|work| work.flies_in(epoch));
            let writes = |epoch: &Epoch| self.in_flight.iter().any(|(of, flying)| of == duty && flying == epoch);
            let flies = |epoch: &Epoch| attempts(epoch) || writes(epoch);
            let flying = |epoch: &Epoch| !in_flight_too && flies(epoch);
            if let Some(epoch) = wanted.filter(|epoch| !flying(epoch)) {
                holder.release(epoch);
                released = true;
            }
        }
        released
    }

    pub(crate) fn keep_alive(&self, name: &NodeName, raft_id: u64, kind: MemberKind) -> KeepAlive {
        let failed = || ServiceHealth { name: "store".to_owned(), ok: false, detail: String::new() };
        let (persisted, solo) = (self.solo.persisted(), self.solo.report().cloned());
        let measures = with_calls(self.measures, kind, self.incarnation);
        let report = Report { measures, persisted, solo, ..Report::default() };
        KeepAlive {
            node: name.clone(),
            raft_id,
            run: self.run,
            incarnation: self.incarnation,
            failing: Some(if self.failing { vec![failed()] } else { Vec::new() }),
            released: self.holders.iter().filter_map(|(d, h)| Some((*d, h.released()?.clone()))).collect(),
            leaving: false,
            echo: self.echo,
            report,
        }
    }

    /// Whether a write or an attempt of this epoch is in flight, under any duty.
    pub(crate) fn flies_in(&self, epoch: &Epoch) -> bool {
        let attempts = self.outbox.values().any(|work| work.flies_in(epoch));
        attempts || self.in_flight.iter().any(|(_, flying)| flying == epoch)
    }

    /// The epoch in which it may begin a write under this duty now, and whether that is a solo epoch.
    pub(crate) fn may_act(&self, duty: Duty, now: Duration) -> Option<(&Epoch, bool)> {
        let solo = self.acts_solo.as_ref().filter(|(_, until)| now < *until && self.solo.runs(duty));
        let solo = solo.map(|(epoch, _)| (epoch, true));
        let holder = self.holders.get(&duty)?;
        solo.or_else(|| holder.may_act(now).map(|(epoch, _)| (epoch, false)))
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
