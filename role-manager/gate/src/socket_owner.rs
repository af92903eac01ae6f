//! The right to write to a connection, as a client of a protocol sees it.

use std::{any::Any, os::fd::BorrowedFd};

use crate::Permit;

/// Binds connections to the lease of the duty (rule R6): the gate resets them when the lease ends. A duty passes its
/// [`Permit`]; a test of an administrator, which changes nothing, passes an owner without a duty.
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
