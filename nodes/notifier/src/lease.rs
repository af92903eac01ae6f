//! Holding the duty.

use tokio::sync::watch;
use twinbox_ids::Epoch;
use twinbox_roles::{Gate, InFlight};

/// The right to act, as the role manager's gate gives it.
pub trait Lease: Clone + Send + Sync + 'static {
    /// Kept while a write is under way: the duty is not handed over before it is dropped.
    type Entered: Send + Sync;

    /// The epoch in which this node holds the duty.
    fn holding(&self) -> watch::Receiver<Option<Epoch>>;

    /// Begins a write that takes a while; `None`: this node does not hold the duty in that epoch.
    fn enter(&self, epoch: &Epoch) -> Option<Self::Entered>;

    /// Whether a datagram may leave now.
    fn allows(&self, epoch: &Epoch) -> bool;
}

impl Lease for Gate {
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
