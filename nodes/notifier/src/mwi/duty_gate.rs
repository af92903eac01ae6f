//! Access to the duty's gate.

use tokio::sync::watch;
use twinbox_ids::Epoch;
use twinbox_roles::{Gate, InFlight};

/// Right to act, granted by the gate of the role manager.
pub trait DutyGate: Clone + Send + Sync + 'static {
    /// Guard of a write in progress: the duty is not handed over before the guard is dropped.
    type Entered: Send + Sync;

    /// Epoch in which this node holds the duty.
    fn holding(&self) -> watch::Receiver<Option<Epoch>>;

    /// Begins a long write; `None`: this node does not hold the duty in that epoch.
    fn enter(&self, epoch: &Epoch) -> Option<Self::Entered>;

    /// Whether a datagram may be sent now.
    fn allows(&self, epoch: &Epoch) -> bool;
}

impl DutyGate for Gate {
    type Entered = InFlight;

    fn holding(&self) -> watch::Receiver<Option<Epoch>> {
        Gate::holding(self)
    }

    fn enter(&self, epoch: &Epoch) -> Option<InFlight> {
        Gate::enter(self, epoch).ok()
    }

    fn allows(&self, epoch: &Epoch) -> bool {
        self.check(epoch).is_ok()
    }
}
