//! Leases as the leader sees them: who is there, which leases run, what is never extended again (rules R1 to R4).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{
    Assignment, Command, Duty, Ended, Exits, Facts, Grant, KeepAlive, LeaseFact, Leasing, Lives, Member, NoGrant,
    Order, Presence, Report, Seen, ServiceHealth, SoloReport, Speaks, State, Timing, Trigger, View, soft,
};

/// The leader's side: one per leadership, from its first quorum answer on.
#[derive(Debug, Clone)]
pub struct Ledger {
    term: u64,
    timing: Timing,
    since: Duration,
    /// How long this leader must take leases for running that it did not grant (rule R4).
    wait: Duration,
    /// The longest lease of leaders before, in milliseconds.
    inherited_ms: u64,
    nodes: BTreeMap<NodeName, NodeRecord>,
    duties: BTreeMap<Duty, DutyRecord>,
    exits: Exits,
    /// The lengths by which this leader granted, and until when a lease of that length may be out.
    lengths: BTreeMap<Duration, Duration>,
    /// The changes of the length of leases, from what to what, that this leader has proposed and of which it does not know yet
    /// what came of them, in their order. The bound of each may hold from any moment on: no longer lease is granted.
    retimes: Vec<(Option<Leasing>, Leasing)>,
    /// The highest generation in which anybody has said that it acted alone. Kept, since who did may have heard that the
    /// cluster took note of it before this leader has applied that.
    alone: Option<u64>,
    /// Members that ask and know other feature levels than the cluster's.
    unfit: BTreeMap<NodeName, Speaks>,
    /// Raft's own voters.
    voters: BTreeSet<u64>,
    /// The publisher's epoch, and since when it is known here.
    publisher: Option<(Epoch, Duration)>,
    /// When lives that came before those that are heard, or before this leader led, were heard last.
    earlier: BTreeMap<NodeName, (Incarnation, Duration)>,
    /// Which lives had how many calls and have no heir.
    lives: Lives,
}

#[derive(Debug, Clone)]
struct NodeRecord {
    raft_id: u64,
    run: u64,
    incarnation: Incarnation,
    /// Until when its node lease must be taken for running.
    out_at: Duration,
    /// When it was heard last.
    heard: Duration,
    left: bool,
    failing: Option<Vec<ServiceHealth>>,
    /// Since when its services have been as they are: failing or sound.
    since: Duration,
    /// Of each duty whether the node's own part of it works, and since when that is so.
    duties: BTreeMap<Duty, (bool, Duration)>,
    /// Since when a measure of it is bad.
    bad: BTreeMap<Trigger, Duration>,
    /// The latest of our grants that it had heard when it spoke last.
    echo: Option<Duration>,
    report: Report,
}

#[derive(Debug, Clone)]
struct DutyRecord {
    epoch: Epoch,
    incarnation: Incarnation,
    /// Until when the lease of this epoch must be taken for running.
    out_at: Duration,
    /// A move of this epoch has been proposed, or its holder has let go: never extended again (rule R3).
    frozen: bool,
    /// Whether this leadership has granted it.
    granted: bool,
    /// When the holder was last known to be able to act.
    acted: Duration,
}

impl Ledger {
    /// A leadership begins. `since` is when its leader first had a quorum; `state` is what it had applied then,
    /// with the first entry of its own term: whatever duty stands there may be under a lease of the leader
    /// before it (rule R4). `exits` are the proofs of death that it has been told of.
    pub fn new(term: u64, since: Duration, state: &State, timing: Timing, exits: &Exits) -> Self {
        let longest = timing.longest_lease(state);
        let wait = timing.wait_for(longest);
        let inherit = |a: &Assignment| DutyRecord {
            epoch: a.epoch.clone(),
            incarnation: a.incarnation,
            out_at: since + wait,
            frozen: a.draining,
            granted: false,
            acted: since,
        };
        let duties = state.duties.iter().map(|(duty, a)| (*duty, inherit(a))).collect();
        let mut ledger = Self {
            term,
            timing,
            since,
            wait,
            inherited_ms: millis(longest),
            nodes: BTreeMap::new(),
            duties,
            exits: exits.clone(),
            lengths: BTreeMap::new(),
            retimes: Vec::new(),
            alone: None,
            unfit: BTreeMap::new(),
            voters: BTreeSet::new(),
            publisher: None,
            earlier: BTreeMap::new(),
            lives: Lives::default(),
        };
        for (node, life) in exits.iter() {
            ledger.free(since, node, life);
        }
        ledger
    }

