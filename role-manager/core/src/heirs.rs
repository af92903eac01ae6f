//! Heirs of the calls of ended incarnations (rules C3, C4 and R11): one heir per incarnation, once, in an epoch.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{
    Cause, Command, CommandOutcome, Exits, Mode, Presence, State, View, Voters, exits::least_needed,
    state::push_bounded,
};

/// The feature level from which heirs are agreed on: members below it do not know the command.
pub const HEIRS_LEVEL: u32 = 2;
/// The feature level from which the heir of an incarnation with calls is remembered longer than one without.
pub const CALLS_FIRST_LEVEL: u32 = 4;
/// Number of incarnations of one node that are remembered, with their calls (in addition to the latest) or their heirs.
const REMEMBERED_INCARNATIONS: usize = 4;
/// Number of heirs that are remembered in all.
const REMEMBERED_HEIRS: usize = 32;

/// The heir of the calls of an ended incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallHeir {
    /// Node of the ended incarnation.
    pub node: NodeName,
    /// The ended incarnation.
    #[serde(rename = "life")]
    pub incarnation: Incarnation,
    /// The heir.
    pub heir: NodeName,
    /// The incarnation of the heir; a later one does not own the calls (rule R11).
    #[serde(rename = "heir_life")]
    pub heir_incarnation: Incarnation,
    /// Epoch in which the heir may act; none for the survivor of a pair, which is the heir by proof alone (rule C4).
    pub epoch: Option<Epoch>,
    /// Number of calls of the incarnation in its last report.
    pub calls: u32,
    /// Cause for which the incarnation counts as ended.
    pub cause: Cause,
    /// Time at which the heir was found, by its finder's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Number of calls of each incarnation in its last report. Bounded to a few incarnations per node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallCounts(BTreeMap<NodeName, VecDeque<(Incarnation, u32)>>);

impl CallCounts {
    /// Notes the number of calls of this incarnation.
    pub fn note(&mut self, node: &NodeName, incarnation: Incarnation, calls: u32) {
        let incarnations = self.0.entry(node.clone()).or_default();
        if let Some((_, known)) = incarnations.iter_mut().find(|(known, _)| *known == incarnation) {
            *known = calls;
            return;
        }
        if incarnations.len() > REMEMBERED_INCARNATIONS {
            incarnations.remove(least_needed(incarnations.iter().map(|(_, calls)| *calls > 0)));
        }
        incarnations.push_back((incarnation, calls));
    }

    /// Whether this incarnation had calls in its last report.
    pub fn had_calls(&self, node: &NodeName, incarnation: Incarnation) -> bool {
        self.calls(node, incarnation).is_some_and(|calls| calls > 0)
    }

    /// Number of calls of this incarnation in its last report.
    pub fn calls(&self, node: &NodeName, incarnation: Incarnation) -> Option<u32> {
        self.0.get(node)?.iter().find(|(known, _)| *known == incarnation).map(|(_, calls)| *calls)
    }

    /// All call counts, the latest last per node.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, Incarnation, u32)> {
        self.0.iter().flat_map(|(node, incarnations)| {
            incarnations.iter().map(move |(incarnation, calls)| (node, *incarnation, *calls))
        })
    }

    /// Forgets this incarnation.
    pub fn forget(&mut self, node: &NodeName, incarnation: Incarnation) {
        self.retain(|known, of| (known, of) != (node, incarnation));
    }

    /// Forgets all incarnations of this node but the present one.
    pub fn forget_earlier(&mut self, node: &NodeName, present: Incarnation) {
        self.retain(|known, incarnation| known != node || incarnation == present);
    }

    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(&NodeName, Incarnation) -> bool) {
        for (node, incarnations) in &mut self.0 {
            incarnations.retain(|(incarnation, _)| keeps(node, *incarnation));
        }
        self.0.retain(|_, incarnations| !incarnations.is_empty());
    }
}

/// An incarnation that has ended by the leader's knowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedIncarnation {
    /// Its node.
    pub node: NodeName,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Number of its calls in its last report.
    pub calls: u32,
    /// Whether an exit is proved (rule R1). Otherwise only its lease has expired, and the members that probe its SIP
    /// address decide.
    pub proven: bool,
}

impl State {
    /// The heir of the calls of this incarnation.
    pub fn heir_of(&self, node: &NodeName, incarnation: Incarnation) -> Option<&CallHeir> {
        self.heirs.iter().find(|item| item.node == *node && item.incarnation == incarnation)
    }

