//! Who answers for the calls of a life that is over (rules C3, C4 and R11): one heir for each life, once, in an epoch.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{
    Cause, Command, Exits, Mode, Outcome, Presence, State, View, Voters, exits::least_needed, state::push_bounded,
};

/// The feature level from which on heirs are agreed on: members below it do not know the command.
pub const HEIRS_LEVEL: u32 = 2;
/// The feature level from which on the heir of a life with calls is remembered longer than those of lives without.
pub const CALLS_FIRST_LEVEL: u32 = 4;
/// How many lives of one node are remembered, with their calls (beside the latest) or their heirs …
const REMEMBERED_LIVES: usize = 4;
/// … and how many heirs in all.
const REMEMBERED_HEIRS: usize = 32;

/// The calls of one life of a node, and who answers for them since that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inheritance {
    /// Whose calls.
    pub node: NodeName,
    /// The life that is over.
    pub life: Incarnation,
    /// Who answers for them.
    pub heir: NodeName,
    /// The life of the heir that does; a later one has nothing of them (rule R11).
    pub heir_life: Incarnation,
    /// In which epoch the heir may act; none for the survivor of a pair, which is the heir by proof alone (rule C4).
    pub epoch: Option<Epoch>,
    /// How many calls the life had when it reported last.
    pub calls: u32,
    /// Why the life counts as over.
    pub cause: Cause,
    /// When the heir was found, by its finder's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
}

/// How many calls each life had when it reported last. It grows to a few lives for each node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lives(BTreeMap<NodeName, VecDeque<(Incarnation, u32)>>);

impl Lives {
    /// This life of this node has so many calls.
    pub fn note(&mut self, node: &NodeName, life: Incarnation, calls: u32) {
        let lives = self.0.entry(node.clone()).or_default();
        if let Some((_, known)) = lives.iter_mut().find(|(known, _)| *known == life) {
            *known = calls;
            return;
        }
        if lives.len() > REMEMBERED_LIVES {
            lives.remove(least_needed(lives.iter().map(|(_, calls)| *calls > 0)));
        }
        lives.push_back((life, calls));
    }

    /// Whether this life had calls when it reported last.
    pub fn had_calls(&self, node: &NodeName, life: Incarnation) -> bool {
        self.calls(node, life).is_some_and(|calls| calls > 0)
    }

    /// How many calls this life had when it reported last.
    pub fn calls(&self, node: &NodeName, life: Incarnation) -> Option<u32> {
        self.0.get(node)?.iter().find(|(known, _)| *known == life).map(|(_, calls)| *calls)
    }

    /// All of them, the latest last per node.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, Incarnation, u32)> {
        self.0.iter().flat_map(|(node, lives)| lives.iter().map(move |(life, calls)| (node, *life, *calls)))
    }

    /// Nobody needs to know of this life any more.
    pub fn forget(&mut self, node: &NodeName, life: Incarnation) {
        self.retain(|known, of| (known, of) != (node, life));
    }

    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(&NodeName, Incarnation) -> bool) {
        for (node, lives) in &mut self.0 {
            lives.retain(|(life, _)| keeps(node, *life));
        }
        self.0.retain(|_, lives| !lives.is_empty());
    }
}

/// A life that is over, as the leader knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub node: NodeName,
    /// Which.
    pub life: Incarnation,
    /// How many calls it had when it reported last.
    pub calls: u32,
    /// Proved (rule R1); else its lease is out, and whether it is dead is for those to say who call its SIP address.
    pub proven: bool,
}

impl State {
    /// Who answers for the calls of this life.
    pub fn heir_of(&self, node: &NodeName, life: Incarnation) -> Option<&Inheritance> {
        self.heirs.iter().find(|item| item.node == *node && item.life == life)
    }

    /// The calls of a life get their heir: once, whoever plans it again.
    pub(crate) fn inherit(&mut self, item: Inheritance) -> Outcome {
        let Inheritance { node, life, heir, heir_life, .. } = &item;
        let lives = self.members.get(heir).is_some_and(|m| m.serves() && m.incarnation == Some(*heir_life));
        let settled = self.heir_of(node, *life).is_some();
        if self.feature_level < HEIRS_LEVEL || settled || !lives || node == heir || !self.members.contains_key(node)
        {
            return Outcome::Stale;
        }
        let epoch = Some(self.next_epoch(heir.clone()));
        let of_same = |known: &Inheritance| known.node == item.node;
        if self.feature_level < CALLS_FIRST_LEVEL {
            if self.heirs.iter().filter(|known| of_same(known)).count() >= REMEMBERED_LIVES
                && let Some(oldest) = self.heirs.iter().position(of_same)
            {
                self.heirs.remove(oldest);
            }
            push_bounded(&mut self.heirs, Inheritance { epoch, ..item }, REMEMBERED_HEIRS);
            return Outcome::Done;
        }
        make_room(&mut self.heirs, REMEMBERED_LIVES, of_same);
        make_room(&mut self.heirs, REMEMBERED_HEIRS, |_| true);
        self.heirs.push(Inheritance { epoch, ..item });
        Outcome::Done
    }
}

