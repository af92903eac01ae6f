//! The task of a duty as a service of the node: health checks watch its progress, and an administrator or the health
//! checks replace it while the process runs. [`orders`] are what administrators ask of its holder.

pub mod orders;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use twinbox_clock::BootInstant;

/// The tasks of a duty: none before the first start. Dropping it ends them.
#[derive(Debug, Default)]
pub struct DutyTask {
    running: Mutex<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    progress: Arc<Progress>,
    task: JoinHandle<()>,
}

/// Progress of a task, for health checks.
#[derive(Debug)]
pub struct Progress {
    turned: AtomicU64,
}

impl Progress {
    /// Progress that begins now.
    pub fn begin() -> Arc<Self> {
        Arc::new(Self { turned: AtomicU64::new(BootInstant::now().as_nanos()) })
    }

    /// Notes a turn of the task's loop. A loop turns at least each second, also without the duty.
    pub fn turn(&self) {
        self.turned.store(BootInstant::now().as_nanos(), Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl DutyTask {
    /// Starts the task; earlier ones end.
    pub fn restart<F>(&self, serve: impl FnOnce(Arc<Progress>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.restart_all([serve]);
    }

    /// Starts several tasks, which are one service; earlier ones end.
    pub fn restart_all<F>(&self, tasks: impl IntoIterator<Item = impl FnOnce(Arc<Progress>) -> F>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = self.running();
        running.clear();
        running.extend(tasks.into_iter().map(|serve| {
            let progress = Progress::begin();
            Running { task: tokio::spawn(serve(progress.clone())), progress }
        }));
    }

    /// Ends the tasks, because the process stops.
    pub fn stop(&self) {
        self.running().clear();
    }

    /// Time since the last turn of the slowest task, with or without the duty; `None` if one has ended or none was
    /// started.
    pub fn still_for(&self) -> Option<Duration> {
        let running = self.running();
        let still = |running: &Running| {
            let turned = BootInstant::from_nanos(running.progress.turned.load(Relaxed));
            (!running.task.is_finished()).then(|| turned.elapsed())
        };
        let tasks: Option<Vec<Duration>> = running.iter().map(still).collect();
        tasks?.into_iter().max()
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn restart_ends_the_earlier_task_and_an_ended_task_has_no_progress() {
        let task = DutyTask::default();
        assert_eq!(task.still_for(), None, "not started");
        let (first, ended) = oneshot::channel::<()>();
        task.restart(|progress| async move {
            progress.turn();
            let _kept = first;
            pending::<()>().await;
        });
        assert!(task.still_for().is_some());
        task.restart(|_| pending());
        assert!(ended.await.is_err(), "the first task was dropped");
        let (last, running) = oneshot::channel::<()>();
        task.restart(|_| async move { drop(last) });
        assert!(running.await.is_err());
        while task.still_for().is_some() {
            tokio::task::yield_now().await;
        }
        task.stop();
        assert_eq!(task.still_for(), None);
    }
}