    /// Assigns the heir of an incarnation's calls: only once, even if it is planned again.
    pub(crate) fn inherit(&mut self, item: CallHeir) -> CommandOutcome {
        let CallHeir { node, incarnation, heir, heir_incarnation, .. } = &item;
        let heir_is_live =
            self.members.get(heir).is_some_and(|m| m.serves() && m.incarnation == Some(*heir_incarnation));
        let settled = self.heir_of(node, *incarnation).is_some();
        if self.feature_level < HEIRS_LEVEL
            || settled
            || !heir_is_live
            || node == heir
            || !self.members.contains_key(node)
        {
            return CommandOutcome::Stale;
        }
        let epoch = Some(self.next_epoch(heir.clone()));
        let of_same = |known: &CallHeir| known.node == item.node;
        if self.feature_level < CALLS_FIRST_LEVEL {
            if self.heirs.iter().filter(|known| of_same(known)).count() >= REMEMBERED_INCARNATIONS
                && let Some(oldest) = self.heirs.iter().position(of_same)
            {
                self.heirs.remove(oldest);
            }
            push_bounded(&mut self.heirs, CallHeir { epoch, ..item }, REMEMBERED_HEIRS);
            return CommandOutcome::Done;
        }
        make_room(&mut self.heirs, REMEMBERED_INCARNATIONS, of_same);
        make_room(&mut self.heirs, REMEMBERED_HEIRS, |_| true);
        self.heirs.push(CallHeir { epoch, ..item });
        CommandOutcome::Done
    }
}

/// Makes room for one more among the counted heirs if there are more than `most`: one without calls goes first.
fn make_room(heirs: &mut Vec<CallHeir>, most: usize, counts: impl Fn(&CallHeir) -> bool) {
    let of_them: Vec<usize> = (0..heirs.len()).filter(|at| counts(&heirs[*at])).collect();
    if of_them.len() > most {
        heirs.remove(of_them[least_needed(of_them.iter().map(|at| heirs[*at].calls > 0))]);
    }
}

/// Assigns heirs to ended incarnations that have none: a node in service with the fewest calls, in active-passive the
/// active one. Without an active one, a passive node inherits calls in progress: it refuses only new ones.
pub(crate) fn heirs(view: &View, state: &State) -> Vec<Command> {
    // In a pair the survivor is the heir without agreement (rule C4).
    if state.feature_level < HEIRS_LEVEL || state.is_bare_pair() {
        return Vec::new();
    }
    let orphaned = view.ended.iter().filter(|ended| state.heir_of(&ended.node, ended.incarnation).is_none());
    let inherit = |ended: &EndedIncarnation| {
        let (to, incarnation) = heir(view, state, ended)?;
        let cause = if ended.proven { Cause::Exit } else { Cause::MissedKeepAlives };
        let (of, calls, at_ms) = (ended.node.clone(), ended.calls, view.wall_ms);
        Some(Command::Inherit { of, ended: ended.incarnation, to, incarnation, calls, cause, at_ms })
    };
    orphaned.filter_map(inherit).collect()
}

fn heir(view: &View, state: &State, ended: &EndedIncarnation) -> Option<(NodeName, Incarnation)> {
    let live = || view.observed.iter().filter(|(name, s)| s.presence == Presence::Live && **name != ended.node);
    // An incarnation counts as dead if its SIP address answers neither the heir nor another member.
    let unanswered = || live().filter(|(_, observed)| observed.report.unanswered.contains(&ended.node));
    let given_up = unanswered().count() > 1;
    let fits = |(name, observed): &(&NodeName, &crate::MemberObservation)| {
        let same_incarnation = observed.incarnation.is_some()
            && state
                .members
                .get(*name)
                .is_some_and(|member| member.serves() && member.incarnation == observed.incarnation);
        same_incarnation && (ended.proven || (given_up && observed.report.unanswered.contains(&ended.node)))
    };
    let passive = |name| state.settings.mode == Mode::ActivePassive && state.publisher() != Some(name);
    let (name, observed) = live().filter(fits).min_by_key(|(name, observed)| {
        (passive(*name), observed.report.measures.calls.unwrap_or(u32::MAX), (*name).clone())
    })?;
    Some((name.clone(), observed.incarnation?))
}

/// Inheritances of the survivor of a pair without a witness, by proof alone (rule C4): no other node could be the heir,
/// and there is none to agree with. As long as the `voters` are the two members that it knows, nothing was agreed on
/// without it. `call_counts` are those reported while this process ran: incarnations that ended before it began belong
/// to another heir or to none (rule R11).
pub fn heirs_by_proof(
    state: &State,
    voters: &Voters,
    own: (&NodeName, Incarnation),
    exits: &Exits,
    call_counts: &CallCounts,
    wall_ms: u64,
) -> Vec<CallHeir> {
    let (heir, heir_incarnation) = own;
    // In-service cannot be agreed on while the other node is dead, so only activation counts.
    let activated = state.members.get(heir).is_some_and(|member| member.activated);
    if !state.is_pair_of(voters) || !activated {
        return Vec::new();
    }
    // Heirs agreed on while there were more members stay.
    let orphaned = |node: &NodeName, incarnation| {
        let ended = node != heir && state.members.contains_key(node) && exits.has(node, incarnation);
        ended && state.heir_of(node, incarnation).is_none()
    };
    let inherit = |(node, incarnation, calls): (&NodeName, Incarnation, u32)| CallHeir {
        node: node.clone(),
        incarnation,
        heir: heir.clone(),
        heir_incarnation,
        epoch: None,
        calls,
        cause: Cause::Exit,
        at_ms: wall_ms,
    };
    call_counts.iter().filter(|(node, incarnation, _)| orphaned(node, *incarnation)).map(inherit).collect()
}
