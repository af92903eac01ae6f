//! The holder of a duty: it takes effects over, attempts them, acts, and records the outcomes, in the order of the
//! loop in `nodes/duty`.

use rand::{Rng, rngs::StdRng};
use twinbox_ids::{EffectId, Epoch, Incarnation, Timestamp};
use twinbox_outbox::{
    Effect, Limits, OutboxQueue, TakeOver, WaitingEffect, asks_for_attempts, attempt, dead, death, done, failed,
    retry_after_ms, take_over,
};
use twinbox_roles_core::Duty;

use super::{
    Act, Answer, DutyWork, Flight, Outbox, OutboxEvent, Stage, TARGET,
    judge::{Begun, Received},
    serves,
};
use crate::{
    Mutant, Violation,
    clock::{MS, Micros},
    receiver::Effect as Write,
    world::World,
};

/// Maximum time of an act until it arrives, and of the answer: less than the margin of a lease, by any clock.
const LONGEST_ACT: Micros = 45 * MS;
/// The real pauses between attempts are divided by this, and end at that many milliseconds.
const PAUSE_DIVISOR: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 1_000;

/// A process, and the epoch in which it may act under a duty now.
struct Holding {
    member: usize,
    duty: Duty,
    incarnation: Incarnation,
    held: Option<(Epoch, bool)>,
}

/// End of an attempt.
enum Ending {
    Done,
    Failed(Timestamp),
    Refused,
}

impl World {
    /// Goes on with everything that a member can do now.
    pub(crate) fn tend_outbox(&mut self, member: usize) -> Result<(), Violation> {
        if !self.outbox.on || !self.outbox.nodes.contains(&member) || self.awake(member).is_none() {
            return Ok(());
        }
        self.tend_streams(member);
        for duty in Duty::ALL {
            let now = self.local(member);
            let Some(process) = self.awake(member) else { return Ok(()) };
            let held = process.may_act(duty, now).map(|(epoch, solo)| (epoch.clone(), solo));
            let incarnation = process.incarnation;
            let mut work = process.outbox.remove(&duty).unwrap_or_default();
            let tended = self.tend_duty(&Holding { member, duty, incarnation, held }, &mut work);
            if let Some(process) = self.awake(member) {
                process.outbox.insert(duty, work);
            }
            tended?;
        }
        Ok(())
    }

    fn tend_duty(&mut self, holding: &Holding, work: &mut DutyWork) -> Result<(), Violation> {
        self.advance(holding, work);
        if work.held != holding.held {
            work.held = None;
            work.queue = OutboxQueue::new(Limits::default());
            work.changed.clear();
            // The outcomes of the attempts in an earlier epoch come first.
            if holding.held.is_none() || !work.flights.is_empty() {
                return Ok(());
            }
            work.held.clone_from(&holding.held);
            work.since = self.now;
            // Mutant: as if all were known.
            work.knows_all = self.is(Mutant::NoQuestion) || self.outbox.knows_all_attempts(holding.member, None);
            work.asked = None;
            for id in self.outbox.disks[holding.member].ids() {
                let may = |effect: &Effect| serves(holding.duty, effect) && work.may_attempt(effect);
                if let Some(effect) = self.open_effect(holding.member, id).filter(may) {
                    self.decide(holding, &effect)?;
                }
                self.place(holding, work, id);
            }
        }
        if work.held.is_none() {
            return Ok(());
        }
        for id in std::mem::take(&mut work.changed) {
            self.place(holding, work, id);
        }
        self.learn_attempts(holding, work);
        let time = self.cluster_time();
        while let Some(id) = work.queue.next(time) {
            if !self.begin_attempt(holding, work, id)? {
                work.queue.finished(id);
                self.place(holding, work, id);
            }
        }
        Ok(())
    }

    /// The effect as this member's disk has it, unless it is at its end.
    pub(super) fn open_effect(&self, member: usize, id: EffectId) -> Option<Effect> {
        self.outbox.disks[member].effect(id).filter(|effect| !effect.state().is_end())
    }

    /// Puts an effect where its record says.
    fn place(&self, holding: &Holding, work: &mut DutyWork, id: EffectId) {
        match self.open_effect(holding.member, id) {
            Some(effect) if serves(holding.duty, &effect) && !work.may_attempt(&effect) => {
                work.queue.hold(id, effect.new.target);
            }
            Some(effect) if serves(holding.duty, &effect) => work.queue.want(waiting(&effect)),
            _ => work.queue.remove(id),
        }
    }

    /// Asks for the attempts of earlier holders as soon as an effect waits for them, and goes on when they are here.
    fn learn_attempts(&mut self, holding: &Holding, work: &mut DutyWork) {
        let member = holding.member;
        if work.knows_all || work.queue.held() == 0 {
            return;
        }
        if work.asked.is_none()
            && let Some((epoch, _)) = work.held.clone()
            && let Some(id) = work.queue.held_for(TARGET).into_iter().min()
        {
            self.note(|| format!("{member} asks for the attempts of earlier holders"));
            work.asked = Some(self.write(member, id, &asks_for_attempts(&epoch)).0);
        }
        if self.outbox.knows_all_attempts(member, work.asked) {
            work.knows_all = true;
            for id in work.queue.held_for(TARGET) {
                self.place(holding, work, id);
            }
        }
    }

