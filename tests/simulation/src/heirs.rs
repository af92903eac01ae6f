//! Heirs of the calls of an ended incarnation: at most one ever (rules C4 and R11), and one soon after a proved death,
//! while a majority is well.

use std::collections::BTreeSet;

use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{CallCounts, CallHeir, HEIRS_LEVEL, Measures, MemberKind, State, Voters};

use crate::{
    Mutant, Violation,
    clock::{MS, Micros},
    member::{Member, Process},
    world::World,
};

/// Time for an election without faults, a late proof, and the agreement after it.
const SOON: Micros = 6_000 * MS;

/// An incarnation whose calls have, or had, an heir.
pub(crate) type MemberIncarnation = (NodeName, Incarnation);

impl World {
    /// The voters, by Raft ids.
    pub(crate) fn voter_ids(&self) -> BTreeSet<u64> {
        self.voters.iter().map(|voter| self.members[*voter].raft_id).collect()
    }

    /// The voters as a member knows them.
    pub(crate) fn known_voters(&self, member: usize) -> Voters {
        let Member { voter_ids, voters_at, process, .. } = &self.members[member];
        let applied = process.as_ref().is_some_and(|process| process.applied >= *voters_at);
        Voters { raft_ids: voter_ids.clone(), applied }
    }

    /// Records the calls that a member has inherited by its present knowledge.
    pub(crate) fn record_heirs(&mut self, member: usize) -> Result<(), Violation> {
        let name = self.members[member].name.clone();
        let Some(process) = self.awake(member) else { return Ok(()) };
        let own = (&name, process.incarnation);
        let ours = |item: &&CallHeir| (&item.heir, item.heir_incarnation) == own;
        let agreed = process.state.heirs.iter().filter(ours);
        let believed: Vec<_> = agreed.chain(process.node.holder().inherited()).cloned().collect();
        let heir: MemberIncarnation = (name.clone(), process.incarnation);
        for item in believed {
            let known = self.heirs.entry((item.node.clone(), item.incarnation)).or_insert_with(|| heir.clone());
            if *known != heir {
                let detail = format!("{name} inherits from {} what {} has inherited", item.node, known.0);
                return Err(Violation::TwoHeirs { detail });
            }
        }
        Ok(())
    }

    /// After all faults a node exits, and its death is proved.
    pub(crate) fn check_heir(&mut self) -> Result<(), Violation> {
        let nodes: Vec<usize> = (0..self.members.len())
            .filter(|m| self.members[*m].kind == MemberKind::Node && self.members[*m].process.is_some())
            .filter(|m| self.agreed().members.contains_key(&self.members[*m].name))
            .collect();
        if nodes.is_empty() || self.is(Mutant::AnyLife) {
            return Ok(());
        }
        let victim = nodes[self.random_up_to(nodes.len() as u64) as usize];
        let Some(incarnation) = self.members[victim].process.as_ref().map(|process| process.incarnation) else {
            return Ok(());
        };
        let name = self.members[victim].name.clone();
        // The present leader has sent that incarnation to every possible next leader.
        let others = self.members.iter().enumerate().filter(|(m, _)| *m != victim);
        let mut others = others.filter_map(|(_, other)| other.process.as_ref());
        let known = |process: &Process| {
            let granted = process.node.holder().grant().map(|grant| &grant.call_counts);
            let counts = |counts: &CallCounts| counts.calls(&name, incarnation).is_some();
            counts(process.leadership.call_counts()) && granted.is_some_and(counts)
        };
        let known = others.all(known) && self.agreed().feature_level >= HEIRS_LEVEL;
        let survives = |m: usize| {
            let Member { name: own, voter_ids, process, .. } = &self.members[m];
            let state = process.as_ref().filter(|_| m != victim).map(|process| &process.state);
            let may = |state: &State| state.is_bare_pair() && state.members.get(own).is_some_and(|it| it.activated);
            let two =
                |state: &State| state.members.values().map(|it| it.raft_id).collect::<BTreeSet<_>>() == *voter_ids;
            state.is_some_and(|state| may(state) && two(state) && state.members.contains_key(&name))
        };
        let pair = self.voters.len() == 2 && self.voters.iter().any(|m| survives(*m));
        self.exit(victim, true);
        self.play_until(self.now + SOON)?;
        let state = self.agreed();
        let inherited = self.heirs.contains_key(&(name.clone(), incarnation));
        if pair && known && !inherited {
            return Err(Violation::Stuck {
                detail: format!("{name} of a pair exited, and the other did not inherit"),
            });
        }
        let majority = self.leader().is_some_and(|m| m != victim && self.has_majority(m, self.members[m].term));
        let another = state.members.keys().any(|other| *other != name && state.serves(other));
        if !known || !majority || !another || inherited {
            return Ok(());
        }
        Err(Violation::Stuck { detail: format!("no node is the heir of the calls of {name}, which exited") })
    }
}

/// The calls that a process reports, derived from its incarnation, so that seeds stay reproducible.
pub(crate) fn with_calls(measures: Measures, kind: MemberKind, incarnation: Incarnation) -> Measures {
    let calls = (kind == MemberKind::Node).then_some((incarnation.0 % 5) as u32);
    Measures { calls, ..measures }
}
