//! External effects of members, and their arrival.

use twinbox_ids::Incarnation;
use twinbox_roles_core::Duty;
use twinbox_roles_member::LeaderEvent;

use crate::{
    Violation,
    clock::{MS, Micros},
    receiver::Effect,
    world::{Event, World},
};

/// Maximum time that a write is under way: less than the margin of a lease, by any clock.
const LONGEST_WRITE: Micros = 45 * MS;
/// Maximum concurrent writes of a process under one duty.
const WORKERS: usize = 3;

impl World {
    /// Members that may act begin a write now and then; it arrives a moment later.
    pub(crate) fn act(&mut self) {
        for member in 0..self.members.len() {
            Duty::ALL.into_iter().for_each(|duty| self.act_under(member, duty));
        }
    }

    fn act_under(&mut self, member: usize, duty: Duty) {
        let now = self.local(member);
        let Some(process) = self.awake(member) else { return };
        let writes = process.in_flight.iter().filter(|(of, _)| *of == duty).count();
        if writes >= WORKERS || process.may_act(duty, now).is_none() || !self.chance(20) {
            return;
        }
        let Some(process) = self.awake(member) else { return };
        if let Some((epoch, solo)) = process.may_act(duty, now).map(|(epoch, solo)| (epoch.clone(), solo)) {
            let incarnation = process.incarnation;
            let takes = match self.random_up_to(4) {
                0 => self.random_up_to(LONGEST_WRITE),
                _ => self.random_up_to(2 * MS),
            };
            self.begin(member, takes, Effect { duty, epoch, incarnation, solo, paused: false });
        }
    }

    /// The process pauses for `pause` between the check and the sending of a write under each of its duties, without a
    /// clock that it could read in between (rule R6).
    pub(crate) fn pause_writes(&mut self, member: usize, pause: Micros) {
        let now = self.local(member);
        for duty in Duty::ALL {
            let Some(process) = self.awake(member) else { return };
            let incarnation = process.incarnation;
            if let Some((epoch, solo)) = process.may_act(duty, now).map(|(epoch, solo)| (epoch.clone(), solo)) {
                self.begin(member, pause + 1, Effect { duty, epoch, incarnation, solo, paused: true });
            }
        }
    }

    fn begin(&mut self, member: usize, takes: Micros, effect: Effect) {
        if let Some(process) = self.awake(member) {
            process.in_flight.push((effect.duty, effect.epoch.clone()));
        }
        self.after(takes, Event::Arrival { member, effect });
    }

    pub(crate) fn arrive(&mut self, member: usize, effect: &Effect) -> Result<(), Violation> {
        let Effect { duty, epoch, incarnation, .. } = effect;
        // A dead process sends nothing more; a hanging one may have handed its write to the kernel.
        let Some(process) =
            self.members[member].process.as_mut().filter(|process| process.incarnation == *incarnation)
        else {
            return Ok(());
        };
        if let Some(at) = process.in_flight.iter().position(|(of, flying)| of == duty && flying == epoch) {
            process.in_flight.swap_remove(at);
        }
        let accepted = self.receiver.accept(self.now, effect);
        if accepted.is_err() {
            self.note(|| format!("an effect of {duty} in {epoch} arrives"));
        }
        self.write_ended(member);
        accepted
    }

    /// A supervisor's report: every member stores it, and the leader acts on it.
    pub(crate) fn report_exit(&mut self, to: usize, of: usize, incarnation: Incarnation) {
        let hangs = self.members[to].process.as_ref().map_or(0, |process| process.hangs_until);
        if hangs > self.now {
            return self.after(hangs - self.now + 1, Event::Proof { to, of, incarnation });
        }
        let now = self.local(to);
        let name = self.members[of].name.clone();
        let any_incarnation = self.is(crate::Mutant::AnyLife);
        let Some(process) = self.awake(to) else { return };
        // Mutant: a proof about one incarnation is taken for any other.
        let holding = process.state.duties.values().find(|a| a.epoch.node == name).map(|a| a.incarnation);
        let incarnation = holding.filter(|_| any_incarnation).unwrap_or(incarnation);
        process.exits.note(&name, incarnation, process.leadership.had_calls(&name, incarnation));
        process.contacts.note_exit(&name, incarnation);
        if process.leadership.step(now, LeaderEvent::Exited { node: &name, incarnation }).is_some() {
            self.after(MS / 2, Event::LeaderWork(to));
        }
    }
}
