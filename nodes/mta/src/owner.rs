//! The right to send: that of the duty, or of a probe, which sends no mail.

use std::{any::Any, os::fd::BorrowedFd};

use twinbox_gate::Permit;

/// Binds connections to the lease of the duty (rule R6): the gate resets them when the lease ends. The duty passes its
/// [`Permit`].
pub trait SocketOwner: Send + Sync {
    /// Takes over a new connection; the duty is not handed over while the returned guard exists. `None`: this node no
    /// longer holds the duty.
    fn own(&self, socket: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>>;

    /// Whether the next command or block of data may be written.
    fn may_write(&self) -> bool;
}

impl SocketOwner for Permit {
    fn own(&self, socket: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> {
        self.own_opaque(socket)
    }

    fn may_write(&self) -> bool {
        self.check().is_ok()
    }
}
