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
pub struct Waiting {
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
    waiting: HashMap<EffectId, Waiting>,
    /// Attempts under way: group, and whether alone.
    active: HashMap<EffectId, (u128, bool)>,
    groups: HashMap<u128, usize>,
    /// A change that came while the effect was being attempted.
    changed: HashMap<EffectId, Waiting>,
    /// Effects on hold, with their targets: not due before their hold ends or their target changes.
    held: HashMap<EffectId, DeviceId>,
}

impl OutboxQueue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Adds an effect, or replaces what was known of it. While it is being attempted, the change counts afterwards.
    pub fn want(&mut self, waiting: Waiting) {
        self.held.remove(&waiting.id);
        if self.active.contains_key(&waiting.id) {
            self.changed.insert(waiting.id, waiting);
            return;
        }
        self.remove(waiting.id);
        self.order(&waiting).insert((waiting.due, waiting.id));
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
        if let Some(known) = self.waiting.remove(&id) {
            self.order(&known).remove(&(known.due, id));
        }
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
            None => self.shared.iter().take_while(|(due, _)| *due <= now).map(|(_, id)| *id).find(|id| {
                let group = self.waiting.get(id).map(|waiting| waiting.group);
                group.is_some_and(|group| self.in_group(group) < self.limits.per_mailbox)
            })?,
        };
        let waiting = self.waiting.remove(&id)?;
        self.order(&waiting).remove(&(waiting.due, id));
        self.active.insert(id, (waiting.group, waiting.alone));
        *self.groups.entry(waiting.group).or_default() += 1;
        Some(id)
    }

    /// Ends an attempt. The effect waits again if a change arrived meanwhile; otherwise [`Self::want`] says when.
    pub fn finished(&mut self, id: EffectId) {
        if let Some((group, _)) = self.active.remove(&id)
            && let Some(count) = self.groups.get_mut(&group)
        {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&group);
            }
        }
        if let Some(waiting) = self.changed.remove(&id) {
            self.want(waiting);
        }
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

    fn in_group(&self, group: u128) -> usize {
        self.groups.get(&group).copied().unwrap_or_default()
    }

    fn order(&mut self, waiting: &Waiting) -> &mut BTreeSet<(Timestamp, EffectId)> {
        if waiting.alone { &mut self.alone } else { &mut self.shared }
    }
}