    /// The term of this leadership.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether the node lease of this member runs.
    pub fn is_live(&self, now: Duration, name: &NodeName) -> bool {
        self.nodes.get(name).is_some_and(|record| self.presence(now, name, record) == Presence::Live)
    }

    /// Whether the wait of a new leader is over, so that it knows whoever can be known.
    pub fn is_settled(&self, now: Duration) -> bool {
        now >= self.since + self.wait
    }

    /// The supervisor of this node says that this life of its process has exited (rule R1): what that life held is free
    /// at once, and nothing that it still says counts. Says whether that is news. A word about any other life of the node
    /// changes nothing for the one that is there.
    pub fn exited(&mut self, now: Duration, node: &NodeName, life: Incarnation) -> bool {
        let news = self.exits.note(node, life, self.lives.had_calls(node, life));
        self.free(now, node, life);
        news
    }

    /// Whatever this life held is free.
    fn free(&mut self, now: Duration, node: &NodeName, life: Incarnation) {
        self.unfit.remove(node);
        for record in self.duties.values_mut() {
            if record.epoch.node == *node && record.incarnation == life {
                record.frozen = true;
                record.out_at = record.out_at.min(now);
            }
        }
    }

    /// Whether this life had calls when it reported last, as far as this leader knows.
    pub fn had_calls(&self, node: &NodeName, life: Incarnation) -> bool {
        self.lives.had_calls(node, life)
    }

    /// When this member heard this life of another last, before it led: whoever held something then was able to act, and
    /// nobody knows of any later moment.
    pub fn heard_before(&mut self, node: &NodeName, life: Incarnation, at: Duration) {
        let at = at.min(self.since);
        self.earlier.insert(node.clone(), (life, at));
        for record in self.duties.values_mut().filter(|r| !r.granted && r.epoch.node == *node) {
            if record.incarnation == life {
                record.acted = at;
            }
        }
    }

    /// What the leader before told of calls. It is news only of lives of which this leader has not heard itself.
    pub fn recall(&mut self, told: &Lives) {
        for (node, life, calls) in told.iter() {
            if self.lives.calls(node, life).is_none() {
                self.lives.note(node, life, calls);
            }
        }
    }

    /// Who votes by the last entry of this leader's log. One who is no member by the applied state has been let in since,
    /// and may know more: no duty is leased before that is applied, too.
    pub fn voters(&mut self, raft_ids: impl IntoIterator<Item = u64>) {
        self.voters = raft_ids.into_iter().collect();
    }

    /// Whether voters may be added or taken out now: not while one of a pair may be acting alone, or has and the cluster has
    /// not taken note of it. A leader that comes after the change might know of neither.
    pub fn may_change_voters(&self, now: Duration, state: &State) -> bool {
        !self.may_be_alone(now, self.lease(state), state)
    }

    /// An order with what this leader knows of the node that it is about.
    pub fn inform(&self, now: Duration, wall_ms: u64, order: Order) -> Order {
        let about = order.about();
        let record = about.and_then(|name| self.nodes.get(name));
        // Whom a new leader has not heard yet may live for all it knows: it must not be given up as lost.
        let may_live = |name: &NodeName| self.is_live(now, name) || (record.is_none() && !self.is_settled(now));
        let facts = Facts {
            at_ms: wall_ms,
            live: about.is_some_and(may_live),
            behind: record.and_then(|record| record.report.measures.behind).unwrap_or(0),
        };
        order.with(facts)
    }

