//! The changes that are here, as a store that is being opened has them.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_disk::Disk;
use twinbox_ids::Origin;
use twinbox_replication_core::{Have, Ranges};

use crate::{StoreError, draft::decode_upto, keys};

/// The changes here: the gap-free prefixes as stored, those beyond them from the log, and the marks of those that were set aside.
pub(crate) fn read(disk: &Disk) -> Result<Have, StoreError> {
    let mut aside = BTreeSet::new();
    for entry in disk.scan(keys::SET_ASIDE) {
        aside.extend(keys::set_aside_change(&entry?.0));
    }
    Ok(Have { durable: read_durable(disk)?, aside })
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
