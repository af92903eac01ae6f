//! Order and limits of attempts while a duty is held.

use std::collections::{BTreeSet, HashMap};

use twinbox_ids::{DeviceId, EffectId, Timestamp};

/// Limits of concurrent attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts at the same time.
    pub attempts: usize,
    /// Attempts at the same time for one mailbox's devices, so that one user's dead receiver does not hold up others.
    pub per_mailbox: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { attempts: 32, per_mailbox: 4 }
    }
}

/// An effect that waits for its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingEffect {
    /// The effect.
    pub id: EffectId,
    /// Earliest time of the attempt.
    pub due: Timestamp,
    /// Group of effects that share [`Limits::per_mailbox`].
    pub group: u128,
    /// To be attempted with no other beside it (rule R11).
    pub alone: bool,
}

/// The effects of one duty that are not at their end.
#[derive(Debug, Default)]
pub struct OutboxQueue {
    limits: Limits,
    /// Effects by time: those to be attempted alone, and the others.
    alone: BTreeSet<(Timestamp, EffectId)>,
    shared: BTreeSet<(Timestamp, EffectId)>,
    /// The earliest shared effect of each group that is not at its limit: those of a group at its limit cost a search
    /// nothing.
    ready: BTreeSet<(Timestamp, EffectId)>,
    waiting: HashMap<EffectId, WaitingEffect>,
    /// Attempts under way: group, and whether alone.
    active: HashMap<EffectId, (u128, bool)>,
    groups: HashMap<u128, Group>,
    /// A change that came while the effect was being attempted.
    changed: HashMap<EffectId, WaitingEffect>,
    /// Effects on hold, with their targets: not due before their hold ends or their target changes.
    held: HashMap<EffectId, DeviceId>,
}

/// The effects that share [`Limits::per_mailbox`].
#[derive(Debug, Default)]
struct Group {
    /// Attempts under way.
    active: usize,
    /// Shared effects by time.
    waiting: BTreeSet<(Timestamp, EffectId)>,
}

