//! Tasks of this process: tokio's. A simulation can make all tasks of one machine stand still.

use tokio::task::JoinHandle;

/// Begins a task.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(feature = "simulation")]
    let task = crate::simulation::Pausable::new(task);
    tokio::spawn(task)
}