    /// Decides about an attempt without an outcome. True: the effect may be attempted as it is.
    fn decide(&mut self, holding: &Holding, effect: &Effect) -> Result<bool, Violation> {
        let (member, id) = (holding.member, effect.id);
        match take_over(effect, holding.incarnation) {
            TakeOver::Attempt => Ok(true),
            TakeOver::Suspect { attempt, deaths } => {
                self.note(|| format!("{member} counts death {deaths} at attempt {attempt} of {id}"));
                self.outbox.judge.counts_death(id, attempt);
                self.write(member, id, &death(attempt, deaths));
                Ok(false)
            }
            TakeOver::GiveUp { reason } => {
                self.note(|| format!("{member} gives {id} up: {reason}"));
                let Outbox { judge, disks, .. } = &mut self.outbox;
                judge.gives_up(self.now, effect, &disks[member])?;
                self.write(member, id, &dead(self.cluster_time(), &reason));
                Ok(false)
            }
        }
    }

    /// Makes an attempt durable. False: there is none now.
    fn begin_attempt(&mut self, holding: &Holding, work: &mut DutyWork, id: EffectId) -> Result<bool, Violation> {
        let (at, time) = (self.now, self.cluster_time());
        let Holding { member, incarnation, .. } = *holding;
        let Some(effect) = self.open_effect(member, id).filter(|effect| effect.due() <= time) else {
            return Ok(false);
        };
        let Some((epoch, solo)) = work.held.clone() else { return Ok(false) };
        if !self.decide(holding, &effect)? {
            return Ok(false);
        }
        let alone = effect.is_suspect();
        if work.flights.iter().any(|other| alone || other.alone) {
            let detail = format!("effect {id} is attempted beside another, and one of them is to be alone");
            return Err(Violation::Outbox { at, detail });
        }
        let (number, edits) = attempt(&effect, time, incarnation, &epoch);
        let stage = if self.is(Mutant::NoDurableAttempt) {
            // Mutant: nothing is written before the act.
            Stage::Attempt { position: 0, until: self.waits_until(member) }
        } else {
            let (position, change) = self.write(member, id, &edits);
            let begun = Begun { incarnation, number, alone, change };
            let (members, Outbox { judge, disks, .. }) = (&self.members, &mut self.outbox);
            let alive = |of: Incarnation| {
                members.iter().any(|other| other.process.as_ref().is_some_and(|it| it.incarnation == of))
            };
            judge.begins(at, id, begun, &disks[member], alive)?;
            Stage::Attempt { position, until: self.waits_until(member) }
        };
        self.note(|| format!("{member} begins attempt {number} of {id} in {epoch}, alone: {alone}"));
        work.flights.push(Flight { id, number, epoch, solo, alone, stage });
        Ok(true)
    }

    /// Goes on with the attempts under way.
    fn advance(&mut self, holding: &Holding, work: &mut DutyWork) {
        for mut flight in std::mem::take(&mut work.flights) {
            if self.advance_flight(holding, &mut flight) {
                work.flights.push(flight);
            } else {
                work.queue.finished(flight.id);
                work.changed.insert(flight.id);
            }
        }
    }

    /// True: the attempt is still under way.
    fn advance_flight(&mut self, holding: &Holding, flight: &mut Flight) -> bool {
        let member = holding.member;
        match flight.stage {
            Stage::Attempt { position, until } => {
                // Mutant: there is nothing to wait for.
                let on_two = self.is(Mutant::NoDurableAttempt) || self.outbox.is_on_two(member, position);
                if !on_two && self.now < until {
                    return true;
                }
                if !on_two {
                    let Outbox { counting, acked, .. } = &mut self.outbox;
                    let late = |pair: &(usize, usize)| acked.get(pair).is_none_or(|length| *length <= position);
                    counting.retain(|pair| pair.0 != member || !late(pair));
                }
                self.act_on(holding, flight, on_two)
            }
            Stage::Acting => true,
            Stage::Answered(answer) => {
                let ending = match answer {
                    Answer::Taken => Ending::Done,
                    Answer::Refused => Ending::Refused,
                    Answer::Deferred => Ending::Failed(self.next_attempt(flight.number)),
                };
                self.end(holding, flight, &ending)
            }
            Stage::Outcome { position, until } => !self.outbox.is_on_two(member, position) && self.now < until,
        }
    }

    fn next_attempt(&mut self, number: u32) -> Timestamp {
        let pause = retry_after_ms(number, self.outbox.random.random()) / PAUSE_DIVISOR;
        Timestamp(self.cluster_time().0 + pause.min(LONGEST_PAUSE_MS))
    }