impl OutboxQueue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Adds an effect, or replaces what was known of it. While it is being attempted, the change counts afterwards.
    pub fn want(&mut self, waiting: WaitingEffect) {
        self.held.remove(&waiting.id);
        if self.active.contains_key(&waiting.id) {
            self.changed.insert(waiting.id, waiting);
            return;
        }
        self.remove(waiting.id);
        let place = (waiting.due, waiting.id);
        if waiting.alone {
            self.alone.insert(place);
        } else {
            self.shared.insert(place);
            self.change_group(waiting.group, |group| {
                group.waiting.insert(place);
            });
        }
        self.waiting.insert(waiting.id, waiting);
    }

    /// Puts an effect on hold until [`Self::want`]; an attempt under way goes on.
    pub fn hold(&mut self, id: EffectId, target: DeviceId) {
        self.remove(id);
        self.held.insert(id, target);
    }

    /// Effects on hold with this target.
    pub fn held_for(&self, target: DeviceId) -> Vec<EffectId> {
        self.held.iter().filter(|(_, held)| **held == target).map(|(id, _)| *id).collect()
    }

    /// Number of effects on hold.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Removes an effect that is at its end; an attempt under way goes on.
    pub fn remove(&mut self, id: EffectId) {
        self.held.remove(&id);
        self.changed.remove(&id);
        self.take(id);
    }

    /// The next effect to attempt now, which counts as under way from here on.
    pub fn next(&mut self, now: Timestamp) -> Option<EffectId> {
        let alone_is_active = self.active.values().any(|(_, alone)| *alone);
        if alone_is_active || self.active.len() >= self.limits.attempts {
            return None;
        }
        // One that waits to be alone holds up the others: otherwise there might always be another beside it.
        let id = match self.alone.first().filter(|(due, _)| *due <= now) {
            Some(_) if !self.active.is_empty() => return None,
            Some((_, id)) => *id,
            None => self.ready.first().filter(|(due, _)| *due <= now).map(|(_, id)| *id)?,
        };
        let waiting = self.take(id)?;
        self.active.insert(id, (waiting.group, waiting.alone));
        self.change_group(waiting.group, |group| group.active += 1);
        Some(id)
    }

    /// Ends an attempt. The effect waits again if a change arrived meanwhile; otherwise [`Self::want`] says when.
    pub fn finished(&mut self, id: EffectId) {
        if let Some((group, _)) = self.active.remove(&id) {
            self.change_group(group, |group| group.active = group.active.saturating_sub(1));
        }
        if let Some(waiting) = self.changed.remove(&id) {
            self.want(waiting);
        }
    }

    /// Whether an effect is being attempted, or is due and waits for its turn.
    pub fn is_under_way(&self, id: EffectId, now: Timestamp) -> bool {
        self.active.contains_key(&id) || self.waiting.get(&id).is_some_and(|waiting| waiting.due <= now)
    }

    /// Time at which [`Self::next`] may have an effect, if no attempt ends before.
    pub fn wake(&self) -> Option<Timestamp> {
        self.alone.first().into_iter().chain(self.shared.first()).map(|(due, _)| *due).min()
    }

    /// Effects that wait for their time, and attempts under way.
    pub fn len(&self) -> (usize, usize) {
        (self.waiting.len(), self.active.len())
    }

    /// True when nothing waits, nothing is on hold and no attempt is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0) && self.held.is_empty()
    }

    /// Takes an effect out of those that wait.
    fn take(&mut self, id: EffectId) -> Option<WaitingEffect> {
        let waiting = self.waiting.remove(&id)?;
        let place = (waiting.due, id);
        if waiting.alone {
            self.alone.remove(&place);
        } else {
            self.shared.remove(&place);
            self.change_group(waiting.group, |group| {
                group.waiting.remove(&place);
            });
        }
        Some(waiting)
    }

    /// Changes a group, and its place among those that are ready.
    fn change_group(&mut self, id: u128, change: impl FnOnce(&mut Group)) {
        let limit = self.limits.per_mailbox;
        let ready = |group: &Group| group.waiting.first().copied().filter(|_| group.active < limit);
        let group = self.groups.entry(id).or_default();
        let before = ready(group);
        change(group);
        let after = ready(group);
        if group.active == 0 && group.waiting.is_empty() {
            self.groups.remove(&id);
        }
        if before != after {
            if let Some(place) = before {
                self.ready.remove(&place);
            }
            self.ready.extend(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A search looks at `ready` alone: it must not grow with the effects of a mailbox at its limit.
    #[test]
    fn effects_of_a_mailbox_at_its_limit_cost_a_search_nothing() {
        let limits = Limits { attempts: 8, per_mailbox: 4 };
        let mut queue = OutboxQueue::new(limits);
        let waiting = |id, group| WaitingEffect { id: EffectId(id), due: Timestamp(1), group, alone: false };
        (0..5_000).for_each(|id| queue.want(waiting(id, 1)));
        queue.want(waiting(9_000, 2));
        assert_eq!(queue.ready.len(), 2, "one of each mailbox");
        let begun: Vec<EffectId> = std::iter::from_fn(|| queue.next(Timestamp(1))).collect();
        assert_eq!(begun, [0, 1, 2, 3, 9_000].map(EffectId));
        assert!(queue.ready.is_empty(), "the rest waits for the end of an attempt");
        let under_way = |id, at| queue.is_under_way(EffectId(id), Timestamp(at));
        assert!(under_way(0, 0) && under_way(4, 1), "attempted, and due");
        assert!(!under_way(4, 0) && !under_way(9_001, 1), "neither before its time nor an unknown one");
        queue.finished(EffectId(2));
        assert_eq!((queue.ready.len(), queue.next(Timestamp(1))), (1, Some(EffectId(4))));
        (0..5_000).chain([9_000]).map(EffectId).for_each(|id| queue.remove(id));
        [0, 1, 3, 4, 9_000].map(EffectId).into_iter().for_each(|id| queue.finished(id));
        assert!(queue.is_empty() && queue.groups.is_empty() && queue.ready.is_empty());
    }
}
