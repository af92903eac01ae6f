//! The pair without a witness. Each of its nodes has half of the votes, so neither has a majority without the other
//! (rule R7).
//!
//! A node that loses the other holds its duties back, or goes [`solo`] (`on-quorum-loss`). Both may go solo, each in its
//! own epoch: `assume` accepts that, and an arbiter prevents it. When the two meet again, both first stop and report
//! that. The leader then raises the generation above all solo epochs ([`Command::Heal`]), and leases duties again only
//! after that. If the other is lost for good, an administrator lets the survivor go on alone ([`go_on_alone`]), as in
//! any group without a majority.

mod go_on_alone;
mod solo;

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::NodeName;

pub use go_on_alone::{Departure, GoOnAloneFacts, NewGroup};
pub use solo::{Solo, SoloInputs, SoloRecord, SoloVerdict};

use crate::{
    Cause, Command, MemberKind, MoveCondition, MoveReason, OnQuorumLoss, Presence, Sign, SoloReport, State, View,
    Voters, rule_for,
};

/// The feature level from which the generation rises when a node of a pair is given up.
const GIVEN_UP_LEVEL: u32 = 8;

impl State {
    /// One of a pair is about to be given up as lost. It may have gone solo one generation above this one, and will report
    /// that no more: later epochs are above it (rule R7).
    pub(crate) fn rise_above_lost(&mut self, lost: &NodeName, at_ms: u64) {
        if !self.is_bare_pair() || self.feature_level < GIVEN_UP_LEVEL {
            return;
        }
        self.generation += 2;
        if let Some(publisher) = self.publisher().filter(|name| *name != lost).cloned() {
            self.publish(publisher, MoveReason { cause: Cause::Operator, at_ms, idle_ms: 0 });
        }
    }

    /// Whether the members are two nodes without a witness: each of them has half of the votes (rule R7).
    pub fn is_bare_pair(&self) -> bool {
        self.members.len() == 2 && self.members.values().all(|member| member.kind == MemberKind::Node)
    }

    /// Whether the members are two nodes without a witness and only these vote: then this state has everything that was
    /// agreed on without either of them.
    pub(crate) fn is_pair_of(&self, voters: &Voters) -> bool {
        let members = self.members.values().map(|member| member.raft_id);
        voters.applied && self.is_bare_pair() && members.collect::<BTreeSet<_>>() == voters.raft_ids
    }

    /// Whether a node may go solo when it loses the other (rule R7).
    pub fn may_assume(&self) -> bool {
        self.is_bare_pair() && self.settings.on_quorum_loss == OnQuorumLoss::Assume
    }
}

/// Whether this member's node lease runs.
fn is_live(view: &View, name: &NodeName) -> bool {
    view.observed.get(name).is_some_and(|observed| observed.presence == Presence::Live)
}

/// Solo work of a split that has ended and is not healed yet: the reports by node, and the highest generation.
pub(crate) struct EndedSplit {
    ran: BTreeMap<NodeName, SoloReport>,
    highest: u64,
}

/// The split, if all nodes that ran solo have stopped and all that may have run solo are live to report it.
pub(crate) fn ended_split(view: &View) -> Option<EndedSplit> {
    let state = &view.state;
    let news = |solo: &&SoloReport| solo.epoch.generation >= state.generation;
    let reported = |name: &NodeName| view.observed.get(name)?.report.solo.as_ref().filter(news).cloned();
    let ran: BTreeMap<NodeName, SoloReport> =
        state.members.keys().filter_map(|name| Some((name.clone(), reported(name)?))).collect();
    let remembered = view.solo_generation.filter(|generation| *generation >= state.generation);
    let highest = ran.values().map(|solo| solo.epoch.generation).max().max(remembered)?;
    let all_live = !state.is_bare_pair() || state.members.keys().all(|name| is_live(view, name));
    let still_acts = ran.iter().any(|(name, solo)| is_live(view, name) && solo.is_acting());
    let awaits_both = rule_for(Sign::RanSolo).waits == MoveCondition::BothStopped;
    (!awaits_both || (all_live && !still_acts)).then_some(EndedSplit { ran, highest })
}

/// Raises the generation above all solo epochs.
pub(crate) fn heal(view: &View, state: &State, split: EndedSplit) -> Option<Command> {
    let serves = |name: &&NodeName| state.serves(name) && is_live(view, name);
    let node =
        |name: &&NodeName| state.members.get(*name).is_some_and(|m| m.activated && m.kind == MemberKind::Node);
    // The preferred node, else the publisher, else any; a node that serves before one that does not.
    let ranked = || state.settings.preferred.iter().chain(state.publisher()).chain(state.members.keys());
    let winner = ranked().find(serves).or_else(|| ranked().find(node))?.clone();
    let (from, generation) = (state.generation, split.highest + 1);
    Some(Command::Heal { from, generation, winner, ran: split.ran, at_ms: view.wall_ms })
}
