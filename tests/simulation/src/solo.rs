//! Nodes of a pair that begin or end solo mode.

use std::time::Duration;

use twinbox_roles_core::{MemberKind, SoloInputs, SoloVerdict};

use crate::{
    Mutant,
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
        let now = self.local(member);
        let wall_ms = self.members[member].clock.wall_ms(self.now);
        let raft_id = self.members[member].raft_id;
        let voters = self.known_voters(member);
        let timing = self.timing;
        let too_soon = self.is(Mutant::SoloTooSoon);
        let not_stored = self.is(Mutant::SoloUnkept);
        // Store, then act: at most these steps in one round.
        for _ in 0..3 {
            let at = self.now;
            let Some(process) = self.members[member].process.as_mut().filter(|p| p.hangs_until <= at) else {
                return;
            };
            let solo_epoch = process.solo.report().map(|report| report.epoch.clone());
            let early = if too_soon { timing.election_max + timing.margin } else { Duration::ZERO };
            let facts = SoloInputs {
                now,
                wall_ms,
                state: &process.state,
                raft_id,
                voters: &voters,
                quorum: process.holder.has_quorum(now, &process.state),
                last_contact: process.last_contact.saturating_sub(early),
                arbiter: process.arbiter,
                in_flight: solo_epoch.as_ref().is_some_and(|epoch| process.flies_in(epoch)),
            };
            match process.solo.decide(&facts) {
                SoloVerdict::Idle | SoloVerdict::Wait(_) | SoloVerdict::Stop => {
                    if process.acts_solo.take().is_some() {
                        process.gates.clear();
                    }
                    return;
                }
                SoloVerdict::Act(epoch, until) => {
                    process.acts_solo = Some((epoch, until));
                    return;
                }
                SoloVerdict::Store(record) => {
                    if process.acts_solo.take().is_some() {
                        process.gates.clear();
                    }
                    process.solo.stored(record.clone());
                    if !not_stored {
                        self.members[member].solo_record = Some(record.clone());
                    }
                    let name = self.members[member].name.clone();
                    self.note(|| match &record.report {
                        Some(report) if report.is_acting() => format!("{name} acts solo in {}", report.epoch),
                        _ => format!("{name} stores {record:?}"),
                    });
                }
            }
        }
    }
}
