//! Faults and their repair.

use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{
    AlarmRule, Command, Duty, Failback, Measures, MemberKind, Mode, OnQuorumLoss, Order, OrderId, Setting, Trigger,
};
use twinbox_roles_member::{NamedMember, NodeEvent};

use crate::{
    Mutant,
    clock::MS,
    world::{Event, Focus, World},
};

impl World {
    pub(crate) fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.random_between(10 * MS, 500 * MS);
        self.after(pause, Event::Chaos);
        let victim = self.victim();
        if self.chance(40) {
            match self.focus {
                Focus::Anything => {}
                Focus::Exits => return self.crash(victim),
                Focus::Timing => return self.change_lease_length(victim),
                Focus::Solo => return self.partition_pair(victim),
                Focus::Members => return self.change_members(victim),
            }
        }
        let name = self.members[victim].name.clone();
        match self.random_up_to(16) {
            0 => self.stop(victim),
            1 | 2 => (0..self.members.len()).for_each(|member| self.restart(member)),
            3 | 4 => {
                let hang = self.random_between(10 * MS, 1_500 * MS);
                self.hang(victim, hang);
            }
            5 | 6 => {
                self.note(|| format!("{name} is cut off"));
                for other in (0..self.members.len()).filter(|other| *other != victim) {
                    self.cut.extend([(victim, other), (other, victim)]);
                }
            }
            7 => {
                let other = self.random_up_to(self.members.len() as u64) as usize;
                let both = self.chance(50);
                self.note(|| format!("all messages from {name} to {other} are lost, and back: {both}"));
                self.cut.insert((victim, other));
                if both {
                    self.cut.insert((other, victim));
                }
            }
            8 | 9 => {
                self.note(|| "all links work".to_owned());
                self.cut.clear();
                self.no_arbiter.clear();
            }
            10 => {
                let sluggish = [0, 30, 95][self.random_up_to(3) as usize];
                if let Some(process) = self.members[victim].process.as_mut() {
                    process.sluggish = sluggish;
                    process.failing = !process.failing;
                    let failing = process.failing;
                    self.note(|| format!("a service of {name} fails: {failing}"));
                }
            }
            11 => {
                let measures = Measures {
                    cpu_permille: Some([100, 600, 950][self.random_up_to(3) as usize]),
                    free_bytes: Some([1 << 20, 3 << 30, 9 << 30][self.random_up_to(3) as usize]),
                    alarms: Some([0, 1, 9][self.random_up_to(3) as usize]),
                    ..Measures::default()
                };
                self.note(|| format!("{name} measures {measures:?}"));
                if let Some(process) = self.members[victim].process.as_mut() {
                    process.measures = measures;
                }
            }
            12 => {
                let wrong = self.random_up_to(7_200_000) as i64 - 3_600_000;
                self.note(|| format!("the wall clock of {name} is {wrong} ms wrong"));
                self.members[victim].clock.wrong_ms = wrong;
            }
            _ => self.give_order(victim),
        }
    }

    /// Processes exit and restart; supervisors report it late, twice, and for processes that exited long ago.
    fn crash(&mut self, victim: usize) {
        match self.random_up_to(4) {
            0 => self.stop(victim),
            1 => {
                self.stop(victim);
                self.restart(victim);
            }
            2 => self.restart(victim),
            _ => {
                if let Some((of, incarnation)) = self.exited.first().copied() {
                    let to = self.random_up_to(self.members.len() as u64) as usize;
                    self.after(MS, Event::Proof { to, of, incarnation });
                }
            }
        }
    }

    /// The length of leases changes while leaders and holders change too.
    fn change_lease_length(&mut self, victim: usize) {
        match self.random_up_to(4) {
            0 => {
                let other = self.random_up_to(self.members.len() as u64) as usize;
                self.cut.extend([(victim, other), (other, victim)]);
            }
            1 => {
                for other in (0..self.members.len()).filter(|other| *other != victim) {
                    self.cut.extend([(victim, other), (other, victim)]);
                }
            }
            2 => self.cut.clear(),
            _ => {
                let (interval, count) = match self.random_up_to(4) {
                    0 => (50, 2),
                    1 => (100, 3),
                    2 => (150, 4),
                    _ => (250, 6),
                };
                self.give(Order::Set(vec![Setting::KeepAlive(Some(interval)), Setting::Missed(Some(count))]));
                if self.chance(50) {
                    let soon = self.random_between(MS, 200 * MS);
                    self.after(soon, Event::Isolation);
                }
            }
        }
    }

    /// Two members lose each other, and the arbiter.
    fn partition_pair(&mut self, victim: usize) {
        match self.random_up_to(6) {
            0 | 1 => {
                let other = 1 - victim;
                self.note(|| "the two cannot reach each other".to_owned());
                self.cut.extend([(victim, other), (other, victim)]);
            }
            2 => {
                self.note(|| format!("all messages from {victim} are lost"));
                self.cut.insert((victim, 1 - victim));
            }
            3 => {
                self.note(|| "all links work".to_owned());
                self.cut.clear();
                self.no_arbiter.clear();
            }
            4 => {
                self.no_arbiter.insert(victim);
            }
            _ => {
                self.kill(victim);
                self.restart(victim);
            }
        }
    }

    /// Members join, leave, and are given up.
    fn change_members(&mut self, victim: usize) {
        let joining_member = (0..self.members.len())
            .find(|m| !self.voters.contains(m) && !self.learners.contains(m) && self.joining.is_none());
        if let Some(joining_member) = joining_member.filter(|_| self.chance(50)) {
            // With an empty disk, under the former name.
            let agreed = self.agreed();
            let member = &mut self.members[joining_member];
            if agreed.members.get(&member.name).is_some_and(|known| known.raft_id == member.raft_id) {
                return;
            }
            member.raft_id += 100;
            member.run = 0;
            member.solo_record = None;
            member.process = None;
            self.restart(joining_member);
            self.joining = Some(joining_member);
            let name = self.members[joining_member].name.clone();
            return self.note(|| format!("{name} requests to join"));
        }
        let name = self.members[victim].name.clone();
        let lost = self.chance(40);
        if lost {
            self.kill(victim);
        }
        self.give(Order::Remove { name, lost, within_ms: None, facts: Default::default() });
    }

    /// A random member, more often than not a leader or an acting one: faults there have the largest effect.
    fn victim(&mut self) -> usize {
        let any = self.random_up_to(self.members.len() as u64) as usize;
        if self.chance(40) {
            return any;
        }
        let matters = |m: &usize| {
            let now = self.local(*m);
            self.members[*m].process.as_ref().is_some_and(|p| p.leads.is_some() || p.acts(now))
        };
        let choice: Vec<usize> = (0..self.members.len()).filter(matters).collect();
        match choice.is_empty() {
            true => any,
            false => choice[self.random_up_to(choice.len() as u64) as usize],
        }
    }

    /// A process is killed; now and then it ends in good order, or only its lease agent panics. Broken rules are searched
    /// without the two: the seeds that find them change less.
    fn stop(&mut self, victim: usize) {
        if self.mutant.is_some() {
            return self.kill(victim);
        }
        match self.random_up_to(10) {
            0..3 => self.leave(victim),
            3 => self.restart_lease_agent(victim),
            _ => self.kill(victim),
        }
    }

    /// A panic of the task that owns leases and solo work: it starts again, with all gates closed, and knows of no request
    /// and no release under way.
    fn restart_lease_agent(&mut self, victim: usize) {
        let (now, name) = (self.local(victim), self.members[victim].name.clone());
        let Some(process) = self.awake(victim) else { return };
        process.gates.clear();
        process.releases.clear();
        process.node.restart(now);
        self.note(|| format!("the lease agent of {name} panics"));
        self.turn(victim);
    }

    /// A process ends in good order.
    fn leave(&mut self, victim: usize) {
        let (now, name) = (self.local(victim), self.members[victim].name.clone());
        let Some(process) = self.awake(victim) else { return };
        let actions = process.node.step(now, NodeEvent::Leave);
        self.note(|| format!("{name} begins to leave"));
        self.carry_out(victim, actions);
        self.turn(victim);
    }

    /// A process exits. Its supervisor reports it, unless the host failed too.
    fn kill(&mut self, victim: usize) {
        if self.members[victim].process.is_some() {
            let reported = self.chance(75);
            self.exit(victim, reported);
        }
    }

    /// The same, reported by its supervisor or not.
    pub(crate) fn exit(&mut self, victim: usize, reported: bool) {
        let name = self.members[victim].name.clone();
        let Some(process) = self.members[victim].process.take() else { return };
        self.note(|| format!("{name} exits; its supervisor reports it: {reported}"));
        let incarnation = process.incarnation;
        self.exited.push((victim, incarnation));
        if !reported {
            return;
        }
        for to in 0..self.members.len() {
            let late = self.chance(20) || self.cut.contains(&(victim, to));
            let delay =
                if late { self.random_between(50 * MS, 3_000 * MS) } else { self.random_between(MS, 5 * MS) };
            self.after(delay, Event::Proof { to, of: victim, incarnation });
            if self.chance(20) {
                let again = self.random_between(MS, 2_000 * MS);
                self.after(delay + again, Event::Proof { to, of: victim, incarnation });
            }
        }
    }

    /// A process pauses: stopped, swapped out, or suspended with its machine.
    fn hang(&mut self, victim: usize, hang: u64) {
        let name = self.members[victim].name.clone();
        self.note(|| format!("{name} hangs for {hang} µs"));
        if self.chance(30) {
            self.pause_writes(victim, hang);
        }
        let stands_still = self.is(Mutant::StandingClock);
        let until = self.now + hang;
        if let Some(process) = self.awake(victim) {
            process.hangs_until = until;
            if stands_still {
                self.members[victim].clock.stood_still += hang;
            }
        }
    }

    fn give_order(&mut self, victim: usize) {
        let name = self.members[victim].name.clone();
        let on = self.chance(70);
        let trigger = Trigger::ALL[self.random_up_to(Trigger::ALL.len() as u64) as usize];
        let duty = Duty::ALL[self.random_up_to(Duty::ALL.len() as u64) as usize];
        let order = match self.random_up_to(14) {
            0 => Order::deactivate(name),
            1 => Order::Activate(name),
            2 => Order::MoveDuty { duty, to: name },
            3 => Order::Pin { duty, to: name },
            4 => Order::Unpin(duty),
            5 => Order::Set(vec![Setting::Trigger(trigger, on)]),
            6 => Order::Set(vec![
                Setting::Preferred(Some(name)),
                Setting::Failback(Failback::Scheduled { from: 0, to: 23 * 60 }),
            ]),
            7 => Order::Set(vec![Setting::Failback(if on { Failback::Manual } else { Failback::None })]),
            8 => Order::Failback { facts: Default::default() },
            9 => Order::Set(vec![
                Setting::Mode(if on { Mode::ActivePassive } else { Mode::ActiveActive }),
                Setting::AlarmRule(Some(AlarmRule { code: "overload".to_owned(), times: 3, seconds: 60 })),
            ]),
            10 => {
                Order::Set(vec![Setting::OnQuorumLoss(if on { OnQuorumLoss::Assume } else { OnQuorumLoss::Hold })])
            }
            _ => Order::make_publisher(name),
        };
        self.give(order);
    }

    /// An administrator's order, to the leader.
    fn give(&mut self, order: Order) {
        let Some(leader) = self.leader() else { return };
        self.note(|| format!("an administrator orders {order:?}"));
        let now = self.local(leader);
        let wall_ms = self.members[leader].clock.wall_ms(self.now);
        self.refresh_leadership(leader);
        let Some(process) = self.awake(leader) else { return };
        // Each expected member has been admitted here at some time, or is about to be.
        let about = |_: &NodeName| NamedMember { is_expected: false, has_store: true, since_contact: None };
        let Ok(order) = process.leadership.order(now, wall_ms, &process.state, order, about) else { return };
        let command = self.order(order);
        self.propose(leader, command);
    }

    pub(crate) fn order(&mut self, order: Order) -> Command {
        Command::Operate { id: OrderId(self.random_id()), order }
    }

    pub(crate) fn restart(&mut self, member: usize) {
        let known =
            self.voters.contains(&member) || self.learners.contains(&member) || self.joining == Some(member);
        let joins = self.focus == Focus::Members && self.members[member].run == 0;
        if self.members[member].process.is_none() && (known || joins) {
            let incarnation = Incarnation(self.random_id());
            self.members[member].run += 1;
            let (now, timing, policy) = (self.now, self.timing, self.policy);
            self.members[member].start(now, incarnation, timing, policy);
            let name = self.members[member].name.clone();
            self.note(|| format!("{name} is started again"));
        }
    }

    /// The end of the faults. A majority is enough: now and then the rest stays dead, or unreachable.
    pub(crate) fn heal(&mut self) {
        self.calm = true;
        self.cut.clear();
        self.no_arbiter.clear();
        let voters: Vec<usize> = self.voters.iter().copied().collect();
        let spare = (voters.len() - 1) / 2;
        let left: Vec<usize> = match self.focus != Focus::Members && self.chance(40) {
            true => {
                voters.iter().copied().filter(|m| self.members[*m].kind == MemberKind::Node).take(spare).collect()
            }
            false => Vec::new(),
        };
        let cut_off = self.chance(50);
        let still_fail = self.chance(20);
        self.note(|| format!("everything is healed but {left:?}, cut off: {cut_off}, services: {still_fail}"));
        for member in 0..self.members.len() {
            self.members[member].clock.wrong_ms = 0;
            if left.contains(&member) {
                match cut_off {
                    true => self.isolate(member),
                    false => self.members[member].process = None,
                }
                continue;
            }
            // A member that is about to end would be missing afterwards.
            if self.members[member].process.as_ref().is_some_and(|process| process.node.holder().is_leaving()) {
                self.exit(member, true);
            }
            self.restart(member);
            let now = self.now;
            if let Some(process) = self.members[member].process.as_mut() {
                process.failing &= still_fail;
                process.sluggish = 0;
                process.hangs_until = now;
                process.measures = Measures::default();
            }
        }
    }

    /// An acting member is cut off, and another one stands for election.
    pub(crate) fn isolate_acting_member(&mut self) {
        let acting = (0..self.members.len())
            .find(|m| self.members[*m].process.as_ref().is_some_and(|p| p.acts(self.local(*m))));
        let Some(acting) = acting.filter(|_| !self.calm) else { return };
        let name = self.members[acting].name.clone();
        self.note(|| format!("{name} acts and is cut off"));
        self.isolate(acting);
        let soon = self.random_between(MS, 300 * MS);
        self.after(soon, Event::Candidacy);
    }

    fn isolate(&mut self, member: usize) {
        for other in (0..self.members.len()).filter(|other| *other != member) {
            self.cut.extend([(member, other), (other, member)]);
        }
    }
}
