//! Conditions that must hold when a majority has been well for long enough.

use twinbox_ids::NodeName;
use twinbox_roles_core::{Duty, Member, MemberKind, MemberObservation, MoveObject, State, Status, Trigger, plan};

use crate::{
    Violation,
    clock::{MS, Micros},
    world::World,
};

/// Number of moves that the state remembers.
const REMEMBERED_MOVES: usize = 32;
/// An acting member acts dozens of times in this time. The acts are random, so it must be long enough for a million
/// seeds.
const LATELY: Micros = 2_500 * MS;

impl World {
    pub(crate) fn check_liveness(&mut self) -> Result<(), Violation> {
        let stuck = |detail: String| Err(Violation::Stuck { detail });
        let Some(leader) = self.leader() else { return stuck("no member leads".to_owned()) };
        let now = self.local(leader);
        let wall_ms = self.members[leader].clock.wall_ms(self.now);
        let policy = self.policy;
        self.refresh_leadership(leader);
        let Some(process) = self.awake(leader) else { return stuck("the leader hangs".to_owned()) };
        let state = process.state.clone();
        let Some(view) = process.leadership.view(now, wall_ms, &state) else {
            return stuck("the leader grants nothing".to_owned());
        };
        self.check_service(&state)?;
        if let Some(command) = plan(&view, &policy).first() {
            self.note(|| format!("the leader sees: {:?}", view.observed));
            return Err(Violation::Restless { detail: command.to_string() });
        }
        let sound_serves = state.members.iter().any(|(name, member)| member.serves() && !self.fails(name, member));
        for (name, member) in &state.members {
            self.check_status(name, member, &view.observed[name], sound_serves)?;
        }
        self.check_history(&state)?;
        if view.longest_running_ms > state.leasing.map_or(0, |leasing| leasing.bound_ms) {
            return Err(Violation::Untrue { detail: "a running lease is longer than the bound".to_owned() });
        }
        let acts = state.known_duties().try_for_each(|duty| self.check_one_acts(&state, duty));
        acts.inspect_err(|_| {
            self.note(|| format!("the leader knows: {view:?}"));
        })
    }

    /// One of the live nodes that may serve is in service (rule R9).
    fn check_service(&self, state: &State) -> Result<(), Violation> {
        let may_serve = |(name, member): (&NodeName, &Member)| {
            member.kind == MemberKind::Node && member.activated && self.is_reachable(name, member)
        };
        let serves = state.members.values().any(Member::serves);
        if serves || !state.members.iter().any(may_serve) { Ok(()) } else { Err(Violation::Unserved) }
    }

    /// The process of an agreed member.
    fn index_of(&self, name: &NodeName, member: &Member) -> Option<usize> {
        self.members.iter().position(|m| m.name == *name && m.raft_id == member.raft_id && m.process.is_some())
    }

    fn is_reachable(&self, name: &NodeName, member: &Member) -> bool {
        let there = self.index_of(name, member);
        there.is_some_and(|m| self.leader().is_some_and(|leader| leader == m || self.connected(leader, m)))
    }

    /// Whether a node reports that a service of it fails.
    fn fails(&self, name: &NodeName, member: &Member) -> bool {
        let process = self.index_of(name, member).and_then(|m| self.members[m].process.as_ref());
        member.kind == MemberKind::Node && process.is_some_and(|process| process.failing)
    }

    /// Statuses match the facts. A node that fails is out of service, or serves because no healthy one does.
    fn check_status(
        &self,
        name: &NodeName,
        member: &Member,
        observed: &MemberObservation,
        sound_serves: bool,
    ) -> Result<(), Violation> {
        let fails = self.fails(name, member);
        let expected = match (member.activated, member.status, self.is_reachable(name, member)) {
            (false, Status::Leaving, _) => Status::Leaving,
            (false, ..) => Status::Deactivated,
            (true, Status::InService, true) if fails && !sound_serves => Status::InService,
            (true, _, true) if fails => Status::NotFunctioning,
            (true, _, true) => Status::InService,
            (true, _, false) => Status::NotFunctioning,
        };
        match member.status == expected {
            true => Ok(()),
            false => {
                let detail = format!("{name} is {}: {}; {observed:?}", member.status, member.reason);
                Err(Violation::Stuck { detail })
            }
        }
    }

    /// The last moves lead to the present state.
    fn check_history(&self, state: &State) -> Result<(), Violation> {
        // A long history of the others may have pushed the last one out.
        let full = state.moves.len() >= REMEMBERED_MOVES;
        let duties = Duty::ALL.map(|duty| (MoveObject::Duty(duty), state.holder(duty).map(|a| &a.epoch)));
        for (object, present) in duties.into_iter().chain([(MoveObject::Publisher, state.publisher.as_ref())]) {
            let last = state.moves.iter().rev().find(|m| m.object == object).map(|m| &m.epoch);
            if last != present && !(last.is_none() && full) {
                return Err(Violation::Untrue { detail: format!("the last move of {object} is {last:?}") });
            }
        }
        Ok(())
    }

    /// This duty is where it belongs, and its holder acts.
    fn check_one_acts(&self, state: &State, duty: Duty) -> Result<(), Violation> {
        let serving = state.members.keys().filter(|name| state.serves(name)).count();
        let publisher = state.publisher();
        // An administrator may have disabled automatic moves of a role.
        let held_back = Trigger::ALL.iter().any(|trigger| !state.settings.is_on(*trigger));
        let holder = state.holder(duty).map(|a| &a.epoch.node);
        let moved_off = publisher.into_iter().chain(holder).any(|name| !state.serves(name));
        if serving == 0 || (held_back && moved_off) {
            return Ok(());
        }
        let pinned = state.settings.pins.get(&duty).filter(|pin| state.serves(pin));
        let placed = state.placed.get(&duty).filter(|to| state.serves(to));
        let expected = pinned.or(placed).or(publisher);
        let latest = self.receiver.latest(duty);
        let lately = latest.filter(|(at, _)| self.now - at < LATELY).map(|(_, epoch)| epoch);
        let right = lately.is_some_and(|epoch| Some(epoch) == state.holder(duty).map(|a| &a.epoch));
        if right && lately.map(|epoch| &epoch.node) == expected {
            return Ok(());
        }
        Err(Violation::Stuck { detail: format!("{expected:?} should act under {duty}, and {lately:?} did") })
    }
}
