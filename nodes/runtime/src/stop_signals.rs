//! Stop signals of a process: SIGTERM or SIGINT; under a supervisor only SIGTERM. A terminal's interrupt reaches
//! both processes, and the supervisor forwards it: counted twice, it would end calls.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that end a process.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    supervised: bool,
}

impl StopSignals {
    /// Starts to listen.
    pub fn listen(supervised: bool) -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, supervised })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv(), if !self.supervised => {}
        }
    }
}