/// Of those that count no more than so many stay: a life without calls goes first.
fn make_room(heirs: &mut Vec<Inheritance>, most: usize, counts: impl Fn(&Inheritance) -> bool) {
    let of_them: Vec<usize> = (0..heirs.len()).filter(|at| counts(&heirs[*at])).collect();
    if of_them.len() > most {
        heirs.remove(of_them[least_needed(of_them.iter().map(|at| heirs[*at].calls > 0))]);
    }
}

/// The heirs of lives that are over and have none: a node in service with the fewest calls, the active one where the
/// others are passive. Without an active one, calls in progress are a passive node's: it refuses new ones alone.
pub(crate) fn heirs(view: &View, state: &State) -> Vec<Command> {
    // Of a pair the survivor is the heir without anybody's word: nothing is to be agreed on (rule C4).
    if state.feature_level < HEIRS_LEVEL || state.is_bare_pair() {
        return Vec::new();
    }
    let orphaned = view.ended.iter().filter(|ended| state.heir_of(&ended.node, ended.life).is_none());
    let inherit = |ended: &Ended| {
        let (to, incarnation) = heir(view, state, ended)?;
        let cause = if ended.proven { Cause::Exit } else { Cause::MissedKeepAlives };
        let Ended { node, life, calls, .. } = ended.clone();
        Some(Command::Inherit { of: node, life, to, incarnation, calls, cause, at_ms: view.wall_ms })
    };
    orphaned.filter_map(inherit).collect()
}

fn heir(view: &View, state: &State, ended: &Ended) -> Option<(NodeName, Incarnation)> {
    let live = || view.seen.iter().filter(|(name, s)| s.presence == Presence::Live && **name != ended.node);
    // Whose SIP address answers neither the heir nor another member is as good as dead.
    let unanswered = || live().filter(|(_, seen)| seen.report.unanswered.contains(&ended.node));
    let given_up = unanswered().count() > 1;
    let fits = |(name, seen): &(&NodeName, &crate::Seen)| {
        let same_life = seen.incarnation.is_some()
            && state
                .members
                .get(*name)
                .is_some_and(|member| member.serves() && member.incarnation == seen.incarnation);
        same_life && (ended.proven || (given_up && seen.report.unanswered.contains(&ended.node)))
    };
    let passive = |name| state.settings.mode == Mode::ActivePassive && state.publisher() != Some(name);
    let (name, seen) = live().filter(fits).min_by_key(|(name, seen)| {
        (passive(*name), seen.report.measures.calls.unwrap_or(u32::MAX), (*name).clone())
    })?;
    Some((name.clone(), seen.incarnation?))
}

/// What the survivor of a pair without a witness inherits by proof alone (rule C4): nobody else could be the heir, and
/// nobody is there to agree with. As long as the `voters` are the two members that it knows of, nothing was agreed on
/// without it. `lives` are those that this very process has been told of while they lived: what ended before it began is
/// another's, or nobody's (rule R11).
pub fn by_proof(
    state: &State,
    voters: &Voters,
    own: (&NodeName, Incarnation),
    exits: &Exits,
    lives: &Lives,
    wall_ms: u64,
) -> Vec<Inheritance> {
    let (heir, heir_life) = own;
    // Whether it is in service nobody can agree on while the other is dead.
    let may = state.members.get(heir).is_some_and(|member| member.activated);
    if !state.is_pair_of(voters) || !may {
        return Vec::new();
    }
    // What was agreed on while there were more of them stays.
    let orphaned = |node: &NodeName, life| {
        let over = node != heir && state.members.contains_key(node) && exits.has(node, life);
        over && state.heir_of(node, life).is_none()
    };
    let inherit = |(node, life, calls): (&NodeName, Incarnation, u32)| Inheritance {
        node: node.clone(),
        life,
        heir: heir.clone(),
        heir_life,
        epoch: None,
        calls,
        cause: Cause::Exit,
        at_ms: wall_ms,
    };
    lives.iter().filter(|(node, life, _)| orphaned(node, *life)).map(inherit).collect()
}
