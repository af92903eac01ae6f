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

/// A member. What survives its process stands first.
pub(crate) struct Member {
    pub(crate) name: NodeName,
    pub(crate) kind: MemberKind,
    pub(crate) clock: Clock,
    /// Its Raft store.
    pub(crate) raft_id: u64,
    /// The highest term that it has heard of or voted in.
    pub(crate) term: u64,
    /// How often its store was started.
    pub(crate) run: u64,
    /// Who votes by the last entry of its log, by their Raft ids.
    pub(crate) voter_ids: BTreeSet<u64>,
    /// How many entries came before that one.
    pub(crate) voters_at: usize,
    /// What it keeps on disk of acting alone.
    pub(crate) alone: Option<SoloRecord>,
    pub(crate) process: Option<Process>,
}

/// The process.
pub(crate) struct Process {
    pub(crate) life: Incarnation,
    pub(crate) run: u64,
    /// It does nothing until then.
    pub(crate) hangs_until: Micros,
    /// How many entries have been applied.
    pub(crate) applied: usize,
    pub(crate) state: State,
    pub(crate) holders: BTreeMap<Duty, Holder>,
    /// Writes that have been checked and have not arrived.
    pub(crate) in_flight: Vec<Epoch>,
    pub(crate) failing: bool,
    pub(crate) measures: Measures,
    /// How often, in per cent, it does not come round to applying what it has heard of.
    pub(crate) sluggish: u32,
    pub(crate) leads: Option<Leader>,
    /// Who last called itself leader here.
    pub(crate) leader: Option<usize>,
    /// When it asks for its leases next, by its own clock.
    pub(crate) asks_at: Duration,
    /// The last grant that it heard.
    pub(crate) echo: Option<Echo>,
    /// When that was asked for.
    pub(crate) granted: Option<Duration>,
    /// The proofs of death that it was told of.
    pub(crate) exits: Exits,
    /// What it was told of the calls of lives.
    pub(crate) lives: Lives,
    pub(crate) solo: Solo,
    /// The epoch that it acts in alone, and until when.
    pub(crate) acts_alone: Option<(Epoch, Duration)>,
    /// When it last heard any other member.
    pub(crate) heard: Duration,
    /// When the arbiter last answered.
    pub(crate) arbiter: Option<Duration>,
}

/// What a leader knows.
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) pending: Pending,
    pub(crate) ledger: Option<Ledger>,
    /// When the last heartbeat was sent that a majority answered, by its own clock.
    pub(crate) quorum_heard: Option<Duration>,
    /// Heartbeats sent and by whom they were answered.
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
    /// Applies what has been agreed, up to an entry.
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

    /// Gives back what is wanted back, once nothing is in flight.
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

    /// The epoch in which it may begin a write now, and whether it gave it to itself.
    pub(crate) fn may_act(&self, now: Duration) -> Option<(&Epoch, bool)> {
        let alone = self.acts_alone.as_ref().filter(|(_, until)| now < *until).map(|(epoch, _)| (epoch, true));
        let holder = self.holders.get(&Duty::Notifier)?;
        alone.or_else(|| holder.may_act(now).map(|(epoch, _)| (epoch, false)))
    }
}

/// The same command as if it had been planned from the state as it is: what a state machine that does not
/// compare would do.
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
