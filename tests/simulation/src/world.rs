//! The cluster, the network between its members, and their work.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{
    Command, KeepAlive, MemberKind, OnQuorumLoss, Order, PlannerPolicy, Setting, State, Timing,
};
use twinbox_roles_member::KeepAliveExtras;

use crate::{
    Mutant, Report, Violation,
    clock::{Clock, MS, Micros},
    heirs::MemberIncarnation,
    holder::LeaseAnswer,
    member::{Member, Process},
    outbox::{Outbox, OutboxEvent},
    raft::{Entry, Log},
    receiver::{Effect, Receiver},
};

/// Duration of the faults.
pub(crate) const FAULT_TIME: Micros = 8_000 * MS;
/// Duration without faults after which a member must act: an election, a new leader's wait, a settling.
const CALM_TIME: Micros = 9_000 * MS;

pub(crate) enum Event {
    /// A member does its periodic work: heartbeats, keep-alives, planning.
    Work(usize),
    Deliver {
        from: usize,
        to: usize,
        message: Message,
    },
    /// A checked write arrives at the receiver.
    Arrival {
        member: usize,
        effect: Effect,
    },
    /// A supervisor's report arrives: this incarnation of this member has exited.
    Proof {
        to: usize,
        of: usize,
        incarnation: Incarnation,
    },
    /// A fault or a repair.
    Chaos,
    /// An acting member is cut off from all others.
    Isolation,
    /// A member stands for election, and the next election is scheduled.
    Election,
    /// A member stands for election.
    Candidacy,
    /// The leader has work to do.
    LeaderWork(usize),
    Outbox(OutboxEvent),
}

#[derive(Clone)]
pub(crate) enum Message {
    Heartbeat { term: u64, sent: Duration, commit: usize },
    Answer { term: u64, sent: Duration },
    KeepAlive { sent: Duration, request: Box<KeepAlive>, extras: KeepAliveExtras },
    LeaseAnswer(LeaseAnswer),
}

/// The faults that a world sees more often than others: a seed needs enough of one kind to find rare errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Focus {
    Anything,
    Exits,
    Timing,
    Solo,
    Members,
}

