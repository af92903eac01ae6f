//! The effects in memory: found by target, by age and by the beginning of their ids without a walk through all of them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
};

use twinbox_ids::{DeviceId, EffectId, Timestamp};

use crate::{Effect, EffectState};

/// Part of the life of an effect, as lists tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// It waits, is on hold, is being attempted or failed.
    Open,
    /// It was given up.
    Dead,
    /// It is done.
    Done,
}

impl Phase {
    /// The phase of an effect in this state.
    pub const fn of(state: EffectState) -> Self {
        match state {
            EffectState::Pending | EffectState::Failed => Self::Open,
            EffectState::Dead => Self::Dead,
            EffectState::Done => Self::Done,
        }
    }
}

/// The data of one effect in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indexed {
    /// The target.
    pub target: DeviceId,
    /// Time of its creation.
    pub created: Timestamp,
    /// The phase.
    pub phase: Phase,
}

impl From<&Effect> for Indexed {
    fn from(effect: &Effect) -> Self {
        Self { target: effect.new.target, created: effect.new.created, phase: Phase::of(effect.state()) }
    }
}

/// Place of an effect in lists, newest first.
type ListPosition = (Reverse<Timestamp>, EffectId);

/// The index.
#[derive(Debug, Default)]
pub struct EffectIndex {
    all: BTreeMap<EffectId, Indexed>,
    targets: HashMap<DeviceId, HashSet<EffectId>>,
    phases: HashMap<Phase, BTreeSet<ListPosition>>,
}

impl EffectIndex {
    /// Puts an effect where its record says; `None`: it was removed.
    pub fn place(&mut self, id: EffectId, indexed: Option<Indexed>) {
        let before = match indexed {
            Some(indexed) => self.all.insert(id, indexed),
            None => self.all.remove(&id),
        };
        if before == indexed {
            return;
        }
        if let Some(Indexed { target, created, phase }) = before {
            if let Some(ids) = self.targets.get_mut(&target) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.targets.remove(&target);
                }
            }
            if let Some(places) = self.phases.get_mut(&phase) {
                places.remove(&(Reverse(created), id));
            }
        }
        if let Some(Indexed { target, created, phase }) = indexed {
            self.targets.entry(target).or_default().insert(id);
            self.phases.entry(phase).or_default().insert((Reverse(created), id));
        }
    }

    /// The effects of a target.
    pub fn of_target(&self, target: DeviceId) -> Vec<EffectId> {
        self.targets.get(&target).into_iter().flatten().copied().collect()
    }

    /// The effects whose ids begin with these hexadecimal digits, at most `most`.
    pub fn of_prefix(&self, digits: &str, most: usize) -> Vec<EffectId> {
        let bound = |fill| u128::from_str_radix(&padded(digits, fill), 16);
        let (Ok(first), Ok(last)) = (bound('0'), bound('f')) else { return Vec::new() };
        self.all.range(EffectId(first)..=EffectId(last)).map(|(id, _)| *id).take(most).collect()
    }

    /// At most `most` effects in these phases, newest first, behind the one that was created then and has that id.
    pub fn newest(&self, phases: &[Phase], after: Option<(Timestamp, EffectId)>, most: usize) -> Vec<EffectId> {
        let after = after.map_or(Bound::Unbounded, |(created, id)| Bound::Excluded((Reverse(created), id)));
        let mut found: Vec<ListPosition> = Vec::new();
        for places in phases.iter().filter_map(|phase| self.phases.get(phase)) {
            found.extend(places.range((after, Bound::Unbounded)).take(most));
        }
        found.sort_unstable();
        found.truncate(most);
        found.into_iter().map(|(_, id)| id).collect()
    }
}

/// The digits of an id, filled up with this digit.
fn padded(digits: &str, fill: char) -> String {
    let missing = 32_usize.saturating_sub(digits.len());
    digits.chars().chain(std::iter::repeat_n(fill, missing)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexed(target: u128, created: u64, phase: Phase) -> Option<Indexed> {
        Some(Indexed { target: DeviceId(target), created: Timestamp(created), phase })
    }

    fn ids(ids: &[u128]) -> Vec<EffectId> {
        ids.iter().copied().map(EffectId).collect()
    }

    #[test]
    fn effects_are_listed_newest_first_in_parts_that_neither_repeat_nor_leave_out_any() {
        let mut index = EffectIndex::default();
        for (id, created, phase) in [
            (1, 10, Phase::Open),
            (2, 20, Phase::Dead),
            (3, 20, Phase::Open),
            (4, 5, Phase::Done),
            (5, 30, Phase::Done),
        ] {
            index.place(EffectId(id), indexed(7, created, phase));
        }
        let not_done = [Phase::Open, Phase::Dead];
        assert_eq!(index.newest(&not_done, None, 2), ids(&[2, 3]));
        assert_eq!(index.newest(&not_done, Some((Timestamp(20), EffectId(2))), 2), ids(&[3, 1]));
        assert_eq!(index.newest(&not_done, Some((Timestamp(10), EffectId(1))), 2), ids(&[]));
        assert_eq!(index.newest(&[Phase::Done], None, 9), ids(&[5, 4]));
        // An effect that comes to its end is in one place only, and a removed one in none.
        index.place(EffectId(1), indexed(8, 10, Phase::Done));
        index.place(EffectId(5), None);
        let all = [Phase::Open, Phase::Dead, Phase::Done];
        assert_eq!(index.newest(&all, None, 9), ids(&[2, 3, 1, 4]));
        assert_eq!(index.newest(&[Phase::Open], None, 9), ids(&[3]));
        assert_eq!((index.of_target(DeviceId(8)), index.of_target(DeviceId(9))), (ids(&[1]), ids(&[])));
    }

    #[test]
    fn beginning_of_an_id_finds_those_that_begin_so_and_no_others() {
        let mut index = EffectIndex::default();
        let id = |text: &str| text.parse::<EffectId>().expect("an id");
        let [first, second, other] = ["3fa9", "3faa", "3fb0"].map(|begin| id(&format!("{begin:0<32}")));
        for effect in [first, second, other] {
            index.place(effect, indexed(1, 1, Phase::Open));
        }
        assert_eq!(index.of_prefix("3fa", 9), [first, second]);
        assert_eq!(index.of_prefix("3fa", 1), [first]);
        assert_eq!(index.of_prefix(&first.to_string(), 9), [first]);
        assert_eq!(index.of_prefix("4", 9), ids(&[]));
        assert_eq!(index.of_prefix("not hexadecimal", 9), ids(&[]));
    }
}
