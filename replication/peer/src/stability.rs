//! Stability: every member has stored a set of changes, and nothing that a member made before it knew of them is still on
//! its way to this node (rules D2, D3).
//!
//! A member reports all that is durable in its store at one moment. If that covers the mark, then every change that the
//! member made without knowledge of the mark's changes is in the report too: its commits run one after the other. If
//! this node has all that was reported, such a change has arrived here. What a member makes later it makes in knowledge
//! of the mark.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use twinbox_clock::{BootInstant, wall};
use twinbox_ids::NodeName;
use twinbox_replication_core::Holdings;

use crate::{Peers, link::Link};

/// The changes that were here at one moment.
#[derive(Debug, Clone)]
pub struct StabilityMark {
    changes: Holdings,
}

impl StabilityMark {
    /// Whether a member with this report has all changes of the mark, and this node, which has `own`, all that the member
    /// had.
    fn is_stored(&self, report: &Holdings, own: &Holdings) -> bool {
        report.covers(&self.changes) && own.covers(report)
    }
}

impl Peers {
    /// Notes the changes that are durable here now, those beyond gaps included: their records show them. A read may show
    /// a change that is not durable yet: commit (an empty commit will do) between such a read and the mark.
    pub fn mark(&self) -> StabilityMark {
        StabilityMark { changes: Holdings::from(self.store().holdings()) }
    }

    /// True when every member has durably stored all changes of the mark, `leaving` ones included, and this node has
    /// stored all that each of them had when it said so. False while any member is away. Members that have not said
    /// enough are asked; ask again after a probe (some `ack_timeout`s).
    pub fn is_stable(&self, mark: &StabilityMark) -> bool {
        let links = self.links();
        self.stored_by(&links, mark) == links.len()
    }

    /// The other members for which that does not hold, those that lack data from before their first fill, and those whose
    /// fill went without a member that they have not heard since: the disk that they had before may be lost, and with it
    /// what only that member has. The first ones are asked, as by [`Self::is_stable`].
    pub fn unanswered(&self, mark: &StabilityMark) -> Vec<NodeName> {
        let is_silent = |link: &Arc<Link>| {
            // Before the report and after it: the next one, which has what ended that, may arrive in between.
            let missed = link.fill_missed.load(Relaxed);
            let stored = self.stored_by(std::slice::from_ref(link), mark) == 1;
            let missed = missed || link.fill_missed.load(Relaxed);
            if stored && missed {
                // Its next report may tell that it has heard all.
                link.report_wanted.store(true, Relaxed);
            }
            !stored || link.lacks_data.load(Relaxed) || missed
        };
        self.links().into_iter().filter(is_silent).map(|link| link.name.clone()).collect()
    }

    /// True when the clock of each other member differs from this node's by at most `within`; false while one is unheard
    /// in this process's life, or does not say. Without other members there is nothing to compare: true.
    pub fn clocks_agree(&self, within: Duration) -> bool {
        let (now, own) = (BootInstant::now(), wall().0);
        let agrees = |clock: u64| u128::from(clock.abs_diff(own)) <= within.as_millis();
        self.links().iter().all(|link| link.clock(now).is_some_and(agrees))
    }

    fn stored_by(&self, links: &[Arc<Link>], mark: &StabilityMark) -> usize {
        // The reports before the own changes: what was reported may have come since.
        let reports: Vec<_> = links.iter().map(|link| link.report()).collect();
        let own = Holdings::from(self.store().holdings());
        let mut stored = 0;
        for (link, report) in links.iter().zip(reports) {
            if report.is_some_and(|report| mark.is_stored(&report, &own)) {
                stored += 1;
            } else {
                link.report_wanted.store(true, Relaxed);
            }
        }
        stored
    }
}

#[cfg(test)]
#[path = "../tests/unit/stability.rs"]
mod tests;