pub(crate) struct World {
    pub(crate) mutant: Option<Mutant>,
    random: StdRng,
    pub(crate) focus: Focus,
    pub(crate) timing: Timing,
    pub(crate) policy: PlannerPolicy,
    pub(crate) now: Micros,
    counter: u64,
    events: BTreeMap<(Micros, u64), Event>,
    pub(crate) members: Vec<Member>,
    /// The voters.
    pub(crate) voters: BTreeSet<usize>,
    /// Number of entries agreed on before these voted.
    pub(crate) voters_at: usize,
    /// The member that is joining.
    pub(crate) joining: Option<usize>,
    /// Members that do not vote any more and are not removed yet.
    pub(crate) learners: BTreeSet<usize>,
    /// Directions, from and to, in which all messages are lost.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Members that do not reach the arbiter.
    pub(crate) no_arbiter: BTreeSet<usize>,
    /// Processes that have exited.
    pub(crate) exited: Vec<(usize, Incarnation)>,
    pub(crate) log: Log,
    pub(crate) receiver: Receiver,
    pub(crate) terms: u64,
    pub(crate) calm: bool,
    /// Planners start again all the time, and plan while earlier proposals are under way.
    pub(crate) hasty: bool,
    /// The heir of each incarnation's calls, as the heir believes.
    pub(crate) heirs: BTreeMap<MemberIncarnation, MemberIncarnation>,
    pub(crate) outbox: Outbox,
    /// The trace, if requested.
    trace: Option<VecDeque<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, traced: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let timing = Timing::lan();
        let rho = i64::from(timing.drift_ppm);
        let focus =
            [Focus::Anything, Focus::Exits, Focus::Timing, Focus::Solo, Focus::Members][random.random_range(0..5)];
        let shape = random.random_range(0..3);
        // Only a pair that grows shows this one.
        let grows = mutant == Some(Mutant::InheritedReturns);
        let (focus, shape) = if grows { (Focus::Members, 0) } else { (focus, shape) };
        let (names, voters): (&[&str], usize) = match (focus, shape) {
            (Focus::Solo, _) => (&["a", "b"], 2),
            (Focus::Members, 0) => (&["a", "b", "c"], 2),
            (Focus::Members, _) => (&["a", "b", "w", "c", "d"], 3),
            (_, 0) => (&["a", "b", "w"], 3),
            (_, 1) => (&["a", "b", "c"], 3),
            _ => (&["a", "b", "c", "w", "x"], 5),
        };
        let policy = PlannerPolicy { damping: Duration::from_millis(400), ..PlannerPolicy::from(timing) };
        let mut members = Vec::new();
        for (i, text) in names.iter().enumerate() {
            let kind = if *text == "w" { MemberKind::Witness } else { MemberKind::Node };
            // At their worst more often than not.
            let drift = [-rho, rho, random.random_range(-rho..=rho)][random.random_range(0..3)];
            let clock = Clock::new(random.random_range(60_000 * MS..600_000 * MS), drift);
            let name: NodeName = text.parse().expect("a name");
            let raft_id = i as u64 + 1;
            let mut member = Member {
                name,
                kind,
                clock,
                raft_id,
                term: 0,
                run: 1,
                voters_at: 0,
                voter_ids: if i < voters { (1..=voters as u64).collect() } else { BTreeSet::new() },
                solo_record: None,
                process: None,
            };
            if i < voters {
                member.start(0, Incarnation(random.random()), timing, policy);
                if let Some(process) = member.process.as_mut() {
                    process.sluggish = [0, 0, 30, 95][random.random_range(0..4)];
                }
            }
            members.push(member);
        }
        // The other mutants are judged by effects of any kind, and members change their disks in `Focus::Members`.
        let has_outbox = focus != Focus::Members && mutant.is_none_or(Mutant::is_of_the_outbox);
        let outbox = Outbox::new(seed, has_outbox, &members);
        let hasty = random.random_ratio(1, 3);
        let mut world = Self {
            mutant,
            random,
            focus,
            timing,
            policy,
            now: 0,
            counter: 0,
            events: BTreeMap::new(),
            members,
            voters: (0..voters).collect(),
            voters_at: 0,
            joining: None,
            learners: BTreeSet::new(),
            cut: BTreeSet::new(),
            no_arbiter: BTreeSet::new(),
            exited: Vec::new(),
            log: Log::default(),
            receiver: Receiver::default(),
            terms: 0,
            calm: false,
            hasty,
            heirs: BTreeMap::new(),
            outbox,
            trace: traced.then(VecDeque::new),
        };
        for member in 0..voters {
            let admit = world.admit(member);
            world.log.entries.push(Entry { term: 0, command: Some(admit) });
        }
        if focus == Focus::Solo && world.chance(80) {
            let mut settings = vec![Setting::OnQuorumLoss(OnQuorumLoss::Assume)];
            if world.chance(30) {
                settings.push(Setting::Arbiter(Some("arbiter:1".to_owned())));
            }
            let order = world.order(Order::Set(settings));
            world.log.entries.push(Entry { term: 0, command: Some(order) });
        }
        world
    }

    pub(crate) fn admit(&self, member: usize) -> Command {
        let Member { name, kind, raft_id, .. } = &self.members[member];
        Command::Admit { name: name.clone(), kind: *kind, address: format!("{name}:1"), raft_id: *raft_id }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().map(Vec::from).unwrap_or_default()
    }

    /// Safety first, under all faults; then the necessary members are healed, and liveness is demanded.
    pub(crate) fn play(&mut self) -> Result<Report, Violation> {
        (0..self.members.len()).for_each(|member| self.after(0, Event::Work(member)));
        self.after(0, Event::Election);
        self.after(500 * MS, Event::Chaos);
        self.schedule_causes();
        self.play_until(FAULT_TIME)?;
        self.heal();
        self.play_until(FAULT_TIME + CALM_TIME)?;
        self.check_liveness()?;
        self.check_outbox()?;
        self.check_heir()?;
        let heirs = self.heirs.len() as u64;
        let Receiver { effects, epochs, solo_epochs, late_writes, .. } = self.receiver;
        let outbox = self.outbox.counts();
        Ok(Report { effects, epochs, solo_epochs, late_writes, terms: self.terms, heirs, outbox })
    }

    pub(crate) fn play_until(&mut self, end: Micros) -> Result<(), Violation> {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            self.now = entry.key().0;
            let event = entry.remove();
            // The random writes of a seed do not depend on its outbox.
            let of_the_outbox = matches!(event, Event::Outbox(_));
            self.handle(event)?;
            if !of_the_outbox {
                self.act();
            }
        }
        self.now = end;
        Ok(())
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = self.trace.as_mut() {
            trace.push_back(format!("{:>9} µs  {}", self.now, line()));
        }
    }

    pub(crate) fn after(&mut self, delay: Micros, event: Event) {
        self.counter += 1;
        self.events.insert((self.now + delay, self.counter), event);
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// A random number below `end`.
    pub(crate) fn random_up_to(&mut self, end: u64) -> u64 {
        self.random.random_range(0..end)
    }

    pub(crate) fn random_between(&mut self, from: u64, end: u64) -> u64 {
        self.random.random_range(from..end)
    }

    pub(crate) fn random_id(&mut self) -> u128 {
        self.random.random()
    }

    /// The process of a member, if it runs and does not hang.
    pub(crate) fn awake(&mut self, member: usize) -> Option<&mut Process> {
        let now = self.now;
        self.members[member].process.as_mut().filter(|process| process.hangs_until <= now)
    }

    pub(crate) fn local(&self, member: usize) -> Duration {
        self.members[member].clock.at(self.now)
    }

    pub(crate) fn connected(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, message: Message) {
        let lost = !self.calm && self.chance(4);
        if lost || self.cut.contains(&(from, to)) {
            return;
        }
        // Mostly fast, now and then as late as after a retransmission or a full queue.
        let delay = match self.random.random_range(0..20) {
            0 if !self.calm => self.random.random_range(50 * MS..900 * MS),
            1 => self.random.random_range(5 * MS..60 * MS),
            _ => self.random.random_range(100..3 * MS),
        };
        if !self.calm && self.chance(2) {
            let again = self.random.random_range(MS..600 * MS);
            self.after(delay + again, Event::Deliver { from, to, message: message.clone() });
        }
        self.after(delay, Event::Deliver { from, to, message });
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Work(member) => {
                self.work(member);
                self.record_heirs(member)?;
                self.tend_outbox(member)?;
            }
            Event::Deliver { from, to, message } => {
                let hangs = self.members[to].process.as_ref().map_or(0, |process| process.hangs_until);
                if hangs > self.now {
                    // It stays in the socket until the process continues.
                    self.after(hangs - self.now + 1, Event::Deliver { from, to, message });
                } else {
                    self.deliver(from, to, message);
                }
            }
            Event::Arrival { member, effect } => self.arrive(member, &effect)?,
            Event::Proof { to, of, incarnation } => self.report_exit(to, of, incarnation),
            Event::Chaos => self.chaos(),
            Event::Isolation => self.isolate_acting_member(),
            Event::Election => self.election(),
            Event::Candidacy => {
                let voter = self.random_up_to(self.members.len() as u64) as usize;
                if self.voters.contains(&voter) {
                    self.stand(voter);
                }
            }
            Event::LeaderWork(member) => self.lead(member),
            Event::Outbox(event) => self.handle_outbox(event)?,
        }
        Ok(())
    }

    fn work(&mut self, member: usize) {
        let slice = self.members[member].clock.span(self.timing.heartbeat);
        let jitter = self.random.random_range(0..10 * MS);
        self.after(slice + jitter, Event::Work(member));
        if self.awake(member).is_none() {
            return;
        }
        self.heartbeat(member);
        self.lead(member);
        self.probe_arbiter(member);
        self.turn(member);
    }

    /// A member applies the agreed entries, up to `upto`. Returns whether there were any.
    pub(crate) fn apply(&mut self, member: usize, upto: usize) -> bool {
        let compare = !self.is(Mutant::NoCompareAndSet);
        let now = self.local(member);
        let Some(process) = self.members[member].process.as_mut() else { return false };
        let before = process.applied;
        process.apply(now, &self.log, upto, compare);
        let has_news = process.applied > before;
        self.refresh_leadership(member);
        has_news
    }

    pub(crate) fn is_sluggish(&mut self, member: usize) -> bool {
        let percent = self.members[member].process.as_ref().map_or(0, |process| process.sluggish);
        percent > 0 && self.chance(percent)
    }

    /// The leader's own work: commit, apply, plan, propose.
    pub(crate) fn lead(&mut self, member: usize) {
        let Some(term) = self.awake(member).and_then(|p| p.leads.as_ref()).map(|leader| leader.term) else {
            return;
        };
        self.commit(member, term);
        let known = self.log.known_in(term);
        if !self.is_sluggish(member) && self.apply(member, known) {
            self.turn(member);
        }
        // A majority may have answered since the last entry.
        self.refresh_leadership(member);
        self.reconcile_voters(member, term);
        self.plan(member);
    }

    /// A leader proposes a command in addition to the planner's, unless many are waiting.
    pub(crate) fn propose(&mut self, leader: usize, command: Command) {
        if let Some(leads) = self.awake(leader).and_then(|process| process.leads.as_mut())
            && leads.pending.len() < 8
        {
            leads.pending.push_back(Some(command));
        }
    }

    /// The leader of the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let term = |m: &usize| Some(self.members[*m].process.as_ref()?.leads.as_ref()?.term);
        (0..self.members.len()).filter(|m| term(m).is_some()).max_by_key(term)
    }

    /// The state that the leader has applied.
    pub(crate) fn agreed(&self) -> State {
        let leads = self.leader().and_then(|m| self.members[m].process.as_ref());
        leads.map(|process| process.state.clone()).unwrap_or_default()
    }
}
