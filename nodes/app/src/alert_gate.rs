//! Gate of the duty `notifier` for the crate of alarms: the holder of that duty also delivers alarms to outside
//! receivers.

use std::{any::Any, os::fd::BorrowedFd};

use tokio::sync::watch;
use twinbox_alarms::DutyGate;
use twinbox_ids::Epoch;
use twinbox_roles::Gate;

/// The gate.
pub struct AlertGate(pub Gate);

impl DutyGate for AlertGate {
    fn holding(&self) -> watch::Receiver<Option<Epoch>> {
        self.0.holding()
    }

    fn enter(&self, epoch: &Epoch) -> Option<Box<dyn Any + Send>> {
        self.0.enter(epoch).ok().map(|entered| Box::new(entered) as Box<dyn Any + Send>)
    }

    fn own(&self, epoch: &Epoch, socket: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> {
        self.0.own_socket(epoch, &socket).ok().map(|owned| Box::new(owned) as Box<dyn Any + Send>)
    }
}
