//! The effects on members' disks: the real records, which replicate as changes.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{EffectId, NodeName, Origin, Timestamp};
use twinbox_outbox::{Effect, schema::effect_key};
use twinbox_replication_core::{Clock, Edit, Record};

/// A change of one effect, as every member merges it.
struct Change {
    id: EffectId,
    delta: Record,
}

/// The changes of all members, by number.
#[derive(Default)]
pub(super) struct Changes(Vec<Change>);

/// The effects on the disk of one member. They survive its process.
pub(super) struct Disk {
    node: NodeName,
    clock: Clock,
    records: BTreeMap<EffectId, Record>,
    /// Numbers of the changes here, in the order of their arrival.
    log: Vec<usize>,
    has: BTreeSet<usize>,
}

impl Disk {
    pub(super) fn new(node: NodeName, member: usize) -> Self {
        let clock = Clock::new(Origin(member as u128 + 1));
        Self { node, clock, records: BTreeMap::new(), log: Vec::new(), has: BTreeSet::new() }
    }

    pub(super) fn effect(&self, id: EffectId) -> Option<Effect> {
        Effect::read(&effect_key(id), self.records.get(&id)?).ok().flatten()
    }

    pub(super) fn record(&self, id: EffectId) -> Option<&Record> {
        self.records.get(&id)
    }

    pub(super) fn ids(&self) -> Vec<EffectId> {
        self.records.keys().copied().collect()
    }

    pub(super) fn has(&self, change: usize) -> bool {
        self.has.contains(&change)
    }

    /// Number of changes here.
    pub(super) fn length(&self) -> usize {
        self.log.len()
    }

    /// The changes here from a position of the log on.
    pub(super) fn log_from(&self, position: usize) -> Vec<usize> {
        self.log.get(position..).unwrap_or_default().to_vec()
    }

    /// Makes edits durable here, as one change; returns its number.
    pub(super) fn commit(&mut self, changes: &mut Changes, id: EffectId, edits: &[Edit], at: Timestamp) -> usize {
        let record = self.records.entry(id).or_default();
        let mut delta = Record::new();
        for edit in edits {
            let stamp = self.clock.tick(at, record.latest());
            let part = edit.delta(record, stamp, &self.node);
            record.merge(part.clone());
            delta.merge(part);
        }
        let number = changes.0.len();
        changes.0.push(Change { id, delta });
        self.log.push(number);
        self.has.insert(number);
        number
    }

    /// Merges changes of another member, in its order; returns the effects that changed.
    pub(super) fn follow(&mut self, changes: &Changes, numbers: &[usize]) -> BTreeSet<EffectId> {
        let mut changed = BTreeSet::new();
        for number in numbers {
            if let Some(Change { id, delta }) = changes.0.get(*number)
                && self.has.insert(*number)
            {
                self.records.entry(*id).or_default().merge(delta.clone());
                self.log.push(*number);
                changed.insert(*id);
            }
        }
        changed
    }
}
