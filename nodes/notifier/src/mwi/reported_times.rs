//! Times that other nodes have reported: a change that follows soon is sent under one of them, without a request for a new one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;

/// The latest time that each node has reported, in nanoseconds of its boot time, and the time here at which it was known. Clones share
/// them.
#[derive(Debug, Clone, Default)]
pub struct ReportedTimes(Arc<Mutex<BTreeMap<NodeName, (u64, BootInstant)>>>);

impl ReportedTimes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, (u64, BootInstant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the time that `node` has reported, known here at `known`; 0 is no time.
    pub(crate) fn note(&self, node: &NodeName, reported_ns: u64, known: BootInstant) {
        if reported_ns > 0 {
            self.lock().insert(node.clone(), (reported_ns, known));
        }
    }

    /// The time that `node` reported, if that was known here less than `within` before `now`. The node counts from the report on, so an
    /// older one allows it less.
    pub(crate) fn recent(&self, node: &NodeName, within: Duration, now: BootInstant) -> Option<u64> {
        let (reported_ns, known) = *self.lock().get(node)?;
        (now.since(known) < within).then_some(reported_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_time_is_used_only_while_it_is_recent() {
        let (times, [a, b]) = (ReportedTimes::default(), ["a", "b"].map(|name| name.parse::<NodeName>().unwrap()));
        let (at, within) = (|ms: u64| BootInstant::from_nanos(ms * 1_000_000), Duration::from_millis(25));
        assert_eq!(times.recent(&a, within, at(0)), None);
        times.note(&a, 7, at(100));
        times.note(&a, 0, at(120));
        for (now, found) in [(100, Some(7)), (124, Some(7)), (125, None), (9_000, None)] {
            assert_eq!(times.clone().recent(&a, within, at(now)), found, "{now}");
        }
        assert_eq!(times.recent(&b, within, at(100)), None);
        times.note(&a, 8, at(130));
        assert_eq!(times.recent(&a, within, at(150)), Some(8));
    }
}
