//! Tasks of this process, on tokio. A simulation can pause all tasks of one machine.

use tokio::task::JoinHandle;

/// Starts a task.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(feature = "simulation")]
    let task = crate::simulation::Pausable::new(task);
    tokio::spawn(task)
}