    /// A node asks. `quorum_heard` is when the leader last knew itself followed by a majority.
    pub fn keep_alive(
        &mut self,
        now: Duration,
        quorum_heard: Duration,
        state: &State,
        request: &KeepAlive,
    ) -> Result<Grant, NoGrant> {
        let unheard = now.saturating_sub(quorum_heard);
        if unheard > self.timing.election_max {
            return Err(NoGrant::NoQuorum { unheard });
        }
        let member = match Self::asker(state, request) {
            Err(unfit @ NoGrant::FeatureLevel { .. }) => {
                match request.leaving {
                    true => drop(self.unfit.remove(&request.node)),
                    false => drop(self.unfit.insert(request.node.clone(), request.report.speaks)),
                }
                return Err(unfit);
            }
            asker => asker?,
        };
        self.unfit.remove(&request.node);
        let may_hold = member.activated && !request.leaving;
        let lease = self.lease(state);
        let out_at = now + self.timing.surely_past(lease);
        self.note_node(now, out_at, state, request)?;
        self.note_applied(now, state);
        self.lengths.retain(|_, out| *out > now);
        let longest = self.lengths.entry(lease).or_default();
        *longest = out_at.max(*longest);
        let alone_somewhere = self.may_be_alone(now, lease, state);
        let mut duties = BTreeMap::new();
        for (duty, assignment) in &state.duties {
            let ours = assignment.epoch.node == request.node && assignment.incarnation == request.incarnation;
            let Some(record) = self.duties.get_mut(duty).filter(|r| ours && r.epoch == assignment.epoch) else {
                continue;
            };
            let current = assignment.epoch.generation == state.generation;
            if request.released.get(duty) == Some(&record.epoch) {
                if !(record.frozen && record.out_at <= now) {
                    record.acted = now;
                }
                record.frozen = true;
                record.out_at = now;
            } else if may_hold && current && !record.frozen && !assignment.draining && !alone_somewhere {
                record.out_at = record.out_at.max(out_at);
                record.acted = now;
                record.granted = true;
                duties.insert(*duty, record.epoch.clone());
            }
        }
        let running = self.duties.iter().filter(|(_, r)| r.granted && now < r.out_at).map(|(d, _)| *d).collect();
        let (failed, cuts) = (self.failed(state), self.cuts(now));
        Ok(Grant { term: self.term, lease, duties, running, failed, cuts, lives: self.tells(state), at: now })
    }

    /// How long the leases are that are granted now.
    fn lease(&self, state: &State) -> Duration {
        let bounds = self.retimes.iter().map(|(_, to)| Duration::from_millis(to.bound_ms));
        bounds.fold(self.timing.agreed(state).lease, Duration::min)
    }

    /// A command is about to be proposed. From here on a duty that it moves is not extended (rule R3), and no lease is
    /// longer than the bound that it may set, whether or not the proposal goes through. Of a batch all parts count from
    /// here.
    pub fn proposing(&mut self, command: &Command) {
        command.parts().iter().for_each(|part| self.proposing_part(part));
    }

    fn proposing_part(&mut self, command: &Command) {
        let (duty, epoch) = match command {
            Command::Retime { from, to } => {
                // The same once more, since nobody answered, can do only what the first did not: it is one.
                if self.retimes.last() != Some(&(*from, *to)) {
                    self.retimes.push((*from, *to));
                }
                return;
            }
            Command::Drain { duty, epoch } | Command::Assign { duty, from: Some(epoch), .. } => (duty, epoch),
            _ => return,
        };
        if let Some(record) = self.duties.get_mut(duty).filter(|record| record.epoch == *epoch) {
            record.frozen = true;
        }
    }

    /// A command that this leader has proposed has been applied, whatever came of it; so have all that it proposed before.
    pub fn applied(&mut self, command: &Command) {
        for part in command.parts() {
            if let Command::Retime { from, to } = part {
                let known = self.retimes.iter().position(|proposed| *proposed == (*from, *to));
                self.retimes.drain(..known.map_or(0, |at| at + 1));
            }
        }
    }

