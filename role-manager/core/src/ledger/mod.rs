//! Leases as the leader sees them: live members, running leases, and duties never extended again (rules R1 to R4).

mod observation;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{
    Assignment, CallCounts, Command, Duty, Exits, Facts, FeatureLevels, Grant, KeepAlive, Leasing, Member, NoGrant,
    Order, Presence, Report, ServiceHealth, Sign, SoloReport, State, Status, Timing, Trigger, rule_for, soft,
};

/// The leader's side: one per leadership, from its first quorum answer on.
#[derive(Debug, Clone)]
pub struct Ledger {
    term: u64,
    timing: Timing,
    since: Duration,
    /// Time for which this leader must assume leases that it did not grant (rule R4).
    wait: Duration,
    /// The longest lease of earlier leaders, in milliseconds.
    inherited_ms: u64,
    nodes: BTreeMap<NodeName, NodeRecord>,
    duties: BTreeMap<Duty, DutyRecord>,
    exits: Exits,
    /// The lengths that this leader granted, each with the time until which a lease of that length may run.
    lengths: BTreeMap<Duration, Duration>,
    /// Changes of the lease length (from, to) that this leader has proposed and whose outcome it does not know yet, in
    /// order. The bound of each may take effect at any moment: no longer lease is granted.
    retimes: Vec<(Option<Leasing>, Leasing)>,
    /// The highest generation in which a member has reported solo work. It stays, since that member may know that
    /// the cluster recorded it before this leader has applied that.
    solo_generation: Option<u64>,
    /// Members that send keep-alives and do not support the cluster's feature level.
    unfit: BTreeMap<NodeName, FeatureLevels>,
    /// Raft's own voters.
    voters: BTreeSet<u64>,
    /// The publisher's epoch, and the time since which it is known here.
    publisher: Option<(Epoch, Duration)>,
    /// Last contact with incarnations before the present ones, or from before this leader led.
    earlier: BTreeMap<NodeName, (Incarnation, Duration)>,
    /// Number of calls of the incarnations that have no heir.
    call_counts: CallCounts,
}

#[derive(Debug, Clone)]
struct NodeRecord {
    raft_id: u64,
    run: u64,
    incarnation: Incarnation,
    /// Time until which its node lease must be assumed to run.
    expires_at: Duration,
    /// Last contact.
    last_contact: Duration,
    left: bool,
    failing: Option<Vec<ServiceHealth>>,
    /// Time since which its services have been in their present condition, failing or sound.
    since: Duration,
    /// For each duty, whether the node's own part of it works, and the time since which that is so.
    duties: BTreeMap<Duty, (bool, Duration)>,
    /// Time since which each bad measure of the node has been bad.
    bad: BTreeMap<Trigger, Duration>,
    /// The latest of this leader's grants that the node had received when it sent its last message.
    echo: Option<Duration>,
    report: Report,
}

#[derive(Debug, Clone)]
struct DutyRecord {
    epoch: Epoch,
    incarnation: Incarnation,
    /// Time until which the lease of this epoch must be assumed to run.
    expires_at: Duration,
    /// A move of this epoch has been proposed, or its holder has released it: never extended again (rule R3).
    frozen: bool,
    /// Whether this leadership has granted it.
    granted: bool,
    /// Last time at which the holder was known to be able to act.
    acted: Duration,
}

