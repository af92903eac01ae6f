//! The outbox as effects (rules E1, R11): causes arise at any node, the stores of the nodes replicate, and the
//! holder of a duty attempts, acts and records as `nodes/duty` does. Records, their merge, the decision at a
//! take-over, order and limits are the real ones of `nodes/outbox`; the pauses between attempts are shorter.

mod duty;
mod judge;
mod store;
mod streams;

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng};
use twinbox_ids::{DeviceId, EffectId, Epoch, Incarnation, MailboxId, MessageId, Timestamp};
use twinbox_outbox::{Cause, Channel, Effect, NewEffect, OutboxQueue, Transition, knows_all_attempts};
use twinbox_roles_core::{Duty, MemberKind};

use self::{
    judge::OutboxJudge,
    store::{Changes, Disk},
};
use crate::{
    Violation,
    clock::{MS, Micros},
    member::Member,
    world::{Event, FAULT_TIME, World},
};

/// Causes of effects in one run.
const CAUSES: usize = 12;
/// A holder has no effect left this long after it began.
const SETTLED: Micros = 2_500 * MS;
const HOUR_MS: u64 = 3_600_000;
/// Target of all effects.
const TARGET: DeviceId = DeviceId(1);

/// An event of the outbox.
pub(crate) enum OutboxEvent {
    /// A message is filed at a node, or at two.
    Cause,
    /// A stream carries the changes that the receiver lacks.
    Stream { from: usize, to: usize },
    /// The acknowledgement of a stream arrives: the peer has the writer's log up to this length, and its own log had that
    /// length then.
    Ack { writer: usize, peer: usize, length: usize, own: usize },
    /// A wait of this member may be over.
    Tend(usize),
    /// An act arrives at the receiver.
    Act(Act),
    /// The receiver's answer arrives at the holder.
    Answer(Act),
}

/// An act under way.
pub(crate) struct Act {
    member: usize,
    duty: Duty,
    incarnation: Incarnation,
    epoch: Epoch,
    solo: bool,
    id: EffectId,
    channel: Channel,
    number: u32,
    answer: Answer,
}

/// Answer of a receiver. It has the effect only if it took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Taken,
    Deferred,
    Refused,
}

/// State of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its record, at this position of the log, waits for a second disk.
    Attempt {
        position: usize,
        until: Micros,
    },
    /// It is on its way.
    Acting,
    Answered(Answer),
    /// The record of its outcome waits for a second disk.
    Outcome {
        position: usize,
        until: Micros,
    },
}

struct Flight {
    id: EffectId,
    number: u32,
    epoch: Epoch,
    solo: bool,
    alone: bool,
    stage: Stage,
}

/// The work of a process under one duty.
#[derive(Default)]
pub(crate) struct DutyWork {
    /// The epoch in which it works, and whether that is a solo epoch.
    held: Option<(Epoch, bool)>,
    since: Micros,
    queue: OutboxQueue,
    flights: Vec<Flight>,
    /// Position in the log of the question for the attempts of earlier holders.
    asked: Option<usize>,
    /// The attempts of earlier holders are here.
    knows_all: bool,
    /// Effects whose records have changed.
    changed: BTreeSet<EffectId>,
}

impl DutyWork {
    /// Whether an effect needs no knowledge of earlier attempts, or the process has it.
    fn may_attempt(&self, effect: &Effect) -> bool {
        self.knows_all || !effect.new.channel.at_most_once()
    }

    /// Whether an attempt of this epoch has no durable outcome: until then the duty is not released (rule R6).
    pub(crate) fn flies_in(&self, epoch: &Epoch) -> bool {
        self.flights.iter().any(|flight| flight.epoch == *epoch)
    }
}

/// The stores of all members, the streams between them, and the judge.
pub(crate) struct Outbox {
    /// Numbers of its own, so that the other events of a seed stay the same.
    random: StdRng,
    on: bool,
    disks: Vec<Disk>,
    /// Members whose disks hold effects.
    nodes: Vec<usize>,
    changes: Changes,
    /// Length of the first member's log that the second has.
    sent: BTreeMap<(usize, usize), usize>,
    /// The same, as far as the first knows.
    acked: BTreeMap<(usize, usize), usize>,
    /// Reports of the second member to the first: it had the first's log up to this length when its own had that one.
    reports: BTreeMap<(usize, usize), (usize, usize)>,
    /// Streams under way.
    streaming: BTreeSet<(usize, usize)>,
    /// Peers (second) that count for a writer (first): by its own view of its streams (rule A2).
    counting: BTreeSet<(usize, usize)>,
    causes: u128,
    judge: OutboxJudge,
}

