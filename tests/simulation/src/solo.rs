//! Disks and arbiter of nodes of a pair in solo mode.

use twinbox_roles_core::SoloRecord;
use twinbox_roles_member::NodeEvent;

use crate::{Mutant, world::World};

impl World {
    pub(crate) fn probe_arbiter(&mut self, member: usize) {
        let now = self.local(member);
        if !self.no_arbiter.contains(&member)
            && let Some(process) = self.awake(member)
        {
            process.arbiter = Some(now);
        }
    }

    /// A record of solo mode is written to a member's disk.
    pub(crate) fn store_solo_record(&mut self, member: usize, record: SoloRecord) {
        let now = self.local(member);
        let name = self.members[member].name.clone();
        self.note(|| match &record.report {
            Some(report) if report.is_acting() => format!("{name} acts solo in {}", report.epoch),
            _ => format!("{name} stores {record:?}"),
        });
        if !self.is(Mutant::SoloUnkept) {
            self.members[member].solo_record = Some(record.clone());
        }
        if let Some(process) = self.awake(member) {
            process.node.step(now, NodeEvent::Stored(record));
        }
    }
}