impl Ledger {
    /// A leadership begins. `since` is the time of the leader's first quorum; `state` is the state applied then, with
    /// the first entry of its own term: any duty in it may be under a lease of the leader before (rule R4). `exits` are
    /// the exit proofs that it has received.
    pub fn new(term: u64, since: Duration, state: &State, timing: Timing, exits: &Exits) -> Self {
        let longest = timing.longest_lease(state);
        let wait = timing.wait_for(longest);
        let inherit = |a: &Assignment| DutyRecord {
            epoch: a.epoch.clone(),
            incarnation: a.incarnation,
            expires_at: since + wait,
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
            solo_generation: None,
            unfit: BTreeMap::new(),
            voters: BTreeSet::new(),
            publisher: None,
            earlier: BTreeMap::new(),
            call_counts: CallCounts::default(),
        };
        for (node, incarnation) in exits.iter() {
            ledger.free(since, node, incarnation);
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

    /// Whether the wait of a new leader has ended, so that it knows all members that it can know.
    pub fn is_settled(&self, now: Duration) -> bool {
        now >= self.since + self.wait
    }

    /// The supervisor of this node reports that this incarnation has exited (rule R1). The duties of that incarnation
    /// are free immediately, and its later messages do not count. Returns whether the report is new. A report about
    /// another incarnation of the node changes nothing for the present one.
    pub fn exited(&mut self, now: Duration, node: &NodeName, incarnation: Incarnation) -> bool {
        let news = self.exits.note(node, incarnation, self.call_counts.had_calls(node, incarnation));
        self.free(now, node, incarnation);
        news
    }

    /// Frees all that this incarnation held, unless the row of its sign waits for the end of its leases.
    fn free(&mut self, now: Duration, node: &NodeName, incarnation: Incarnation) {
        self.unfit.remove(node);
        let sign = match self.nodes.get(node) {
            Some(present) if present.incarnation != incarnation => Sign::Restarted,
            Some(present) if present.left => Sign::Left,
            _ => Sign::Exited,
        };
        let ends = rule_for(sign).waits.is_met_by_exit();
        for record in self.duties.values_mut() {
            if record.epoch.node == *node && record.incarnation == incarnation {
                record.frozen = true;
                record.expires_at = if ends { record.expires_at.min(now) } else { record.expires_at };
            }
        }
    }

    /// Whether this incarnation had calls in its last report, as far as this leader knows.
    pub fn had_calls(&self, node: &NodeName, incarnation: Incarnation) -> bool {
        self.call_counts.had_calls(node, incarnation)
    }

    /// Last contact of this member with this incarnation of another, before it led. A holder was able to act at that
    /// time, and no later time is known.
    pub fn note_earlier_contact(&mut self, node: &NodeName, incarnation: Incarnation, at: Duration) {
        let at = at.min(self.since);
        self.earlier.insert(node.clone(), (incarnation, at));
        for record in self.duties.values_mut().filter(|r| !r.granted && r.epoch.node == *node) {
            if record.incarnation == incarnation {
                record.acted = at;
            }
        }
    }

    /// Call counts reported by the previous leader. Used only for incarnations without a message to this leader itself.
    pub fn adopt_call_counts(&mut self, reported: &CallCounts) {
        for (node, incarnation, calls) in reported.iter() {
            if self.call_counts.calls(node, incarnation).is_none() {
                self.call_counts.note(node, incarnation, calls);
            }
        }
    }

    /// The voters by the last entry of this leader's log. A voter that is no member in the applied state was admitted
    /// since and may know more: no duty is leased before that entry is applied, too.
    pub fn voters(&mut self, raft_ids: impl IntoIterator<Item = u64>) {
        self.voters = raft_ids.into_iter().collect();
    }

    /// Whether voters may be added or removed now. Not while a node of a pair may be acting solo, or has acted solo and
    /// the cluster has not recorded it: a leader after the change might know of neither.
    pub fn may_change_voters(&self, now: Duration, state: &State) -> bool {
        !self.may_act_solo(now, self.lease(state), state)
    }

    /// An order with this leader's facts about the node that it names.
    pub fn with_facts(&self, now: Duration, wall_ms: u64, state: &State, order: Order) -> Order {
        let about = order.about(state);
        let record = about.and_then(|name| self.nodes.get(name));
        // A node that a new leader has no contact with yet may be running: it must not be given up as lost.
        let may_be_live = |name: &NodeName| self.is_live(now, name) || (record.is_none() && !self.is_settled(now));
        let facts = Facts {
            at_ms: wall_ms,
            live: about.is_some_and(may_be_live),
            behind: record.and_then(|record| record.report.measures.behind).unwrap_or(0),
            ..Facts::default()
        };
        order.with(facts)
    }

    /// Handles a node's keep-alive. `quorum_contact` is the last time at which a majority followed this leader.
    pub fn keep_alive(
        &mut self,
        now: Duration,
        quorum_contact: Duration,
        state: &State,
        request: &KeepAlive,
    ) -> Result<Grant, NoGrant> {
        let silence = now.saturating_sub(quorum_contact);
        if silence > self.timing.election_max {
            return Err(NoGrant::NoQuorum { silence });
        }
        let member = match Self::requester(state, request) {
            Err(unfit @ NoGrant::FeatureLevel { .. }) => {
                match request.leaving {
                    true => drop(self.unfit.remove(&request.node)),
                    false => drop(self.unfit.insert(request.node.clone(), request.report.feature_levels)),
                }
                return Err(unfit);
            }
            requester => requester?,
        };
        self.unfit.remove(&request.node);
        let may_hold = member.activated && !request.leaving;
        // A node that serves releases by the row of an order, whatever made the duty move.
        let sign = match member.status {
            _ if request.leaving => Sign::Left,
            Status::Leaving => Sign::Removed,
            _ if !member.activated => Sign::Deactivated,
            _ => Sign::Ordered,
        };
        let release_ends = rule_for(sign).waits.is_met_by_release();
        let lease = self.lease(state);
        let expires_at = now + self.timing.surely_past(lease);
        self.note_node(now, expires_at, state, request)?;
        self.note_applied(now, state);
        self.lengths.retain(|_, out| *out > now);
        let longest = self.lengths.entry(lease).or_default();
        *longest = expires_at.max(*longest);
        let may_act_solo = self.may_act_solo(now, lease, state);
        let mut duties = BTreeMap::new();
        for (duty, assignment) in &state.duties {
            let ours = assignment.epoch.node == request.node && assignment.incarnation == request.incarnation;
            let Some(record) = self.duties.get_mut(duty).filter(|r| ours && r.epoch == assignment.epoch) else {
                continue;
            };
            let current = assignment.epoch.generation == state.generation;
            if request.released.get(duty) == Some(&record.epoch) {
                if !(record.frozen && record.expires_at <= now) {
                    record.acted = now;
                }
                record.frozen = true;
                record.expires_at = if release_ends { now } else { record.expires_at };
            } else if may_hold && current && !record.frozen && !assignment.draining && !may_act_solo {
                record.expires_at = record.expires_at.max(expires_at);
                record.acted = now;
                record.granted = true;
                duties.insert(*duty, record.epoch.clone());
            }
        }
        let running =
            self.duties.iter().filter(|(_, r)| r.granted && now < r.expires_at).map(|(d, _)| *d).collect();
        let (failed, cuts) = (self.failed(state), self.cuts(now));
        Ok(Grant {
            term: self.term,
            lease,
            duties,
            running,
            failed,
            cuts,
            call_counts: self.reported_call_counts(state),
            at: now,
        })
    }

    /// Length of the leases granted now.
    fn lease(&self, state: &State) -> Duration {
        let bounds = self.retimes.iter().map(|(_, to)| Duration::from_millis(to.bound_ms));
        bounds.fold(self.timing.agreed(state).lease, Duration::min)
    }

    /// A command is about to be proposed. From here on a duty that it moves is not extended (rule R3), and no lease is
    /// longer than the bound that it may set, whether or not the proposal succeeds. All parts of a batch count from
    /// here.
    pub fn proposing(&mut self, command: &Command) {
        command.parts().iter().for_each(|part| self.proposing_part(part));
    }

    fn proposing_part(&mut self, command: &Command) {
        let (duty, epoch) = match command {
            Command::Retime { from, to } => {
                // A repeated proposal without an answer has only the effect of the first: record it once.
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

    /// The last command proposed by this leader has been applied, with any outcome; so have all that it proposed before,
    /// also those whose outcome was lost with the planner that awaited it.
    pub fn applied(&mut self, command: &Command) {
        let retime = |part: &Command| match part {
            Command::Retime { from, to } => Some((*from, *to)),
            _ => None,
        };
        let known = match command.parts().iter().rev().find_map(retime) {
            Some(retime) => self.retimes.iter().rposition(|proposed| *proposed == retime).map_or(0, |at| at + 1),
            None => self.retimes.len(),
        };
        self.retimes.drain(..known);
    }

    fn requester<'a>(state: &'a State, request: &KeepAlive) -> Result<&'a Member, NoGrant> {
        let Some(member) = state.members.get(&request.node) else {
            return Err(NoGrant::NotMember(request.node.clone()));
        };
        if member.raft_id != request.raft_id {
            return Err(NoGrant::OtherStore(request.node.clone()));
        }
        let feature_levels = request.report.feature_levels;
        if !feature_levels.supports(state.feature_level) {
            let (name, level) = (request.node.clone(), state.feature_level);
            return Err(NoGrant::FeatureLevel { name, min: feature_levels.min, max: feature_levels.max, level });
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
            expires_at: running,
            last_contact: now,
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
            self.earlier.insert(request.node.clone(), (record.incarnation, record.last_contact));
            *record = begun;
        } else if record.run > request.run || record.incarnation != request.incarnation {
            return Err(NoGrant::Superseded(request.node.clone()));
        }
        record.last_contact = now;
        // Never taken back, so it counts in a message without a grant, too. A node that leaves has ended its calls.
        record.left |= request.leaving;
        if record.left {
            self.call_counts.forget(&request.node, request.incarnation);
        }
        let echo = request.echo.filter(|echo| echo.term == self.term && echo.at <= now).map(|echo| echo.at);
        if echo < record.echo {
            // Sent before a message that has arrived already. The node is live; the content is out of date.
            record.expires_at = if record.left { now } else { record.expires_at.max(running) };
            return Ok(());
        }
        record.echo = echo;
        // After a silence the node's report on its services counts as new.
        let after_silence = now >= record.expires_at;
        let was_well = record.failing.as_deref().map(is_well);
        if was_well != request.failing.as_deref().map(is_well) || after_silence {
            record.since = now;
        }
        for duty in Duty::ALL {
            let works = !request.failing.iter().flatten().any(|service| service.name == duty.name());
            let known = record.duties.entry(duty).or_insert((works, now));
            if known.0 != works || after_silence {
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
        self.solo_generation = self.solo_generation.max(solo);
        record.failing.clone_from(&request.failing);
        record.report.clone_from(&request.report);
        record.expires_at = if record.left { now } else { running.max(record.expires_at) };
        if let Some(calls) = request.report.measures.calls.filter(|_| !record.left) {
            self.call_counts.note(&request.node, request.incarnation, calls);
        }
        Ok(())
    }

    /// Records epochs given in this leadership: only this leader can have granted a lease for one.
    fn note_applied(&mut self, now: Duration, state: &State) {
        self.call_counts.retain(|node, incarnation| {
            state.members.contains_key(node) && state.heir_of(node, incarnation).is_none()
        });
        if self.publisher.as_ref().map(|(epoch, _)| epoch) != state.publisher.as_ref() {
            self.publisher = state.publisher.clone().map(|epoch| (epoch, now));
        }
        for (duty, assignment) in &state.duties {
            let known = self.duties.get(duty).is_some_and(|record| record.epoch >= assignment.epoch);
            if !known {
                let epoch = assignment.epoch.clone();
                let incarnation = assignment.incarnation;
                let frozen = self.exits.has(&epoch.node, incarnation);
                let (expires_at, granted, acted) = (Duration::ZERO, false, now);
                self.duties.insert(*duty, DutyRecord { epoch, incarnation, expires_at, frozen, granted, acted });
            }
        }
    }

    /// Two nodes without a witness may each have gone solo (rule R7). So no duty is leased before each of them has
    /// reported, in answer to a grant of this leader no older than a lease, that it does not act solo and has on disk
    /// the generation of the agreed epochs and the longest possible lease: its solo epochs would be above that
    /// generation, and it would wait for that lease. A pair that needs both nodes for a majority loses nothing by that.
    fn may_act_solo(&self, now: Duration, lease: Duration, state: &State) -> bool {
        let certain = |name: &NodeName| {
            self.nodes.get(name).is_some_and(|record| {
                let fresh = record.echo.is_some_and(|at| now.saturating_sub(at) <= lease);
                let persisted = record.report.persisted;
                let knows = persisted.generation >= state.generation && persisted.longest_lease_ms >= millis(lease);
                fresh && knows && !record.report.solo.as_ref().is_some_and(SoloReport::is_acting)
            })
        };
        let unhealed = self.solo_generation.is_some_and(|generation| generation >= state.generation);
        let unknown =
            |id: &u64| !state.members.values().any(|member| member.raft_id == *id) && !state.was_removed(*id);
        let unapplied = self.voters.iter().any(unknown);
        unhealed || unapplied || (state.is_bare_pair() && !state.members.keys().all(certain))
    }

    /// Forgets the call counts of all incarnations of this node but the present one.
    pub fn forget_earlier(&mut self, node: &NodeName, present: Incarnation) {
        self.call_counts.forget_earlier(node, present);
    }

    /// A node has inherited from this incarnation by proof alone: no other node will.
    pub fn inherited(&mut self, node: &NodeName, incarnation: Incarnation) {
        self.call_counts.forget(node, incarnation);
    }
}

/// Whether a node has no failures except those of duties, which move separately.
fn is_well(failing: &[ServiceHealth]) -> bool {
    failing.iter().all(|service| Duty::from_name(&service.name).is_some())
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