/// Statistics of the outbox in runs without a violation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Effects that reached their receivers.
    pub received: u64,
    /// Arrivals that repeated an earlier one.
    pub repeats: u64,
    /// Attempts whose process was counted as dead.
    pub suspects: u64,
    /// Effects that were given up without an answer of the receiver.
    pub dead_letters: u64,
}

impl std::ops::AddAssign for OutboxCounts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.repeats += other.repeats;
        self.suspects += other.suspects;
        self.dead_letters += other.dead_letters;
    }
}

impl Outbox {
    pub(crate) fn new(seed: u64, on: bool, members: &[Member]) -> Self {
        let nodes: Vec<usize> = (0..members.len()).filter(|m| members[*m].kind == MemberKind::Node).collect();
        Self {
            random: StdRng::seed_from_u64(!seed),
            on,
            disks: members.iter().enumerate().map(|(m, member)| Disk::new(member.name.clone(), m)).collect(),
            changes: Changes::default(),
            sent: BTreeMap::new(),
            acked: BTreeMap::new(),
            reports: BTreeMap::new(),
            streaming: BTreeSet::new(),
            counting: BTreeSet::new(),
            causes: 0,
            judge: OutboxJudge::default(),
            nodes,
        }
    }

    pub(crate) fn counts(&self) -> OutboxCounts {
        let OutboxJudge { repeats, suspects, dead_letters, .. } = self.judge;
        OutboxCounts { received: self.judge.received(), repeats, suspects, dead_letters }
    }

    /// Mostly a moment, now and then as long as a full queue takes.
    fn delay(&mut self, calm: bool) -> Micros {
        match self.random.random_range(0..20) {
            0 if !calm => self.random.random_range(20 * MS..300 * MS),
            _ => self.random.random_range(200..3 * MS),
        }
    }

    /// Whether a writer knows all attempts of earlier holders, by a question at this position of its log.
    fn knows_all_attempts(&self, writer: usize, asked: Option<usize>) -> bool {
        let answered = |peer: &&usize| {
            let report = self.reports.get(&(writer, **peer));
            let here = self.sent.get(&(**peer, writer)).copied().unwrap_or_default();
            let covers =
                |(length, own): &(usize, usize)| asked.is_some_and(|asked| *length > asked) && here >= *own;
            report.is_some_and(covers)
        };
        knows_all_attempts(self.nodes.len(), self.nodes.iter().filter(answered).count())
    }

    fn is_on_two(&self, writer: usize, position: usize) -> bool {
        self.nodes.iter().any(|peer| self.acked.get(&(writer, *peer)).is_some_and(|length| *length > position))
    }
}

impl World {
    /// Schedules the causes of effects, while faults happen.
    pub(crate) fn schedule_causes(&mut self) {
        let causes = if self.outbox.on { CAUSES } else { 0 };
        for _ in 0..causes {
            let at = self.outbox.random.random_range(100 * MS..FAULT_TIME);
            self.after(at, Event::Outbox(OutboxEvent::Cause));
        }
    }

    pub(crate) fn handle_outbox(&mut self, event: OutboxEvent) -> Result<(), Violation> {
        match event {
            OutboxEvent::Cause => {
                self.file_message();
                Ok(())
            }
            OutboxEvent::Stream { from, to } => {
                self.stream(from, to);
                self.tend_outbox(to)
            }
            OutboxEvent::Ack { writer, peer, length, own } => {
                let connected = self.connected(writer, peer);
                let acked = self.outbox.acked.entry((writer, peer)).or_default();
                if !connected {
                    // The next stream begins where the writer knows that the peer is.
                    let known = *acked;
                    self.outbox.sent.insert((writer, peer), known);
                    return Ok(());
                }
                *acked = length.max(*acked);
                let report = self.outbox.reports.entry((writer, peer)).or_default();
                *report = (length, own).max(*report);
                self.tend_outbox(writer)
            }
            OutboxEvent::Tend(member) => self.tend_outbox(member),
            OutboxEvent::Act(act) => self.act_arrives(act),
            OutboxEvent::Answer(act) => self.answer_arrives(act),
        }
    }

