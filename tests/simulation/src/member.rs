//! One member: its process, its clock, and the real parts of the role manager in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    Command, Duty, Echo, Exits, Holder, KeepAlive, Ledger, Lives, Measures, MemberKind, Report, ServiceHealth,
    Solo, SoloRecord, State, Timing,
};

use crate::{
    clock::{Clock, Micros},
    heirs::with_calls,
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
    pub(crate) alone: Option<SoloRecord>,
    pub(crate) process: Option<Process>,
}

/// The process.
pub(crate) struct Process {
    pub(crate) life: Incarnation,
    pub(crate) run: u64,
    /// The process does nothing until then.
    pub(crate) hangs_until: Micros,
    /// Number of applied entries.
    pub(crate) applied: usize,
    pub(crate) state: State,
    pub(crate) holders: BTreeMap<Duty, Holder>,
    /// Writes that have been checked and have not arrived.
    pub(crate) in_flight: Vec<Epoch>,
    pub(crate) failing: bool,
    pub(crate) measures: Measures,
    /// Probability, in per cent, that it does not apply new entries in a round.
    pub(crate) sluggish: u32,
    pub(crate) leads: Option<Leader>,
    /// The last member that claimed leadership here.
    pub(crate) leader: Option<usize>,
    /// Time of its next request for leases, by its own clock.
    pub(crate) asks_at: Duration,
    /// The last grant received.
    pub(crate) echo: Option<Echo>,
    /// Time of the request for that grant.
    pub(crate) granted: Option<Duration>,
    /// The proofs of death received.
    pub(crate) exits: Exits,
    /// The reported calls of incarnations.
    pub(crate) lives: Lives,
    pub(crate) solo: Solo,
    /// Its solo epoch, and the time until which it acts in it.
    pub(crate) acts_alone: Option<(Epoch, Duration)>,
    /// Last contact with any other member.
    pub(crate) heard: Duration,
    /// Time of the last answer of the arbiter.
    pub(crate) arbiter: Option<Duration>,
}

/// State of a leader.
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) pending: Pending,
    pub(crate) ledger: Option<Ledger>,
    /// Send time, by its own clock, of the last heartbeat that a majority answered.
    pub(crate) quorum_heard: Option<Duration>,
    /// Heartbeats sent, each with the members that answered.
    pub(crate) heartbeats: BTreeMap<Duration, Vec<usize>>,
}

impl Member {
    /// Starts a process on this member's disk.
    pub(crate) fn start(&mut self, now: Micros, life: Incarnation, timing: Timing) {
        let holder = |duty| (duty, Holder::new(duty, self.name.clone(), life, timing));
        let wall_ms = self.clock.wall_ms(now);
        self.process = Some(Process {
            life,
            run: self.run,
            hangs_until: 0,
            applied: 0,
            state: State::default(),
            holders: Duty::ALL.into_iter().map(holder).collect(),
            in_flight: Vec::new(),
            failing: false,
            measures: Measures::default(),
            sluggish: 0,
            leads: None,
            leader: None,
            asks_at: Duration::ZERO,
            echo: None,
            granted: None,
            exits: Exits::default(),
            lives: Lives::default(),
            solo: Solo::new(self.name.clone(), timing, self.alone.clone(), wall_ms),
            acts_alone: None,
            heard: self.clock.at(now),
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
    pub(crate) fn release(&mut self, although_in_flight: bool) -> bool {
        let mut released = false;
        for holder in self.holders.values_mut() {
            let wanted = holder.wanted_back().cloned();
            let flying = |epoch: &Epoch| !although_in_flight && self.in_flight.contains(epoch);
            if let Some(epoch) = wanted.filter(|epoch| !flying(epoch)) {
                holder.release(epoch);
                released = true;
            }
        }
        released
    }

    pub(crate) fn keep_alive(&self, name: &NodeName, raft_id: u64, kind: MemberKind) -> KeepAlive {
        let failed = || ServiceHealth { name: "store".to_owned(), ok: false, detail: String::new() };
        let (learned, solo) = (self.solo.learned(), self.solo.report().cloned());
        let measures = with_calls(self.measures, kind, self.life);
        let report = Report { measures, learned, solo, ..Report::default() };
        KeepAlive {
            node: name.clone(),
            raft_id,
            run: self.run,
            incarnation: self.life,
            failing: Some(if self.failing { vec![failed()] } else { Vec::new() }),
            released: self.holders.iter().filter_map(|(d, h)| Some((*d, h.released()?.clone()))).collect(),
            leaving: false,
            echo: self.echo,
            report,
        }
    }

    /// The epoch in which it may begin a write now, and whether that is a solo epoch.
    pub(crate) fn may_act(&self, now: Duration) -> Option<(&Epoch, bool)> {
        let alone = self.acts_alone.as_ref().filter(|(_, until)| now < *until).map(|(epoch, _)| (epoch, true));
        let holder = self.holders.get(&Duty::Notifier)?;
        alone.or_else(|| holder.may_act(now).map(|(epoch, _)| (epoch, false)))
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
