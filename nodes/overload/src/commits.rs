//! Duration of the commits that calls wait for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_clock::BootInstant;

/// Commits in progress, and commits that ended since the last measurement. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Commits(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Start of each commit in progress, by its number: the first is the oldest.
    pending: BTreeMap<u64, BootInstant>,
    next: u64,
    ended: u32,
    total: Duration,
}

/// A commit in progress; it ends when this is dropped.
#[derive(Debug)]
pub struct Commit {
    commits: Commits,
    number: u64,
}

impl Commits {
    /// Measures a commit from now until the returned value is dropped.
    pub fn begin(&self) -> Commit {
        self.begin_at(BootInstant::now())
    }

    fn begin_at(&self, now: BootInstant) -> Commit {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.pending.insert(number, now);
        Commit { commits: self.clone(), number }
    }

    /// Mean time of the commits that ended since the last call, and the age of the oldest in progress.
    pub(crate) fn take(&self, now: BootInstant) -> (Option<Duration>, Duration) {
        let mut state = self.state();
        let (ended, total) = (std::mem::take(&mut state.ended), std::mem::take(&mut state.total));
        let oldest = state.pending.first_key_value().map_or(Duration::ZERO, |(_, began)| now.since(*began));
        ((ended > 0).then(|| total / ended), oldest)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        let mut state = self.commits.state();
        if let Some(began) = state.pending.remove(&self.number) {
            state.ended += 1;
            state.total += began.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_measured_from_begin_to_drop() {
        let commits = Commits::default();
        let now = BootInstant::now();
        assert_eq!(commits.take(now), (None, Duration::ZERO));
        let first = commits.begin_at(now);
        let second = commits.begin_at(now + Duration::from_millis(40));
        assert_eq!(commits.take(now + Duration::from_millis(100)), (None, Duration::from_millis(100)));
        drop(first);
        let (mean, oldest) = commits.take(now + Duration::from_millis(100));
        assert!(mean.is_some());
        assert_eq!(oldest, Duration::from_millis(60));
        drop(second);
        let (mean, oldest) = commits.take(now + Duration::from_millis(100));
        assert!(mean.is_some());
        assert_eq!(oldest, Duration::ZERO);
        assert_eq!(commits.take(now).0, None);
    }
}
