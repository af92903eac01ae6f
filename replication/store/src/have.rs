//! The changes that are here: all that are durable, and those of them that are not in their rows.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_disk::Disk;
use twinbox_ids::Origin;
use twinbox_replication_core::{Ranges, Vector};

use crate::{StoreError, compare::set_aside_change, draft::decode_upto, keys};

/// Changes here, by number.
#[derive(Default)]
pub(crate) struct Have {
    /// Every change that is durable here.
    pub(crate) durable: BTreeMap<Origin, Ranges>,
    /// Those that were set aside: they are in the log, but not in their rows.
    pub(crate) aside: BTreeSet<(Origin, u64)>,
}

impl Have {
    /// The changes in a store that is being opened: the gap-free prefixes as stored, those beyond them from the log, and the
    /// marks of those that were set aside.
    pub(crate) fn read(disk: &Disk) -> Result<Self, StoreError> {
        let mut aside = BTreeSet::new();
        for entry in disk.scan(keys::SET_ASIDE) {
            aside.extend(set_aside_change(&entry?.0));
        }
        Ok(Self { durable: read_durable(disk)?, aside })
    }

    /// The changes of an origin that were set aside, those that a fill by state has put behind the beginning of the log left
    /// out: the rows of its source stand for them.
    fn aside_of<'a>(&'a self, origin: Origin, begins: &Vector) -> impl Iterator<Item = u64> + use<'a> {
        let first = begins.get(origin).saturating_add(1);
        self.aside.range((origin, first)..=(origin, u64::MAX)).map(|(_, seq)| *seq)
    }

    /// True when the change is in its row.
    pub(crate) fn is_applied(&self, origin: Origin, seq: u64) -> bool {
        self.durable.get(&origin).is_some_and(|seqs| seqs.contains(seq)) && !self.aside.contains(&(origin, seq))
    }

    /// For each origin the number up to which every change is in its row.
    pub(crate) fn vector(&self, begins: &Vector) -> Vector {
        let prefix = |(origin, seqs): (&Origin, &Ranges)| {
            let durable = seqs.run_end(1) - 1;
            let upto = self.aside_of(*origin, begins).next().map_or(durable, |seq| durable.min(seq - 1));
            (*origin, upto)
        };
        self.durable.iter().map(prefix).collect()
    }

    /// For each origin the numbers of the changes that are in their rows.
    pub(crate) fn applied(&self, begins: &Vector) -> BTreeMap<Origin, Ranges> {
        let mut applied = self.durable.clone();
        for (origin, seqs) in &mut applied {
            self.aside_of(*origin, begins).for_each(|seq| seqs.remove(seq..seq + 1));
        }
        applied
    }
}

fn read_durable(disk: &Disk) -> Result<BTreeMap<Origin, Ranges>, StoreError> {
    let mut have: BTreeMap<Origin, Ranges> = BTreeMap::new();
    for entry in disk.scan(keys::VECTOR) {
        let (key, value) = entry?;
        let Some(origin) = keys::prefix_origin(&key) else { continue };
        have.entry(origin).or_default().insert(1..decode_upto(Some(&value))?.saturating_add(1));
    }
    // An origin of which only later changes are here has no prefix: go from origin to origin.
    let mut from = keys::change(Origin(0), 0);
    let end = keys::change(Origin(u128::MAX), u64::MAX);
    while let Some(entry) = disk.scan_range(&from, &end).next() {
        let Some(origin) = keys::change_origin(&entry?.0) else { break };
        let seqs = have.entry(origin).or_default();
        let beyond = keys::change(origin, seqs.run_end(1));
        for entry in disk.scan_range(&beyond, &keys::change(origin, u64::MAX)) {
            if let Some(seq) = keys::change_seq(&entry?.0) {
                seqs.insert(seq..seq.saturating_add(1));
            }
        }
        from = keys::change(origin, u64::MAX);
    }
    Ok(have)
}
