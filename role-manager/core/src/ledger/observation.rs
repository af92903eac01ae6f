//! The leader's knowledge of members and leases: input of the planner, and the parts of a grant that report it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Incarnation, NodeName};

use super::{DutyRecord, Ledger, NodeRecord, millis};
use crate::{
    Assignment, CallCounts, Duty, EndedIncarnation, LeaseFact, Member, MemberObservation, Presence, State, View,
};

impl Ledger {
    /// Input of the planner at `now`; `wall_ms` is the leader's wall clock, in milliseconds since 1970.
    pub fn view(&mut self, now: Duration, wall_ms: u64, state: &State) -> View {
        self.note_applied(now, state);
        let observed =
            state.members.iter().map(|(name, member)| (name.clone(), self.observed(now, name, member))).collect();
        let fact = |r: &DutyRecord| LeaseFact {
            epoch: r.epoch.clone(),
            held: now < r.expires_at,
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
            observed,
            leases,
            may_act_solo: self.may_act_solo(now, self.lease(state), state),
            solo_generation: self.solo_generation,
            publisher_since: self.publisher.clone(),
            longest_running_ms: own.max(inherited).unwrap_or(0),
            ended: self.ended(now),
        }
    }

    /// The next moment after `now` at which the view changes by time alone.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let waits = [self.timing.health_grace, self.timing.settle];
        let of_node = |n: &NodeRecord| {
            let since: Vec<_> = [n.since].into_iter().chain(n.duties.values().map(|(_, since)| *since)).collect();
            let moments = since.into_iter().flat_map(move |since| waits.map(|wait| since + wait));
            moments.chain([n.expires_at]).collect::<Vec<_>>()
        };
        self.nodes
            .values()
            .flat_map(of_node)
            .chain(self.duties.values().map(|r| r.expires_at))
            .chain(self.lengths.values().copied())
            .chain([self.since + self.wait])
            .filter(|at| *at > now)
            .min()
    }

    /// Call counts for all members. In a pair, none of ended incarnations: a later leader must not give to another node
    /// the calls that the survivor has inherited by proof alone.
    pub(super) fn reported_call_counts(&self, state: &State) -> CallCounts {
        let mut call_counts = self.call_counts.clone();
        if state.is_bare_pair() {
            call_counts.retain(|node, incarnation| {
                self.nodes.get(node).is_some_and(|record| record.incarnation == incarnation)
            });
        }
        call_counts
    }

    /// Ended incarnations that had calls to report and have no heir yet. An incarnation followed by another needs an
    /// exit proof: the next one may answer at its address.
    fn ended(&self, now: Duration) -> Vec<EndedIncarnation> {
        let lease_expired = |node: &NodeName, incarnation: Incarnation| match self.nodes.get(node) {
            Some(record) => record.incarnation == incarnation && now >= record.expires_at,
            None => self.is_settled(now),
        };
        let ended = |(node, incarnation, calls): (&NodeName, Incarnation, u32)| {
            let proven = self.exits.has(node, incarnation);
            (proven || lease_expired(node, incarnation)).then(|| EndedIncarnation {
                node: node.clone(),
                incarnation,
                calls,
                proven,
            })
        };
        self.call_counts.iter().filter_map(ended).collect()
    }

    /// Duties that fail by their holder's report.
    pub(super) fn failed(&self, state: &State) -> BTreeMap<Duty, String> {
        let of = |duty: &Duty, a: &Assignment| {
            let record = self.nodes.get(&a.epoch.node).filter(|record| record.incarnation == a.incarnation)?;
            let service = record.failing.iter().flatten().find(|service| service.name == duty.name())?;
            Some((*duty, service.detail.clone()))
        };
        state.duties.iter().filter_map(|(duty, a)| of(duty, a)).collect()
    }

    /// Pairs of live members of which the first reports that it does not reach the second.
    pub(super) fn cuts(&self, now: Duration) -> BTreeSet<(NodeName, NodeName)> {
        let live: Vec<_> = self.nodes.iter().filter(|(name, _)| self.is_live(now, name)).collect();
        let reporting = live.iter().filter(|(_, record)| !record.report.reaches.is_empty());
        reporting
            .flat_map(|(from, record)| {
                let missed = live.iter().filter(|(to, _)| to != from && !record.report.reaches.contains(*to));
                missed.map(|(to, _)| ((*from).clone(), (*to).clone())).collect::<Vec<_>>()
            })
            .collect()
    }

    pub(super) fn presence(&self, now: Duration, name: &NodeName, record: &NodeRecord) -> Presence {
        match (record.left, now < record.expires_at) {
            (true, _) => Presence::Left,
            _ if self.exits.has(name, record.incarnation) => Presence::Exited,
            (false, true) => Presence::Live,
            (false, false) => Presence::Silent,
        }
    }

    /// Last contact with the incarnation to which a member's status refers. If this leader knows of none, the time
    /// since which it has led.
    fn last_contact(&self, name: &NodeName, member: &Member) -> Duration {
        let record = self.nodes.get(name).filter(|record| member.incarnation == Some(record.incarnation));
        let earlier = || self.earlier.get(name).filter(|(incarnation, _)| member.incarnation == Some(*incarnation));
        record.map(|record| record.last_contact).or_else(|| earlier().map(|(_, at)| *at)).unwrap_or(self.since)
    }

    fn observed(&self, now: Duration, name: &NodeName, member: &Member) -> MemberObservation {
        let unfit = self.unfit.get(name).copied();
        let Some(record) = self.nodes.get(name) else {
            let lease_expired = self.is_settled(now);
            let presence = match lease_expired {
                _ if member.incarnation.is_some_and(|incarnation| self.exits.has(name, incarnation)) => {
                    Presence::Exited
                }
                true => Presence::Silent,
                false => Presence::Unknown,
            };
            return MemberObservation {
                presence,
                lease_expired,
                health_since: self.since,
                last_contact: self.last_contact(name, member),
                unfit,
                ..MemberObservation::default()
            };
        };
        MemberObservation {
            presence: self.presence(now, name, record),
            lease_expired: now >= record.expires_at,
            incarnation: Some(record.incarnation),
            failing: record.failing.clone(),
            health_since: record.since,
            last_contact: self.last_contact(name, member),
            duties: record.duties.clone(),
            bad: record.bad.clone(),
            report: record.report.clone(),
            unfit,
        }
    }
}