    /// The time that all stores take for their records (rule D5).
    fn cluster_time(&self) -> Timestamp {
        Timestamp(self.now / MS + 1)
    }

    fn outbox_event(&mut self, delay: Micros, event: OutboxEvent) {
        self.after(delay, Event::Outbox(event));
    }

    /// A node files a message, and writes the effect in the same commit. Now and then another files the same one.
    fn file_message(&mut self) {
        let now = self.cluster_time();
        let Outbox { random, nodes, causes, .. } = &mut self.outbox;
        *causes += 1;
        let channel = [Channel::Mail, Channel::Webhook, Channel::SmsHttp][random.random_range(0..3)];
        let delay = [0, 0, random.random_range(0..1_000)][random.random_range(0..3)];
        let cause =
            Cause { mailbox: MailboxId(*causes % 3), message: MessageId(*causes), transition: Transition::Filed };
        let filing = nodes.len().min([1, 1, 1, 2][random.random_range(0..4)]);
        let first = random.random_range(0..nodes.len());
        let members: Vec<usize> = nodes.iter().copied().cycle().skip(first).take(filing).collect();
        let new = NewEffect {
            cause,
            channel,
            target: TARGET,
            repeat: 0,
            retry: 0,
            created: now,
            not_before: Timestamp(now.0 + delay),
            expires: Timestamp(now.0 + HOUR_MS),
        };
        let id = new.id();
        for member in members {
            if self.awake(member).is_some() {
                self.note(|| format!("{member} files a message with the {channel} {id}"));
                let edits = new.edits(self.outbox.disks[member].record(id));
                self.write(member, id, &edits);
                // Two nodes that file one message do so at the same moment.
                self.outbox_event(0, OutboxEvent::Tend(member));
            }
        }
    }

    /// No effect is done that did not arrive. Long after all faults, no effect of a duty waits if a node acts under
    /// the duty.
    pub(crate) fn check_outbox(&self) -> Result<(), Violation> {
        for member in self.outbox.nodes.iter().copied() {
            for id in self.outbox.disks[member].ids() {
                let done = self.outbox.disks[member].effect(id).is_some_and(|effect| effect.done.is_some());
                if done && !self.outbox.judge.is_received(id) {
                    return Err(Violation::Lost { detail: format!("effect {id} is done and never arrived") });
                }
            }
        }
        for duty in Duty::ALL {
            let acts = |m: &usize| {
                let process = self.members[*m].process.as_ref().filter(|it| it.hangs_until <= self.now);
                let work = process.and_then(|it| it.outbox.get(&duty));
                let long = work.is_some_and(|it| it.held.is_some() && it.since + SETTLED < self.now);
                long && process.is_some_and(|it| it.may_act(duty, self.local(*m)).is_some())
            };
            let Some(holder) = self.outbox.nodes.iter().copied().find(acts) else { continue };
            let reached =
                |m: &usize| self.members[*m].process.is_some() && (*m == holder || self.connected(holder, *m));
            let nodes: Vec<usize> = self.outbox.nodes.iter().copied().filter(reached).collect();
            let ids = |m: usize| self.outbox.disks[m].ids().into_iter().map(move |id| (m, id));
            for (member, id) in nodes.iter().flat_map(|m| ids(*m)) {
                let Some(effect) = self.open_effect(member, id).filter(|it| serves(duty, it)) else { continue };
                // It may not be attempted without a second disk, nor without what all members but one have.
                let enough = nodes.len() > 1 && nodes.len() + 1 >= self.outbox.nodes.len();
                if enough || !effect.new.channel.at_most_once() {
                    let detail = format!("{member} has the {} {id} waiting under {duty}", effect.new.channel);
                    return Err(Violation::Stuck { detail });
                }
            }
        }
        Ok(())
    }
}

/// Whether effects of this channel are the work of this duty. Other duties have no effects in the outbox.
fn serves(duty: Duty, effect: &Effect) -> bool {
    duty == if effect.new.channel.is_mail() { Duty::Mta } else { Duty::Notifier }
}
