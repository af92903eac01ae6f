//! Tasks of this process, on tokio. A simulation can pause all tasks of one machine.

use std::io;

use tokio::task::JoinHandle;
use twinbox_gate::{Gate, GateExpirer};

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

/// Starts what closes expired gates: a thread, or on a simulated machine a task.
pub(crate) fn start_expirer(gates: Vec<Gate>) -> io::Result<GateExpirer> {
    #[cfg(feature = "simulation")]
    if twinbox_clock::simulation::is_on() {
        let (expirer, closing) = GateExpirer::simulated(gates)?;
        spawn(closing);
        return Ok(expirer);
    }
    GateExpirer::start(gates)
}
