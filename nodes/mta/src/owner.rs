//! The right to send, for this crate that does not depend on the role manager.

use std::{any::Any, os::fd::BorrowedFd};

/// Binds connections to the lease of the duty (rule R6): the gate resets them when the lease ends.
pub trait SocketOwner: Send + Sync {
    /// Takes over a new connection; the duty is not handed over while the returned guard exists. `None`: this node no
    /// longer holds the duty.
    fn own(&self, socket: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>>;

    /// Whether the next command or block of data may be written.
    fn may_write(&self) -> bool;
}