    /// The attempt is durable: acts, unless it may not.
    fn act_on(&mut self, holding: &Holding, flight: &mut Flight, on_two: bool) -> bool {
        let Holding { member, duty, incarnation, .. } = *holding;
        let Flight { id, number, solo, .. } = *flight;
        // The outcome of an earlier holder may have arrived meanwhile.
        let Some(effect) = self.open_effect(member, id) else {
            self.outbox.judge.ends(id, incarnation, number, None);
            return false;
        };
        let channel = effect.new.channel;
        if channel.at_most_once() && !on_two {
            let again = self.next_attempt(number);
            return self.end(holding, flight, &Ending::Failed(again));
        }
        if holding.held.as_ref().is_none_or(|(epoch, _)| *epoch != flight.epoch) {
            let now = self.cluster_time();
            return self.end(holding, flight, &Ending::Failed(now));
        }
        if self.is(Mutant::DoneBeforeAct) {
            self.write(member, id, &done(self.cluster_time(), "taken"));
        }
        let Outbox { random, .. } = &mut self.outbox;
        let answer = match random.random_range(0..20) {
            _ if self.calm => Answer::Taken,
            0 => Answer::Refused,
            1..=3 => Answer::Deferred,
            _ => Answer::Taken,
        };
        let takes = act_time(random);
        let epoch = flight.epoch.clone();
        let act = Act { member, duty, incarnation, epoch, solo, id, channel, number, answer };
        flight.stage = Stage::Acting;
        self.outbox_event(takes, OutboxEvent::Act(act));
        true
    }

    /// Records the outcome of an attempt. True: the record waits for a second disk.
    fn end(&mut self, holding: &Holding, flight: &mut Flight, ending: &Ending) -> bool {
        let Holding { member, incarnation, .. } = *holding;
        let time = self.cluster_time();
        let edits = match (self.open_effect(member, flight.id), ending) {
            (None, _) => Vec::new(),
            (Some(_), Ending::Done) => done(time, "taken"),
            (Some(_), Ending::Refused) => dead(time, "refused"),
            // Another process attempts it by now: the outcome of that attempt counts.
            (Some(effect), _) if effect.unfinished().is_some_and(|it| it.incarnation != incarnation) => Vec::new(),
            (Some(effect), Ending::Failed(again)) => failed(effect.attempts(), *again, "deferred"),
        };
        let written = (!edits.is_empty()).then(|| self.write(member, flight.id, &edits));
        self.outbox.judge.ends(flight.id, incarnation, flight.number, written.map(|(_, change)| change));
        let Some((position, _)) = written else { return false };
        flight.stage = Stage::Outcome { position, until: self.waits_until(member) };
        true
    }

    /// A dead process sends nothing more; a hanging one may have handed its write to the kernel.
    pub(super) fn act_arrives(&mut self, act: Act) -> Result<(), Violation> {
        let process = self.members[act.member].process.as_ref();
        if process.is_none_or(|process| process.incarnation != act.incarnation) {
            return Ok(());
        }
        let Act { member, duty, incarnation, ref epoch, solo, id, channel, answer, .. } = act;
        self.note(|| format!("{channel} {id} of {member} arrives in {epoch}: {answer:?}"));
        self.receiver.accept(self.now, &Write { duty, epoch: epoch.clone(), incarnation, solo, paused: false })?;
        if answer == Answer::Taken {
            let received = Received { incarnation, epoch: epoch.clone(), solo };
            self.outbox.judge.receives(self.now, id, channel, received)?;
        }
        let takes = act_time(&mut self.outbox.random);
        self.outbox_event(takes, OutboxEvent::Answer(act));
        Ok(())
    }

    pub(super) fn answer_arrives(&mut self, act: Act) -> Result<(), Violation> {
        let now = self.now;
        let process = self.members[act.member].process.as_mut();
        let Some(process) = process.filter(|process| process.incarnation == act.incarnation) else { return Ok(()) };
        if process.hangs_until > now {
            // It stays in the socket until the process continues.
            let rest = process.hangs_until - now + 1;
            self.outbox_event(rest, OutboxEvent::Answer(act));
            return Ok(());
        }
        let flights = process.outbox.get_mut(&act.duty).map(|work| &mut work.flights);
        let flight = flights.and_then(|all| all.iter_mut().find(|it| (it.id, it.number) == (act.id, act.number)));
        if let Some(flight) = flight.filter(|flight| flight.stage == Stage::Acting) {
            flight.stage = Stage::Answered(act.answer);
        }
        self.tend_outbox(act.member)
    }
}

fn waiting(effect: &Effect) -> WaitingEffect {
    WaitingEffect {
        id: effect.id,
        due: effect.due(),
        group: effect.new.cause.mailbox.0,
        alone: effect.is_suspect(),
    }
}

fn act_time(random: &mut StdRng) -> Micros {
    match random.random_range(0..4) {
        0 => random.random_range(0..LONGEST_ACT),
        _ => random.random_range(0..2 * MS),
    }
}
