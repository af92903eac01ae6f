//! Faults.

use std::time::Duration;

use rand::Rng;
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles::{Facts, Order};

use super::{IMAGES, Image, Link, StepResult, World};
use crate::{
    board::Exited,
    clocks,
    pauses::{self, Kind},
};

impl World<'_> {
    pub(super) fn inject_fault(&mut self) -> StepResult {
        self.report.faults += 1;
        let any = self.rng.random_range(0..self.members.len());
        let victim = self.victim();
        match self.rng.random_range(0..34) {
            0..3 => self.crash(victim),
            3..6 => {
                self.crash(victim);
                let pause = self.rng.random_range(1..200);
                self.pass(Duration::from_millis(pause))?;
                self.bounce(victim);
            }
            6..8 => (0..self.members.len()).for_each(|member| self.bounce(member)),
            8..11 => {
                self.isolate(victim);
                if self.rng.random_bool(0.5) {
                    self.pass(self.timing.new_leader_wait())?;
                }
            }
            11 => self.link(victim, any, Link::Cut),
            12 | 13 => self.link(victim, any, Link::OneWay),
            14 => self.link(victim, any, Link::Held),
            15 | 16 => self.heal_links(),
            17 => self.slow(victim, any),
            18 | 19 => {
                let (at, publisher) = (self.members[any].name.clone(), self.members[victim].name.clone());
                self.board.note(format!("an administrator asks {at} to make {publisher} the publisher"));
                self.board.order(&at, Order::make_publisher(publisher));
            }
            20 => self.lose_or_roll_back_disk(victim),
            21..24 => self.cut_actor_and_crash_leader()?,
            24 => self.roll_back_during_agreement()?,
            25..28 => self.pause(victim),
            28 | 29 => {
                let victim = self.actor().unwrap_or(victim);
                let length = self.rng.random_range(1..1_500);
                pauses::plan(victim, Duration::from_millis(length));
            }
            30 => {
                let wrong = self.rng.random_range(-3_600_000..3_600_000);
                self.board.note(format!("the wall clock of {} is {wrong} ms wrong", self.members[any].name));
                clocks::set_wall_error(any, wrong);
            }
            31 => self.remove(victim),
            _ => self.check_majority_acts()?,
        }
        for member in &mut self.members {
            if self.rng.random_bool(0.1) {
                member.images.push(member.platter.image());
                if member.images.len() > IMAGES {
                    let old = self.rng.random_range(0..IMAGES);
                    member.images.remove(old);
                }
            }
        }
        Ok(())
    }

    /// A random member, more often than not a leader or an acting one: faults there have the largest effect.
    fn victim(&mut self) -> usize {
        let any = self.rng.random_range(0..self.members.len());
        match self.rng.random_range(0..3) {
            0 => any,
            1 => self.actor().unwrap_or(any),
            _ => self.leader().unwrap_or(any),
        }
    }

    pub(super) fn index(&self, name: &NodeName) -> Option<usize> {
        self.members.iter().position(|member| member.name == *name)
    }

    pub(super) fn leader(&self) -> Option<usize> {
        self.index(&self.board.leader()?)
    }

    fn actor(&self) -> Option<usize> {
        self.index(&self.board.last_actor()?)
    }

    pub(super) fn crash(&mut self, member: usize) {
        if std::mem::replace(&mut self.members[member].up, false) {
            let name = self.members[member].name.clone();
            self.board.note(format!("{name} crashes"));
            self.sim.crash(name.as_str());
            self.members[member].platter.crash();
            pauses::end(member);
            if let Some(incarnation) =
                self.board.note_exit(&name).filter(|_| self.supervised && self.rng.random_bool(0.75))
            {
                self.report_exit(member, &name, incarnation);
            }
        }
    }

    /// The supervisor reports to the others: immediately or late, now and then twice.
    fn report_exit(&mut self, member: usize, of: &NodeName, incarnation: Incarnation) {
        for other in (0..self.members.len()).filter(|other| *other != member) {
            let to = self.members[other].name.clone();
            let late =
                self.rng.random_bool(0.2) || self.links.contains_key(&(member.min(other), member.max(other)));
            let wait = if late { self.rng.random_range(50..3_000) } else { self.rng.random_range(1..5) };
            let at = self.sim.elapsed() + Duration::from_millis(wait);
            let again =
                self.rng.random_bool(0.2).then(|| at + Duration::from_millis(self.rng.random_range(1..2_000)));
            let exited = Exited { of: of.clone(), incarnation, to };
            self.exits.extend(again.map(|again| (again, exited.clone())));
            self.exits.push((at, exited));
        }
    }

    /// Pauses a process for a while.
    fn pause(&mut self, member: usize) {
        if self.members[member].up && !pauses::is_paused(member) {
            let kind = [Kind::Stopped, Kind::Suspended][self.rng.random_range(0..2)];
            let length = Duration::from_millis(self.rng.random_range(10..2_500));
            self.board.note(format!("{} is {kind:?} for {length:?}", self.members[member].name));
            pauses::begin(member, length, kind);
        }
    }

    /// A member is to be removed permanently during the faults: one at most, of many.
    fn remove(&mut self, member: usize) {
        if self.members.len() < 4
            || self.members.iter().any(|member| member.leaving)
            || self.lost_disk == Some(member)
        {
            return;
        }
        self.members[member].leaving = true;
        let name = self.members[member].name.clone();
        let at = self.leader().filter(|leader| *leader != member).unwrap_or((member + 1) % self.members.len());
        let at = self.members[at].name.clone();
        self.board.note(format!("an administrator asks {at} to remove {name}"));
        self.board.order(&at, Order::Remove { name, lost: false, facts: Facts::default(), within_ms: None });
    }

    pub(super) fn bounce(&mut self, member: usize) {
        if !std::mem::replace(&mut self.members[member].up, true) {
            let name = self.members[member].name.clone();
            self.board.note(format!("{name} is started again"));
            self.sim.bounce(name.as_str());
        }
    }

    pub(super) fn link(&mut self, from: usize, to: usize, state: Link) {
        let pair = (from.min(to), from.max(to));
        if from == to || self.links.contains_key(&pair) {
            return;
        }
        let (a, b) = (self.members[from].name.clone(), self.members[to].name.clone());
        self.board.note(format!("between {a} and {b}: {state:?}"));
        match state {
            Link::Held => self.sim.hold(a.as_str(), b.as_str()),
            Link::Cut => self.sim.partition(a.as_str(), b.as_str()),
            Link::OneWay => self.sim.partition_oneway(a.as_str(), b.as_str()),
        }
        self.links.insert(pair, state);
    }

    fn isolate(&mut self, member: usize) {
        let state = [Link::Cut, Link::Held, Link::OneWay][self.rng.random_range(0..3)];
        (0..self.members.len()).for_each(|other| self.link(member, other, state));
    }

    pub(super) fn heal_links(&mut self) {
        for ((a, b), state) in std::mem::take(&mut self.links) {
            let (a, b) = (self.members[a].name.as_str(), self.members[b].name.as_str());
            match state {
                Link::Held => self.sim.release(a, b),
                _ => self.sim.repair(a, b),
            }
        }
        self.board.note("all links are healed");
    }

    fn slow(&mut self, a: usize, b: usize) {
        if a != b {
            let latency = Duration::from_millis([1, 10, 30][self.rng.random_range(0..3)]);
            let (a, b) = (self.members[a].name.as_str(), self.members[b].name.as_str());
            self.board.note(format!("between {a} and {b} it takes up to {latency:?}"));
            self.sim.set_link_max_message_latency(a, b, latency);
        }
    }

    /// A disk is lost, or rolled back to an old copy. One at a time: a cluster does not survive two lost disks of
    /// three. None once a member of four leaves: the two voters that are left then need both disks, until the fourth
    /// member is a voter.
    fn lose_or_roll_back_disk(&mut self, member: usize) {
        if self.lost_disk.is_some_and(|lost_disk| lost_disk != member)
            || self.members.len() == 2
            || self.members[member].leaving
            || (self.members.len() == 4 && self.members.iter().any(|member| member.leaving))
        {
            return;
        }
        self.lost_disk = Some(member);
        self.crash(member);
        let old: Vec<Image> =
            self.members[member].images.iter().filter(|i| self.is_known_old(member, i)).cloned().collect();
        let back = !old.is_empty() && self.rng.random_bool(0.7);
        let image = back.then(|| old[self.rng.random_range(0..old.len())].clone());
        let known = &mut self.members[member];
        let name = known.name.clone();
        match image {
            Some(image) => {
                known.rolled_back = true;
                known.platter.restore(image);
                self.board.note(format!("the disk of {name} is rolled back to an old copy"));
            }
            None => {
                known.rolled_back = false;
                known.images.clear();
                known.platter.restore(Vec::new());
                self.board.note(format!("the disk of {name} is empty"));
            }
        }
        self.bounce(member);
    }

    /// Whether every other member knows of a later start of the store than that in this copy: only then rule R8 keeps
    /// the copy from taking part.
    fn is_known_old(&self, member: usize, image: &Image) -> bool {
        let value =
            |image: &Image, key: &[u8]| image.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        let Some(id) = value(image, b"member/raft-id") else { return false };
        let Some(run) = value(image, b"member/run") else { return false };
        let seen = [b"seen/".as_slice(), &id].concat();
        (0..self.members.len()).filter(|other| *other != member).all(|other| {
            // The next start with this copy has the run number after that.
            let next = u64::from_be_bytes(run.clone().try_into().unwrap_or_default()) + 1;
            let known = value(&self.members[other].platter.image(), &seen);
            known.is_some_and(|start| start[..8] >= next.to_be_bytes()[..])
        })
    }

    /// The acting node is cut off, and the leader exits.
    fn cut_actor_and_crash_leader(&mut self) -> StepResult {
        let (Some(actor), Some(leader)) = (self.actor(), self.leader()) else { return Ok(()) };
        self.heal_links();
        (0..self.members.len()).for_each(|member| self.bounce(member));
        self.pass(self.timing.lease)?;
        if actor != leader {
            (0..self.members.len()).for_each(|other| self.link(actor, other, Link::Cut));
            let pause = self.rng.random_range(0..100);
            self.pass(Duration::from_millis(pause))?;
            self.crash(leader);
            if self.members.len() == 3 {
                // Two are left, one of them cut off: no node could take over.
                self.bounce(leader);
            }
        } else {
            (0..self.members.len()).for_each(|other| self.link(actor, other, Link::Cut));
        }
        self.pass(self.timing.new_leader_wait() + self.timing.lease)
    }

    /// One member is away during an agreement, another is rolled back to a copy from before it, and the two connect
    /// without the third.
    fn roll_back_during_agreement(&mut self) -> StepResult {
        if self.members.len() != 3 || self.lost_disk.is_some() {
            return Ok(());
        }
        self.heal_links();
        (0..3).for_each(pauses::resume);
        (0..3).for_each(|member| self.bounce(member));
        self.until_healthy("all is well after everything was started")?;
        let Some(actor) = self.actor() else { return Ok(()) };
        let (away, forgets) = ((actor + 1) % 3, (actor + 2) % 3);
        let image = self.members[forgets].platter.image();
        self.crash(forgets);
        self.bounce(forgets);
        let known = self.patience();
        self.until(known, "the others know of a later start", |world| {
            (!world.is_known_old(forgets, &image)).then(|| "they do not".to_owned())
        })?;
        let agree = self.timing.election_max * 6 + self.timing.new_leader_wait();
        (0..3).for_each(|other| self.link(away, other, Link::Cut));
        self.crash(actor);
        self.bounce(actor);
        self.pass(agree)?;
        self.crash(actor);
        self.crash(forgets);
        self.lost_disk = Some(forgets);
        let known = &mut self.members[forgets];
        known.rolled_back = true;
        known.platter.restore(image);
        let name = known.name.clone();
        self.board.note(format!("the disk of {name} is rolled back to the earlier copy"));
        self.heal_links();
        self.bounce(forgets);
        self.pass(agree)?;
        self.bounce(actor);
        Ok(())
    }
}
