//! How a process is told to stop: SIGTERM or SIGINT; under a supervisor only by SIGTERM. The interrupt of a terminal
//! reaches both, and the supervisor passes it on: taken twice, it would end calls.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::AppError;

/// The signals that end a process.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    supervised: bool,
}

impl StopSignals {
    /// Listens from now on.
    pub fn listen(supervised: bool) -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(AppError::Runtime);
        let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, supervised })
    }

    /// Waits for the next.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv(), if !self.supervised => {}
        }
    }
}
