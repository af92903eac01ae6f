//! External effects of members, and their arrival.

use twinbox_ids::Incarnation;

use crate::{
    Violation,
    clock::{MS, Micros},
    receiver::Effect,
    world::{Event, World},
};

/// Maximum time that a write is under way: less than the margin of a lease, by any clock.
const LONGEST_WRITE: Micros = 45 * MS;
/// Maximum concurrent writes of a process.
const WORKERS: usize = 3;

impl World {
    /// Members that may act begin a write now and then; it arrives a moment later.
    pub(crate) fn act(&mut self) {
        for member in 0..self.members.len() {
            let now = self.local(member);
            let Some(process) = self.awake(member) else { continue };
            if process.in_flight.len() >= WORKERS || process.may_act(now).is_none() || !self.chance(20) {
                continue;
            }
            let Some(process) = self.awake(member) else { continue };
            if let Some((epoch, solo)) = process.may_act(now).map(|(epoch, solo)| (epoch.clone(), solo)) {
                let life = process.life;
                let takes = match self.random_up_to(4) {
                    0 => self.random_up_to(LONGEST_WRITE),
                    _ => self.random_up_to(2 * MS),
                };
                self.begin(member, takes, Effect { epoch, life, solo, paused: false });
            }
        }
    }

    /// The process of a worker pauses for `pause` between the check and the sending of a write, without a clock that it
    /// could read in between (rule R6).
    pub(crate) fn pause_a_write(&mut self, member: usize, pause: Micros) {
        let now = self.local(member);
        let Some(process) = self.awake(member) else { return };
        let life = process.life;
        let Some((epoch, solo)) = process.may_act(now).map(|(epoch, solo)| (epoch.clone(), solo)) else { return };
        self.begin(member, pause + 1, Effect { epoch, life, solo, paused: true });
    }

    fn begin(&mut self, member: usize, takes: Micros, effect: Effect) {
        if let Some(process) = self.awake(member) {
            process.in_flight.push(effect.epoch.clone());
        }
        self.after(takes, Event::Land { member, effect });
    }

    pub(crate) fn land(&mut self, member: usize, effect: &Effect) -> Result<(), Violation> {
        let Effect { epoch, life, .. } = effect;
        // A dead process sends nothing more; a hanging one may have handed its write to the kernel.
        let Some(process) = self.members[member].process.as_mut().filter(|process| process.life == *life) else {
            return Ok(());
        };
        if let Some(at) = process.in_flight.iter().position(|flying| flying == epoch) {
            process.in_flight.swap_remove(at);
        }
        let accepted = self.receiver.accept(self.now, effect);
        if accepted.is_err() {
            self.note(|| format!("an effect of {epoch} arrives"));
        }
        self.decide_alone(member);
        accepted
    }

    /// A supervisor's report: every member stores it, and the leader acts on it.
    pub(crate) fn prove(&mut self, to: usize, of: usize, life: Incarnation) {
        let hangs = self.members[to].process.as_ref().map_or(0, |process| process.hangs_until);
        if hangs > self.now {
            return self.after(hangs - self.now + 1, Event::Proof { to, of, life });
        }
        let now = self.local(to);
        let name = self.members[of].name.clone();
        let any_life = self.is(crate::Mutant::AnyLife);
        let Some(process) = self.awake(to) else { return };
        // Mutant: a proof about one incarnation is taken for any other.
        let holding = process.state.duties.values().find(|a| a.epoch.node == name).map(|a| a.incarnation);
        let life = holding.filter(|_| any_life).unwrap_or(life);
        process.exits.note(&name, life, false);
        if let Some(ledger) = process.leads.as_mut().and_then(|leader| leader.ledger.as_mut())
            && ledger.exited(now, &name, life)
        {
            self.after(MS / 2, Event::Nudge(to));
        }
    }
}
