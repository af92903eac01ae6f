//! The cluster, the network between its members, and what goes wrong.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    Command, Duty, Grant, KeepAlive, Ledger, MemberKind, Order, OrderId, Policy, Status, Timing, plan,
};

use crate::{
    Mutant, Report, Violation,
    clock::{Clock, Micros},
    member::{Leader, Member, Process},
    raft::{Entry, Log},
    receiver::Receiver,
};

const MS: Micros = 1_000;
/// How long things go wrong.
const STORM: Micros = 8_000 * MS;
/// How long all is well after that before somebody must act: an election, a new leader's wait, a settling.
const CALM: Micros = 6_000 * MS;
/// The longest that a write is under way: less than the margin of a lease, by any clock.
const LONGEST_WRITE: Micros = 45 * MS;
/// How many lines of what happened last are kept.
const TRACE: usize = 120;

fn raft_id(member: usize) -> u64 {
    member as u64 + 1
}

enum Event {
    /// A member does what is due: heartbeats, keep-alives, planning.
    Work(usize),
    Deliver {
        from: usize,
        to: usize,
        message: Message,
    },
    /// A write that was checked arrives at the receiver.
    Land {
        member: usize,
        life: Incarnation,
        epoch: Epoch,
    },
    /// Something goes wrong, or right again.
    Chaos,
    /// Somebody stands for election.
    Election,
    /// There is something for a leader to do.
    Nudge(usize),
}

#[derive(Clone)]
enum Message {
    Heartbeat { term: u64, sent: Duration, commit: usize },
    Answer { term: u64, sent: Duration },
    KeepAlive { sent: Duration, request: KeepAlive },
    Grant { sent: Duration, life: Incarnation, grant: Grant },
}

