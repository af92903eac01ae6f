//! Supervision of the role manager's tasks: a task that panics is restarted, and health reports it (rule R11).

use std::{
    any::Any,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{task::JoinHandle, time::sleep};
use twinbox_clock::BootInstant;
use twinbox_ids::Backoff;
use twinbox_raft::panic_text;

use crate::tasks::spawn;

/// Pauses before the restart of a task that panicked.
const RESTART: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// Time without a panic after which a task counts as well again.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);
/// Time without a turn after which the lease task counts as hanging. It turns once per keep-alive.
const HUNG_AFTER: Duration = Duration::from_secs(3);

/// State of one member's tasks. Clones share it.
#[derive(Clone)]
pub(crate) struct TaskMonitor(Arc<Inner>);

struct Inner {
    /// The last panic of each task, with its text.
    panics: Mutex<BTreeMap<&'static str, (BootInstant, String)>>,
    /// Time of the last turn of the lease task, in nanoseconds of boot time.
    last_turn: AtomicU64,
}

impl TaskMonitor {
    pub(crate) fn new() -> Self {
        let last_turn = AtomicU64::new(BootInstant::now().as_nanos());
        Self(Arc::new(Inner { panics: Mutex::default(), last_turn }))
    }

    /// Runs a task with its parameters, and again after each panic, until it returns. `name` is for people.
    pub(crate) fn run<N, F>(
        &self,
        name: &'static str,
        needs: N,
        task: impl Fn(N) -> F + Send + 'static,
    ) -> JoinHandle<()>
    where
        N: Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let monitor = self.clone();
        spawn(async move {
            let mut restart = RESTART;
            loop {
                let begun = BootInstant::now();
                // State left by a panic is behind locks that tolerate it, or the task creates it again.
                let Err(panic) = AssertUnwindSafe(task(needs.clone())).catch_unwind().await else {
                    return;
                };
                monitor.panicked(name, &*panic);
                if begun.elapsed() >= RECOVERED_AFTER {
                    restart.reset();
                }
                sleep(restart.failed()).await;
            }
        })
    }

    fn panicked(&self, name: &'static str, panic: &(dyn Any + Send)) {
        let text = panic_text(panic);
        tracing::error!(task = name, panic = text, "a task of the role manager has panicked; it is restarted");
        self.panics().insert(name, (BootInstant::now(), text));
    }

    /// Notes a turn of the lease task.
    pub(crate) fn note_turn(&self) {
        self.0.last_turn.store(BootInstant::now().as_nanos(), Relaxed);
    }

    /// Whether all tasks are well; otherwise the reason as text.
    pub(crate) fn health(&self) -> Result<(), String> {
        if BootInstant::from_nanos(self.0.last_turn.load(Relaxed)).elapsed() >= HUNG_AFTER {
            return Err(format!("its lease task has made no pass for {} s", HUNG_AFTER.as_secs()));
        }
        let panics = self.panics();
        let recent = panics.iter().find(|(_, (at, _))| at.elapsed() < RECOVERED_AFTER);
        recent.map_or(Ok(()), |(name, (_, text))| Err(format!("its task '{name}' has panicked: {text}")))
    }

    fn panics(&self) -> MutexGuard<'_, BTreeMap<&'static str, (BootInstant, String)>> {
        self.0.panics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_restarted_and_reported_by_health() {
        let monitor = TaskMonitor::new();
        assert_eq!(monitor.health(), Ok(()));
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let task = monitor.run("planner", counted, |counted| async move {
            let run = counted.fetch_add(1, SeqCst);
            assert!(run >= 2, "run {run}");
        });
        timeout(Duration::from_secs(10), task).await.expect("in time").expect("it returns");
        assert_eq!(runs.load(SeqCst), 3);
        assert_eq!(monitor.health(), Err("its task 'planner' has panicked: run 1".to_owned()));
    }

    #[tokio::test]
    async fn an_aborted_task_is_not_restarted() {
        let monitor = TaskMonitor::new();
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let task = monitor.run("endless", begun, |begun| async move {
            begun.send(()).expect("it is watched");
            std::future::pending().await
        });
        assert_eq!(begins.recv().await, Some(()));
        task.abort();
        assert!(task.await.is_err_and(|ended| ended.is_cancelled()));
        assert_eq!(begins.recv().await, None);
        assert_eq!(monitor.health(), Ok(()));
    }
}