    /// What the planner is to know at `now`; `wall_ms` is the leader's wall clock, in milliseconds since 1970.
    pub fn view(&mut self, now: Duration, wall_ms: u64, state: &State) -> View {
        self.note_applied(now, state);
        let seen =
            state.members.iter().map(|(name, member)| (name.clone(), self.seen(now, name, member))).collect();
        let fact = |r: &DutyRecord| LeaseFact {
            epoch: r.epoch.clone(),
            held: now < r.out_at,
            frozen: r.frozen,
            acted: r.acted,
        };
        let leases = self.duties.iter().map(|(duty, record)| (*duty, fact(record))).collect();
        let own = self.lengths.iter().filter(|(_, out)| **out > now).map(|(length, _)| millis(*length)).max();
        let inherited = (!self.is_settled(now)).then_some(self.inherited_ms);
        View {
            state: state.clone(),
            now,
            wall_ms,
            seen,
            leases,
            alone_somewhere: self.may_be_alone(now, self.lease(state), state),
            alone_generation: self.alone,
            publisher_since: self.publisher.clone(),
            longest_out_ms: own.max(inherited).unwrap_or(0),
            ended: self.ended(now),
        }
    }

    /// The next moment after `now` at which the view changes by time alone.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let waits = [self.timing.health_grace, self.timing.settle];
        let of_node = |n: &NodeRecord| {
            let since: Vec<_> = [n.since].into_iter().chain(n.duties.values().map(|(_, since)| *since)).collect();
            let moments = since.into_iter().flat_map(move |since| waits.map(|wait| since + wait));
            moments.chain([n.out_at]).collect::<Vec<_>>()
        };
        self.nodes
            .values()
            .flat_map(of_node)
            .chain(self.duties.values().map(|r| r.out_at))
            .chain(self.lengths.values().copied())
            .chain([self.since + self.wait])
            .filter(|at| *at > now)
            .min()
    }

    fn asker<'a>(state: &'a State, request: &KeepAlive) -> Result<&'a Member, NoGrant> {
        let Some(member) = state.members.get(&request.node) else {
            return Err(NoGrant::Stranger(request.node.clone()));
        };
        if member.raft_id != request.raft_id {
            return Err(NoGrant::OtherStore(request.node.clone()));
        }
        let speaks = request.report.speaks;
        if !speaks.knows(state.feature_level) {
            let (name, level) = (request.node.clone(), state.feature_level);
            return Err(NoGrant::FeatureLevel { name, min: speaks.min, max: speaks.max, level });
        }
        Ok(member)
    }

    fn note_node(
        &mut self,
        now: Duration,
        running: Duration,
        state: &State,
        request: &KeepAlive,
    ) -> Result<(), NoGrant> {
        if self.exits.has(&request.node, request.incarnation) {
            return Err(NoGrant::Exited(request.node.clone()));
        }
        let begun = NodeRecord {
            raft_id: request.raft_id,
            run: request.run,
            incarnation: request.incarnation,
            out_at: running,
            heard: now,
            left: false,
            failing: request.failing.clone(),
            since: now,
            duties: BTreeMap::new(),
            bad: BTreeMap::new(),
            echo: None,
            report: request.report.clone(),
        };
        let record = self.nodes.entry(request.node.clone()).or_insert_with(|| begun.clone());
        if record.raft_id != request.raft_id || record.run < request.run {
            self.earlier.insert(request.node.clone(), (record.incarnation, record.heard));
            *record = begun;
        } else if record.run > request.run || record.incarnation != request.incarnation {
            return Err(NoGrant::Superseded(request.node.clone()));
        }
        record.heard = now;
        let echo = request.echo.filter(|echo| echo.term == self.term && echo.at <= now).map(|echo| echo.at);
        if echo < record.echo {
            // It was sent before one that is here already. The node lives; what it says is out of date.
            record.out_at = if record.left { now } else { record.out_at.max(running) };
            return Ok(());
        }
        record.echo = echo;
        // A node that was out of reach starts anew: what it says of its services is news.
        let anew = now >= record.out_at;
        let was_well = record.failing.as_deref().map(is_well);
        if was_well != request.failing.as_deref().map(is_well) || anew {
            record.since = now;
        }
        for duty in Duty::ALL {
            let works = !request.failing.iter().flatten().any(|service| service.name == duty.name());
            let known = record.duties.entry(duty).or_insert((works, now));
            if known.0 != works || anew {
                *known = (works, now);
            }
        }
        for trigger in soft::SOFT {
            match soft::is_bad(trigger, &request.report.measures, &state.settings) {
                true => drop(record.bad.entry(trigger).or_insert(now)),
                false => drop(record.bad.remove(&trigger)),
            }
        }
        let solo = request.report.solo.as_ref().map(|solo| solo.epoch.generation);
        self.alone = self.alone.max(solo);
        record.failing.clone_from(&request.failing);
        record.report.clone_from(&request.report);
        record.left |= request.leaving;
        record.out_at = if record.left { now } else { running.max(record.out_at) };
        let left = record.left;
        match request.report.measures.calls {
            // Who leaves in good order has ended its calls.
            _ if left => self.lives.forget(&request.node, request.incarnation),
            Some(calls) => self.lives.note(&request.node, request.incarnation, calls),
            None => {}
        }
        Ok(())
    }

    /// Takes note of epochs that have been given in this leadership: nobody can have a lease for one but by us.
    fn note_applied(&mut self, now: Duration, state: &State) {
        self.lives.retain(|node, life| state.members.contains_key(node) && state.heir_of(node, life).is_none());
        if self.publisher.as_ref().map(|(epoch, _)| epoch) != state.publisher.as_ref() {
            self.publisher = state.publisher.clone().map(|epoch| (epoch, now));
        }
        for (duty, assignment) in &state.duties {
            let known = self.duties.get(duty).is_some_and(|record| record.epoch >= assignment.epoch);
            if !known {
                let epoch = assignment.epoch.clone();
                let incarnation = assignment.incarnation;
                let frozen = self.exits.has(&epoch.node, incarnation);
                let (out_at, granted, acted) = (Duration::ZERO, false, now);
                self.duties.insert(*duty, DutyRecord { epoch, incarnation, out_at, frozen, granted, acted });
            }
        }
    }

    /// Two nodes without a witness may each have gone on alone (rule R7), so no duty is leased before each of them has
    /// said, in answer to a grant of this leader that is no older than a lease, that it does not, and has on disk in which
    /// generation epochs are given and how long leases may be: what it would do alone is above the one and waits for the
    /// other. A pair that needs both for a majority loses nothing by that.
    fn may_be_alone(&self, now: Duration, lease: Duration, state: &State) -> bool {
        let certain = |name: &NodeName| {
            self.nodes.get(name).is_some_and(|record| {
                let fresh = record.echo.is_some_and(|at| now.saturating_sub(at) <= lease);
                let learned = record.report.learned;
                let knows = learned.generation >= state.generation && learned.longest_lease_ms >= millis(lease);
                fresh && knows && !record.report.solo.as_ref().is_some_and(SoloReport::is_acting)
            })
        };
        let unhealed = self.alone.is_some_and(|generation| generation >= state.generation);
        let unknown =
            |id: &u64| !state.members.values().any(|member| member.raft_id == *id) && !state.was_removed(*id);
        let unapplied = self.voters.iter().any(unknown);
        unhealed || unapplied || (state.is_bare_pair() && !state.members.keys().all(certain))
    }

    /// What everybody is told of calls. In a pair nothing of lives that are over: what the survivor has inherited by proof alone
    /// nobody is to give to another, who leads later.
    fn tells(&self, state: &State) -> Lives {
        let mut lives = self.lives.clone();
        if state.is_bare_pair() {
            lives.retain(|node, life| self.nodes.get(node).is_some_and(|record| record.incarnation == life));
        }
        lives
    }

    /// Somebody has inherited from this life by proof alone: nobody else will.
    pub fn inherited(&mut self, node: &NodeName, life: Incarnation) {
        self.lives.forget(node, life);
    }

    /// Lives that had calls to report, are over and have no heir yet. A life after which another has been heard needs a proof:
    /// whoever answers at its address may be the next.
    fn ended(&self, now: Duration) -> Vec<Ended> {
        let lapsed = |node: &NodeName, life: Incarnation| match self.nodes.get(node) {
            Some(record) => record.incarnation == life && now >= record.out_at,
            None => self.is_settled(now),
        };
        let ended = |(node, life, calls): (&NodeName, Incarnation, u32)| {
            let proven = self.exits.has(node, life);
            (proven || lapsed(node, life)).then(|| Ended { node: node.clone(), life, calls, proven })
        };
        self.lives.iter().filter_map(ended).collect()
    }

    /// Duties whose holder says that its part of them fails.
    fn failed(&self, state: &State) -> BTreeMap<Duty, String> {
        let of = |duty: &Duty, a: &Assignment| {
            let record = self.nodes.get(&a.epoch.node).filter(|record| record.incarnation == a.incarnation)?;
            let service = record.failing.iter().flatten().find(|service| service.name == duty.name())?;
            Some((*duty, service.detail.clone()))
        };
        state.duties.iter().filter_map(|(duty, a)| of(duty, a)).collect()
    }

    /// Who of those that are heard does not reach whom, by their own words.
    fn cuts(&self, now: Duration) -> BTreeSet<(NodeName, NodeName)> {
        let live: Vec<_> = self.nodes.iter().filter(|(name, _)| self.is_live(now, name)).collect();
        let told = live.iter().filter(|(_, record)| !record.report.reaches.is_empty());
        told.flat_map(|(from, record)| {
            let missed = live.iter().filter(|(to, _)| to != from && !record.report.reaches.contains(*to));
            missed.map(|(to, _)| ((*from).clone(), (*to).clone())).collect::<Vec<_>>()
        })
        .collect()
    }

    fn presence(&self, now: Duration, name: &NodeName, record: &NodeRecord) -> Presence {
        match (record.left, now < record.out_at) {
            (true, _) => Presence::Left,
            _ if self.exits.has(name, record.incarnation) => Presence::Exited,
            (false, true) => Presence::Live,
            (false, false) => Presence::Silent,
        }
    }

    /// When the life that the status of a member speaks of was heard last; not before this leader led, as far as it knows,
    /// when it has heard nothing of it.
    fn heard(&self, name: &NodeName, member: &Member) -> Duration {
        let record = self.nodes.get(name).filter(|record| member.incarnation == Some(record.incarnation));
        let earlier = || self.earlier.get(name).filter(|(life, _)| member.incarnation == Some(*life));
        record.map(|record| record.heard).or_else(|| earlier().map(|(_, at)| *at)).unwrap_or(self.since)
    }

    fn seen(&self, now: Duration, name: &NodeName, member: &Member) -> Seen {
        let unfit = self.unfit.get(name).copied();
        let Some(record) = self.nodes.get(name) else {
            let lapsed = self.is_settled(now);
            let presence = match lapsed {
                _ if member.incarnation.is_some_and(|life| self.exits.has(name, life)) => Presence::Exited,
                true => Presence::Silent,
                false => Presence::Unknown,
            };
            return Seen {
                presence,
                lapsed,
                health_since: self.since,
                heard: self.heard(name, member),
                unfit,
                ..Seen::default()
            };
        };
        Seen {
            presence: self.presence(now, name, record),
            lapsed: now >= record.out_at,
            incarnation: Some(record.incarnation),
            failing: record.failing.clone(),
            health_since: record.since,
            heard: self.heard(name, member),
            duties: record.duties.clone(),
            bad: record.bad.clone(),
            report: record.report.clone(),
            unfit,
        }
    }
}

/// Whether a node has none but failures of duties, which move alone.
fn is_well(failing: &[ServiceHealth]) -> bool {
    failing.iter().all(|service| Duty::from_name(&service.name).is_some())
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
