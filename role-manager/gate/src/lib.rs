//! The gate of a duty (rule R6): the one check before every external write, and what ends with the lease.
//!
//! A [`Gate`] is open while its node holds the duty; [`Gate::enter`] gives the [`Permit`] that each duty passes to each
//! of its writes, [`Gate::own_socket`] and [`Gate::own_child`] bind a connection or a process to the lease.
//! [`GateExpirer`] closes gates at the end of their lease, whatever the executor does. The role manager alone opens and
//! closes gates.

mod expirer;
mod gate;
mod owned;
mod socket_owner;

pub use expirer::GateExpirer;
pub use gate::{Gate, NotHolder, Permit};
pub use owned::{OwnError, Owned};
pub use socket_owner::SocketOwner;
