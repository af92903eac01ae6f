//! Periodic check of a service in a separate task: readers get the latest result, and an unanswered check is a
//! result too. No check delays another.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_clock::BootInstant;

use crate::beat;

/// Result of a check: success, or the reason of the failure as text. Equal faults give equal texts: every change is
/// reported to the whole cluster.
pub type Verdict = Result<(), String>;

/// A periodic check.
pub struct Probe {
    /// Service that is checked.
    pub service: &'static str,
    patience: Duration,
    asked: Arc<Mutex<Asked>>,
}

#[derive(Default)]
struct Asked {
    /// Start of the check in progress.
    open_since: Option<BootInstant>,
    last: Option<Verdict>,
}

/// Interval and timeout of a check.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Interval of the checks; the next check waits for the previous result.
    pub every: Duration,
    /// A check without a result for this time counts as hung.
    pub patience: Duration,
}

impl Probe {
    /// Starts the checks, until stopped.
    pub fn start<F>(
        service: &'static str,
        pace: Pace,
        tasks: &TaskTracker,
        stop: CancellationToken,
        check: impl Fn() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let asked = Arc::new(Mutex::new(Asked::default()));
        let told = asked.clone();
        let asking = async move {
            let mut asks = beat::every(pace.every);
            loop {
                asks.tick().await;
                lock(&told).open_since = Some(BootInstant::now());
                let verdict = check().await;
                *lock(&told) = Asked { open_since: None, last: Some(verdict) };
            }
        };
        tasks.spawn(stop.run_until_cancelled_owned(asking));
        Self { service, patience: pace.patience, asked }
    }

    /// Latest verdict; `None` before the first result, however long that takes.
    pub fn verdict(&self, now: BootInstant) -> Option<Verdict> {
        let asked = lock(&self.asked);
        match asked.open_since {
            Some(since) if now.since(since) >= self.patience => {
                Some(Err(format!("has not answered for {} s", self.patience.as_secs())))
            }
            _ => asked.last.clone(),
        }
    }
}

fn lock(asked: &Mutex<Asked>) -> std::sync::MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;

    const PACE: Pace = Pace { every: Duration::from_millis(1), patience: Duration::from_millis(50) };

    async fn until(probe: &Probe, what: impl Fn(&Option<Verdict>) -> bool) -> Option<Verdict> {
        let begun = BootInstant::now();
        loop {
            let verdict = probe.verdict(BootInstant::now());
            if what(&verdict) {
                return verdict;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{verdict:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_check_that_hangs_or_panics_is_a_failure_and_keeps_no_other_from_being_made() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let hang = Arc::new(AtomicBool::new(false));
        let hangs = hang.clone();
        let moody = Probe::start("moody", PACE, &tasks, stop.clone(), move || {
            let hang = hangs.clone();
            async move {
                while hang.load(SeqCst) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            }
        });
        let well = Probe::start("well", PACE, &tasks, stop.clone(), || async { Err("as ever".to_owned()) });
        let dead = Probe::start("dead", PACE, &tasks, stop.clone(), || async { panic!("a fault of the check's") });
        until(&moody, |v| *v == Some(Ok(()))).await;
        hang.store(true, SeqCst);
        let hung = until(&moody, |v| matches!(v, Some(Err(_)))).await;
        assert!(hung.is_some_and(|v| v.is_err_and(|why| why.starts_with("has not answered for"))));
        assert!(until(&dead, |v| matches!(v, Some(Err(_)))).await.is_some());
        until(&well, |v| *v == Some(Err("as ever".to_owned()))).await;
        hang.store(false, SeqCst);
        until(&moody, |v| *v == Some(Ok(()))).await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