pub(crate) struct World {
    mutant: Option<Mutant>,
    random: StdRng,
    timing: Timing,
    now: Micros,
    counter: u64,
    events: BTreeMap<(Micros, u64), Event>,
    members: Vec<Member>,
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(usize, usize)>,
    log: Log,
    receiver: Receiver,
    terms: u64,
    calm: bool,
    trace: VecDeque<String>,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let timing = Timing::lan();
        let rho = i64::from(timing.drift_ppm);
        let names: &[&str] = match random.random_range(0..3) {
            0 => &["a", "b", "w"],
            1 => &["a", "b", "c"],
            _ => &["a", "b", "c", "w", "x"],
        };
        let mut members = Vec::new();
        for text in names {
            let kind = if *text == "w" { MemberKind::Witness } else { MemberKind::Node };
            // At their worst more often than not.
            let drift = [-rho, rho, random.random_range(-rho..=rho)][random.random_range(0..3)];
            let clock = Clock::new(random.random_range(60_000 * MS..600_000 * MS), drift);
            let name: NodeName = text.parse().expect("a name");
            let mut process = Process::new(&name, Incarnation(random.random()), 1, timing);
            process.sluggish = [0, 0, 30, 95][random.random_range(0..4)];
            members.push(Member { name, kind, clock, term: 0, run: 1, process: Some(process) });
        }
        let admit = |(i, member): (usize, &Member)| Entry {
            term: 0,
            command: Some(Command::Admit {
                name: member.name.clone(),
                kind: member.kind,
                address: String::new(),
                raft_id: raft_id(i),
            }),
        };
        let log = Log { entries: members.iter().enumerate().map(admit).collect() };
        Self {
            mutant,
            random,
            timing,
            now: 0,
            counter: 0,
            events: BTreeMap::new(),
            members,
            cut: BTreeSet::new(),
            log,
            receiver: Receiver::default(),
            terms: 0,
            calm: false,
            trace: VecDeque::new(),
        }
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }

    /// Safety first, under whatever happens; then everything is healed, and liveness is demanded.
    pub(crate) fn play(&mut self) -> Result<Report, Violation> {
        (0..self.members.len()).for_each(|member| self.after(0, Event::Work(member)));
        self.after(0, Event::Election);
        self.after(500 * MS, Event::Chaos);
        self.play_until(STORM)?;
        self.heal();
        self.play_until(STORM + CALM)?;
        self.demand_liveness()?;
        Ok(Report { effects: self.receiver.effects, epochs: self.receiver.epochs, terms: self.terms })
    }

    fn play_until(&mut self, end: Micros) -> Result<(), Violation> {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            self.now = entry.key().0;
            let event = entry.remove();
            self.handle(event)?;
            self.act();
        }
        self.now = end;
        Ok(())
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.len() >= TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>9} µs  {}", self.now, line()));
    }

    fn after(&mut self, delay: Micros, event: Event) {
        self.counter += 1;
        self.events.insert((self.now + delay, self.counter), event);
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// The process of a member, if it is there and does not hang.
    fn awake(&mut self, member: usize) -> Option<&mut Process> {
        let now = self.now;
        self.members[member].process.as_mut().filter(|process| process.hangs_until <= now)
    }

    fn local(&self, member: usize) -> Duration {
        self.members[member].clock.at(self.now)
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let lost = !self.calm && self.chance(4);
        if lost || self.cut.contains(&(from, to)) {
            return;
        }
        // Mostly quick, now and then as late as a retransmission or a full queue makes it.
        let delay = match self.random.random_range(0..20) {
            0 if !self.calm => self.random.random_range(50 * MS..900 * MS),
            1 => self.random.random_range(5 * MS..60 * MS),
            _ => self.random.random_range(100..3 * MS),
        };
        self.after(delay, Event::Deliver { from, to, message });
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Work(member) => self.work(member),
            Event::Deliver { from, to, message } => {
                let hangs = self.members[to].process.as_ref().map_or(0, |process| process.hangs_until);
                if hangs > self.now {
                    // It stays in the socket until the process goes on.
                    self.after(hangs - self.now + 1, Event::Deliver { from, to, message });
                } else {
                    self.deliver(from, to, message);
                }
            }
            Event::Land { member, life, epoch } => self.land(member, life, &epoch)?,
            Event::Chaos => self.chaos(),
            Event::Election => self.election(),
            Event::Nudge(member) => self.lead(member),
        }
        Ok(())
    }

    // --- members at work -------------------------------------------------------------------------------

    fn work(&mut self, member: usize) {
        let slice = self.members[member].clock.span(self.timing.heartbeat);
        let jitter = self.random.random_range(0..10 * MS);
        self.after(slice + jitter, Event::Work(member));
        if self.awake(member).is_none() {
            return;
        }
        self.heartbeat(member);
        self.lead(member);
        self.ask(member);
    }

    /// A member applies what has been agreed, up to an entry.
    fn apply(&mut self, member: usize, upto: usize) {
        let compare = !self.is(Mutant::NoCompareAndSet);
        if let Some(process) = self.members[member].process.as_mut() {
            process.apply(&self.log, upto, compare);
        }
    }

    fn is_sluggish(&mut self, member: usize) -> bool {
        let percent = self.members[member].process.as_ref().map_or(0, |process| process.sluggish);
        self.chance(percent)
    }

    fn ask(&mut self, member: usize) {
        let sent = self.local(member);
        let although = self.is(Mutant::ReleaseInFlight);
        let name = self.members[member].name.clone();
        let Some(process) = self.awake(member) else { return };
        process.release(although);
        let Some(leader) = process.leader else { return };
        let request = process.keep_alive(&name, raft_id(member));
        let message = Message::KeepAlive { sent, request };
        match leader == member {
            true => self.deliver(member, member, message),
            false => self.send(member, leader, message),
        }
    }

    fn heartbeat(&mut self, member: usize) {
        let sent = self.local(member);
        let Some(process) = self.awake(member) else { return };
        let Some(leader) = process.leads.as_mut() else { return };
        leader.heartbeats.insert(sent, vec![member]);
        while leader.heartbeats.len() > 16 {
            leader.heartbeats.pop_first();
        }
        let term = leader.term;
        let commit = self.log.known_in(term);
        for other in (0..self.members.len()).filter(|other| *other != member) {
            self.send(member, other, Message::Heartbeat { term, sent, commit });
        }
    }

    /// The leader's own work: commit, apply, plan, propose.
    fn lead(&mut self, member: usize) {
        let Some(term) = self.awake(member).and_then(|p| p.leads.as_ref()).map(|leader| leader.term) else {
            return;
        };
        self.commit(member, term);
        let known = self.log.known_in(term);
        if !self.is_sluggish(member) {
            self.apply(member, known);
        }
        let now = self.local(member);
        let early = if self.is(Mutant::NoNewLeaderWait) { self.timing.new_leader_wait() } else { Duration::ZERO };
        let needs_own = !self.is(Mutant::NoOwnEntry);
        let freeze = !self.is(Mutant::NoFreeze);
        let timing = self.timing;
        let applied = self.members[member].process.as_ref().map_or(0, |process| process.applied);
        let own = applied > 0 && self.log.entries[applied - 1].term == term;
        let Some(process) = self.awake(member) else { return };
        let Some(leader) = process.leads.as_mut() else { return };
        if leader.ledger.is_none() && leader.quorum_heard.is_some() && (own || !needs_own) {
            leader.ledger = Some(Ledger::new(term, now - early, &process.state, timing));
        }
        let Some(ledger) = leader.ledger.as_mut() else { return };
        // A planner that does not wait for what it proposed before: commands must compare.
        if leader.pending.len() > 3 {
            return;
        }
        let commands = plan(&ledger.view(now, &process.state), &Policy::from(timing));
        for command in &commands {
            if freeze {
                ledger.proposing(command);
            }
            leader.pending.push_back(Some(command.clone()));
        }
        if !commands.is_empty() {
            let words: Vec<_> = commands.iter().map(ToString::to_string).collect();
            let name = self.members[member].name.clone();
            self.note(|| format!("{name} proposes in term {term}: {}", words.join("; ")));
        }
    }

    /// Entries of a leader are agreed as soon as a majority that follows no later one has them.
    fn commit(&mut self, member: usize, term: u64) {
        let follows = |world: &Self, other: usize| {
            let there = world.members[other].process.as_ref().is_some_and(|p| p.hangs_until <= world.now);
            there && world.members[other].term <= term && (other == member || world.connected(member, other))
        };
        let following = (0..self.members.len()).filter(|other| follows(self, *other)).count();
        if following <= self.members.len() / 2 {
            return;
        }
        let most = self.random.random_range(0..4);
        let before = self.log.entries.len();
        if let Some(leader) = self.awake(member).and_then(|process| process.leads.as_mut()) {
            let accepted: Vec<_> = (0..most).map_while(|_| leader.pending.pop_front()).collect();
            self.log.entries.extend(accepted.into_iter().map(|command| Entry { term, command }));
        }
        if self.log.entries.len() > before {
            // Followers hear of it at once, and there may be more to do.
            self.heartbeat(member);
            self.after(2 * MS, Event::Nudge(member));
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Heartbeat { term, sent, commit } => {
                let known = &mut self.members[to].term;
                if term < *known {
                    return;
                }
                *known = term;
                let lazy = self.is_sluggish(to);
                let Some(process) = self.awake(to) else { return };
                if process.leads.as_ref().is_some_and(|leader| leader.term < term) {
                    process.leads = None;
                }
                let news = (process.applied < commit && !lazy) || process.leader != Some(from);
                process.leader = Some(from);
                if !lazy {
                    self.apply(to, commit);
                }
                self.send(to, from, Message::Answer { term, sent });
                if news {
                    self.ask(to);
                }
            }
            Message::Answer { term, sent } => {
                let majority = self.members.len() / 2 + 1;
                let Some(leader) = self.awake(to).and_then(|process| process.leads.as_mut()) else { return };
                if leader.term != term {
                    return;
                }
                let answered = leader.heartbeats.entry(sent).or_default();
                if !answered.contains(&from) {
                    answered.push(from);
                }
                if answered.len() >= majority {
                    leader.quorum_heard = leader.quorum_heard.max(Some(sent));
                }
            }
            Message::KeepAlive { sent, request } => {
                let now = self.local(to);
                let blind = self.is(Mutant::NoQuorumNeeded);
                let Some(process) = self.awake(to) else { return };
                let Some(leader) = process.leads.as_mut() else { return };
                let (Some(ledger), Some(heard)) = (leader.ledger.as_mut(), leader.quorum_heard) else { return };
                let heard = if blind { now } else { heard };
                let Ok(grant) = ledger.keep_alive(now, heard, &process.state, &request) else { return };
                if !request.released.is_empty() {
                    self.after(MS, Event::Nudge(to));
                }
                let answer = Message::Grant { sent, life: request.incarnation, grant };
                match from == to {
                    true => self.deliver(to, to, answer),
                    false => self.send(to, from, answer),
                }
            }
            Message::Grant { sent, life, grant } => {
                let counted = if self.is(Mutant::LeaseFromReceipt) { self.local(to) } else { sent };
                let Some(process) = self.awake(to).filter(|process| process.life == life) else { return };
                process.holders.values_mut().for_each(|holder| holder.granted(counted, &grant));
            }
        }
    }

    // --- effects ---------------------------------------------------------------------------------------

    /// Whoever may act begins a write, now and then; it arrives a moment later.
    fn act(&mut self) {
        for member in 0..self.members.len() {
            let now = self.local(member);
            let Some(process) = self.awake(member) else { continue };
            let holder = &process.holders[&Duty::Notifier];
            let Some((epoch, _)) = holder.may_act(now) else { continue };
            let (epoch, life) = (epoch.clone(), process.life);
            if process.in_flight.len() < 3 && self.chance(20) {
                let takes = match self.random.random_range(0..4) {
                    0 => self.random.random_range(0..LONGEST_WRITE),
                    _ => self.random.random_range(0..2 * MS),
                };
                if let Some(process) = self.awake(member) {
                    process.in_flight.push(epoch.clone());
                }
                self.after(takes, Event::Land { member, life, epoch });
            }
        }
    }

    fn land(&mut self, member: usize, life: Incarnation, epoch: &Epoch) -> Result<(), Violation> {
        // A process that has died sends nothing more; one that hangs may have handed its write to the kernel.
        let Some(process) = self.members[member].process.as_mut().filter(|process| process.life == life) else {
            return Ok(());
        };
        if let Some(at) = process.in_flight.iter().position(|flying| flying == epoch) {
            process.in_flight.swap_remove(at);
        }
        let accepted = self.receiver.accept(self.now, epoch, life);
        if accepted.is_err() {
            self.note(|| format!("an effect of {epoch} arrives"));
        }
        accepted
    }

    // --- what goes wrong ---------------------------------------------------------------------------------

    fn election(&mut self) {
        let pause = match self.calm {
            true => 900 * MS,
            false => self.random.random_range(40 * MS..900 * MS),
        };
        self.after(pause, Event::Election);
        let present = (0..self.members.len()).filter(|m| {
            let process = self.members[*m].process.as_ref();
            process.is_some_and(|p| p.leads.as_ref().is_some_and(|leader| leader.term == self.highest_term()))
        });
        let healthy = present.into_iter().any(|leader| {
            let others = (0..self.members.len()).filter(|m| self.connected(leader, *m));
            others.count() > self.members.len() / 2
                && self.members[leader].process.as_ref().is_some_and(|p| p.hangs_until <= self.now)
        });
        // Mostly because the leader is gone; now and then for no reason at all.
        if healthy && (self.calm || !self.chance(25)) {
            return;
        }
        let candidate = self.random.random_range(0..self.members.len());
        self.stand(candidate);
    }

    fn highest_term(&self) -> u64 {
        self.members.iter().map(|member| member.term).max().unwrap_or(0)
    }

    fn stand(&mut self, candidate: usize) {
        if self.awake(candidate).is_none() {
            return;
        }
        let voters: Vec<usize> = (0..self.members.len())
            .filter(|m| *m == candidate || self.connected(candidate, *m))
            .filter(|m| self.members[*m].process.as_ref().is_some_and(|p| p.hangs_until <= self.now))
            .collect();
        if voters.len() <= self.members.len() / 2 {
            return;
        }
        let before = self.highest_term();
        let term = before + 1;
        self.terms += 1;
        self.inherit(before, candidate);
        for voter in voters {
            self.members[voter].term = term;
        }
        let name = self.members[candidate].name.clone();
        self.note(|| format!("{name} leads term {term}"));
        if let Some(process) = self.awake(candidate) {
            process.leader = Some(candidate);
            process.leads = Some(Leader {
                term,
                pending: [None].into(),
                ledger: None,
                quorum_heard: None,
                heartbeats: BTreeMap::new(),
            });
        }
    }

    /// What the leader before had proposed may have reached the next one, from the beginning up to some entry.
    fn inherit(&mut self, before: u64, candidate: usize) {
        let old = (0..self.members.len()).find(|m| {
            let leads = self.members[*m].process.as_ref().and_then(|p| p.leads.as_ref());
            leads.is_some_and(|leader| leader.term == before)
        });
        let Some(old) = old else { return };
        let pending = self.members[old].process.as_mut().and_then(|p| p.leads.as_mut()).map(|l| l.pending.clone());
        let mut pending = pending.unwrap_or_default();
        let most = self.random.random_range(0..=pending.len());
        pending.truncate(most);
        for command in pending {
            self.log.entries.push(Entry { term: before, command });
        }
        if old == candidate {
            // Its own entries live on in its log; none is proposed twice.
            if let Some(process) = self.members[old].process.as_mut() {
                process.leads = None;
            }
        }
    }

    fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.random.random_range(10 * MS..500 * MS);
        self.after(pause, Event::Chaos);
        let victim = self.victim();
        let name = self.members[victim].name.clone();
        match self.random.random_range(0..12) {
            0 => {
                self.note(|| format!("{name} is killed"));
                self.members[victim].process = None;
            }
            1 | 2 => (0..self.members.len()).for_each(|member| self.revive(member)),
            3 => {
                let hang = self.random.random_range(10 * MS..1_500 * MS);
                self.note(|| format!("{name} hangs for {hang} µs"));
                if let Some(process) = self.members[victim].process.as_mut() {
                    process.hangs_until = self.now + hang;
                }
            }
            4 | 5 => {
                self.note(|| format!("{name} is cut off"));
                for other in (0..self.members.len()).filter(|other| *other != victim) {
                    self.cut.extend([(victim, other), (other, victim)]);
                }
            }
            6 => {
                let other = self.random.random_range(0..self.members.len());
                self.note(|| format!("nothing gets through from {name} to {other}"));
                self.cut.insert((victim, other));
            }
            7 | 8 => {
                self.note(|| "all links are whole".to_owned());
                self.cut.clear();
            }
            9 => {
                let sluggish = [0, 30, 95][self.random.random_range(0..3)];
                if let Some(process) = self.members[victim].process.as_mut() {
                    process.sluggish = sluggish;
                    process.failing = !process.failing;
                    let failing = process.failing;
                    self.note(|| format!("a service of {name} fails: {failing}"));
                }
            }
            _ => self.give_order(victim),
        }
    }

    /// Anybody, and more often than not one who leads or acts: that is where it hurts.
    fn victim(&mut self) -> usize {
        let any = self.random.random_range(0..self.members.len());
        let matters = |world: &Self, m: usize| {
            let now = world.local(m);
            world.members[m].process.as_ref().is_some_and(|p| {
                p.leads.is_some() || p.holders.values().any(|holder| holder.may_act(now).is_some())
            })
        };
        let choice: Vec<usize> = (0..self.members.len()).filter(|m| matters(self, *m)).collect();
        match choice.is_empty() || self.chance(40) {
            true => any,
            false => choice[self.random.random_range(0..choice.len())],
        }
    }

    fn give_order(&mut self, victim: usize) {
        let name = self.members[victim].name.clone();
        let order = match self.random.random_range(0..5) {
            0 => Order::Deactivate(name),
            1 => Order::Activate(name),
            _ => Order::MakePublisher(name),
        };
        let id = OrderId(self.random.random());
        let leader = (0..self.members.len())
            .filter(|m| self.members[*m].process.as_ref().is_some_and(|process| process.leads.is_some()));
        let Some(leader) = leader.max_by_key(|m| self.members[*m].term) else { return };
        self.note(|| format!("an administrator orders {order:?}"));
        if let Some(leads) = self.awake(leader).and_then(|process| process.leads.as_mut()) {
            leads.pending.push_back(Some(Command::Operate { id, order }));
        }
    }

    fn revive(&mut self, member: usize) {
        if self.members[member].process.is_none() {
            let life = Incarnation(self.random.random());
            let name = self.members[member].name.clone();
            self.members[member].run += 1;
            let run = self.members[member].run;
            self.members[member].process = Some(Process::new(&name, life, run, self.timing));
            self.note(|| format!("{name} is started again"));
        }
    }

    fn heal(&mut self) {
        self.calm = true;
        self.note(|| "everything is healed".to_owned());
        self.cut.clear();
        for member in 0..self.members.len() {
            self.revive(member);
            if let Some(process) = self.members[member].process.as_mut() {
                process.failing = false;
                process.sluggish = 0;
                process.hangs_until = self.now;
            }
        }
    }

    // --- liveness ----------------------------------------------------------------------------------------

    fn demand_liveness(&mut self) -> Result<(), Violation> {
        let stuck = |what: String| Err(Violation::Stuck { what });
        let leader = (0..self.members.len())
            .filter(|m| self.members[*m].process.as_ref().is_some_and(|process| process.leads.is_some()));
        let Some(leader) = leader.max_by_key(|m| self.members[*m].term) else {
            return stuck("nobody leads".to_owned());
        };
        let state = self.members[leader].process.as_ref().map(|p| p.state.clone()).unwrap_or_default();
        for (name, member) in &state.members {
            let expected = if member.activated { Status::InService } else { Status::Deactivated };
            if member.status != expected {
                return stuck(format!("{name} is {}: {}", member.status, member.reason));
            }
        }
        let acting = (0..self.members.len()).filter(|m| {
            let now = self.local(*m);
            let process = self.members[*m].process.as_ref();
            process.is_some_and(|p| p.holders[&Duty::Notifier].may_act(now).is_some())
        });
        let acting: Vec<_> = acting.map(|m| self.members[m].name.clone()).collect();
        let publisher = state.publisher.map(|epoch| epoch.node);
        if acting.len() != 1 || acting.first() != publisher.as_ref() {
            return stuck(format!("publisher is {publisher:?}, and acting are {acting:?}"));
        }
        let now = self.local(leader);
        let Some(process) = self.awake(leader) else { return stuck("the leader hangs".to_owned()) };
        let ledger = process.leads.as_mut().and_then(|leads| leads.ledger.as_mut());
        let Some(ledger) = ledger else { return stuck("the leader grants nothing".to_owned()) };
        match plan(&ledger.view(now, &process.state), &Policy::from(self.timing)).first() {
            Some(command) => Err(Violation::Restless { what: command.to_string() }),
            None => Ok(()),
        }
    }
}
