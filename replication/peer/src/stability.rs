//! Stability: every member has stored a set of changes, and no change that a member made before it knew of them is still
//! on its way to this node (rules D2, D3).
//!
//! A member reports all changes that are durable in its store at one moment. If that covers the mark, then every change that the
//! member made without knowledge of the mark's changes is in the report too: its commits run one after the other. If
//! this node has all that was reported, such a change has arrived here. Later changes are made in knowledge of the
//! mark.

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
        StabilityMark { changes: Holdings::from(self.inner().store.holdings()) }
    }

    /// True when every member has durably stored all changes of the mark, `leaving` ones included, and this node has
    /// stored all changes that each of them reported then. False while any member is away. Members whose reports do not
    /// suffice are asked; call this again after a probe (some `ack_timeout`s).
    pub fn is_stable(&self, mark: &StabilityMark) -> bool {
        let links = self.inner().links.all();
        self.stored_by(&links, mark) == links.len()
    }

    /// The other members that [`Self::is_stable`] waits for, those that lack data from before their first fill, and those
    /// whose fill missed a member that has sent them nothing since: with an earlier disk they may have lost changes that now
    /// only that member has. The first ones are asked, as by [`Self::is_stable`].
    pub fn unanswered(&self, mark: &StabilityMark) -> Vec<NodeName> {
        let is_silent = |link: &Arc<Link>| {
            // Read before the report and after it: the next report, which has the missed changes, may arrive in between.
            let missed = link.fill_missed.load(Relaxed);
            let stored = self.stored_by(std::slice::from_ref(link), mark) == 1;
            let missed = missed || link.fill_missed.load(Relaxed);
            if stored && missed {
                // Its next report may show that no member is missed.
                link.report_wanted.store(true, Relaxed);
            }
            !stored || link.lacks_data.load(Relaxed) || missed
        };
        self.inner().links.all().into_iter().filter(is_silent).map(|link| link.name.clone()).collect()
    }

    /// True when the clock of each other member differs from this node's by at most `within`; false while one has sent
    /// this process no message, or does not report its clock. True without other members.
    pub fn clocks_agree(&self, within: Duration) -> bool {
        let (now, own) = (BootInstant::now(), wall().0);
        let agrees = |clock: u64| u128::from(clock.abs_diff(own)) <= within.as_millis();
        self.inner().links.all().iter().all(|link| link.clock(now).is_some_and(agrees))
    }

    fn stored_by(&self, links: &[Arc<Link>], mark: &StabilityMark) -> usize {
        // The reports are read before the own changes: reported changes may have come since.
        let reports: Vec<_> = links.iter().map(|link| link.report()).collect();
        let own = Holdings::from(self.inner().store.holdings());
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
