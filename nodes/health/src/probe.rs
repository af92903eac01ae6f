//! Periodic check of a service in a separate task: readers get the latest result, and an unanswered check is a
//! result too. No check delays another.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_clock::BootInstant;
use twinbox_runtime as runtime;

/// Delay of a tick that shows a pause of the process (SIGSTOP, machine asleep); below the limit of every check for
/// a loop that hangs.
const PAUSED: Duration = Duration::from_millis(500);

/// Result of a check: success, or the reason of the failure as text. Equal faults give equal texts: every change is
/// reported to the whole cluster.
pub type CheckResult = Result<(), String>;

/// A periodic check.
pub struct Probe {
    /// Service that is checked.
    pub service: &'static str,
    timeout: Duration,
    state: Arc<Mutex<ProbeState>>,
}

#[derive(Default)]
struct ProbeState {
    /// Start of the check in progress.
    open_since: Option<BootInstant>,
    last: Option<CheckResult>,
}

/// Interval and timeout of a check.
#[derive(Debug, Clone, Copy)]
pub struct ProbeInterval {
    /// Interval of the checks; the next check waits for the previous result.
    pub every: Duration,
    /// A check without a result for this time counts as hung.
    pub timeout: Duration,
}

impl Probe {
    /// Starts the checks, until stopped.
    pub fn start<F>(
        service: &'static str,
        interval: ProbeInterval,
        tasks: &TaskTracker,
        stop: CancellationToken,
        check: impl Fn() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = CheckResult> + Send + 'static,
    {
        let state = Arc::new(Mutex::new(ProbeState::default()));
        let written = state.clone();
        let probing = async move {
            let mut ticks = runtime::every(interval.every);
            loop {
                if ticks.tick().await >= PAUSED {
                    // This check can run before the loops that it checks, and would find them hung: leave a whole
                    // interval to them.
                    ticks.tick().await;
                    ticks.tick().await;
                }
                lock(&written).open_since = Some(BootInstant::now());
                let verdict = check().await;
                *lock(&written) = ProbeState { open_since: None, last: Some(verdict) };
            }
        };
        tasks.spawn(stop.run_until_cancelled_owned(probing));
        Self { service, timeout: interval.timeout, state }
    }

    /// Latest verdict; `None` before the first result, however long that takes.
    pub fn verdict(&self, now: BootInstant) -> Option<CheckResult> {
        let state = lock(&self.state);
        match state.open_since {
            Some(since) if now.since(since) >= self.timeout => {
                Some(Err(format!("has not answered for {} s", self.timeout.as_secs())))
            }
            _ => state.last.clone(),
        }
    }
}

fn lock(state: &Mutex<ProbeState>) -> std::sync::MutexGuard<'_, ProbeState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;

    const INTERVAL: ProbeInterval =
        ProbeInterval { every: Duration::from_millis(1), timeout: Duration::from_millis(50) };

    async fn until(probe: &Probe, what: impl Fn(&Option<CheckResult>) -> bool) -> Option<CheckResult> {
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
    async fn after_a_pause_of_the_process_a_whole_interval_passes_without_a_check() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let every = Duration::from_millis(50);
        let checked = Arc::new(Mutex::new(None));
        let latest = checked.clone();
        let interval = ProbeInterval { every, timeout: Duration::from_secs(10) };
        let probe = Probe::start("paused", interval, &tasks, stop.clone(), move || {
            *latest.lock().expect("lock") = Some(BootInstant::now());
            async { Ok(()) }
        });
        until(&probe, |v| *v == Some(Ok(()))).await;
        // Every task of this thread stands still, as in a process that is stopped.
        std::thread::sleep(PAUSED + every);
        let woke = BootInstant::now();
        let first = || checked.lock().expect("lock").filter(|at| *at > woke);
        until(&probe, |_| first().is_some()).await;
        assert!(first().is_some_and(|at| at.since(woke) >= every), "{:?} {woke:?}", first());
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_check_that_hangs_or_panics_fails_and_delays_no_other() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let hang = Arc::new(AtomicBool::new(false));
        let hangs = hang.clone();
        let moody = Probe::start("moody", INTERVAL, &tasks, stop.clone(), move || {
            let hang = hangs.clone();
            async move {
                while hang.load(SeqCst) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            }
        });
        let well = Probe::start("well", INTERVAL, &tasks, stop.clone(), || async { Err("as ever".to_owned()) });
        let dead =
            Probe::start("dead", INTERVAL, &tasks, stop.clone(), || async { panic!("a fault of the check's") });
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
