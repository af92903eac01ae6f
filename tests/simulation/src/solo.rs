//! Nodes of a pair that begin or end solo mode: the real decisions ([`SoloStep`](twinbox_roles_member::SoloStep)),
//! carried out with the gates and disks of this cluster.

use std::time::Duration;

use twinbox_roles_core::{MemberKind, SoloInputs, Timing};
use twinbox_roles_member::{HolderEvent, SoloAction, SoloEvent};

use crate::{
    Mutant,
    member::Process,
    world::{Focus, World},
};

impl World {
    pub(crate) fn probe_arbiter(&mut self, member: usize) {
        let now = self.local(member);
        if !self.no_arbiter.contains(&member)
            && let Some(process) = self.awake(member)
        {
            process.arbiter = Some(now);
        }
    }

    /// Lets a node begin or end solo mode, if its decision says so.
    pub(crate) fn decide_solo(&mut self, member: usize) {
        if self.focus != Focus::Solo && self.focus != Focus::Members
            || self.members[member].kind == MemberKind::Witness
        {
            return;
        }
        while let Some(action) = self.look(member) {
            match action {
                SoloAction::Close => {
                    if let Some(process) = self.awake(member) {
                        process.gates.clear();
                    }
                }
                SoloAction::Wait(_) => {}
                SoloAction::Store(record) => {
                    let name = self.members[member].name.clone();
                    self.note(|| match &record.report {
                        Some(report) if report.is_acting() => format!("{name} acts solo in {}", report.epoch),
                        _ => format!("{name} stores {record:?}"),
                    });
                    if !self.is(Mutant::SoloUnkept) {
                        self.members[member].solo_record = Some(record.clone());
                    }
                    if let Some(process) = self.awake(member) {
                        process.solo.step(SoloEvent::Stored(record));
                    }
                }
            }
        }
        let now = self.local(member);
        if let Some(process) = self.awake(member).filter(|process| process.solo.is_stopping()) {
            process.holder.step(now, HolderEvent::StopsSolo);
        }
    }

    fn look(&mut self, member: usize) -> Option<SoloAction> {
        let now = self.local(member);
        let wall_ms = self.members[member].clock.wall_ms(self.now);
        let raft_id = self.members[member].raft_id;
        let voters = self.known_voters(member);
        let Timing { election_max, margin, .. } = self.timing;
        let early = if self.is(Mutant::SoloTooSoon) { election_max + margin } else { Duration::ZERO };
        let process = self.awake(member)?;
        let in_flight = process.solo.report().is_some_and(|report| process.flies_in(&report.epoch));
        let Process { holder, state, solo, last_contact, arbiter, .. } = process;
        solo.step(SoloEvent::Look(SoloInputs {
            now,
            wall_ms,
            state,
            raft_id,
            voters: &voters,
            quorum: holder.has_quorum(now, state),
            last_contact: last_contact.saturating_sub(early),
            arbiter: *arbiter,
            in_flight,
        }))
    }
}
